"""The pictures of one stream, as pieces of HTML that need no escaping any more."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmcl_edge.benchmark import metrics
from mmcl_edge.benchmark.columns import COSTS, overlap_of
from mmcl_edge.benchmark.figures import Pen
from mmcl_edge.benchmark.figures_lines import interval_bars, step_curves
from mmcl_edge.benchmark.figures_matrix import (
    accuracy_heat_map,
    confusion_heat_map,
    expert_heat_map,
    overlap_heat_map,
)
from mmcl_edge.benchmark.figures_scatter import cost_scatter
from mmcl_edge.benchmark.gather import Runs, Stream
from mmcl_edge.benchmark.intervals import Interval, mean_interval
from mmcl_edge.benchmark.summaries import Summary, final
from mmcl_edge.benchmark.tables import cost_text, percent

if TYPE_CHECKING:
    from markupsafe import Markup

Pens = Mapping[str, Pen]


def pictures_of(stream: Stream, summaries: Sequence[Summary], best: str, pens: Pens, *, anchor: str) -> dict[str, Any]:
    """All pictures of a stream, learners in the order of ``summaries``; ids of the pictures begin with ``anchor``."""
    ranked = [one.learner for one in summaries]
    return {
        "curves": _curves(stream, pens, anchor),
        "forgetting": _forgetting(summaries, pens, anchor),
        "costs": [_costs(summaries, pens, anchor, name) for name in ("persistent_bytes", "train_s")],
        "matrices": [_matrix(stream, one, pens, anchor) for one in summaries],
        "experts": [found for learner in ranked if (found := _experts(stream, learner, pens, anchor))],
        "confusion": _confusion(stream.runs[best], best, anchor),
    }


def step_intervals(runs: Runs) -> list[Interval]:
    """Sample-weighted accuracy after each step, over seeds."""
    steps = range(len(next(iter(runs.values())).experiences))
    return [
        mean_interval([metrics.step_accuracy(run.matrix, run.test_counts, step) for run in runs.values()])
        for step in steps
    ]


def mean_rows(matrices: Sequence[metrics.Matrix]) -> list[list[float]]:
    """Cell by cell the mean of matrices of one size."""
    return [[statistics.fmean(cells) for cells in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)]


def summed_confusion(runs: Runs) -> tuple[tuple[str, ...], list[list[int]]]:
    """Labels in the order of the first run, and counts added over seeds, whatever order each seed met them in."""
    confusions = [run.confusion for run in runs.values()]
    labels = tuple(dict.fromkeys(label for one in confusions for label in one.labels))
    place = {label: number for number, label in enumerate(labels)}
    counts = [[0] * len(labels) for _ in labels]
    for one in confusions:
        for true, row in zip(one.labels, one.counts, strict=True):
            for answer, count in zip(one.labels, row, strict=True):
                counts[place[true]][place[answer]] += count
    return labels, counts


def _markup(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(text)


def _curves(stream: Stream, pens: Pens, anchor: str) -> Markup:
    curves = {learner: step_intervals(runs) for learner, runs in stream.runs.items()}
    title = f"Accuracy after each experience, by learner, on {stream.name}"
    return _markup(step_curves(curves, pens, name=f"{anchor}-curves", title=title))


def _forgetting(summaries: Sequence[Summary], pens: Pens, anchor: str) -> Markup:
    values = {one.learner: value for one in summaries if (value := one.metrics["forgetting"]) is not None}
    title = "Forgetting of each learner with its 95 % interval"
    label = "points of accuracy forgotten"
    return _markup(interval_bars(values, pens, name=f"{anchor}-forgetting", title=title, label=label))


def _costs(summaries: Sequence[Summary], pens: Pens, anchor: str, cost: str) -> dict[str, Any]:
    points = {one.learner: (one.costs[cost], final(one)) for one in summaries}
    label = COSTS[cost]
    picture = cost_scatter(
        points,
        pens,
        name=f"{anchor}-{cost.replace('_', '-')}",
        title=f"{label} against final accuracy",
        label=label.lower(),
        text=lambda value: cost_text(cost, value),
    )
    return {"label": label, "picture": _markup(picture)}


def _matrix(stream: Stream, one: Summary, pens: Pens, anchor: str) -> dict[str, Any]:
    runs = stream.runs[one.learner]
    picture = accuracy_heat_map(
        mean_rows([run.matrix for run in runs.values()]),
        name=f"{anchor}-matrix-{pens[one.learner].number}",
        title=f"Accuracy matrix of {one.learner}, mean over seeds",
        taught_only=stream.scenario == "class",
    )
    return {"learner": one.learner, "pen": pens[one.learner], "final": percent(final(one)), "picture": _markup(picture)}


def _experts(stream: Stream, learner: str, pens: Pens, anchor: str) -> dict[str, Any] | None:
    """Of the first seed: experts of different seeds have nothing to do with each other. Their overlap does."""
    runs = stream.runs[learner]
    seed, use = next(((seed, run.expert_use) for seed, run in runs.items() if run.expert_use), (None, None))
    overlaps = [found for run in runs.values() if (found := overlap_of(run)) is not None]
    if use is None or not overlaps:
        return None
    name, title = f"{anchor}-experts-{pens[learner].number}", f"Expert use of {learner}, seed {seed}"
    shared = f"Routing overlap of {learner}, mean over seeds"
    return {
        "learner": learner,
        "pen": pens[learner],
        "seed": seed,
        "use": _markup(expert_heat_map(use, name=name, title=title)),
        "overlap": _markup(overlap_heat_map(mean_rows(overlaps), name=f"{name}-overlap", title=shared)),
    }


def _confusion(runs: Runs, learner: str, anchor: str) -> Markup:
    labels, counts = summed_confusion(runs)
    title = f"Confusion matrix of {learner}, added over seeds"
    return _markup(confusion_heat_map(counts, labels, name=f"{anchor}-confusion", title=title))
