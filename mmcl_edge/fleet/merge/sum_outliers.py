"""Contributions whose classes are somewhere else than everybody's: wrong labels, by mistake or on purpose.

Sums that no samples can have are refused when they are read; sums of real samples under wrong names are not to be told
from right ones, but by comparison. Each contribution says where the mean of each of its classes lies (cross-correlation
over count). Rules:

1. A class's middle is the coordinatewise median of those means over all contributions that hold it, at least four.
2. A contribution's class is *misplaced* if, over all heads, another class's middle is nearer than its own.
3. A contribution is an outlier if at least two of its classes, and more than half of those that have a middle, are.

A fixed random subspace of few dimensions keeps the distances and little memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DIMENSIONS = 64
LEAST_HOLDERS = 4
"""Fewer contributions to a class have no middle."""
LEAST_MISPLACED = 2


@dataclass(frozen=True)
class Means:
    """Where one contribution's classes lie under one head: class to ``(K,)``."""

    head: str
    by_class: Mapping[str, Floats]


def class_means(cross: Floats, counts: Floats, classes: Sequence[str], *, head: str) -> Means:
    """Means of a contribution's classes, in ``DIMENSIONS`` numbers each.

    Args:
        cross: ``(M + 1, C)``, the constant's row first.
        counts: ``(C,)`` samples.
        classes: names of the columns.
        head: whose sums they are.
    """
    features = len(cross) - 1
    subspace = np.random.default_rng(0).standard_normal((min(DIMENSIONS, features), features)) / DIMENSIONS**0.5
    means = subspace @ (cross[1:] / np.maximum(counts, 1))
    return Means(head, {name: means[:, i] for i, name in enumerate(classes) if counts[i] > 0})


def misplaced(found: Mapping[str, Iterable[Means]]) -> dict[str, tuple[tuple[str, str], ...]]:
    """The outliers: contribution to pairs (its class, the class that lies there).

    Args:
        found: contribution to its means, one a head.
    """
    means = {id_: {one.head: one.by_class for one in every} for id_, every in found.items()}
    middles = _middles(means)
    outliers = {}
    for id_, heads in means.items():
        classes = {name for head, by_class in heads.items() for name in by_class if name in middles.get(head, {})}
        points = {name: _nearest(name, heads, middles) for name in sorted(classes)}
        wrong = tuple((name, other) for name, other in points.items() if other != name)
        if len(wrong) >= LEAST_MISPLACED and 2 * len(wrong) > len(points):
            outliers[id_] = wrong
    return outliers


def _middles(means: Mapping[str, Mapping[str, Mapping[str, Floats]]]) -> dict[str, dict[str, Floats]]:
    """Rule 1, by head and class."""
    rows: dict[str, dict[str, list[Floats]]] = {}
    for heads in means.values():
        for head, by_class in heads.items():
            for name, mean in by_class.items():
                rows.setdefault(head, {}).setdefault(name, []).append(mean)
    return {
        head: {name: np.median(every, axis=0) for name, every in classes.items() if len(every) >= LEAST_HOLDERS}
        for head, classes in rows.items()
    }


def _nearest(name: str, heads: Mapping[str, Mapping[str, Floats]], middles: Mapping[str, Mapping[str, Floats]]) -> str:
    """The class whose middle is nearest to a contribution's class, over all heads that know both."""
    own = {head: by_class[name] for head, by_class in heads.items() if name in by_class and name in middles[head]}
    candidates = set.intersection(*(set(middles[head]) for head in own))

    def away(other: str) -> float:
        return sum(float(np.square(mean - middles[head][other]).mean()) for head, mean in own.items())

    return min(sorted(candidates), key=lambda other: (away(other), other != name))
