"""The folder of a quickstart: what is where, what an earlier run left, and whether it can be continued.

Layout::

    quickstart.json   what was asked, and what is done
    bundle/           the exported backbones
    samples/          the built-in sample: task folders, and test/
    workspace/        a device workspace (set MMCL_EDGE_HOME to it to go on by hand)
    accuracy.png      the accuracy matrix

A folder without ``quickstart.json`` that holds anything else is never touched.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from mmcl_edge.data.spoken_digits import EXPERIENCES
from mmcl_edge.errors import InputError, IntegrityError
from mmcl_edge.fileio import pretty_json, read_json, write_atomic
from mmcl_edge.packs import read_manifest
from mmcl_edge.runtime.workspace import Workspace
from mmcl_edge.types import FrozenModel

RECORD_NAME = "quickstart.json"
TASKS = tuple(EXPERIENCES)
How = Literal["new", "resumed", "again"]


class Settings(FrozenModel):
    """What was asked for; a folder made with other settings is done again."""

    samples_per_class: int
    epochs: int
    placement: Literal["inline", "ladder"]
    seed: int = 0


class Row(FrozenModel):
    """One experience that is done: accuracy on the test samples of every experience, right after it."""

    task: str
    classes: tuple[str, ...]
    accepted: bool
    pack_digest: str | None
    accuracy: tuple[float, ...]
    duration_s: float


class Record(FrozenModel):
    """``quickstart.json``."""

    settings: Settings
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Place:
    """The paths in the quickstart's folder."""

    root: Path

    @property
    def record(self) -> Path:
        """What is done."""
        return self.root / RECORD_NAME

    @property
    def bundle(self) -> Path:
        """The exported backbones."""
        return self.root / "bundle"

    @property
    def samples(self) -> Path:
        """The built-in sample."""
        return self.root / "samples"

    @property
    def workspace(self) -> Path:
        """The device workspace."""
        return self.root / "workspace"

    @property
    def picture(self) -> Path:
        """The accuracy matrix."""
        return self.root / "accuracy.png"

    def refuse_foreign(self) -> None:
        """Leave folders alone that a quickstart did not make.

        Raises:
            InputError: this is one.
        """
        root = self.root
        if root.exists() and not root.is_dir():
            raise InputError(
                f"Expected a folder for the quickstart at {root}, but it is a file; name another with --home."
            )
        others = [path.name for path in root.iterdir() if not path.name.startswith(".")] if root.is_dir() else []
        if others and not self.record.is_file():
            raise InputError(
                f"Expected an empty folder or an earlier quickstart at {root}, but it holds other things "
                f"({others[0]}); name another folder with --home."
            )

    def save(self, record: Record) -> None:
        """Write down what is done."""
        write_atomic(self.record, pretty_json(record.model_dump(mode="json")))

    def begin(self, settings: Settings) -> tuple[How, Record]:
        """Decide whether to continue an earlier run; if not, clear away what does not fit ``settings``."""
        old = self._old_record()
        if old is not None and self._continues(old, settings):
            return "resumed", old
        self._refuse_to_clear_foreign_work()
        shutil.rmtree(self.workspace, ignore_errors=True)
        if old is None or old.settings.samples_per_class != settings.samples_per_class:
            shutil.rmtree(self.samples, ignore_errors=True)
        record = Record(settings=settings)
        self.save(record)
        return ("new" if old is None else "again"), record

    def _refuse_to_clear_foreign_work(self) -> None:
        """What somebody taught here by hand is not cleared away.

        Raises:
            InputError: the workspace holds tasks, or learned something that is not the quickstart's.
        """
        workspace = Workspace(self.workspace)
        if not workspace.exists():
            return
        tasks = [path.name for path in workspace.tasks_path.glob("*")]
        learned: set[str] = set()
        for pack in workspace.list_packs():
            with suppress(IntegrityError):
                learned.update(read_manifest(pack)[0].experiences)
        others = sorted({*tasks, *learned} - set(TASKS))
        if others:
            raise InputError(
                f"Expected only the quickstart's own work in {self.workspace}, but it holds {others[0]!r} too, which "
                "starting again would delete; name another folder with --home."
            )

    def _old_record(self) -> Record | None:
        """What an earlier run left; ``None`` where there was none, or it cannot be read any more."""
        if not self.record.is_file():
            return None
        try:
            return Record.model_validate(read_json(self.record))
        except (IntegrityError, ValidationError):
            return None

    def _continues(self, old: Record, settings: Settings) -> bool:
        """Whether ``old`` is unfinished, and its workspace learned what it says, or one experience more."""
        if old.settings != settings or len(old.rows) >= len(TASKS):
            return False
        workspace = Workspace(self.workspace)
        if not workspace.exists():
            return not old.rows
        try:
            current = workspace.open().current_pack()
            known = () if current is None else read_manifest(current)[0].experiences
        except IntegrityError:
            return False
        done = tuple(row.task for row in old.rows if row.accepted)
        return tuple(known) in (done, (*done, TASKS[len(old.rows)]))
