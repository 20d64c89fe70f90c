"""One adapt run on disk: its checkpoint while it works, its report when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from mmcl_edge.errors import IntegrityError
from mmcl_edge.fileio import pretty_json, read_bounded, read_json, write_atomic

MAX_CHECKPOINT_BYTES = 4 << 30
CHECKPOINT_NAME = "checkpoint.safetensors"
REPORT_NAME = "report.json"


@dataclass(frozen=True)
class AdaptReport:
    """The outcome of an adapt run.

    Attributes:
        run_id: names the run's folder.
        task: the task's name.
        task_digest: of its data.
        request_digest: of everything that was asked.
        classes: of the task.
        accepted: whether the new pack came into use.
        before: accuracy on held-out samples, ``old`` and ``new`` classes, with the old pack; ``None``: no samples. Of
            pairs, the mean reciprocal rank of ``old`` modalities and of the ``new`` one.
        after: the same with the new pack.
        tolerance: what old classes, or modalities, may lose of it.
        train_samples: learned from.
        holdout_samples: held out of this task.
        skipped: files that could not be decoded.
        exemplars: kept for later.
        exemplar_bytes: of them.
        epochs: trained.
        resumed_from_epoch: where an interrupted run went on; ``None`` if it was not interrupted.
        parent_digest: the pack it started from.
        pack_digest: the new pack; ``None`` if refused.
        calibration_error: of its confidence, ``before`` and ``after`` calibration; ``None``: not calibrated.
        repeated: nothing was done, for this very request made the pack in use, or was refused before.
        space: of a stage of pairs: ``modality``, ``mediator``, ``modalities`` (all known now), ``retrieval`` by
            modality ``before`` and ``after`` (mean reciprocal rank), and what the codebook did; ``None``: classes.
    """

    run_id: str
    task: str
    task_digest: str
    request_digest: str
    classes: tuple[str, ...]
    accepted: bool
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]
    tolerance: float
    train_samples: int
    holdout_samples: int
    skipped: int
    exemplars: int
    exemplar_bytes: int
    epochs: int
    resumed_from_epoch: int | None
    parent_digest: str | None
    pack_digest: str | None = None
    calibration_error: Mapping[str, float] | None = None
    repeated: bool = False
    space: Mapping[str, Any] | None = None

    def evaluation(self) -> dict[str, Any]:
        """What a pack's ``eval.json`` says: figures that do not depend on how the run went on the way."""
        figures = {f"old_classes_{when}": getattr(self, when)["old"] for when in ("before", "after")}
        figures |= {f"new_classes_{when}": getattr(self, when)["new"] for when in ("before", "after")}
        figures |= {"holdout_samples": self.holdout_samples, "train_samples": self.train_samples, "epochs": self.epochs}
        return {name: value for name, value in figures.items() if value is not None}


class RunRecord:
    """The folder ``runs/<id>``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save_checkpoint(self, state: Mapping[str, torch.Tensor]) -> None:
        """Replace the checkpoint.

        Raises:
            StorageError: it cannot be written; the one before stays.
        """
        data = save({name: value.detach().contiguous().clone() for name, value in state.items()})
        write_atomic(self.folder / CHECKPOINT_NAME, data)

    def checkpoint(self) -> dict[str, torch.Tensor] | None:
        """The last checkpoint; ``None`` where there is none or it is damaged (then the run starts over)."""
        with suppress(IntegrityError, SafetensorError):
            return load(read_bounded(self.folder / CHECKPOINT_NAME, MAX_CHECKPOINT_BYTES))
        return None

    def finish(self, report: AdaptReport) -> None:
        """Write the report and drop the checkpoint of a refused run (an accepted one keeps it until the swap)."""
        write_atomic(self.folder / REPORT_NAME, pretty_json(asdict(report)))
        if not report.accepted:
            self.drop_checkpoint()

    def drop_checkpoint(self) -> None:
        """Free its space, once the pack is in use."""
        (self.folder / CHECKPOINT_NAME).unlink(missing_ok=True)

    def report(self) -> AdaptReport | None:
        """The report; ``None`` where the run is unfinished or its record damaged."""
        with suppress(IntegrityError, TypeError, KeyError):
            raw = read_json(self.folder / REPORT_NAME)
            return AdaptReport(**{**raw, "classes": tuple(raw["classes"])})
        return None
