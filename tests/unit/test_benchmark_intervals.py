"""Means with intervals, against printed tables of Student's t."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmcl_edge.benchmark.intervals import Interval, mean_interval, paired_difference, student_t
from mmcl_edge.errors import InputError

PRINTED = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 30: 2.042, 120: 1.980}
"""Degrees of freedom to the two-sided 95 % point, as every table prints it."""


@pytest.mark.parametrize(("freedom", "expected"), PRINTED.items())
def test_the_t_of_printed_tables(freedom, expected):
    assert round(student_t(freedom), 3) == expected


def test_three_seeds():
    # mean 0.7; squared deviations 0.01 + 0 + 0.01, / 2 = 0.01, so s = 0.1; 4.30265 * 0.1 / sqrt(3) = 0.24841
    found = mean_interval([0.6, 0.7, 0.8])
    assert (found.mean, found.half_width, found.count) == pytest.approx((0.7, 0.24841, 3), abs=1e-5)


def test_one_seed_gives_no_interval():
    found = mean_interval([0.4])
    assert found == Interval(0.4, None, 1)
    assert not found.excludes_zero


def test_no_seed_is_refused():
    with pytest.raises(InputError, match="at least one seed"):
        mean_interval([])


def test_a_pair_is_surer_than_its_parts():
    # seeds 1 and 2 are common: differences 0.1 and 0.12, mean 0.11, s = 0.0141421; 12.7062 * s / sqrt(2) = 0.127062
    ours, theirs = {0: 0.9, 1: 0.8, 2: 0.52}, {1: 0.7, 2: 0.4, 3: 0.1}
    found = paired_difference(ours, theirs)
    assert (found.mean, found.half_width, found.count) == pytest.approx((0.11, 0.127062, 2), abs=1e-5)
    assert not found.excludes_zero
    assert paired_difference({1: 0.8, 2: 0.5}, {1: 0.7, 2: 0.4}).excludes_zero


def test_a_pair_without_common_seeds_is_refused():
    with pytest.raises(InputError, match=r"\[0\] and \[1, 2\]; run both learners with the same seeds"):
        paired_difference({0: 0.5}, {1: 0.5, 2: 0.5})


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8), st.floats(-1, 1))
def test_an_interval_moves_with_its_values(values, shift):
    before, after = mean_interval(values), mean_interval([value + shift for value in values])
    assert after.mean == pytest.approx(before.mean + shift, abs=1e-9)
    assert after.half_width == pytest.approx(before.half_width, abs=1e-7)
