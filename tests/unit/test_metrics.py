"""Metrics on matrices small enough to work out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmcl_edge.benchmark import metrics
from mmcl_edge.benchmark.metrics import (
    average_accuracy,
    average_accuracy_by_task,
    backward_transfer,
    final_accuracy,
    final_accuracy_by_task,
    forgetting,
    forgetting_by_step,
    forward_transfer,
    intransigence,
    mean_overlap,
    routing_overlap,
    step_accuracy,
    step_accuracy_by_task,
)
from mmcl_edge.errors import InputError

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


HAND = [[0.9, 0.2, 0.1], [0.6, 0.8, 0.3], [0.7, 0.5, 1.0]]
COUNTS = [10, 30, 60]
JOINT = [[0.95, 0.0, 0.0], [0.9, 0.9, 0.0], [0.9, 0.9, 0.9]]

VARIANTS = {
    # 10 * 0.9 / 10; (6 + 24) / 40; (7 + 15 + 60) / 100
    "steps, by sample": ([step_accuracy(HAND, COUNTS, step) for step in range(3)], [0.9, 0.75, 0.82]),
    # 0.9; (0.6 + 0.8) / 2; (0.7 + 0.5 + 1) / 3 = 2.2 / 3
    "steps, by task": ([step_accuracy_by_task(HAND, step) for step in range(3)], [0.9, 0.7, 2.2 / 3]),
    # (0.9 + 0.75 + 0.82) / 3 = 2.47 / 3
    "average, by sample": (average_accuracy(HAND, COUNTS), 2.47 / 3),
    # (0.9 + 0.7 + 2.2 / 3) / 3 = 7 / 9
    "average, by task": (average_accuracy_by_task(HAND), 7 / 9),
    "final, by sample": (final_accuracy(HAND, COUNTS), 0.82),
    "final, by task": (final_accuracy_by_task(HAND), 2.2 / 3),
    # (max(0.9, 0.6) - 0.7 + 0.8 - 0.5) / 2 = (0.2 + 0.3) / 2
    "forgetting, textbook": (forgetting(HAND), 0.25),
    # the last row is not the best of any earlier experience, so all rows give the same
    "forgetting, all rows": (forgetting(HAND, best="all_rows"), 0.25),
    # (max(0.5, 0.6) - 0.9 + 0.5 - 0.7) / 2 = (-0.3 - 0.2) / 2
    "forgetting, textbook, of one that improves": (forgetting(IMPROVES), -0.25),
    # (max(0.5, 0.6, 0.9) - 0.9 + max(0.5, 0.7) - 0.7) / 2
    "forgetting, all rows, of one that improves": (forgetting(IMPROVES, best="all_rows"), 0.0),
    # step 2: 0.9 - 0.6 = 0.3; step 3: 0.25 as above; (0.3 + 0.25) / 2
    "forgetting, by step": (forgetting_by_step(HAND), 0.275),
    # (0.7 - 0.9 + 0.5 - 0.8) / 2
    "backward transfer": (backward_transfer(HAND), -0.25),
    # (0.2 - 0.1 + 0.3 - 0.2) / 2
    "forward transfer": (forward_transfer(HAND, (0.1, 0.1, 0.2), scenario="domain"), 0.1),
    # (0.95 - 0.9 + 0.9 - 0.8 + 0.9 - 1) / 3 = 0.05 / 3
    "intransigence": (intransigence(HAND, JOINT), 0.05 / 3),
}


@pytest.mark.parametrize(("found", "expected"), VARIANTS.values(), ids=VARIANTS)
def test_every_variant_on_one_matrix(found, expected):
    assert found == pytest.approx(expected)


def test_forward_transfer_is_refused_where_it_means_nothing():
    with pytest.raises(InputError, match=r"class-incremental.*leave forward transfer out"):
        forward_transfer(HAND, (0.1, 0.1, 0.2), scenario="class")


def test_intransigence_compares_one_stream():
    with pytest.raises(InputError, match="found 3 and 2 rows"):
        intransigence(HAND, [[1.0], [1.0, 1.0]])


def test_overlap_of_three_experiences_in_two_blocks():
    use = [
        [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]],
        [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]],
        [[0.0, 0.2, 0.8], [0.2, 0.8, 0.0]],
    ]
    # 0-1: (0.5 + 0) / 2; 0-2: (0.2 + 0.2) / 2; 1-2: (0.5 + 0.8) / 2
    expected = [[1.0, 0.25, 0.2], [0.25, 1.0, 0.65], [0.2, 0.65, 1.0]]
    found = routing_overlap(use)
    assert [list(row) for row in found] == [pytest.approx(row) for row in expected]
    assert mean_overlap(found) == pytest.approx((0.25 + 0.2 + 0.65) / 3)
    assert mean_overlap([[1.0]]) is None


def test_one_experience_forgets_nothing():
    assert (forgetting([[0.4]]), backward_transfer([[0.4]]), final_accuracy([[0.4]], [7])) == (0.0, 0.0, 0.4)
    assert (forgetting([[0.4]], best="all_rows"), forgetting_by_step([[0.4]])) == (0.0, 0.0)
    assert forward_transfer([[0.4]], [0.1], scenario="task") == 0.0


def test_classes_not_yet_taught_do_not_count():
    guessed = [[0.9, 0.3, 0.3], [0.7, 0.8, 0.3], [0.5, 0.6, 1.0]]
    ragged = [[0.9], [0.7, 0.8], [0.5, 0.6, 1.0]]
    for matrix in (guessed, ragged):
        for metric in (average_accuracy, final_accuracy):
            assert metric(matrix, EQUAL) == metric(FORGETS, EQUAL)
        for name in ("average_accuracy_by_task", "forgetting", "forgetting_by_step", "backward_transfer"):
            metric = getattr(metrics, name)
            assert metric(matrix) == metric(FORGETS), name


@st.composite
def matrices(draw):
    count = draw(st.integers(1, 6))
    row = st.lists(st.floats(0, 1), min_size=count, max_size=count)
    return draw(st.lists(row, min_size=count, max_size=count))


@given(matrices(), st.integers(1, 50))
def test_both_weightings_agree_where_counts_are_equal(matrix, count):
    counts = [count] * len(matrix)
    assert average_accuracy(matrix, counts) == pytest.approx(average_accuracy_by_task(matrix))
    assert final_accuracy(matrix, counts) == pytest.approx(final_accuracy_by_task(matrix))


@given(matrices())
def test_the_variants_of_forgetting_are_ordered(matrix):
    assert forgetting(matrix, best="all_rows") >= max(0.0, forgetting(matrix)) - 1e-12
    assert forgetting(matrix) >= -backward_transfer(matrix) - 1e-12


@given(matrices())
def test_nothing_is_intransigent_against_itself(matrix):
    assert intransigence(matrix, matrix) == 0.0
