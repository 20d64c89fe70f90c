"""Running a suite: every learner on every stream with every seed, side by side, never twice.

A run is keyed by the digest of its configuration (``RunSpec.config``): stream, learner, settings, method, seed, bundle,
versions. One whose record lies in the folder is skipped, so a suite that was interrupted goes on where it stopped, and
a learner that was added is the only one to run. The dataset's files and uncommitted code are not in the key: where
either changed, use another folder.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol, TypeVar

from mmcl_edge.benchmark.evaluation import Measured, confusion_of, learn_stream, routing_of
from mmcl_edge.benchmark.filling import fill_features, learner_of
from mmcl_edge.benchmark.memory import peak_bytes, reset_peak
from mmcl_edge.benchmark.place import Where, place_of
from mmcl_edge.benchmark.records import AnyRecord, Cost, RunRecord, key_of, path_of, prepare_folder, write_record
from mmcl_edge.benchmark.streams import build_stream
from mmcl_edge.benchmark.suites import StreamSpec, Suite
from mmcl_edge.benchmark.workers import side_by_side
from mmcl_edge.errors import MmclEdgeError
from mmcl_edge.learners.catalogue import entry
from mmcl_edge.learners.protocol import MEMORY, Learner

logger = logging.getLogger(__name__)
VERSIONS = ("mmcl-edge", "torch", "onnxruntime", "numpy")


@dataclass(frozen=True)
class RunSpec:
    """One run: a learner on a stream with a seed.

    Attributes:
        suite: the suite's name.
        stream: what is learned.
        learner: its name in the catalogue.
        seed: of everything random.
        config: what the key is made of: stream, learner, settings, method, seed, bundle, version.
    """

    suite: str
    stream: StreamSpec
    learner: str
    seed: int
    config: dict[str, Any]

    @property
    def key(self) -> str:
        """The digest that names the run's record."""
        return key_of(self.config)

    def __str__(self) -> str:
        return f"{self.learner} on {self.stream.name!r} with seed {self.seed}"


@dataclass
class Outcome:
    """What became of a plan: keys of runs by what happened, and sentences of those that failed."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class Spec(Protocol):
    """A run of any kind."""

    @property
    def key(self) -> str:
        """The digest that names the run's record."""
        ...


AnySpec = TypeVar("AnySpec", bound=Spec)

OnRun = Callable[[RunSpec, RunRecord | None, int, int], None]
"""Called after each run with its record (``None``: it failed), how many are done, and how many there are."""


