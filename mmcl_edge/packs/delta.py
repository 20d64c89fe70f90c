"""Deltas: the tensors file of a pack, told by what differs from another pack (its *delta parent*).

``delta.json`` names the parent, the tensors that are taken from it unchanged to the bit, and those that are small
steps away from its own (``packs.steps``). ``tensors.delta`` is the child's tensors file without the bytes of the first
and with the coded form of the second: header length and header as they are in the child, then the tensors in the
child's order. All together gives the child's file byte for byte, so the digest that ``pack.json`` states must come out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from mmcl_edge.errors import PackError
from mmcl_edge.fileio import canonical_json
from mmcl_edge.packs.manifest import Digest, validation_sentence
from mmcl_edge.packs.steps import LEAST_VALUES, coded_size, decode, encode
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
    from_parent: tuple[str, ...] = Field(max_length=100_000, description="Tensors that are equal, ascending.")
    in_steps: tuple[str, ...] = Field((), max_length=100_000, description="Tensors coded as steps, ascending.")

    @model_validator(mode="after")
    def _ascending(self) -> Delta:
        for names in (self.from_parent, self.in_steps):
            if list(names) != sorted(set(names)):
                raise ValueError("names should be in ascending order, each once")
        if set(self.from_parent) & set(self.in_steps):
            raise ValueError("a tensor should be equal to the parent's or steps away from it, not both")
        return self

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
    shared, steps, parts = [], [], [child[:start]]
    for name, entry in _in_order(entries):
        own = child[start + entry.begin : start + entry.end]
        base = known.get(name)
        if base is None or not _alike(entry, base):
            parts.append(own)
            continue
        before = parent[known_start + base.begin : known_start + base.end]
        if own == before:
            shared.append(name)
        elif (coded := _coded(entry, own, before)) is not None:
            steps.append(name)
            parts.append(coded)
        else:
            parts.append(own)
    return Delta(parent=parent_digest, from_parent=tuple(sorted(shared)), in_steps=tuple(sorted(steps))), b"".join(
        parts
    )


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
    _check_names(delta, entries, known)
    shared, steps, parts, position = set(delta.from_parent), set(delta.in_steps), [data[:start]], start
    for name, entry in _in_order(entries):
        if name in shared or name in steps:
            before = parent[known_start + known[name].begin : known_start + known[name].end]
        if name in shared:
            parts.append(before)
            continue
        size = coded_size(_values(entry)) if name in steps else entry.end - entry.begin
        own = data[position : position + size]
        position += size
        if len(own) == size:
            parts.append(decode(own, np.frombuffer(before, dtype="<f4")).tobytes() if name in steps else own)
    if position != len(data):
        raise PackError(f"The delta should hold {position:,} bytes of tensors, but holds {len(data):,}; {_ADVICE}.")
    return b"".join(parts)


def _check_names(delta: Delta, entries: Mapping[str, TensorEntry], known: Mapping[str, TensorEntry]) -> None:
    names = (*delta.from_parent, *delta.in_steps)
    missing = [name for name in names if name not in entries or name not in known]
    if missing or any(not _alike(entries[name], known[name]) for name in names):
        raise PackError(
            f"The delta takes tensors from the pack {delta.parent[:16]}... that are not there, or not of that shape "
            f"({', '.join(missing[:3]) or 'dtype or shape differs'}); {_ADVICE}."
        )
    if any(entries[name].dtype != "F32" for name in delta.in_steps):
        raise PackError(f"The delta should tell float32 tensors in steps, but tells others so; {_ADVICE}.")


def _coded(entry: TensorEntry, own: bytes, before: bytes) -> bytes | None:
    if entry.dtype != "F32" or _values(entry) < LEAST_VALUES:
        return None
    return encode(np.frombuffer(own, dtype="<f4"), np.frombuffer(before, dtype="<f4"))


def _values(entry: TensorEntry) -> int:
    return math.prod(entry.shape)


def _alike(one: TensorEntry, other: TensorEntry) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape)


def _in_order(entries: Mapping[str, TensorEntry]) -> list[tuple[str, TensorEntry]]:
    return sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end))
