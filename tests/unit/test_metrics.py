"""Metrics on matrices small enough to work out by hand."""

from __future__ import annotations

import pytest

from mmcl_edge.benchmark.metrics import (
    average_accuracy,
    backward_transfer,
    final_accuracy,
    forgetting,
    step_accuracy,
)

FORGETS = [[0.9, 0.0, 0.0], [0.7, 0.8, 0.0], [0.5, 0.6, 1.0]]
"""Loses 0.4 and 0.2."""
IMPROVES = [[0.5, 0.0, 0.0], [0.6, 0.5, 0.0], [0.9, 0.7, 0.5]]
RECOVERS = [[0.8, 0.0, 0.0], [0.2, 0.9, 0.0], [0.6, 0.9, 0.7]]
"""The best before the last step counts for forgetting, the first one for backward transfer."""
LATE_PEAK = [[0.4, 0.0, 0.0], [0.8, 0.5, 0.0], [0.6, 0.5, 0.7]]
PERFECT = [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
EQUAL = [10, 10, 10]

CASES = {
    # matrix, counts, steps, average, final, forgetting, backward transfer
    "forgets": (FORGETS, EQUAL, [0.9, 0.75, 0.7], 0.7833333, 0.7, 0.3, -0.3),
    "forgets, weighted": (FORGETS, [10, 30, 60], [0.9, 0.775, 0.83], 0.835, 0.83, 0.3, -0.3),
    "improves": (IMPROVES, EQUAL, [0.5, 0.55, 0.7], 0.5833333, 0.7, -0.25, 0.3),
    "recovers": (RECOVERS, EQUAL, [0.8, 0.55, 0.7333333], 0.6944444, 0.7333333, 0.1, -0.1),
    "late peak": (LATE_PEAK, EQUAL, [0.4, 0.65, 0.6], 0.55, 0.6, 0.1, 0.1),
    "perfect": (PERFECT, [1, 2, 3], [1.0, 1.0, 1.0], 1.0, 1.0, 0.0, 0.0),
}


@pytest.mark.parametrize(
    ("matrix", "counts", "steps", "average", "final", "lost", "transfer"), CASES.values(), ids=CASES
)
def test_three_experiences(matrix, counts, steps, average, final, lost, transfer):
    assert [step_accuracy(matrix, counts, step) for step in range(3)] == pytest.approx(steps)
    assert average_accuracy(matrix, counts) == pytest.approx(average)
    assert final_accuracy(matrix, counts) == pytest.approx(final)
    assert forgetting(matrix) == pytest.approx(lost)
    assert backward_transfer(matrix) == pytest.approx(transfer)


def test_one_experience_forgets_nothing():
    assert (forgetting([[0.4]]), backward_transfer([[0.4]]), final_accuracy([[0.4]], [7])) == (0.0, 0.0, 0.4)


def test_classes_not_yet_taught_do_not_count():
    guessed = [[0.9, 0.3, 0.3], [0.7, 0.8, 0.3], [0.5, 0.6, 1.0]]
    ragged = [[0.9], [0.7, 0.8], [0.5, 0.6, 1.0]]
    for matrix in (guessed, ragged):
        assert average_accuracy(matrix, EQUAL) == average_accuracy(FORGETS, EQUAL)
        assert forgetting(matrix) == forgetting(FORGETS)
        assert backward_transfer(matrix) == backward_transfer(FORGETS)
