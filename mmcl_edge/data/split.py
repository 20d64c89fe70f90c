"""Holding out a part of a task's samples, class by class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from mmcl_edge.errors import InputError
from mmcl_edge.types import Sample


def split_holdout(samples: Sequence[Sample], *, fraction: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Divide labelled samples into a training and a held-out part, both in the given order.

    Each class with two or more samples keeps at least one to train on and holds at least one out; a class with one
    sample trains on it. What is drawn from a class depends on its name, its size and ``seed`` alone.

    Args:
        samples: labelled samples.
        fraction: share of each class to hold out, above 0 and below 1.
        seed: of the draw, 0 or more.

    Raises:
        InputError: the fraction is outside its range, or a sample has no label.
    """
    if not 0 < fraction < 1:
        raise InputError(f"The held-out fraction should be above 0 and below 1, but it is {fraction!r}; try 0.2.")
    by_class: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        by_class.setdefault(_label_of(sample), []).append(index)
    held = {index for label, indices in by_class.items() for index in _draw(label, indices, fraction, seed)}
    train = [sample for index, sample in enumerate(samples) if index not in held]
    return train, [samples[index] for index in sorted(held)]


def _draw(label: str, indices: list[int], fraction: float, seed: int) -> list[int]:
    if len(indices) < 2:
        return []
    count = min(max(round(len(indices) * fraction), 1), len(indices) - 1)
    name_seed = int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "little")
    generator = np.random.default_rng([seed, name_seed])
    return [indices[position] for position in generator.permutation(len(indices))[:count]]


def _label_of(sample: Sample) -> str:
    if sample.label is None:
        raise InputError(f"Expected a class for every sample, but {sample.source or 'one'} has none; label it first.")
    return sample.label
