"""Measuring a learner while a stream goes by: accuracy matrices, confusion, expert use."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmcl_edge.benchmark.metrics import routing_overlap
from mmcl_edge.benchmark.records import CLEAN, Confusion, Rows
from mmcl_edge.data.streams import Experience
from mmcl_edge.learners.protocol import Learner
from mmcl_edge.learners.trained import TrainedLearner
from mmcl_edge.types import Sample

Change = Callable[[str, Sample], Sample]
"""A condition's name and a sample to the sample under it."""


@dataclass
class Measured:
    """What a run has measured so far."""

    rows: dict[str, list[tuple[float, ...]]] = field(default_factory=dict)
    predicted: int = 0
    predict_s: float = 0.0
    train_s: list[float] = field(default_factory=list)

    @property
    def matrices(self) -> dict[str, Rows]:
        """Condition to accuracy matrix."""
        return {name: tuple(rows) for name, rows in self.rows.items()}


def learn_stream(
    learner: Learner,
    stream: Sequence[Experience],
    *,
    scenario: str,
    conditions: Sequence[str],
    change: Change,
    on_step: Callable[[int], None] = lambda step: None,
) -> Measured:
    """Let ``learner`` learn the experiences one after the other, measuring all of them after each."""
    measured = Measured()
    for step, experience in enumerate(stream):
        started = time.perf_counter()
        learner.observe(experience)
        measured.train_s.append(time.perf_counter() - started)
        for condition in (CLEAN, *conditions):
            row = tuple(_accuracy(learner, one, scenario, condition, change, measured) for one in stream)
            measured.rows.setdefault(condition, []).append(row)
        on_step(step + 1)
    return measured


def _accuracy(
    learner: Learner, experience: Experience, scenario: str, condition: str, change: Change, measured: Measured
) -> float:
    """Share of right answers on an experience's test samples; 0 where none of its classes was taught."""
    if not set(experience.classes) & set(learner.labels):
        return 0.0
    samples = experience.test
    if condition != CLEAN:
        samples = [change(condition, sample) for sample in samples]
    started = time.perf_counter()
    answers = answered(learner, samples, experience.classes if scenario == "task" else None)
    measured.predict_s += time.perf_counter() - started
    measured.predicted += len(samples)
    return sum(answer == sample.label for answer, sample in zip(answers, samples, strict=True)) / len(samples)


def answered(learner: Learner, samples: Sequence[Sample], among: Sequence[str] | None = None) -> list[str]:
    """The learner's answers; only classes of ``among``, where the task is known."""
    logits = learner.predict(samples)
    if among is not None:
        logits = logits.masked_fill(torch.tensor([name not in among for name in learner.labels]), -torch.inf)
    return [learner.labels[column] for column in logits.argmax(dim=1).tolist()]


def confusion_of(learner: Learner, stream: Sequence[Experience], scenario: str) -> Confusion:
    """What every test sample was called after the last experience."""
    labels = tuple(sorted(dict.fromkeys(name for experience in stream for name in experience.classes)))
    index = {name: number for number, name in enumerate(labels)}
    counts = [[0] * len(labels) for _ in labels]
    for experience in stream:
        answers = answered(learner, experience.test, experience.classes if scenario == "task" else None)
        for sample, answer in zip(experience.test, answers, strict=True):
            counts[index[sample.label or ""]][index[answer]] += 1
    return Confusion(labels=labels, counts=tuple(map(tuple, counts)))


Use = tuple[tuple[tuple[float, ...], ...], ...]
"""Per experience, block and expert: share of the routing."""


def routing_of(learner: Learner, stream: Sequence[Experience]) -> tuple[Use | None, Rows | None]:
    """Expert use and its overlap between experiences, on test samples after the last one; ``None`` without experts."""
    if not isinstance(learner, TrainedLearner) or not learner.model.blocks:
        return None, None
    sizes = [len(block.bank) for block in learner.model.blocks]
    use = []
    for experience in stream:
        dense = learner.forward(
            learner.prepare(experience.test), lambda out: torch.cat([g.dense for g in out.gates], 1)
        )
        use.append(tuple(_shares(part) for part in dense.mean(dim=0).split(sizes)))
    return tuple(use), routing_overlap(use)


def _shares(use: Tensor) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in use)
