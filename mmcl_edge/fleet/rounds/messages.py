"""What server and devices say to each other: flat records of text, numbers and bytes, so that any carrier will do.

A pack travels as an archive (``packs.archive``), as bytes: nothing that is received is executed or unpickled, and the
other side is believed nothing. A record is refused if it has another field, kind or size than stated here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError

from mmcl_edge.config import AdaptConfig, MethodConfig
from mmcl_edge.errors import IntegrityError
from mmcl_edge.fileio import write_atomic
from mmcl_edge.packs.archive import MAX_ARCHIVE_BYTES, ParentOf, open_archive, write_archive
from mmcl_edge.packs.manifest import Digest, validation_sentence
from mmcl_edge.types import FrozenModel

Record = Mapping[str, str | int | float | bytes]
SCHEMA_VERSION = 1
MAX_REASON_CHARS = 2000
MAX_CONFIG_BYTES = 64 << 10

ArchiveBytes = Annotated[bytes, Field(max_length=MAX_ARCHIVE_BYTES)]
Config = Annotated[str, Field(max_length=MAX_CONFIG_BYTES)]
Model = TypeVar("Model", bound=FrozenModel)


class Order(FrozenModel):
    """From the server: learn what you have, on top of this pack, in this way."""

    schema_version: int = Field(SCHEMA_VERSION, ge=SCHEMA_VERSION, le=SCHEMA_VERSION)
    round: int = Field(ge=1)
    pack: Digest | None = Field(None, description="The fleet's pack; none before the first merge.")
    archive: ArchiveBytes = Field(b"", description="Of that pack, whole; empty where there is none.")
    method: Config = Field(description="``MethodConfig`` as JSON: packs that merge have one configuration.")
    adapt: Config = Field(description="``AdaptConfig`` as JSON.")

    @classmethod
    def of(cls, number: int, pack: Path | None, method: MethodConfig, adapt: AdaptConfig, *, scratch: Path) -> Order:
        """The order of round ``number`` on top of the pack in folder ``pack``; files are written below ``scratch``.

        Raises:
            PackError: the pack is broken.
            StorageError: ``scratch`` cannot be written.
        """
        return cls(
            round=number,
            pack=None if pack is None else pack.name,
            archive=b"" if pack is None else packed(pack, scratch=scratch),
            method=method.model_dump_json(),
            adapt=adapt.model_dump_json(),
        )

    def methods(self) -> tuple[MethodConfig, AdaptConfig]:
        """The two configurations.

        Raises:
            IntegrityError: they are not valid.
        """
        return _config(MethodConfig, self.method), _config(AdaptConfig, self.adapt)


class Answer(FrozenModel):
    """From a device: what it learned, or why not."""

    schema_version: int = Field(SCHEMA_VERSION, ge=SCHEMA_VERSION, le=SCHEMA_VERSION)
    round: int = Field(ge=1, description="Of the order that it answers.")
    base: Digest | None = Field(None, description="The fleet's pack that it learned on top of.")
    pack: Digest | None = None
    archive: ArchiveBytes = b""
    samples: int = Field(0, ge=0, le=1 << 40, description="Learned from.")
    refused: str = Field("", max_length=MAX_REASON_CHARS, description="Why there is no pack; empty where there is one.")


def record_of(message: FrozenModel) -> dict[str, str | int | float | bytes]:
    """``message`` as a record: fields that are not there are left out."""
    return {name: value for name, value in message.model_dump().items() if value is not None}


def order_from(record: Record) -> Order:
    """The order in ``record``.

    Raises:
        IntegrityError: it is not one that this release reads.
    """
    return _parsed(Order, record)


def answer_from(record: Record) -> Answer:
    """The answer in ``record``.

    Raises:
        IntegrityError: it is not one that this release reads.
    """
    return _parsed(Answer, record)


def packed(pack: Path, *, scratch: Path, parent: Path | None = None) -> bytes:
    """The archive of the pack in folder ``pack``, a delta where ``parent`` is given.

    Raises:
        PackError: one of the packs is broken.
        StorageError: ``scratch`` cannot be written.
    """
    file = scratch / f"{pack.name}.out"
    write_archive(pack, file, parent=parent)
    try:
        return file.read_bytes()
    finally:
        file.unlink()


def unpacked(
    archive: bytes, digest: str, into: Path, *, scratch: Path, bundle_digest: str | None, parent_of: ParentOf
) -> Path:
    """Verify the pack ``digest`` in ``archive`` and make it ``into/<digest>``.

    Raises:
        PackError: broken, another one, or made for another bundle.
        StorageError: it cannot be written.
    """
    file = scratch / f"{digest}.in"
    write_atomic(file, archive)
    try:
        open_archive(file, into, parent_of=parent_of, bundle_digest=bundle_digest, expected_digest=digest)
    finally:
        file.unlink()
    return into / digest


def _parsed(model: type[Model], record: Record) -> Model:
    try:
        return model.model_validate(dict(record), strict=True)
    except ValidationError as error:
        raise IntegrityError(
            f"Expected {'an order' if model is Order else 'an answer'} of federated rounds, but found another record: "
            f"{validation_sentence(error)}; use one release on the server and on the devices."
        ) from error


def _config(model: type[Model], text: str) -> Model:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise IntegrityError(
            f"The order's {model.__name__} is not valid: {validation_sentence(error)}; "
            "use one release on the server and on the devices."
        ) from error
