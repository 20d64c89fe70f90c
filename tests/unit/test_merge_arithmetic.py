"""The mathematics of merging, against what the papers say in the plainest words."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmcl_edge.fleet.merge import arithmetic

EQUAL = np.full(5, 0.2)


def rows(seed=0, count=5, size=40):
    return np.random.default_rng(seed).normal(size=(count, size))


def ties_in_words(values, base, weights, density):
    """Yadav et al., algorithm 1, entry by entry."""
    deltas = values - base
    for delta in deltas:
        keep = max(1, int(density * delta.size))
        order = sorted(range(delta.size), key=lambda i: -abs(delta[i]))
        delta[order[keep:]] = 0.0
    merged = np.zeros(base.size)
    for entry in range(base.size):
        column = deltas[:, entry]
        sign = 1.0 if sum(w * d for w, d in zip(weights, column, strict=True)) >= 0 else -1.0
        agree = [(w, d) for w, d in zip(weights, column, strict=True) if d * sign > 0]
        if agree:
            merged[entry] = sum(w * d for w, d in agree) / sum(w for w, _ in agree)
    return base + merged


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 1.0])
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_ties_is_trim_elect_and_disjoint_mean(density, seed):
    rng = np.random.default_rng(seed)
    values, base, weights = rows(seed), rng.normal(size=40), rng.dirichlet(np.ones(5))
    found = arithmetic.ties(values, base, weights, density)
    np.testing.assert_allclose(found, ties_in_words(values, base, weights, density), rtol=1e-12, atol=1e-12)


def test_trim_keeps_the_largest_share():
    delta = np.array([1.0, -5.0, 2.0, 0.5, -3.0])
    np.testing.assert_array_equal(arithmetic.trim(delta, 0.4), [0, -5, 0, 0, -3])
    np.testing.assert_array_equal(arithmetic.trim(delta, 1.0), delta)
    np.testing.assert_array_equal(arithmetic.trim(delta, 0.01), [0, -5, 0, 0, 0])


def test_task_arithmetic_adds_task_vectors():
    values, base = rows(), rows(1)[0]
    found = arithmetic.task_arithmetic(values, base, EQUAL, 0.3)
    np.testing.assert_allclose(found, base + 0.3 * (values - base).sum(axis=0))


def test_the_natural_scale_keeps_the_length_of_orthogonal_task_vectors():
    values, base = 3.0 * np.eye(5, 40), np.zeros(40)
    found = arithmetic.task_arithmetic(values, base, EQUAL, arithmetic.natural_scale(5))
    assert np.linalg.norm(found) == pytest.approx(3.0)


def test_dropping_keeps_the_expectation_and_repeats():
    delta = np.ones(200_000)
    found = arithmetic.drop(delta, 0.9, np.random.default_rng(0))
    np.testing.assert_allclose(np.unique(found), [0.0, 10.0])
    assert found.mean() == pytest.approx(1.0, abs=0.02)
    np.testing.assert_array_equal(found, arithmetic.drop(delta, 0.9, np.random.default_rng(0)))


def test_equal_fisher_information_gives_the_mean():
    values = rows()
    found = arithmetic.fisher_mean(values, EQUAL, np.full_like(values, 3.0))
    np.testing.assert_allclose(found, values.mean(axis=0))


def test_fisher_information_decides_each_entry():
    values, fishers = np.array([[1.0, 1.0], [5.0, 5.0]]), np.array([[3.0, 1.0], [1.0, 3.0]])
    np.testing.assert_allclose(arithmetic.fisher_mean(values, np.array([0.5, 0.5]), fishers), [2.0, 4.0])


def test_slerp_of_two_directions_lies_on_the_arc():
    angle = 1.2
    values = np.array([[2.0, 0.0], [2.0 * math.cos(angle), 2.0 * math.sin(angle)]])
    for share in (0.25, 0.5, 0.9):
        found = arithmetic.slerp(arithmetic.gram(values), np.array([1 - share, share])) @ values
        np.testing.assert_allclose(found, [2 * math.cos(share * angle), 2 * math.sin(share * angle)], atol=1e-12)


def test_slerp_of_parallel_rows_is_linear():
    values = np.array([[1.0, 1.0], [3.0, 3.0]])
    np.testing.assert_allclose(arithmetic.slerp(arithmetic.gram(values), np.array([0.25, 0.75])), [0.25, 0.75])


def test_slerp_takes_more_in_one_after_the_other():
    values, weights = rows(count=3), np.array([0.5, 0.25, 0.25])
    first = arithmetic.slerp(arithmetic.gram(values[:2]), np.array([2 / 3, 1 / 3])) @ values[:2]
    pair = np.stack([first, values[2]])
    expected = arithmetic.slerp(arithmetic.gram(pair), np.array([0.75, 0.25])) @ pair
    np.testing.assert_allclose(arithmetic.slerp(arithmetic.gram(values), weights) @ values, expected, atol=1e-12)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 200))
def test_the_geometric_median_is_nowhere_worse(seed):
    rng = np.random.default_rng(seed)
    values, weights = rng.normal(size=(7, 6)), rng.dirichlet(np.ones(7) * 3)

    def cost(point):
        return float(weights @ np.linalg.norm(values - point, axis=1))

    median = arithmetic.geometric_median(values, weights)
    for _ in range(20):
        assert cost(median) <= cost(median + rng.normal(0, 0.05, 6)) + 1e-7


def test_the_geometric_median_on_a_line_is_the_median():
    values = np.array([[0.0], [1.0], [2.0], [50.0], [1000.0]])
    assert arithmetic.geometric_median(values, EQUAL)[0] == pytest.approx(2.0, abs=1e-4)


@pytest.mark.parametrize("poison", [-1.0, 100.0, 1e6])
def test_robust_methods_do_not_follow_a_fifth_that_is_poisoned(poison):
    rng = np.random.default_rng(0)
    centre = rng.normal(size=200)
    values = centre + 0.1 * rng.normal(size=(20, 200))
    honest = values[4:].mean(axis=0)
    values[:4] *= poison
    weights = np.full(20, 0.05)
    products = arithmetic.gram(values)
    away = np.linalg.norm(arithmetic.mean(values, weights) - honest)
    for coefficients in (arithmetic.weiszfeld(products, weights), arithmetic.krum(products, weights, 4)):
        assert np.linalg.norm(coefficients @ values - honest) < min(0.5, away / 10)
    assert arithmetic.krum(products, weights, 4)[:4].max() == 0.0


def test_krum_proper_takes_one_row():
    found = arithmetic.krum(arithmetic.gram(rows(count=9)), np.full(9, 1 / 9), 2, keep=1)
    assert sorted(found)[-2:] == [0.0, 1.0]


@pytest.mark.parametrize(("count", "liars"), [(2, 0), (3, 0), (5, 1), (20, 4), (21, 5)])
def test_krum_allows_for_no_more_liars_than_it_can_bear(count, liars):
    assert arithmetic.most_liars(count, 0.2) == liars
    assert liars == 0 or count >= 2 * liars + 3


def test_distances_follow_from_scalar_products():
    values, coefficients = rows(), np.array([0.1, 0.2, 0.3, 0.2, 0.2])
    expected = np.linalg.norm(values - coefficients @ values, axis=1)
    np.testing.assert_allclose(arithmetic.distances(arithmetic.gram(values), coefficients), expected)
