"""Retrieval figures against brute force, chance against enumeration, and what is refused."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mmcl_edge.benchmark.retrieval import over_seeds
from mmcl_edge.errors import InputError
from mmcl_edge.learners.retrieval import both_ways, chance, permuted, ranks, retrieval, summarised


@st.composite
def spaces(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Small whole numbers, so that scores are exact and ties are common."""
    queries, gallery, width = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    rows = [draw(arrays.arrays(np.int64, (n, width), elements=st.integers(-3, 3))) for n in (queries, gallery)]
    groups = [draw(st.lists(st.sampled_from("abcd"), min_size=n, max_size=n)) for n in (queries, gallery)]
    return rows[0], rows[1], groups[0], groups[1]


def brute(query: np.ndarray, gallery: np.ndarray, group: str, groups: list[str]) -> int:
    """Sort the gallery with wrong items first among equals, and look for the first right one."""
    order = sorted(range(len(gallery)), key=lambda j: (-int(query @ gallery[j]), groups[j] == group))
    return next((rank for rank, j in enumerate(order, start=1) if groups[j] == group), 0)


@given(spaces(), st.integers(1, 5))
def test_ranks_are_those_of_brute_force_whatever_the_chunk(space, chunk: int):
    queries, gallery, ours, theirs = space
    expected = [brute(query, gallery, group, theirs) for query, group in zip(queries, ours, strict=True)]
    assert ranks(queries, gallery, ours, theirs, chunk=chunk).tolist() == expected


@given(spaces())
def test_figures_are_those_of_brute_force(space):
    queries, gallery, ours, theirs = space
    every = [brute(query, gallery, group, theirs) for query, group in zip(queries, ours, strict=True)]
    counted = sorted(rank for rank in every if rank)
    if not counted:
        with pytest.raises(InputError, match=f"none of {len(every)} has one"):
            retrieval(queries, gallery, ours, theirs)
        return
    found = retrieval(queries, gallery, ours, theirs, ks=(1, 2, 5))
    assert found.recall == {k: pytest.approx(sum(rank <= k for rank in counted) / len(counted)) for k in (1, 2, 5)}
    assert found.mrr == pytest.approx(math.fsum(1 / rank for rank in counted) / len(counted))
    assert found.median_rank == (counted[(len(counted) - 1) // 2] + counted[len(counted) // 2]) / 2
    assert (found.queries, found.left_out, found.gallery) == (len(counted), len(every) - len(counted), len(gallery))


@given(spaces(), st.randoms(use_true_random=False))
def test_the_order_of_the_gallery_does_not_matter(space, random):
    queries, gallery, ours, theirs = space
    order = list(range(len(gallery)))
    random.shuffle(order)
    shuffled = ranks(queries, gallery[order], ours, [theirs[j] for j in order])
    np.testing.assert_array_equal(shuffled, ranks(queries, gallery, ours, theirs))


def test_both_ways_differ_and_perfect_is_perfect():
    eye = np.eye(4)
    forth, back = both_ways(eye, eye[:2], [0, 1, 2, 3], [0, 1])
    assert (forth.recall[1], forth.left_out, back.recall[1], back.left_out) == (1.0, 2, 1.0, 0)


def test_equal_embeddings_find_nothing_for_free():
    found = retrieval(np.ones((20, 3)), np.ones((20, 3)), range(20), range(20))
    assert (found.recall[1], found.recall[10], found.median_rank) == (0.0, 0.0, 20.0)


def test_rows_of_one_caption_are_all_right():
    queries, gallery = np.array([[1.0, 0.0]]), np.array([[0.5, 0.0], [0.9, 0.0], [0.8, 0.0]])
    assert ranks(queries, gallery, ["a frog."], ["a frog.", "a cat.", "a frog."]).tolist() == [2]


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from("aab"), min_size=1, max_size=3), st.lists(st.sampled_from("abc"), min_size=1, max_size=6)
)
def test_chance_is_the_mean_over_every_order(ours: list[str], theirs: list[str]):
    if not set(ours) & set(theirs):
        with pytest.raises(InputError, match="none of"):
            chance(ours, theirs)
        return
    found = [
        next((rank for rank, j in enumerate(order, start=1) if theirs[j] == group), 0)
        for order in itertools.permutations(range(len(theirs)))
        for group in ours
    ]
    expected, formula = summarised(found, len(theirs), ks=(1, 2, 3)), chance(ours, theirs, ks=(1, 2, 3))
    assert formula.recall == pytest.approx(expected.recall)
    assert formula.mrr == pytest.approx(expected.mrr)
    counted = sorted(rank for rank in found if rank)
    assert formula.median_rank == counted[(len(counted) - 1) // 2]


def test_chance_by_permutation_surrounds_that_by_formula():
    rng = np.random.default_rng(0)
    queries, gallery = rng.normal(size=(60, 8)), rng.normal(size=(50, 8))
    ours, theirs = rng.integers(0, 40, 60).tolist(), rng.integers(0, 40, 50).tolist()
    spread, formula = permuted(queries, gallery, ours, theirs, rng=rng), chance(ours, theirs)
    for name, value in formula.figures().items():
        assert spread.low[name] <= value <= spread.high[name], name
    assert spread.mean["R@10"] == pytest.approx(formula.recall[10], abs=0.02)
    again = permuted(queries, gallery, ours, theirs, rng=np.random.default_rng(3), repeats=20)
    assert again == permuted(queries, gallery, ours, theirs, rng=np.random.default_rng(3), repeats=20)


def test_what_is_learned_is_above_chance_by_permutation():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(80, 16))
    noisy = rows + 0.5 * rng.normal(size=rows.shape)
    spread = permuted(rows, noisy, range(80), range(80), rng=rng, repeats=40)
    assert retrieval(rows, noisy, range(80), range(80)).recall[1] > 5 * max(spread.high["R@1"], 0.02)


def test_seeds_become_intervals():
    runs = [summarised([1, 1, 2], 9), summarised([1, 2, 3], 9)]
    found = over_seeds(runs)
    assert found["R@1"].mean == pytest.approx(0.5)
    assert found["R@1"].half_width is not None
    assert found.keys() == {"R@1", "R@5", "R@10", "median_rank", "mrr"}
    with pytest.raises(InputError, match="one seed"):
        over_seeds([])
    with pytest.raises(InputError, match="same figures"):
        over_seeds([runs[0], summarised([1], 9, ks=(3,))])


@pytest.mark.parametrize(
    "queries, gallery, ours, theirs, words",
    [
        (np.ones((2, 3)), np.ones((2, 4)), "ab", "ab", "one width, but found 3 and 4"),
        (np.ones((2, 3)), np.ones((2, 3)), "a", "ab", r"queries .* \(2, 3\) and 1 groups"),
        (np.ones((2, 3)), np.ones((0, 3)), "ab", "", r"gallery .* \(0, 3\)"),
        (np.ones(3), np.ones((2, 3)), "abc", "ab", r"found \(3,\)"),
        (np.full((1, 3), np.nan), np.ones((1, 3)), "a", "a", "finite"),
    ],
)
def test_what_does_not_fit_is_refused(queries, gallery, ours, theirs, words):
    with pytest.raises(InputError, match=words):
        retrieval(queries, gallery, list(ours), list(theirs))


def test_too_few_permutations_are_refused():
    with pytest.raises(InputError, match="20 repeats or more"):
        permuted(np.eye(2), np.eye(2), "ab", "ab", rng=np.random.default_rng(0), repeats=5)
