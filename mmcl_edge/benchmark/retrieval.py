"""Retrieval over seeds: the figures of ``learners.retrieval`` with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

from mmcl_edge.benchmark.intervals import Interval, mean_interval
from mmcl_edge.errors import InputError
from mmcl_edge.learners.retrieval import Retrieval


def over_seeds(runs: Sequence[Retrieval]) -> dict[str, Interval]:
    """Mean of each figure over runs with other seeds, with its 95 % interval.

    Raises:
        InputError: there is no run, or the runs give other recalls.
    """
    figures = [run.figures() for run in runs]
    if len({tuple(one) for one in figures}) > 1:
        raise InputError("Expected the same figures of every run, but they differ; compare runs of one protocol.")
    names = tuple(figures[0]) if figures else ("mrr",)
    return {name: mean_interval([one[name] for one in figures]) for name in names}
