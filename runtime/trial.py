"""A pack that came from elsewhere and has not been confirmed yet: the record ``trust/trial.json`` of a workspace.

While there is one, the link ``previous`` stays at the last good pack, whatever else comes into use. The record is
written before the pack comes into use and removed once it is confirmed or given up, so a cut at any moment leaves
enough to go on (``mmcl_edge.fleet.sync`` does).
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from mmcl_edge.errors import IntegrityError
from mmcl_edge.fileio import canonical_json, read_bounded, storage_errors, write_atomic
from mmcl_edge.packs.manifest import Digest
from mmcl_edge.types import FrozenModel

RECORD_NAME = "trial.json"
_MAX_BYTES = 16 << 10


class Trial(FrozenModel):
    """One pack on trial, and the way back."""

    schema_version: Literal[1] = 1
    pack: Digest
    released: Digest = Field(description="The pack that the fleet released: the same, or a parent of it.")
    good: Digest | None = Field(None, description="The pack in use before it.")
    previous: Digest | None = Field(None, description="The pack that 'previous' named before it.")
    channel: str
    counter: int = Field(ge=1)
    stage: Literal["checking", "on-trial", "refused"] = "checking"
    withdrawal: bool = Field(False, description="It takes the place of a pack that was withdrawn.")
    must_be_confirmed: bool = Field(False, description="It stays on trial, once checked, until somebody confirms it.")
    attempts: int = Field(0, ge=0, description="How often the check through the link was begun.")


class TrialRecord:
    """The record in the workspace folder ``trust``."""

    def __init__(self, trust: Path) -> None:
        self.path = trust / RECORD_NAME

    def read(self) -> Trial | None:
        """The trial that goes on; ``None`` where there is none.

        Raises:
            IntegrityError: the record is damaged.
        """
        if not self.path.is_file():
            return None
        try:
            return Trial.model_validate_json(read_bounded(self.path, _MAX_BYTES))
        except ValidationError as error:
            raise IntegrityError(
                f"{self.path} should say which pack is on trial, but is damaged; see that the pack in use is the one "
                "you want (mmcl-edge pack list), then remove the file."
            ) from error

    def covers(self, digest: str | None) -> bool:
        """Whether ``digest`` is the pack on trial; a damaged record covers none."""
        with suppress(IntegrityError):
            trial = self.read()
            return trial is not None and trial.pack == digest
        return False

    def write(self, trial: Trial) -> None:
        """Replace the record.

        Raises:
            StorageError: it cannot be written; the one before stays.
        """
        write_atomic(self.path, canonical_json(trial.model_dump(mode="json")), mode=0o600)

    def clear(self) -> None:
        """Remove the record, if it is there."""
        with storage_errors(self.path):
            self.path.unlink(missing_ok=True)
