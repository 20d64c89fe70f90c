"""Means over seeds with 95 % intervals (Student's t): how sure a comparison is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from mmcl_edge.errors import InputError

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over ``count`` values; the 95 % interval is ``mean - half_width`` to ``mean + half_width``.

    ``half_width`` is None for a single value, which says nothing about how far another seed would be.
    """

    mean: float
    half_width: float | None
    count: int

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference with this interval is distinguishable from none."""
        return self.half_width is not None and abs(self.mean) > self.half_width


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean of ``values`` with its 95 % interval.

    Raises:
        InputError: there is no value.
    """
    if not values:
        raise InputError("Expected a value of at least one seed, but found none; run the benchmark first.")
    count, mean = len(values), math.fsum(values) / len(values)
    if count == 1:
        return Interval(mean, None, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Interval(mean, student_t(count - 1) * deviation / math.sqrt(count), count)


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Interval:
    """Mean of ``ours - theirs`` over the seeds that both have, with its 95 % interval.

    Args:
        ours: seed to value.
        theirs: seed to value.

    Raises:
        InputError: no seed is in both.
    """
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        raise InputError(
            f"Expected runs with common seeds, but found {sorted(ours)} and {sorted(theirs)}; "
            "run both learners with the same seeds."
        )
    return mean_interval([ours[seed] - theirs[seed] for seed in common])


@lru_cache
def student_t(freedom: int) -> float:
    """The t for which a Student variable with ``freedom`` degrees of freedom lies within -t to t in 95 % of cases."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < LEVEL else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _within(angle: float, freedom: int) -> float:
    """Probability of ``|t| < sqrt(freedom) * tan(angle)`` (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    cosine, odd = math.cos(angle), freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for order in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine * cosine * (order - 1) / order
    partial = math.sin(angle) * total
    return 2 / math.pi * (angle + partial) if odd else partial
