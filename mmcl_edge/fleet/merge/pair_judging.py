"""Is the merged shared space good enough? Retrieval of held pairs by each parent and by the result.

A parent is asked about the modalities that it knows. The figure is the mean reciprocal rank, both ways, that ``adapt``
judges stages by; the *loss* of a parent's modality is what it lost of that. The merge is refused if any is above the
tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

EvaluatePairs = Callable[[Path], Mapping[str, float]]
"""Folder of a pack to the mean reciprocal rank, 0 to 1, of each modality that it knows and there are pairs of."""


@dataclass(frozen=True, slots=True)
class PairFigures:
    """One modality of one parent: its retrieval, and that of the result."""

    digest: str
    modality: str
    before: float
    after: float

    @property
    def loss(self) -> float:
        """Retrieval lost."""
        return self.before - self.after


@dataclass(frozen=True, slots=True)
class PairJudgement:
    """All figures: of each parent and modality, and the retrieval of the result by modality."""

    figures: tuple[PairFigures, ...]
    after: Mapping[str, float]

    @property
    def worst(self) -> PairFigures | None:
        """The one that lost most."""
        return max(self.figures, key=lambda one: one.loss, default=None)

    @property
    def largest_loss(self) -> float:
        """The most that a parent's modality lost; below 0 if all gained."""
        return self.worst.loss if self.worst else 0.0


def judge_pairs(parents: Sequence[tuple[str, Mapping[str, float]]], after: Mapping[str, float]) -> PairJudgement:
    """The figures of a result; ``parents`` are digests with the retrieval of each by modality."""
    figures = (
        PairFigures(digest, modality, before, after.get(modality, 0.0))
        for digest, known in parents
        for modality, before in sorted(known.items())
    )
    return PairJudgement(tuple(figures), dict(after))
