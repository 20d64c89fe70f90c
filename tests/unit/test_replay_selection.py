"""Reservoir and herding: what they keep, and how often."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional

from mmcl_edge.replay.herding import herding
from mmcl_edge.replay.reservoir import reservoir


def stream(steps: list[int], *, capacity: int, budget_bytes: int = 1 << 30, seed: int = 0) -> list[list[int]]:
    """Numbers of the samples kept after each experience; sample n takes ``n % 3 + 1`` bytes."""
    generator = np.random.default_rng(seed)
    kept: list[int] = []
    seen, history = 0, []
    for count in steps:
        offered = [*kept, *range(seen, seen + count)]
        places = reservoir(
            [number % 3 + 1 for number in offered],
            kept=len(kept),
            seen=seen,
            capacity=capacity,
            budget_bytes=budget_bytes,
            generator=generator,
        )
        kept, seen = [offered[place] for place in places], seen + count
        history.append(kept)
    return history


@pytest.mark.parametrize("steps", [[20], [5, 15], [1, 9, 10], [3, 3, 14]], ids=str)
def test_every_sample_seen_is_kept_with_the_same_probability(steps: list[int]):
    runs = 3000
    kept = Counter(number for seed in range(runs) for number in stream(steps, capacity=4, seed=seed)[-1])
    expected, deviation = runs * 4 / 20, (runs * 0.2 * 0.8) ** 0.5
    assert set(kept) == set(range(20))
    assert all(abs(count - expected) < 4.5 * deviation for count in kept.values())


def test_pairs_are_as_likely_as_chance_has_it():
    runs = 4000
    together = Counter(frozenset(stream([2, 4], capacity=2, seed=seed)[-1]) for seed in range(runs))
    assert len(together) == 15
    assert all(abs(count - runs / 15) < 4.5 * (runs / 15) ** 0.5 for count in together.values())


@pytest.mark.parametrize("budget_bytes", [0, 1, 7, 20])
def test_bytes_are_bounded_and_room_does_not_grow_again(budget_bytes: int):
    history = stream([10, 10, 10], capacity=8, budget_bytes=budget_bytes)
    for kept in history:
        assert len(set(kept)) == len(kept) <= 8
        assert sum(number % 3 + 1 for number in kept) <= budget_bytes
    assert [len(kept) for kept in history] == sorted(map(len, history), reverse=True)


def test_everything_is_kept_while_there_is_room():
    assert [sorted(kept) for kept in stream([3, 2], capacity=5)] == [[0, 1, 2], [0, 1, 2, 3, 4]]


def test_herding_is_greedy_and_orders_everything():
    features = functional.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    order = herding(features)
    assert sorted(order) == list(range(9))
    values, chosen = features.double().numpy(), []
    mean = values.mean(axis=0)
    for _ in range(9):
        rest = [i for i in range(9) if i not in chosen]
        chosen.append(min(rest, key=lambda i: np.linalg.norm(mean - values[[*chosen, i]].mean(axis=0))))
    assert order == chosen


def test_the_first_herded_is_nearest_to_the_mean():
    angles = torch.tensor([-1.0, 0.05, 1.0])
    assert herding(torch.stack([angles.cos(), angles.sin()], dim=1))[0] == 1
