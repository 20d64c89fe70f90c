"""The exemplar buffer keeps its promises for every history of experiences."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmcl_edge.replay.buffer import ReplayBuffer, sample_bytes
from mmcl_edge.types import Sample

HISTORY = st.lists(st.dictionaries(st.sampled_from("abcde"), st.integers(1, 9), min_size=1), min_size=1, max_size=4)
"""Experiences: class to number of samples."""


def sample(label: str, number: int, *, samples: int | None = 10, pixels: int | None = None) -> Sample:
    audio = None if samples is None else np.zeros(samples, np.float32)
    frames = None if pixels is None else np.zeros((1, 1, pixels, 3), np.uint8)
    return Sample(audio, frames, label, f"{label}{number}")


def experiences(history: list[dict[str, int]]) -> list[list[Sample]]:
    """Every sample of a history has its own source and size."""
    made = []
    for step, counts in enumerate(history):
        made.append([sample(c, 100 * step + i, samples=10 + i + step) for c, n in counts.items() for i in range(n)])
    return made


def fill(history: list[dict[str, int]], capacity: int, budget_bytes: int) -> list[ReplayBuffer]:
    buffers = [ReplayBuffer()]
    for step, new in enumerate(experiences(history)):
        buffers.append(buffers[-1].updated(new, capacity=capacity, budget_bytes=budget_bytes, seed=step))
    return buffers


def sources(buffer: ReplayBuffer) -> set[str]:
    return {one.source for one in buffer.exemplars}


@given(HISTORY, st.integers(0, 25), st.integers(0, 600))
def test_number_and_bytes_are_bounded(history, capacity: int, budget_bytes: int):
    for buffer in fill(history, capacity, budget_bytes):
        assert len(buffer) <= capacity
        assert buffer.size_bytes == sum(map(sample_bytes, buffer.exemplars)) <= budget_bytes


@given(HISTORY, st.integers(0, 25), st.integers(0, 600))
def test_exemplars_are_samples_that_were_seen_and_none_comes_back(history, capacity: int, budget_bytes: int):
    buffers = fill(history, capacity, budget_bytes)
    for before, new, after in zip(buffers, experiences(history), buffers[1:], strict=False):
        assert sources(after) <= sources(before) | {one.source for one in new}
        assert len(sources(after)) == len(after), "none is kept twice"
        assert all(one.source.startswith(one.label) for one in after.exemplars)


@given(HISTORY, st.integers(1, 25))
def test_classes_are_balanced_as_far_as_they_have_samples(history, capacity: int):
    buffers = fill(history, capacity, 1 << 30)
    for before, new, after in zip(buffers, experiences(history), buffers[1:], strict=False):
        available = Counter(one.label for one in [*before.exemplars, *new])
        kept = {label: len(group) for label, group in after.by_class().items()}
        assert len(after) == min(capacity, available.total()), "no room is wasted"
        most = max(kept.values())
        short = [label for label in available if kept.get(label, 0) < most - 1]
        assert all(kept.get(label, 0) == available[label] for label in short)


@given(HISTORY, st.integers(0, 25), st.integers(0, 25))
def test_a_smaller_buffer_keeps_a_subset(history, one: int, other: int):
    small, large = (fill(history[:1], capacity, 1 << 30)[-1] for capacity in sorted((one, other)))
    assert sources(small) <= sources(large)


@given(st.integers(2, 20), st.integers(1, 9))
def test_a_new_class_leaves_a_part_of_what_was_kept(count: int, capacity: int):
    old, new = fill([{"a": count}, {"b": count}], capacity, 1 << 30)[1:]
    assert {source for source in sources(new) if source.startswith("a")} <= sources(old)


def test_a_class_seen_again_keeps_both_domains():
    first, second = experiences([{"a": 6}, {"a": 6}])
    buffer = ReplayBuffer().updated(first, capacity=4, budget_bytes=1 << 30, seed=0)
    buffer = buffer.updated(second, capacity=4, budget_bytes=1 << 30, seed=1)
    assert Counter(int(one.source[1:]) >= 100 for one in buffer.exemplars) == {True: 2, False: 2}


def test_the_seed_draws_and_nothing_else_does():
    new = experiences([{"a": 9, "b": 9}])[0]
    draws = [ReplayBuffer().updated(new, capacity=6, budget_bytes=1 << 30, seed=seed) for seed in (1, 1, 2)]
    assert draws[0].exemplars == draws[1].exemplars
    assert sources(draws[0]) != sources(draws[2])


def test_every_sample_is_drawn_equally_often():
    new = experiences([{"a": 5}])[0]
    drawn = Counter(
        one.source
        for seed in range(1000)
        for one in ReplayBuffer().updated(new, capacity=2, budget_bytes=1 << 30, seed=seed).exemplars
    )
    assert set(drawn) == {one.source for one in new}
    assert all(340 < count < 460 for count in drawn.values()), "two of five, a thousand times"


@pytest.mark.parametrize(
    ("given", "size_bytes"),
    [(sample("a", 0), 20), (sample("a", 0, pixels=7), 41), (sample("a", 0, samples=None, pixels=7), 21)],
    ids=["sound", "both", "picture"],
)
def test_bytes_are_those_on_disk_without_the_frame_of_the_file(given: Sample, size_bytes: int):
    assert sample_bytes(given) == size_bytes
