"""Metrics over an accuracy matrix (METHODS part 5).

``a[t][i]`` is the accuracy on the test samples of experience ``i`` after learning experience ``t``; rows and
columns run over the same experiences, and entries with ``i > t`` may be given (classes not yet taught) or not.
"""

from __future__ import annotations

from collections.abc import Sequence

Matrix = Sequence[Sequence[float]]


def step_accuracy(matrix: Matrix, counts: Sequence[int], step: int) -> float:
    """Accuracy after ``step`` (from 0) over the experiences seen, weighted by their test samples (AV-CIL, PILOT)."""
    seen = range(step + 1)
    return sum(counts[i] * matrix[step][i] for i in seen) / sum(counts[i] for i in seen)


def average_accuracy(matrix: Matrix, counts: Sequence[int]) -> float:
    """Average incremental accuracy: the mean of ``step_accuracy`` over all steps."""
    return sum(step_accuracy(matrix, counts, step) for step in range(len(matrix))) / len(matrix)


def final_accuracy(matrix: Matrix, counts: Sequence[int]) -> float:
    """``step_accuracy`` after the last experience."""
    return step_accuracy(matrix, counts, len(matrix) - 1)


def forgetting(matrix: Matrix) -> float:
    """Final-row forgetting: mean over earlier experiences of (best accuracy before the last step - last accuracy).

    0 for a single experience. Negative where a later experience helped (the maximum runs over ``l <= T - 1``).
    """
    last = len(matrix) - 1
    if last == 0:
        return 0.0
    drops = [max(matrix[t][i] for t in range(i, last)) - matrix[last][i] for i in range(last)]
    return sum(drops) / last


def backward_transfer(matrix: Matrix) -> float:
    """BWT: mean over earlier experiences of (last accuracy - accuracy right after learning it)."""
    last = len(matrix) - 1
    return sum(matrix[last][i] - matrix[i][i] for i in range(last)) / last if last else 0.0
