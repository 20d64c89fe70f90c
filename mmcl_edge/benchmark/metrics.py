"""Metrics over an accuracy matrix (METHODS part 5).

``a[t][i]`` is the accuracy on the test samples of experience ``i`` after learning experience ``t``; rows and
columns run over the same experiences, T of them, numbered from 0. Entries with ``i > t`` (not yet learned) may be
given or not; only ``forward_transfer`` reads them. Every function is pure and takes and gives shares, not per cent.

Two weightings are in use and named here: *sample-weighted* (AV-CIL, PILOT) counts each test sample once, and
*task-weighted* (Mammoth; names end in ``_by_task``) counts each experience once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mmcl_edge.errors import InputError

Matrix = Sequence[Sequence[float]]
Scenario = Literal["class", "domain", "task"]
Best = Literal["before_last", "all_rows"]
"""Which rows the best accuracy of a forgetting metric is looked for in."""


def step_accuracy(matrix: Matrix, counts: Sequence[int], step: int) -> float:
    """Accuracy after ``step`` (from 0) over the experiences seen, weighted by their test samples (AV-CIL, PILOT)."""
    seen = range(step + 1)
    return sum(counts[i] * matrix[step][i] for i in seen) / sum(counts[i] for i in seen)


def step_accuracy_by_task(matrix: Matrix, step: int) -> float:
    """Accuracy after ``step`` (from 0), the mean over the experiences seen (Mammoth)."""
    return sum(matrix[step][: step + 1]) / (step + 1)


def average_accuracy(matrix: Matrix, counts: Sequence[int]) -> float:
    """Average incremental accuracy: the mean of ``step_accuracy`` over all steps."""
    return sum(step_accuracy(matrix, counts, step) for step in range(len(matrix))) / len(matrix)


def average_accuracy_by_task(matrix: Matrix) -> float:
    """Average incremental accuracy, task-weighted: the mean of ``step_accuracy_by_task`` over all steps."""
    return sum(step_accuracy_by_task(matrix, step) for step in range(len(matrix))) / len(matrix)


def final_accuracy(matrix: Matrix, counts: Sequence[int]) -> float:
    """``step_accuracy`` after the last experience."""
    return step_accuracy(matrix, counts, len(matrix) - 1)


def final_accuracy_by_task(matrix: Matrix) -> float:
    """``step_accuracy_by_task`` after the last experience."""
    return step_accuracy_by_task(matrix, len(matrix) - 1)


def forgetting(matrix: Matrix, *, best: Best = "before_last") -> float:
    """Final-row forgetting: mean over earlier experiences of (best accuracy since it was learned - last accuracy).

    0 for a single experience.

    Args:
        matrix: accuracies.
        best: ``before_last`` looks for the best in the rows before the last (the textbook's ``l <= T - 1``), so the
            result is negative where a later experience helped; ``all_rows`` looks in the last row too (PILOT,
            Mammoth), so it is never negative.
    """
    last = len(matrix) - 1
    if last == 0:
        return 0.0
    end = last if best == "before_last" else last + 1
    return sum(max(matrix[t][i] for t in range(i, end)) - matrix[last][i] for i in range(last)) / last


def forgetting_by_step(matrix: Matrix) -> float:
    """Step-averaged forgetting (AV-CIL): the mean over the second and later steps of the forgetting up to that step.

    At each step the best of the rows before it counts, as in ``forgetting``. 0 for a single experience.
    """
    last = len(matrix) - 1
    return sum(forgetting(matrix[: step + 1]) for step in range(1, last + 1)) / last if last else 0.0


def backward_transfer(matrix: Matrix) -> float:
    """BWT: mean over earlier experiences of (last accuracy - accuracy right after learning it)."""
    last = len(matrix) - 1
    return sum(matrix[last][i] - matrix[i][i] for i in range(last)) / last if last else 0.0


def forward_transfer(matrix: Matrix, initial: Sequence[float], *, scenario: Scenario) -> float:
    """FWT: mean over later experiences of (accuracy just before learning it - accuracy of the untrained model).

    0 for a single experience.

    Args:
        matrix: accuracies, with those of the next experience above the diagonal.
        initial: accuracy of the untrained model on each experience.
        scenario: ``domain`` or ``task``.

    Raises:
        InputError: the scenario is class-incremental, where a class cannot be named before it was taught.
    """
    if scenario == "class":
        raise InputError(
            "Forward transfer needs a domain- or task-incremental stream, but this one is class-incremental, where no "
            "answer can be right before its class was taught; leave forward transfer out."
        )
    later = range(1, len(matrix))
    return sum(matrix[i - 1][i] - initial[i] for i in later) / len(later) if later else 0.0


def intransigence(matrix: Matrix, joint: Matrix) -> float:
    """Mean over experiences of (accuracy of joint training - accuracy right after learning the experience).

    Args:
        matrix: accuracies of a learner.
        joint: of a model trained on all experiences up to each step together; its diagonal is read.

    Raises:
        InputError: the matrices are of different sizes.
    """
    if len(matrix) != len(joint):
        raise InputError(
            f"Expected matrices over the same experiences, but found {len(matrix)} and {len(joint)} rows; "
            "compare runs of one stream."
        )
    return sum(joint[t][t] - matrix[t][t] for t in range(len(matrix))) / len(matrix)


def routing_overlap(use: Sequence[Matrix]) -> tuple[tuple[float, ...], ...]:
    """How much each pair of experiences shares its experts: 1 the same, 0 none.

    Args:
        use: ``use[i][b][e]``, share of experience ``i``'s routing in block ``b`` that goes to expert ``e``.

    Returns:
        ``(T, T)``: the sum over experts of the smaller share, mean over blocks.
    """
    return tuple(tuple(_shared(one, other) for other in use) for one in use)


def _shared(one: Matrix, other: Matrix) -> float:
    blocks = [sum(map(min, mine, theirs)) for mine, theirs in zip(one, other, strict=True)]
    return sum(blocks) / len(blocks)


def mean_overlap(overlap: Matrix) -> float | None:
    """Mean of a routing overlap over pairs of different experiences; None for a single experience."""
    pairs = [overlap[i][j] for i in range(len(overlap)) for j in range(i)]
    return sum(pairs) / len(pairs) if pairs else None
