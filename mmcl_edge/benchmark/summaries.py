"""One row for each learner on each stream: every metric with its interval over seeds, costs, and conditions."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mmcl_edge.benchmark import metrics
from mmcl_edge.benchmark.columns import COSTS, METRICS
from mmcl_edge.benchmark.gather import BOUNDS, JOINT, Runs, Stream, gather
from mmcl_edge.benchmark.intervals import Interval, mean_interval, paired_difference
from mmcl_edge.benchmark.records import CLEAN, Cost, RunRecord


@dataclass(frozen=True, slots=True)
class Condition:
    """Final accuracy under a test condition, and what it loses against ``clean`` (paired by seed)."""

    accuracy: Interval
    loss: Interval


@dataclass(frozen=True, slots=True)
class Summary:
    """A learner on a stream.

    ``metrics`` has every name of ``METRICS``, None where it does not apply; ``costs`` every name of ``COSTS``, the
    median over seeds; ``conditions`` every test condition but ``clean`` that all seeds were tested under.
    """

    suite: str
    stream: str
    scenario: str
    learner: str
    seeds: tuple[int, ...]
    metrics: Mapping[str, Interval | None]
    costs: Mapping[str, float]
    conditions: Mapping[str, Condition]


def summarise(records: Iterable[RunRecord]) -> tuple[Summary, ...]:
    """A row for each learner of each stream, by suite, stream and falling final accuracy.

    Raises:
        InputError: the records cannot be compared (see ``gather``).
    """
    return tuple(summary for stream in gather(records) for summary in summarise_stream(stream))


def summarise_stream(stream: Stream) -> tuple[Summary, ...]:
    """A row for each learner, by falling final accuracy, then by name."""
    joint = stream.runs.get(JOINT, {})
    found = [_summary(stream, learner, runs, joint) for learner, runs in stream.runs.items()]
    return tuple(sorted(found, key=lambda one: (-final(one).mean, one.learner)))


def final(summary: Summary) -> Interval:
    """Final accuracy, which every learner has."""
    value = summary.metrics["final_accuracy"]
    assert value is not None
    return value


def best_of(summaries: Iterable[Summary]) -> Summary:
    """The learner of the highest final accuracy; joint training only where there is nothing else."""
    return max(summaries, key=lambda one: (one.learner not in BOUNDS, final(one).mean))


def compare(stream: Stream, learner: str, other: str, *, metric: str = "final_accuracy") -> Interval | None:
    """Paired difference ``learner - other`` of a metric over common seeds; None without common seeds or values."""
    ours, theirs = (_values(stream.runs[name], metric, stream.runs.get(JOINT, {})) for name in (learner, other))
    return paired_difference(ours, theirs) if ours.keys() & theirs.keys() else None


def _summary(stream: Stream, learner: str, runs: Runs, joint: Runs) -> Summary:
    values = {name: _values(runs, name, joint) for name in METRICS}
    return Summary(
        suite=stream.suite,
        stream=stream.name,
        scenario=stream.scenario,
        learner=learner,
        seeds=tuple(runs),
        metrics={name: mean_interval([*found.values()]) if found else None for name, found in values.items()},
        costs={name: _median(runs, name) for name in COSTS},
        conditions={name: _condition(runs, name) for name in _shared_conditions(runs)},
    )


def _values(runs: Runs, metric: str, joint: Runs) -> dict[int, float]:
    measure = METRICS[metric].measure
    found = {seed: measure(run, joint.get(seed)) for seed, run in runs.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _median(runs: Runs, name: str) -> float:
    costs: list[Cost] = [run.cost for run in runs.values()]
    return float(statistics.median(getattr(cost, name) for cost in costs))


def _shared_conditions(runs: Runs) -> list[str]:
    """In the order of the first run."""
    first, *others = runs.values()
    return [name for name in first.matrices if name != CLEAN and all(name in run.matrices for run in others)]


def _condition(runs: Runs, name: str) -> Condition:
    under = [metrics.final_accuracy(run.matrices[name], run.test_counts) for run in runs.values()]
    clean = [metrics.final_accuracy(run.matrix, run.test_counts) for run in runs.values()]
    losses = [before - after for before, after in zip(clean, under, strict=True)]
    return Condition(mean_interval(under), mean_interval(losses))
