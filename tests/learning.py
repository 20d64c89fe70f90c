"""Samples that a small learner can learn in seconds, and how its answers and states are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from mmcl_edge.config import AdapterConfig, HeadConfig, MethodConfig, ReplayConfig, TrainConfig
from mmcl_edge.data.streams import Experience
from mmcl_edge.learners.features import FeatureCache
from mmcl_edge.learners.host import Host
from mmcl_edge.learners.protocol import Learner
from mmcl_edge.types import Sample
from tests.fakes import backbones, preprocess

CLASSES = ("ant", "bee", "cow", "dog")
EXEMPLARS, BUDGET_BYTES = 6, 12_000
BATCH = 8
BACKBONES = backbones()
FEATURES = FeatureCache()
"""One for all: what a learner answers never depends on what was kept."""


def config(epochs: int, **adapter: object) -> MethodConfig:
    """A small shape, on the ladder unless ``adapter`` says otherwise."""
    return MethodConfig(
        adapter=AdapterConfig(
            **{"experts": 3, "rank": 4, "ladder_dim": 8, "ladder_tokens": 4, "map_grid": 4, "placement": "ladder"}
            | adapter
        ),
        head=HeadConfig(joint_dim=16, fusion_hidden=32),
        replay=ReplayConfig(exemplars=EXEMPLARS, budget_bytes=BUDGET_BYTES),
        train=TrainConfig(epochs=epochs, min_steps=0, batch_size=BATCH, learning_rate=1e-2),
    )


def host(shape: MethodConfig, seed: int = 0) -> Host:
    """What a learner of these tests is made on."""
    return Host(BACKBONES, shape, preprocess, seed, FEATURES)


def samples(label: str, count: int, *, seed: int, kind: str = "pair") -> list[Sample]:
    """Each class has its own pitch and its own colours; noise differs from sample to sample."""
    number = CLASSES.index(label)
    rng = np.random.default_rng([seed, number])
    made = []
    for index in range(count):
        length = 400 + 200 * (index % 2)
        wave = np.sin(np.arange(length) * 0.15 * (1 + number) ** 1.5) + rng.normal(0, 0.05, length)
        colours = np.array([60 * number, 240 - 70 * number, 30 + 40 * (number % 2)]) + rng.integers(
            0, 15, (1, 16, 16, 3)
        )
        audio = None if kind == "picture" else (0.5 * wave).astype(np.float32)
        frames = None if kind == "sound" else colours.clip(0, 255).astype(np.uint8)
        made.append(Sample(audio, frames, label, f"{label}_{index}"))
    return made


def experience(*classes: str, count: int = 8, kind: str = "pair") -> Experience:
    """``count`` training samples of each class and four others to test."""
    train = [sample for label in classes for sample in samples(label, count, seed=1, kind=kind)]
    test = [sample for label in classes for sample in samples(label, 4, seed=2, kind=kind)]
    return Experience("+".join(classes), train, test, classes)


def part(step: int) -> Experience:
    """The first or the second half of the classes."""
    return experience(*CLASSES[2 * step : 2 * step + 2])


def accuracy(learner: Learner, tested: Sequence[Sample]) -> float:
    """Share of samples answered right over all classes seen."""
    best = learner.predict(tested).argmax(dim=1).tolist()
    return sum(learner.labels[i] == sample.label for i, sample in zip(best, tested, strict=True)) / len(tested)


def equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """The same names with the same bits."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
