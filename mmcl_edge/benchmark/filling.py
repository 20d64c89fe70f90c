"""Working out frozen features before runs share them: once a sample, condition and kind of features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mmcl_edge.benchmark.place import Where, place_of
from mmcl_edge.benchmark.records import CLEAN
from mmcl_edge.benchmark.workers import finished, worker_pool
from mmcl_edge.config import MethodConfig
from mmcl_edge.data.streams import TEST
from mmcl_edge.errors import MmclEdgeError
from mmcl_edge.learners.catalogue import entry
from mmcl_edge.learners.host import Host
from mmcl_edge.learners.protocol import Learner

if TYPE_CHECKING:
    from mmcl_edge.benchmark.runner import RunSpec

CHUNK = 200
"""Samples that a worker takes at a time."""


def fill_features(
    specs: Sequence[RunSpec], where: Where, *, workers: int, on_features: Callable[[int, int], None]
) -> None:
    """Keep the features that ``specs`` will ask for.

    Args:
        specs: runs.
        where: folders.
        workers: processes side by side.
        on_features: how many samples are done, of how many.
    """
    jobs = [(*job, where) for job in _jobs(specs, where)]
    total = len(jobs) * CHUNK
    if workers == 1:
        for number, job in enumerate(jobs, start=1):
            fill(*job)
            on_features(number * CHUNK, total)
        return
    with worker_pool(workers) as pool:
        for number, _ in enumerate(finished(pool, fill, jobs, workers=workers), start=1):
            on_features(number * CHUNK, total)


def _jobs(specs: Sequence[RunSpec], where: Where) -> list[tuple[RunSpec, str, int]]:
    """One run for each kind of features, with each condition and chunk of its dataset."""
    kinds: dict[str, str] = {}
    chosen: dict[tuple[str, str, str], RunSpec] = {}
    for spec in specs:
        if spec.learner not in kinds:
            kinds[spec.learner] = _kind(spec, where)
        for condition in (CLEAN, *spec.stream.conditions):
            chosen.setdefault((kinds[spec.learner], spec.stream.dataset, condition), spec)
    return [
        (spec, condition, start)
        for (kind, _, condition), spec in chosen.items()
        if kind
        for start in range(0, len(_rows(spec, condition, where)), CHUNK)
    ]


def _rows(spec: RunSpec, condition: str, where: Where) -> list[str]:
    """Ids of the rows whose samples are met under a condition."""
    rows = place_of(where).reader(spec.stream.dataset).rows
    tested = TEST if spec.stream.test == "test" else None
    return [row.id for row in rows if condition == CLEAN or tested in (None, row.split)]


def _kind(spec: RunSpec, where: Where) -> str:
    """What a run keeps of samples; empty where the run cannot be made: it will say why itself."""
    try:
        place_of(where).reader(spec.stream.dataset)
        return learner_of(spec, where).prepare([]).keeps
    except MmclEdgeError:
        return ""


def learner_of(spec: RunSpec, where: Where) -> Learner:
    """The learner of a run, new, on the host that all runs share."""
    place = place_of(where)
    config = MethodConfig.model_validate(spec.config["method"])
    host = Host(place.runtime.backbones, config, place.runtime.preprocess, spec.seed, place.features)
    return entry(spec.learner).make(host)


def fill(spec: RunSpec, condition: str, start: int, where: Where) -> None:
    """Keep the features of one chunk."""
    place = place_of(where)
    ids = _rows(spec, condition, where)[start : start + CHUNK]
    samples = [place.samples(spec.stream)[one] for one in ids]
    if condition != CLEAN:
        samples = [place.under(condition, sample) for sample in samples]
    learner_of(spec, where).prepare(samples)
