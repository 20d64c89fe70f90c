"""Deltas: the tensors file of a pack, told by what differs from another pack (its *delta parent*).

``delta.json`` names the parent and the tensors that are taken from it, unchanged to the bit. ``tensors.delta`` is the
child's tensors file without the bytes of those: header length and header as they are in the child, then the values of
all other tensors in the child's order. Putting both together gives the child's file byte for byte, so the digest that
``pack.json`` states for it must come out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from mmcl_edge.errors import PackError
from mmcl_edge.fileio import canonical_json
from mmcl_edge.packs.manifest import Digest, validation_sentence
from mmcl_edge.packs.tensors import TensorEntry, parse_layout
from mmcl_edge.types import FrozenModel

DELTA_NAME = "delta.json"
DELTA_TENSORS_NAME = "tensors.delta"
DELTA_SCHEMA_VERSION = 1
MAX_DELTA_BYTES = 4 << 20

_ADVICE = "fetch the delta again, or the whole archive"


class Delta(FrozenModel):
    """Contents of ``delta.json``."""

    schema_version: Literal[1] = 1
    parent: Digest
    from_parent: tuple[str, ...] = Field(max_length=100_000, description="Names of tensors, ascending.")

    @field_validator("from_parent")
    @classmethod
    def _ascending(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("names should be in ascending order, each once")
        return value

    def to_bytes(self) -> bytes:
        """The contents of ``delta.json``."""
        return canonical_json(self.model_dump(mode="json"))


def read_delta(data: bytes) -> Delta:
    """The contents ``data`` of ``delta.json``.

    Raises:
        PackError: not JSON, of another schema version, or malformed.
    """
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PackError(f"{DELTA_NAME} should be JSON, but it does not parse ({error}); {_ADVICE}.") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if type(version) is not int or version != DELTA_SCHEMA_VERSION:
        raise PackError(
            f"The delta has schema version {version!r}, but this release reads {DELTA_SCHEMA_VERSION}; "
            "install the release that made it, or fetch the whole archive."
        )
    try:
        return Delta.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise PackError(f"{DELTA_NAME} is malformed: {validation_sentence(error)}; {_ADVICE}.") from error


def make_delta(child: bytes, parent: bytes, *, parent_digest: str) -> tuple[Delta, bytes]:
    """What tells the tensors file ``child`` to who has the file ``parent`` of the pack ``parent_digest``.

    Raises:
        PackError: one of the files is malformed.
    """
    entries, start = parse_layout(child)
    known, known_start = parse_layout(parent)
    shared = {
        name
        for name, entry in entries.items()
        if name in known
        and _alike(entry, known[name])
        and child[start + entry.begin : start + entry.end]
        == parent[known_start + known[name].begin : known_start + known[name].end]
    }
    own = (child[start + entry.begin : start + entry.end] for name, entry in _in_order(entries) if name not in shared)
    return Delta(parent=parent_digest, from_parent=tuple(sorted(shared))), b"".join((child[:start], *own))


def apply_delta(delta: Delta, data: bytes, parent: bytes, *, size_bytes: int) -> bytes:
    """The tensors file that ``delta`` and ``data`` (``tensors.delta``) tell, given the ``parent``'s.

    Args:
        delta: contents of ``delta.json``.
        data: contents of ``tensors.delta``.
        parent: the tensors file of the pack ``delta.parent``.
        size_bytes: of the result, as the manifest states it; no more is ever put together.

    Raises:
        PackError: a tensor is not in the parent, or is of another dtype or shape there; or sizes do not fit.
    """
    entries, start = parse_layout(data, size_bytes=size_bytes)
    known, known_start = parse_layout(parent)
    missing = [name for name in delta.from_parent if name not in entries or name not in known]
    if missing or any(not _alike(entries[name], known[name]) for name in delta.from_parent):
        raise PackError(
            f"The delta takes tensors from the pack {delta.parent[:16]}... that are not there, or not of that shape "
            f"({', '.join(missing[:3]) or 'dtype or shape differs'}); {_ADVICE}."
        )
    shared, parts, position = set(delta.from_parent), [data[:start]], start
    for name, entry in _in_order(entries):
        if name in shared:
            parts.append(parent[known_start + known[name].begin : known_start + known[name].end])
        else:
            parts.append(data[position : position + entry.end - entry.begin])
            position += entry.end - entry.begin
    if position != len(data):
        raise PackError(f"The delta should hold {position:,} bytes of tensors, but holds {len(data):,}; {_ADVICE}.")
    return b"".join(parts)


def _alike(one: TensorEntry, other: TensorEntry) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape)


def _in_order(entries: Mapping[str, TensorEntry]) -> list[tuple[str, TensorEntry]]:
    return sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end))
