"""Is the merged pack good enough? Right answers of each parent and of the result, class by class.

A parent is asked about its own classes alone; the result about the same samples, with all classes to choose from. The
*loss* of a parent is the accuracy that its classes lost. The merge is refused if any parent's loss is above the
tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmcl_edge.errors import MergeError

Counts = Mapping[str, tuple[int, int]]
"""Class name to ``(right answers, samples)``."""
Evaluate = Callable[[Path], Counts]
"""Folder of a pack to its right answers on evaluation data; classes that the pack does not know are there too."""


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class: its samples, the accuracy of the best parent that knows it, and that of the result."""

    label: str
    samples: int
    before: float | None
    after: float


@dataclass(frozen=True, slots=True)
class ParentFigures:
    """One parent: samples of its classes, its accuracy on them, and that of the result."""

    digest: str
    samples: int
    before: float
    after: float

    @property
    def loss(self) -> float:
        """Accuracy lost."""
        return self.before - self.after


@dataclass(frozen=True, slots=True)
class Judgement:
    """All figures of one merge. ``accuracy`` is over all evaluation samples."""

    accuracy: float
    classes: tuple[ClassFigures, ...]
    parents: tuple[ParentFigures, ...]

    @property
    def largest_loss(self) -> float:
        """The most that one parent's classes lost; below 0 if all gained."""
        return max((parent.loss for parent in self.parents), default=0.0)


@dataclass(frozen=True, slots=True)
class Measured:
    """A parent and its right answers, on the classes that it knows."""

    digest: str
    labels: frozenset[str]
    counts: Counts


def measure(evaluate: Evaluate, folder: Path, digest: str, labels: Iterable[str]) -> Measured:
    """Ask the pack in ``folder``; names in another case are the same class.

    Raises:
        MergeError: the evaluation has no samples.
    """
    known = frozenset(name.casefold() for name in labels)
    counts = _folded_case(evaluate(folder))
    if not sum(total for _, total in counts.values()):
        raise MergeError("Expected samples to evaluate on, but there are none; choose other --eval data.")
    return Measured(digest, known, {name: value for name, value in counts.items() if name in known})


def judge(parents: Iterable[Measured], after: Counts) -> Judgement:
    """The figures of a result whose right answers are ``after``."""
    found = _folded_case(after)
    measured = tuple(parents)
    best: dict[str, float] = {}
    figures = []
    for parent in measured:
        for name, (right, total) in parent.counts.items():
            if total:
                best[name] = max(best.get(name, 0.0), right / total)
        before, after_own = _accuracy(parent.counts), _accuracy({name: found[name] for name in parent.counts})
        samples = sum(total for _, total in parent.counts.values())
        if samples:
            figures.append(ParentFigures(parent.digest, samples, before, after_own))
    spelled = {name.casefold(): name for name in after}
    classes = tuple(
        ClassFigures(spelled[name], total, best.get(name), right / total)
        for name, (right, total) in found.items()
        if total
    )
    return Judgement(_accuracy(found), classes, tuple(figures))


def _accuracy(counts: Counts) -> float:
    samples = sum(total for _, total in counts.values())
    return sum(right for right, _ in counts.values()) / samples if samples else 0.0


def _folded_case(counts: Counts) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for name, (right, total) in counts.items():
        known = found.get(name.casefold(), (0, 0))
        found[name.casefold()] = (known[0] + int(right), known[1] + int(total))
    return found
