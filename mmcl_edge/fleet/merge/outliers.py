"""Which packs lie far from the others, and in which part of the model: broken training, or poison.

Three tests, each of one part of the model at a time, so that a pack that was meddled with in one part is not lost among
the others:

1. *Distance*: how far a pack lies from the geometric median of all that hold the part. It is an outlier if that is
   above ``FAR`` times the median distance and above the median by more than ``SPREADS`` robust standard deviations.
2. *Exchanged classes*: the pack's row for a class points where the merged row of another class points. It takes two
   such classes that point at each other's: one may be a hard class.
3. *Direction*, of a shared space alone: the map of a modality agrees with those of the others (cosine with their sum)
   less than ``AGREES`` times as much as is usual. Maps of few samples are all far from each other.

Sums have a test of their own (``sum_outliers``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mmcl_edge.fleet.merge import arithmetic
from mmcl_edge.fleet.merge.arithmetic import Floats
from mmcl_edge.fleet.merge.labels import Labels
from mmcl_edge.fleet.merge.plan import Plan
from mmcl_edge.fleet.merge.reading import Array, Source, opened, tensor

FAR = 2.0
SPREADS = 6.0
AGREES = 0.4
LEAST_HOLDERS = 4
"""Fewer packs have no middle to be far from."""
MOST_RATIO = 100.0
"""What is told of a direction that is opposite."""
ROWS = "head.weight"
"""The tensor whose rows are directions of classes."""


@dataclass(frozen=True, slots=True)
class Far:
    """One part in which a pack is an outlier: distance over the median distance; or how many times less it agrees."""

    part: str
    ratio: float


@dataclass(frozen=True, slots=True)
class Outlier:
    """A pack that lies far from the others.

    Attributes:
        digest: the pack.
        path: its folder.
        far: parts in which it does, farthest first.
        exchanged: pairs of classes whose rows it holds the other way round, or whose samples it has under the first
            name where everybody's of the second lie.
    """

    digest: str
    path: str
    far: tuple[Far, ...]
    exchanged: tuple[tuple[str, str], ...]


@dataclass
class Watch:
    """Collects distances while groups are gone through.

    Attributes:
        found: source to the parts in which it is far.
    """

    found: dict[int, list[Far]] = field(default_factory=dict)

    def look(self, part: str, holders: Sequence[int], products: Floats) -> None:
        """Test 1 on one group with the scalar products ``(m, m)`` of its holders."""
        if len(holders) < LEAST_HOLDERS:
            return
        count = len(holders)
        away = arithmetic.distances(products, arithmetic.weiszfeld(products, np.full(count, 1 / count)))
        middle = float(np.median(away))
        spread = 1.4826 * float(np.median(np.abs(away - middle)))
        floor = 1e-6 * float(np.sqrt(np.median(np.diag(products))))
        limit = max(FAR * middle, middle + SPREADS * spread, floor)
        for holder, distance in zip(holders, away, strict=True):
            if distance > limit:
                self.found.setdefault(holder, []).append(Far(part, round(float(distance / max(middle, floor)), 2)))

    def point(self, part: str, holders: Sequence[int], products: Floats) -> None:
        """Test 3 on what the holders have, with its scalar products ``(m, m)``."""
        own = agreement(products)
        usual = float(np.median(own))
        for holder, cosine, odd in zip(holders, own, astray(products), strict=True):
            if odd:
                ratio = usual / max(float(cosine), usual / MOST_RATIO)
                self.found.setdefault(holder, []).append(Far(f"direction of {part}", round(ratio, 2)))


def agreement(products: Floats) -> Floats:
    """Cosine ``(m,)`` of each with the sum of the others, each at length 1; from scalar products ``(m, m)``."""
    lengths = np.sqrt(np.maximum(np.diag(products), 1e-300))
    unit = products / lengths[:, None] / lengths
    others = unit.sum(axis=1) - np.diag(unit)
    square = unit.sum() - 2 * unit.sum(axis=1) + np.diag(unit)  # of the sum of the others
    return np.asarray(others / np.sqrt(np.maximum(square, 1e-12)))


def astray(products: Floats) -> NDArray[np.bool_]:
    """Test 3: which ``(m,)`` point elsewhere; none among fewer than ``LEAST_HOLDERS``."""
    own = agreement(products)
    usual = float(np.median(own))
    if len(own) < LEAST_HOLDERS or usual <= 0:
        return np.zeros(len(own), np.bool_)
    return np.asarray(own < AGREES * usual)


def look(plan: Plan, products: Callable[[int], Floats]) -> Watch:
    """Test 1 on every group of a plan."""
    watch = Watch()
    for number, group in enumerate(plan.groups):
        watch.look(group.name, group.holders, products(number))
    return watch


def exchanged(source: Source, labels: Labels, merged: Array) -> tuple[tuple[str, str], ...]:
    """Test 2: pairs of classes that a pack holds the other way round.

    Args:
        source: the pack.
        labels: the merged classes.
        merged: their rows ``(C, J)``.
    """
    entry = source.entries().get(ROWS)
    rows = labels.rows(source.labels)
    if entry is None or len(entry.shape) != 2 or entry.shape[0] != len(rows):
        return ()
    with opened(source) as handle:
        own = tensor(handle, source, entry)
    nearest = (_unit(own) @ _unit(merged).T).argmax(axis=1)  # (C_i,)
    points = dict(zip(rows, nearest.tolist(), strict=True))
    pairs = {(min(a, b), max(a, b)) for a, b in points.items() if a != b and points.get(b) == a}
    return tuple((labels.names[a], labels.names[b]) for a, b in sorted(pairs))


def _unit(rows: Array) -> Array:
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1.0))


def outliers(
    watch: Watch,
    sources: Sequence[Source],
    labels: Labels,
    merged: Array | None,
    misplaced: Mapping[str, tuple[tuple[str, str], ...]],
) -> tuple[Outlier, ...]:
    """All outliers, those in most parts first.

    Args:
        watch: what test 1 found.
        sources: the packs.
        labels: the merged classes.
        merged: rows of the merged head ``(C, J)``, if it has some.
        misplaced: digest of a pack whose sums are outliers to the pairs of classes (``sum_outliers``).
    """
    found = []
    for number, source in enumerate(sources):
        far = sorted(watch.found.get(number, []), key=lambda one: (-one.ratio, one.part))
        pairs = misplaced.get(source.digest, ()) if merged is None else exchanged(source, labels, merged)
        if far or pairs:
            found.append(Outlier(source.digest, str(source.path), tuple(far), pairs))
    return tuple(sorted(found, key=lambda one: (-len(one.far), -len(one.exchanged), one.digest)))
