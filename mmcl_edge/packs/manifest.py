"""``pack.json``: what a pack says of itself. Canonical JSON, so that its sha256 (the *pack digest*) names the content.

No times, no machine facts: equal content gives equal bytes and so the equal digest.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from mmcl_edge.bundle import FileEntry
from mmcl_edge.packs.confidence import Confidence
from mmcl_edge.packs.names import check_name, label_id
from mmcl_edge.types import FrozenModel

MANIFEST_NAME = "pack.json"
TENSORS_NAME = "adapter_model.safetensors"
CONFIG_NAME = "adapter_config.json"
EVAL_NAME = "eval.json"
CARD_NAME = "README.md"
SCHEMA_VERSION = 1
MINIMUM_RUNTIME = "0.1.0"
"""First release that reads packs of this schema."""

MAX_BYTES = {
    MANIFEST_NAME: 4 << 20,
    TENSORS_NAME: 1 << 30,
    CONFIG_NAME: 1 << 20,
    EVAL_NAME: 4 << 20,
    CARD_NAME: 1 << 20,
}
"""Largest size in bytes of each file; nothing larger is read."""

CONTENT_NAMES = frozenset(MAX_BYTES) - {MANIFEST_NAME}
"""The files that ``pack.json`` lists with their digests."""

SIGNATURES_NAME = "signatures.json"
MAX_SIGNATURES_BYTES = 64 << 10

DETACHED_NAMES: frozenset[str] = frozenset({SIGNATURES_NAME})
"""Files that may lie beside ``pack.json`` and are not under its digest."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, AfterValidator(check_name)]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Parent(FrozenModel):
    """A pack that this one was made from."""

    digest: Digest
    weight: float = Field(1.0, ge=0, description="Its share in the result.")
    method: str = Field(
        "adapt", pattern=r"^[a-z][a-z0-9-]{0,31}$", description="How it was used: adapt, mean, ties, ..."
    )


class Label(FrozenModel):
    """One class: ``index`` is its row of the head, ``id`` is the same on every device."""

    id: str
    name: Name
    index: int = Field(ge=0)

    @model_validator(mode="after")
    def _id_of_name(self) -> Label:
        if self.id != label_id(self.name):
            raise ValueError(f"the label {self.name!r} should have the id {label_id(self.name)}, but has {self.id!r}")
        return self


class Expert(FrozenModel):
    """One expert of one block. ``owner`` is the experience (or device) it was trained for, once frozen."""

    id: Identifier
    block: int = Field(ge=0)
    frozen: bool = False
    owner: str | None = Field(None, max_length=255)


class PackManifest(FrozenModel):
    """Contents of ``pack.json``."""

    schema_version: Literal[1] = 1
    bundle_digest: Digest
    parents: tuple[Parent, ...] = ()
    version: int = Field(1, ge=1, description="One more than the largest version among the parents.")
    labels: tuple[Label, ...] = ()
    experts: tuple[Expert, ...] = ()
    sample_counts: dict[str, Annotated[int, Field(ge=0)]] = Field({}, description="Training samples by label name.")
    experiences: tuple[Name, ...] = Field((), description="Names of what was learned, in order.")
    privacy: dict[str, str | int | float | bool | None] = Field({}, description="Settings in force while learning.")
    minimum_runtime: str = Field(MINIMUM_RUNTIME, pattern=r"^\d{1,4}\.\d{1,4}\.\d{1,4}$")
    files: tuple[FileEntry, ...]
    confidence: Confidence | None = Field(None, description="Left out of the JSON where it was never calibrated.")

    @model_serializer(mode="wrap")
    def _without_absent(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialise(self)
        if self.confidence is None:
            fields.pop("confidence", None)
        return fields

    @property
    def label_names(self) -> tuple[str, ...]:
        """Class names in the order of the head's rows."""
        return tuple(label.name for label in self.labels)

    def file(self, name: str) -> FileEntry:
        """The entry of one of ``CONTENT_NAMES``."""
        return next(entry for entry in self.files if entry.path == name)

    @model_validator(mode="after")
    def _files_are_the_known_ones(self) -> PackManifest:
        found = [entry.path for entry in self.files]
        if sorted(found) != sorted(CONTENT_NAMES):
            raise ValueError(f"files should be {sorted(CONTENT_NAMES)}, but are {sorted(found)}")
        for entry in self.files:
            if entry.size_bytes > MAX_BYTES[entry.path]:
                raise ValueError(f"{entry.path} may have {MAX_BYTES[entry.path]:,} bytes, not {entry.size_bytes:,}")
        return self

    @model_validator(mode="after")
    def _labels_are_unique_and_contiguous(self) -> PackManifest:
        indices = [label.index for label in self.labels]
        if indices != list(range(len(indices))):
            raise ValueError("label indices should be 0, 1, 2, ... in order")
        if len({label.name.casefold() for label in self.labels}) != len(indices):
            raise ValueError("label names should be unique, also in another case")
        unknown = sorted(set(self.sample_counts) - set(self.label_names))
        if unknown:
            raise ValueError(f"sample_counts name classes that are no labels: {unknown}")
        return self

    @model_validator(mode="after")
    def _experts_are_unique(self) -> PackManifest:
        if len({(expert.block, expert.id) for expert in self.experts}) != len(self.experts):
            raise ValueError("expert ids should be unique in each block")
        return self

    @model_validator(mode="after")
    def _version_follows_parents(self) -> PackManifest:
        if self.parents and self.version < 2:
            raise ValueError("a pack with parents should have a version above theirs, so at least 2")
        return self


def validation_sentence(error: Exception) -> str:
    """The first thing a validator complains about, with its place."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"at '{where}', {first['msg']}" if where else str(first["msg"])
