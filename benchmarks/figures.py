"""Figures from measured values: percentiles, slopes, where the tail of a distribution lies. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which ``percent`` of the values lie, interpolated between neighbours.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("A percentile needs at least one value, but there are none.")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def tail(values: Sequence[float]) -> dict[str, float]:
    """50th and 99th percentile of single calls in milliseconds, and their ratio."""
    middle, late = percentile(values, 50), percentile(values, 99)
    return {"p50_ms": round(middle, 2), "p99_ms": round(late, 2), "p99_to_p50": round(late / middle, 3)}


@dataclass(frozen=True, slots=True)
class Slope:
    """A least-squares line through points.

    Attributes:
        value: rise per unit of x.
        standard_error: of ``value``, for independent deviations.
    """

    value: float
    standard_error: float

    @property
    def in_standard_errors(self) -> float:
        """How many standard errors the slope rises; 0 where it does not rise, infinite for a perfect rising line."""
        if self.value <= 0:
            return 0.0
        return self.value / self.standard_error if self.standard_error else math.inf


def slope(x: Sequence[float], y: Sequence[float]) -> Slope:
    """The least-squares slope of ``y`` over ``x``.

    Raises:
        ValueError: fewer than three points, or all at one place.
    """
    count = len(x)
    if count < 3 or len(y) != count or len(set(x)) < 2:
        raise ValueError(f"A slope needs three points at different places, but there are {count}.")
    mean_x, mean_y = sum(x) / count, sum(y) / count
    spread = sum((one - mean_x) ** 2 for one in x)
    value = sum((one - mean_x) * (other - mean_y) for one, other in zip(x, y, strict=True)) / spread
    rest = sum((other - mean_y - value * (one - mean_x)) ** 2 for one, other in zip(x, y, strict=True))
    return Slope(value, math.sqrt(rest / (count - 2) / spread))
