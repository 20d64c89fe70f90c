"""A learner over a class-incremental stream of av21, on the ladder; for programs that compare learners."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mmcl_edge.benchmark.metrics import average_accuracy, final_accuracy, forgetting
from mmcl_edge.benchmark.suites import BENCH_METHOD
from mmcl_edge.config import TrainConfig
from mmcl_edge.data.datasets import DatasetReader, Row, select
from mmcl_edge.data.streams import Experience
from mmcl_edge.learners.features import FeatureCache
from mmcl_edge.learners.host import Host
from mmcl_edge.learners.protocol import Learner
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.feature_store import DiskFeatures
from mmcl_edge.types import Sample

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FEATURE_BYTES = 4 << 30


class Bench:
    """Data and host of a comparison; samples are decoded once, features kept in a folder."""

    def __init__(self, reader: DatasetReader, bundle: Path, features: Path) -> None:
        torch.set_num_threads(1)
        self.reader = reader
        self.runtime = Runtime.open(bundle)
        self.features = FeatureCache(DiskFeatures(features, FEATURE_BYTES))
        self.classes = list(dict.fromkeys(row.label for row in reader.rows))
        self._samples: dict[str, Sample] = {}

    def host(self, seed: int, **train: object) -> Host:
        """The benchmark's common host; ``train`` are fields of ``TrainConfig``."""
        config = BENCH_METHOD.model_copy(update={"train": TrainConfig.model_validate(train)})
        return Host(self.runtime.backbones, config, self.runtime.preprocess, seed, self.features)

    def load(self, rows: Sequence[Row]) -> list[Sample]:
        """Decoded samples."""
        for row in rows:
            if row.id not in self._samples:
                self._samples[row.id] = self.reader.load(row)
        return [self._samples[row.id] for row in rows]

    def stream(self, *, classes: int, per_experience: int = 3) -> list[Experience]:
        """The train and test pairs of the first classes."""
        rows = self.reader.rows
        return [
            Experience(
                f"classes_{start}",
                self.load(select(rows, split="train", classes=group)),
                self.load(select(rows, split="test", classes=group)),
                tuple(group),
            )
            for start, group in self._groups(classes, per_experience)
        ]

    def fold(self, number: int, *, classes: int, per_experience: int = 3, share: float = 0.25) -> list[Experience]:
        """The train pairs alone, a share of each class held out in whole groups (recordings of one source)."""
        parts = []
        for start, group in self._groups(classes, per_experience):
            train, held = [], []
            for label in group:
                one, other = split_groups(select(self.reader.rows, split="train", classes=[label]), share, seed=number)
                train, held = [*train, *one], [*held, *other]
            parts.append(Experience(f"classes_{start}", self.load(train), self.load(held), tuple(group)))
        return parts

    def _groups(self, classes: int, size: int) -> list[tuple[int, list[str]]]:
        return [(start, self.classes[start : min(start + size, classes)]) for start in range(0, classes, size)]


def split_groups(rows: Sequence[Row], share: float, *, seed: int) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows held out, no group in both; about ``share`` of the rows are held out."""
    groups = sorted({row.group for row in rows})
    np.random.default_rng(seed).shuffle(groups)
    held: set[str] = set()
    for group in groups[:-1]:
        if sum(row.group in held for row in rows) < share * len(rows):
            held.add(group)
    return [row for row in rows if row.group not in held], [row for row in rows if row.group in held]


def measure(learner: Learner, stream: Sequence[Experience]) -> dict:
    """Teach a stream; accuracy on every experience's test samples after each, and what it took."""
    matrix, seconds, busy = [], [], []
    for experience in stream:
        started, began = time.perf_counter(), time.process_time()
        learner.observe(experience)
        seconds.append(time.perf_counter() - started)
        busy.append(time.process_time() - began)
        matrix.append([share_right(learner, one.test) for one in stream])
    counts = [len(one.test) for one in stream]
    return {
        "final_accuracy": round(final_accuracy(matrix, counts), 4),
        "average_accuracy": round(average_accuracy(matrix, counts), 4),
        "forgetting": round(forgetting(matrix), 4),
        "seconds": round(sum(seconds), 1),
        "cpu_seconds": round(sum(busy), 1),
        "memory_bytes": learner.memory_bytes,
        "trainable_parameters": learner.trainable_parameters,
    }


def share_right(learner: Learner, samples: Sequence[Sample]) -> float:
    best = learner.predict(samples).argmax(dim=1).tolist()
    return sum(learner.labels[i] == sample.label for i, sample in zip(best, samples, strict=True)) / len(samples)
