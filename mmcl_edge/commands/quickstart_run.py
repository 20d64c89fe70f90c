"""The work of ``quickstart``, step by step; ``quickstart_place`` says where everything goes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmcl_edge.benchmark.metrics import average_accuracy, final_accuracy, forgetting
from mmcl_edge.benchmark.pictures import write_accuracy_matrix
from mmcl_edge.bundle import Bundle
from mmcl_edge.commands import adapt
from mmcl_edge.commands.console import progress
from mmcl_edge.commands.quickstart_place import TASKS, Place, Record, Row, Settings
from mmcl_edge.config import AdaptConfig, AdapterConfig, MethodConfig, TrainConfig
from mmcl_edge.data.spoken_digits import TEST_FOLDER, write_spoken_digits
from mmcl_edge.data.task_folder import decode_task, read_task
from mmcl_edge.errors import BundleError
from mmcl_edge.fileio import storage_errors, sweep_staging
from mmcl_edge.runtime.adapt import AdaptRequest
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.lock import workspace_lock
from mmcl_edge.runtime.workspace import Workspace
from mmcl_edge.types import Sample

TOLERANCE = 0.3
"""With two or three held-out samples a class, one more wrong answer is more than the default of 0.1."""


def run(root: Path, settings: Settings, *, quiet: bool, started: float) -> dict[str, Any]:
    """Do everything that is not done yet, and report.

    Args:
        root: the quickstart's folder.
        settings: what is asked for.
        quiet: no progress.
        started: ``time.monotonic()`` when the command began.

    Raises:
        InputError: ``root`` holds something else, or a step cannot be done.
        LockedError: another quickstart works in ``root``.
    """
    place = Place(root)
    place.refuse_foreign()
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    with workspace_lock(root):
        return _Quickstart(place, settings, quiet=quiet, started=started).run()


class _Quickstart:
    """One run, its steps in order."""

    def __init__(self, place: Place, settings: Settings, *, quiet: bool, started: float) -> None:
        self.place = place
        self.settings = settings
        self.quiet = quiet
        self.started = started
        self.seconds: dict[str, float] = {}
        self.workspace = Workspace(place.workspace)

    def run(self) -> dict[str, Any]:
        sweep_staging(self.place.root)
        how, record = self.place.begin(self.settings)
        resumed_after = len(record.rows) if how == "resumed" else None
        bundle = self._bundle()
        self._write_samples()
        self._open_workspace(bundle)
        tests = [self._test_samples(task) for task in TASKS]
        for task in TASKS[len(record.rows) :]:
            record = record.model_copy(update={"rows": (*record.rows, self._learn(task, tests))})
            self.place.save(record)
        return {"how": how, "resumed_after": resumed_after, **self._report(record, bundle, tests)}

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 1)

    def _bundle(self) -> Bundle:
        """The bundle of an earlier run, if it is whole; else a new one."""
        with suppress(BundleError):
            return Bundle.open(self.place.bundle)
        from mmcl_edge.export.exporter import export_bundle

        shutil.rmtree(self.place.bundle, ignore_errors=True)
        with self._timed("export"), progress("Exporting", quiet=self.quiet) as report:
            return export_bundle(self.place.bundle, progress=report)

    def _write_samples(self) -> None:
        if self.place.samples.is_dir():
            return
        with self._timed("samples"), progress("Writing samples", quiet=self.quiet) as report:
            report(f"digits, {self.settings.samples_per_class} pairs a class")
            write_spoken_digits(
                self.place.samples,
                samples_per_class=self.settings.samples_per_class,
                seed=self.settings.seed,
                progress=lambda done, total: report("pairs", done, total) if done % 60 == 0 else None,
            )

    def _open_workspace(self, bundle: Bundle) -> None:
        self.workspace.create()
        if self.workspace.bundle_digest() != bundle.digest:
            self.workspace.install_bundle(bundle.path, replace=True)

    def _test_samples(self, task: str) -> list[Sample]:
        folder = read_task(self.place.samples / TEST_FOLDER / task, min_samples=1)
        return decode_task(folder)[0]

    def _learn(self, task: str, tests: list[list[Sample]]) -> Row:
        settings = self.settings
        method = MethodConfig(
            adapter=AdapterConfig(placement=settings.placement), train=TrainConfig(epochs=settings.epochs, min_steps=0)
        )
        request = AdaptRequest(
            task,
            data=self.place.samples / task,
            method=method,
            adapt=AdaptConfig(seed=settings.seed, tolerance=TOLERANCE),
        )
        with self._timed("learn"):
            result = adapt.run(self.workspace, request, quiet=self.quiet)
        with self._timed("test"), self._runtime() as runtime:
            accuracy = tuple(share_right(runtime, samples) for samples in tests)
        return Row(
            task=task,
            classes=tuple(result["classes"]),
            accepted=result["accepted"],
            pack_digest=result["pack_digest"],
            accuracy=accuracy,
            duration_s=result["duration_s"],
        )

    def _runtime(self) -> Runtime:
        return Runtime.open(self.workspace.bundle_path, self.workspace.current_pack())

    def _report(self, record: Record, bundle: Bundle, tests: list[list[Sample]]) -> dict[str, Any]:
        matrix, counts = [row.accuracy for row in record.rows], [len(samples) for samples in tests]
        figures = {
            "final_accuracy": round(final_accuracy(matrix, counts), 4),
            "average_accuracy": round(average_accuracy(matrix, counts), 4),
            "forgetting": round(forgetting(matrix), 4),
        }
        draw(self.place.picture, record, figures, test_samples=sum(counts))
        with self._runtime() as runtime:
            shown = [answered(runtime, sample) for sample in views(tests[0][0])]
        return {
            "settings": record.settings.model_dump(mode="json"),
            "bundle": {"digest": bundle.digest, "backbones": [entry.name for entry in bundle.manifest.backbones]},
            "experiences": [row.model_dump(mode="json") for row in record.rows],
            "test_samples": counts,
            **figures,
            "predictions": shown,
            "seconds": {**self.seconds, "total": round(time.monotonic() - self.started, 1)},
            "places": {name: str(getattr(self.place, name)) for name in ("bundle", "samples", "workspace", "picture")},
        }


def share_right(runtime: Runtime, samples: list[Sample]) -> float:
    """Share of ``samples`` that are labelled rightly."""
    answers = runtime.predict_batch(samples)
    return sum(answer.label == sample.label for answer, sample in zip(answers, samples, strict=True)) / len(samples)


def views(sample: Sample) -> tuple[Sample, ...]:
    """The pair, its sound alone, and its picture alone."""
    return (
        sample,
        Sample(sample.audio, None, sample.label, f"{sample.source}, sound alone"),
        Sample(None, sample.frames, sample.label, f"{sample.source}, picture alone"),
    )


def answered(runtime: Runtime, sample: Sample) -> dict[str, Any]:
    """What the runtime says about ``sample``."""
    answer = runtime.predict(sample.audio, sample.frames)
    top = [{"label": label, "probability": round(value, 4)} for label, value in answer.top_k(3)]
    return {"source": sample.source, "truth": sample.label, "label": answer.label, "top": top}


def draw(path: Path, record: Record, figures: dict[str, float], *, test_samples: int) -> None:
    """The picture of the accuracy matrix."""
    names = [f"{row.task.replace('_', ' ', 1).replace('_', '-')}\n({len(row.classes)} classes)" for row in record.rows]
    write_accuracy_matrix(
        path,
        [row.accuracy for row in record.rows],
        names=names,
        title="Spoken and handwritten digits, learned in three experiences",
        note=(
            f"final accuracy {100 * figures['final_accuracy']:.1f} %, average {100 * figures['average_accuracy']:.1f} "
            f"%, forgetting {100 * figures['forgetting']:.1f} points\n"
            f"{test_samples} test pairs; their speakers and pictures were not used in training"
        ),
        chance=1 / sum(len(row.classes) for row in record.rows),
    )
