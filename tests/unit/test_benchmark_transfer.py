"""Classes told in a modality that was never labelled, and forgetting of pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmcl_edge.benchmark.transfer import (
    CLASSIFIERS,
    cross_modal_accuracy,
    forgetting_of,
    linear,
    mean_forgetting,
    nearest_mean,
)
from mmcl_edge.errors import InputError


def shared_space(noise: float, seed: int = 0) -> tuple[np.ndarray, list[str], np.ndarray, list[str]]:
    """Two modalities around the same class centres, the second one with more noise."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, 12))
    train_y, test_y = rng.integers(0, 5, 100), rng.integers(0, 5, 200)
    train = centres[train_y] + noise * rng.normal(size=(100, 12))
    test = centres[test_y] + 2 * noise * rng.normal(size=(200, 12))
    return train, [f"c{y}" for y in train_y], test, [f"c{y}" for y in test_y]


@pytest.mark.parametrize("how", CLASSIFIERS)
def test_a_shared_space_carries_classes_over_and_another_one_does_not(how: str):
    train, train_y, test, test_y = shared_space(0.2)
    assert cross_modal_accuracy(train, train_y, test, test_y, how=how) > 0.95
    turned = test @ np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))[0]
    assert cross_modal_accuracy(train, train_y, turned, test_y, how=how) < 0.6


def test_nearest_mean_against_brute_force():
    train, train_y, test, _ = shared_space(1.0, seed=2)
    unit = train / np.linalg.norm(train, axis=1, keepdims=True)
    names = sorted(set(train_y))
    means = [np.mean([row for row, y in zip(unit, train_y, strict=True) if y == name], axis=0) for name in names]
    expected = [
        max(names, key=lambda n: row @ means[names.index(n)] / np.linalg.norm(means[names.index(n)])) for row in test
    ]
    assert nearest_mean(train, train_y, test) == expected


def test_linear_solves_the_weighted_ridge():
    """Against the same problem in its plain form: repeated rows, an unshrunk column of ones."""
    rng = np.random.default_rng(3)
    train, labels, test = rng.normal(size=(9, 3)), list("aaaaaabbb"), rng.normal(size=(40, 3))
    doubled = np.concatenate([train, train[6:]])  # six of each class
    y = np.eye(2)[[0] * 6 + [1] * 6]
    weights = np.full(12, 1 / 12)
    centred = doubled - weights @ doubled
    shrink = 0.5 * np.trace(centred.T @ (weights[:, None] * centred)) / 3
    wide = np.column_stack([doubled, np.ones(12)])
    penalty = shrink * np.diag([1.0, 1, 1, 0])
    solved = np.linalg.solve(wide.T @ (weights[:, None] * wide) + penalty, wide.T @ (weights[:, None] * y))
    expected = ["ab"[best] for best in (np.column_stack([test, np.ones(40)]) @ solved).argmax(axis=1)]
    assert linear(train, labels, test, ridge=0.5) == expected
    assert set(expected) == {"a", "b"}


def test_zeros_and_one_class_are_no_trouble():
    assert nearest_mean(np.zeros((2, 3)), ["b", "a"], np.ones((1, 3))) == ["a"]
    assert linear(np.ones((3, 2)), ["x", "x", "x"], np.ones((1, 2))) == ["x"]


REFUSED = {
    "another width": (np.ones((2, 3)), "ab", np.ones((2, 4)), "ab", "linear", "one width"),
    "fewer labels": (np.ones((2, 3)), "a", np.ones((2, 3)), "ab", "linear", "each of 2 rows, but found 1"),
    "fewer test labels": (np.ones((2, 3)), "ab", np.ones((2, 3)), "a", "nearest_mean", "2 test rows, but found 1"),
    "not finite": (np.full((2, 3), np.inf), "ab", np.ones((2, 3)), "ab", "linear", "finite"),
    "no such classifier": (np.ones((2, 3)), "ab", np.ones((2, 3)), "ab", "forest", "nearest_mean, linear"),
    "nothing": (np.ones((0, 3)), "", np.ones((2, 3)), "ab", "linear", "one width"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case: str):
    train, train_y, test, test_y, how, words = REFUSED[case]
    with pytest.raises(InputError, match=words):
        cross_modal_accuracy(train, list(train_y), test, list(test_y), how=how)
    with pytest.raises(InputError, match="ridge above 0"):
        linear(np.eye(2), ["a", "b"], np.eye(2), ridge=0)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=6))
def test_forgetting_is_what_is_gone_of_the_best_before_the_last(scores: list[float]):
    found = forgetting_of(scores)
    best = max(scores[:-1]) if len(scores) > 1 else scores[0]
    assert (found.best, found.last) == (best, scores[-1])
    assert found.best * (1 - found.relative) == pytest.approx(found.last)


def test_forgetting_over_pairs_leaves_out_the_newest():
    histories = {"text-image": [0.5, 0.6, 0.3], "image-sound": [0.4, 0.5], "text-speech": [0.9]}
    assert mean_forgetting(histories) == pytest.approx((0.5 - 0.25) / 2)
    assert mean_forgetting({"text-speech": [0.9]}) == 0.0
    assert forgetting_of([0.0, 0.0]).relative == 0.0
    with pytest.raises(InputError, match="found none"):
        forgetting_of([])
