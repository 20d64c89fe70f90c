"""The ledger beside collected packs: what came from each device, so that nothing is collected twice or goes back."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from mmcl_edge.errors import IntegrityError
from mmcl_edge.fileio import canonical_json, read_bounded, write_atomic
from mmcl_edge.fleet.layout import Upload
from mmcl_edge.packs.manifest import Digest
from mmcl_edge.types import FrozenModel

LEDGER_NAME = "collected.json"
MAX_LEDGER_BYTES = 256 << 20


class Collected(FrozenModel):
    """One line of the ledger."""

    pack: Digest
    counter: int = Field(ge=0)
    version: int = Field(ge=1)


class Ledger(FrozenModel):
    """What was collected from each device (key id), in order: contents of ``collected.json``."""

    schema_version: Literal[1] = 1
    devices: dict[Digest, tuple[Collected, ...]] = Field({}, description="Uploads by the id of the key.")

    def holds(self, keyid: str, pack: str, counter: int) -> bool:
        """Whether this very upload was collected before."""
        return any((one.pack, one.counter) == (pack, counter) for one in self.devices.get(keyid, ()))

    def newest(self, keyid: str) -> int:
        """Number of the newest upload collected from a device; 0 before the first."""
        return max((one.counter for one in self.devices.get(keyid, ())), default=0)

    def after(self, uploads: Iterable[Upload]) -> Ledger:
        """The ledger after ``uploads`` were collected, in that order."""
        lines = {keyid: dict.fromkeys(collected) for keyid, collected in self.devices.items()}
        for upload in uploads:
            own = lines.setdefault(upload.keyid, {})
            line = Collected(pack=upload.pack, counter=upload.counter, version=upload.version)
            own.pop(line, None)
            own[line] = None
        return Ledger(devices={keyid: tuple(own) for keyid, own in lines.items()})


def read_ledger(out: Path) -> Ledger:
    """What was collected into ``out`` before.

    Raises:
        IntegrityError: the ledger is damaged.
    """
    path = out / LEDGER_NAME
    if not path.is_file():
        return Ledger()
    try:
        return Ledger.model_validate_json(read_bounded(path, MAX_LEDGER_BYTES))
    except ValidationError as error:
        raise IntegrityError(
            f"{path} should say what was collected before, but is damaged; restore it, or collect into another folder, "
            "where everything counts as new."
        ) from error


def write_ledger(out: Path, ledger: Ledger) -> None:
    """Replace the ledger.

    Raises:
        StorageError: it cannot be written; the one before stays.
    """
    write_atomic(out / LEDGER_NAME, canonical_json(ledger.model_dump(mode="json")))
