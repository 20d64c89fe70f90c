"""Running the plan: frozen features once, then every run that has no record yet, side by side.

A run is keyed by the digest of its configuration: bundle, task, learner with its whole ``CometConfig``, order, seed and
version. One whose record lies in the folder is skipped, so what was interrupted goes on where it stopped. The files of
the datasets and uncommitted code are not in the key: where either changed, use another folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache

from mmcl_edge.benchmark.crossmodal.measure import learn_and_measure
from mmcl_edge.benchmark.crossmodal.plan import CrossmodalSpec
from mmcl_edge.benchmark.crossmodal.records import CrossmodalRecord
from mmcl_edge.benchmark.crossmodal.tasks import PairTask, read_task
from mmcl_edge.benchmark.place import Where, place_of
from mmcl_edge.benchmark.runner import Outcome, made_by, run_missing
from mmcl_edge.benchmark.workers import side_by_side
from mmcl_edge.config import CometConfig, MethodConfig
from mmcl_edge.learners.comet.catalogue import comet_entry
from mmcl_edge.learners.comet.learner import CometLearner
from mmcl_edge.learners.comet.reading import FeatureReader
from mmcl_edge.learners.host import Host
from mmcl_edge.types import TEXT

CHUNK = 100
"""Samples whose features a worker takes at a time."""


OnRun = Callable[[CrossmodalSpec, CrossmodalRecord | None, int, int], None]
"""Called after each run with its record (``None``: it failed), how many are done, and how many there are."""


def run_plan(
    specs: Sequence[CrossmodalSpec],
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
        on_features: how many samples have their frozen features, of how many.

    Raises:
        InputError: a dataset is not there.
        StorageError: records cannot be written.
    """

    def fill_all(todo: Sequence[CrossmodalSpec]) -> None:
        jobs = [(*job, where) for job in feature_jobs(tuple(dict.fromkeys(spec.task for spec in todo)), where)]
        for number, _ in enumerate(side_by_side(fill, jobs, workers), start=1):
            on_features(number * CHUNK, len(jobs) * CHUNK)

    return run_missing(specs, where, run_one, fill=fill_all, workers=workers, on_run=on_run)


def run_one(spec: CrossmodalSpec, where: Where) -> CrossmodalRecord:
    """Learn the stages, and ask everything after each.

    Raises:
        InputError: the dataset is not there, or the bundle lacks a backbone.
    """
    started, task = time.time(), task_of(spec.task, where)
    stages = learn_and_measure(learner_of(spec, where), task, spec.order)
    return CrossmodalRecord(
        key=spec.key,
        task=spec.task,
        learner=spec.learner,
        order=spec.order,
        seed=spec.seed,
        config=spec.config,
        test_counts={name: len(view) for name, view in task.test.items()},
        stages=stages,
        made_by=made_by(where.command, started),
    )


def learner_of(spec: CrossmodalSpec, where: Where) -> CometLearner:
    """The learner of a run, new, on the features that all runs share."""
    place = place_of(where)
    host = Host(place.runtime.backbones, MethodConfig(), place.runtime.preprocess, spec.seed, place.features)
    return comet_entry(spec.learner).make(host, CometConfig.model_validate(spec.config["comet"]))


@lru_cache(maxsize=4)
def task_of(name: str, where: Where) -> PairTask:
    """The task, decoded once a process."""
    return read_task(name, where.data)


def feature_jobs(tasks: Sequence[str], where: Where) -> list[tuple[str, str, str, int]]:
    """Task, split, modality and first sample of each chunk."""
    return [
        (name, split, modality, start)
        for name in tasks
        for split, views in (("train", task_of(name, where).train), ("test", task_of(name, where).test))
        for modality, view in views.items()
        for start in range(0, len(view), CHUNK)
    ]


def fill(task: str, split: str, modality: str, start: int, where: Where) -> None:
    """Keep the features of one chunk, its captions' too."""
    place, found = place_of(where), task_of(task, where)
    view = (found.train if split == "train" else found.test)[modality]
    read = FeatureReader(place.runtime.backbones, place.runtime.preprocess, place.features, batch_size=CHUNK)
    samples = view.samples[start : start + CHUNK]
    for one in dict.fromkeys((modality, TEXT)):
        read(samples, one)
