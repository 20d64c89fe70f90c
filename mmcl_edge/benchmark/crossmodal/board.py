"""Records by task, learner, seed and order, and the figures of learners over seeds.

A learner's value with a seed is the mean over the orders of stages it learned in; intervals are over seeds. Two
learners are compared on the runs (seed, order) that both have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from mmcl_edge.benchmark.crossmodal.records import CrossmodalRecord
from mmcl_edge.benchmark.crossmodal.scores import SCORES, Measure
from mmcl_edge.benchmark.crossmodal.tasks import TASKS, Order
from mmcl_edge.benchmark.intervals import Interval, mean_interval
from mmcl_edge.errors import InputError
from mmcl_edge.learners.comet.catalogue import COMET

Run = tuple[int, Order]
Compare = Callable[[float, float], "float | None"]


class Board:
    """Every record, to be asked (see the module docstring).

    Args:
        records: in any order.

    Raises:
        InputError: two records are of one run, or of different bundles.
    """

    def __init__(self, records: Sequence[CrossmodalRecord]) -> None:
        self.records = tuple(records)
        self._runs: dict[str, dict[str, dict[Run, CrossmodalRecord]]] = {}
        for record in self.records:
            runs = self._runs.setdefault(record.task, {}).setdefault(record.learner, {})
            run = (record.seed, record.order)
            if run in runs:
                raise InputError(
                    f"Expected one record of {record.learner} on {record.task} with seed {record.seed} and stages "
                    f"{', '.join(record.order)}, but found {runs[run].key} and {record.key}; remove the older one."
                )
            runs[run] = record
        bundles = {str(record.config.get("bundle")) for record in self.records}
        if len(bundles) > 1:
            raise InputError(
                f"Expected runs on one bundle, but found {len(bundles)} of them; compare one folder a bundle."
            )

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those that have runs, in the order of the catalogue."""
        return tuple(name for name in TASKS if name in self._runs)

    def learners(self, task: str) -> tuple[str, ...]:
        """Those that ran on a task, in the order of the catalogue."""
        return tuple(name for name in COMET if name in self._runs.get(task, {}))

    def runs(self, task: str, learner: str) -> Mapping[Run, CrossmodalRecord]:
        """Seed and order to record; empty where it did not run."""
        return self._runs.get(task, {}).get(learner, {})

    def seeds(self, task: str, learner: str) -> tuple[int, ...]:
        """Those of a learner."""
        return tuple(sorted({seed for seed, _ in self.runs(task, learner)}))

    def orders(self, task: str) -> tuple[Order, ...]:
        """Orders of stages that were run."""
        known = {order for runs in self._runs.get(task, {}).values() for _, order in runs}
        return tuple(order for order in TASKS[task].orders if order in known)

    def value(self, task: str, learner: str, measure: str | Measure) -> Interval | None:
        """A figure over seeds; ``None`` where it does not apply or was not run."""
        asked = SCORES[measure].measure if isinstance(measure, str) else measure
        return _over_seeds({run: asked(record) for run, record in self.runs(task, learner).items()})

    def difference(self, task: str, ours: str, theirs: str, score: str) -> Interval | None:
        """``ours - theirs`` on common runs."""
        return self._compared(task, ours, theirs, score, lambda one, other: one - other)

    def ratio(self, task: str, ours: str, theirs: str, score: str) -> Interval | None:
        """``ours / theirs`` on common runs."""
        return self._compared(task, ours, theirs, score, lambda one, other: one / other if other else None)

    def _compared(self, task: str, ours: str, theirs: str, score: str, how: Compare) -> Interval | None:
        one, other, measure = self.runs(task, ours), self.runs(task, theirs), SCORES[score].measure
        found: dict[Run, float | None] = {}
        for run in one.keys() & other.keys():
            left, right = measure(one[run]), measure(other[run])
            found[run] = None if left is None or right is None else how(left, right)
        return _over_seeds(found)


def _over_seeds(values: Mapping[Run, float | None]) -> Interval | None:
    by_seed: dict[int, list[float]] = {}
    for (seed, _), value in values.items():
        if value is not None:
            by_seed.setdefault(seed, []).append(value)
    return mean_interval([fmean(by_seed[seed]) for seed in sorted(by_seed)]) if by_seed else None


def low(value: Interval) -> float:
    """The lower end of an interval; the mean of a single seed."""
    return value.mean - (value.half_width or 0.0)


def high(value: Interval) -> float:
    """The upper end of an interval; the mean of a single seed."""
    return value.mean + (value.half_width or 0.0)
