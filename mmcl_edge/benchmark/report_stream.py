"""What the report shows of one stream, as plain values for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmcl_edge.benchmark.columns import COSTS, METRICS
from mmcl_edge.benchmark.figures import Pen
from mmcl_edge.benchmark.gather import BOUNDS, JOINT, Stream
from mmcl_edge.benchmark.report_pictures import pictures_of
from mmcl_edge.benchmark.summaries import Summary, best_of, compare, final, summarise_stream
from mmcl_edge.benchmark.tables import MAIN_COSTS, MAIN_METRICS, NONE, cost_text, percent

Pens = Mapping[str, Pen]
_RARE = ("forward_transfer", "intransigence", "routing_overlap")
"""Metrics shown in the main table where any learner has them."""


def view_of(stream: Stream, pens: Pens, *, number: int) -> dict[str, Any]:
    """Everything the template needs of a stream; ``number`` (from 1) makes its anchors."""
    summaries = summarise_stream(stream)
    best = best_of(summaries)
    shown = [*MAIN_METRICS, *(name for name in _RARE if any(one.metrics[name] for one in summaries))]
    return {
        "anchor": f"stream-{number}",
        "name": stream.name,
        "suite": stream.suite,
        "scenario": stream.scenario,
        "experiences": stream.experiences,
        "classes": len({name for run in stream.records for names in run.classes for name in names}),
        "runs": len(stream.records),
        "best": best.learner,
        "bounded": JOINT in stream.runs and best.learner not in BOUNDS,
        "verdict": verdict(stream, summaries),
        "tiles": _tiles(summaries),
        "legend": [(learner, pens[learner]) for learner in sorted(stream.runs)],
        "columns": [METRICS[name].title for name in shown],
        "cost_columns": [COSTS[name] for name in MAIN_COSTS],
        "rows": [_row(stream, one, best, shown, pens) for one in summaries],
        "every_row": [_every(one, pens) for one in summaries],
        "conditions": _conditions(summaries, pens),
        "pictures": pictures_of(stream, summaries, best.learner, pens, anchor=f"stream-{number}"),
    }


def verdict(stream: Stream, summaries: Sequence[Summary]) -> str:
    """Which learner is best, and whether that can be told from the runner-up over common seeds."""
    ranked = [one for one in summaries if one.learner not in BOUNDS]
    if len(ranked) < 2:
        return "There is nothing to compare it with yet."
    first, second = ranked[:2]
    found = compare(stream, first.learner, second.learner)
    if found is None:
        return f"It has no seed in common with the next, {second.learner}, so the two cannot be compared."
    if found.half_width is None:
        return f"It is ahead of {second.learner} by {100 * found.mean:.1f} points on the one seed that both have."
    told = "more than seeds explain" if found.excludes_zero else "which seeds alone could explain"
    return f"It is ahead of {second.learner} by {percent(found)} points over {found.count} common seeds, {told}."


def _tiles(summaries: Sequence[Summary]) -> list[tuple[str, str, str]]:
    """What a reader looks for first: text, value, learner. Joint training does not take part."""
    ranked = [one for one in summaries if one.learner not in BOUNDS] or list(summaries)
    least = min(ranked, key=lambda one: _mean(one, "forgetting"))
    small = min(ranked, key=lambda one: one.costs["persistent_bytes"])
    fast = min(ranked, key=lambda one: one.costs["train_s"])
    return [
        ("Highest final accuracy", f"{percent(final(ranked[0]))} %", ranked[0].learner),
        ("Least forgetting", f"{percent(least.metrics['forgetting'])} points", least.learner),
        (
            "Least kept between experiences",
            cost_text("persistent_bytes", small.costs["persistent_bytes"]),
            small.learner,
        ),
        ("Fastest training", cost_text("train_s", fast.costs["train_s"]), fast.learner),
    ]


def _mean(summary: Summary, metric: str) -> float:
    value = summary.metrics[metric]
    return float("inf") if value is None else value.mean


def _row(stream: Stream, one: Summary, best: Summary, shown: Sequence[str], pens: Pens) -> dict[str, Any]:
    gap = None if one.learner == best.learner else compare(stream, one.learner, best.learner)
    return {
        "learner": one.learner,
        "pen": pens[one.learner],
        "best": one.learner == best.learner,
        "bound": one.learner in BOUNDS,
        "seeds": len(one.seeds),
        "share": round(100 * final(one).mean, 1),
        "values": [percent(one.metrics[name]) for name in shown],
        "gap": NONE if gap is None else percent(gap),
        "sure": gap is not None and gap.excludes_zero,
        "costs": [cost_text(name, one.costs[name]) for name in MAIN_COSTS],
    }


def _every(one: Summary, pens: Pens) -> dict[str, Any]:
    return {
        "learner": one.learner,
        "pen": pens[one.learner],
        "values": [percent(one.metrics[name]) for name in METRICS],
        "costs": [cost_text(name, one.costs[name]) for name in COSTS],
    }


def _conditions(summaries: Sequence[Summary], pens: Pens) -> dict[str, Any]:
    names = list(dict.fromkeys(name for one in summaries for name in one.conditions))
    rows = [
        {
            "learner": one.learner,
            "pen": pens[one.learner],
            "clean": percent(final(one)),
            "cells": [_condition(one, name) for name in names],
        }
        for one in summaries
    ]
    return {"names": [name.replace("_", " ") for name in names], "rows": rows}


def _condition(one: Summary, name: str) -> dict[str, Any] | None:
    found = one.conditions.get(name)
    if found is None:
        return None
    share = round(max(0.0, min(100.0, 100 * found.loss.mean)), 1)
    return {"accuracy": percent(found.accuracy), "loss": percent(found.loss), "share": share}