def plan(
    suite: Suite, bundle_digest: str, *, learners: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> list[RunSpec]:
    """Every run of ``suite``, each once.

    Args:
        suite: streams, learners, budget.
        bundle_digest: of the backbones.
        learners: names in the catalogue, in place of the suite's.
        seeds: in place of each stream's.

    Raises:
        InputError: an unknown learner.
    """
    found = []
    for stream in suite.streams:
        names = learners or stream.learners or suite.learners
        for seed in seeds if seeds is not None else stream.seeds:
            found += [_spec(suite, stream, name, seed, bundle_digest) for name in names]
    return list({spec.key: spec for spec in found}.values())


def _spec(suite: Suite, stream: StreamSpec, learner: str, seed: int, bundle_digest: str) -> RunSpec:
    chosen = entry(learner)
    config = {
        "bundle": bundle_digest,
        "learner": learner,
        "settings": {k: str(v) for k, v in chosen.make.keywords.items()} if isinstance(chosen.make, partial) else {},
        "method": stream.method(chosen.config(suite.method)).model_dump(mode="json"),
        "stream": stream.model_dump(mode="json", exclude={"name", "seeds", "learners"}),
        "seed": seed,
        "version": version_of("mmcl-edge"),
    }
    return RunSpec(suite.name, stream, learner, seed, config)


def run_suite(
    specs: Sequence[RunSpec],
    where: Where,
    *,
    workers: int = 1,
    on_run: OnRun = lambda spec, record, done, total: None,
    on_features: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Make the record of every run that has none yet.

    A run that fails with a known error leaves the others alone; its sentence is in the outcome.

    Args:
        specs: what to run.
        where: folders.
        workers: processes side by side.
        on_run: see ``OnRun``.
        on_features: how many frozen features are there, of how many.
    """
    return run_missing(
        specs,
        where,
        run_one,
        fill=lambda todo: fill_features(todo, where, workers=workers, on_features=on_features),
        workers=workers,
        on_run=on_run,
    )


def run_missing(
    specs: Sequence[AnySpec],
    where: Where,
    run: Callable[[AnySpec, Where], AnyRecord],
    *,
    fill: Callable[[Sequence[AnySpec]], None],
    workers: int,
    on_run: Callable[[AnySpec, AnyRecord | None, int, int], None],
) -> Outcome:
    """Make the record of every run that has none yet, for any kind of run.

    Args:
        specs: what to run; ``str`` names one in messages.
        where: folders.
        run: one run; a function that worker processes can import.
        fill: works out, before the runs begin, the features that they share.
        workers: processes side by side.
        on_run: see ``OnRun``.

    Raises:
        StorageError: records cannot be written.
        WorkerError: a worker was ended from outside.
    """
    outcome = Outcome()
    prepare_folder(where.folder)
    todo = []
    for spec in specs:
        known = path_of(where.folder, spec.key).is_file()
        outcome.skipped.append(spec.key) if known else todo.append(spec)
    if not todo:
        return outcome
    fill(todo)
    jobs = [(run, spec, where) for spec in todo]
    for number, ((_, spec, _), result) in enumerate(side_by_side(attempt, jobs, workers), start=1):
        record = None if isinstance(result, str) else result
        if record is None:
            outcome.failed[spec.key] = f"{spec}: {result}"
        else:
            write_record(where.folder, record)
            outcome.done.append(spec.key)
        on_run(spec, record, number, len(todo))
    return outcome


def attempt(run: Callable[[AnySpec, Where], AnyRecord], spec: AnySpec, where: Where) -> AnyRecord | str:
    """One run: its record, or the sentence that says why there is none."""
    try:
        return run(spec, where)
    except MmclEdgeError as error:
        logger.debug("run failed", exc_info=error)
        return str(error)


def run_one(spec: RunSpec, where: Where) -> RunRecord:
    """Learn the stream, measure, and say what it took.

    Raises:
        InputError: dataset, scenario, budget and learner do not fit together.
    """
    place, started = place_of(where), time.time()
    stream = spec.stream
    rows = place.reader(stream.dataset).rows
    experiences = build_stream(stream, rows, spec.seed, place.samples(stream))
    reset_peak()
    learner = learner_of(spec, where)
    measured = learn_stream(
        learner, experiences, scenario=stream.scenario, conditions=stream.conditions, change=place.under
    )
    use, overlap = routing_of(learner, experiences)
    classes = len({name for one in experiences for name in one.classes})
    return RunRecord(
        key=spec.key,
        suite=spec.suite,
        stream=stream.name,
        scenario=stream.scenario,
        learner=spec.learner,
        seed=spec.seed,
        config=spec.config,
        experiences=tuple(one.name for one in experiences),
        classes=tuple(one.classes for one in experiences),
        test_counts=tuple(len(one.test) for one in experiences),
        matrices=measured.matrices,
        initial=tuple(1 / classes for _ in experiences) if stream.scenario == "domain" else None,
        confusion=confusion_of(learner, experiences, stream.scenario),
        expert_use=use,
        routing_overlap=overlap,
        cost=_cost(learner, measured),
        made_by=made_by(where.command, started),
    )


def _cost(learner: Learner, measured: Measured) -> Cost:
    model = sum(value.nbytes for name, value in learner.state_dict().items() if not name.startswith(MEMORY))
    return Cost(
        trainable_parameters=learner.trainable_parameters,
        persistent_bytes=learner.memory_bytes,
        model_bytes=model,
        peak_rss_bytes=peak_bytes(),
        train_s=round(sum(measured.train_s), 3),
        train_s_by_experience=tuple(round(value, 3) for value in measured.train_s),
        predict_ms=round(1e3 * measured.predict_s / max(1, measured.predicted), 4),
    )


def made_by(command: str, started: float) -> dict[str, Any]:
    """What made a record, for its reader: ``started`` in seconds since the epoch, ended now."""
    return {
        "command": command,
        "versions": {name: version_of(name) for name in VERSIONS} | {"python": platform.python_version()},
        "machine": {"cores": os.cpu_count(), "system": platform.system(), "processor": platform.machine()},
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
    }


def version_of(name: str) -> str:
    """The version of an installed package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
