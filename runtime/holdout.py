"""What an adapt run holds out, and the accuracy it measures there."""

from __future__ import annotations

from collections.abc import Sequence

from mmcl_edge.config import AdaptConfig
from mmcl_edge.data.split import split_holdout
from mmcl_edge.runtime.course import Pupil
from mmcl_edge.runtime.replay_store import Exemplars
from mmcl_edge.types import Sample


def divide(samples: Sequence[Sample], config: AdaptConfig, old: Exemplars) -> tuple[list[Sample], list[Sample]]:
    """Samples to train on and to hold out. What earlier experiences held out, or trained on, stays on its side."""
    train, holdout = split_holdout(samples, fraction=config.holdout_fraction, seed=config.seed)
    held, trained = ({(one.label, one.source) for one in side} for side in (old.holdout, old.train))
    both = {"train": train, "holdout": holdout}
    keys = {id(one): (one.label, one.source) for side in both.values() for one in side}
    new_train = [s for s in train if keys[id(s)] not in held] + [s for s in holdout if keys[id(s)] in trained]
    new_holdout = [s for s in holdout if keys[id(s)] not in trained] + [s for s in train if keys[id(s)] in held]
    return new_train, new_holdout


def accuracies(learner: Pupil, old: Sequence[Sample], new: Sequence[Sample]) -> dict[str, float | None]:
    """Share of right answers on held-out samples of old and new classes; ``None`` where there are none."""
    return {"old": accuracy(learner, old), "new": accuracy(learner, new) if new else None}


def accuracy(learner: Pupil, samples: Sequence[Sample]) -> float | None:
    """Share of ``samples`` that the learner labels rightly; ``None`` without samples, 0 before any class is known."""
    if not samples:
        return None
    if not learner.labels:
        return 0.0
    best: list[int] = learner.predict(samples).argmax(dim=1).tolist()
    right = [learner.labels[i] == sample.label for i, sample in zip(best, samples, strict=True)]
    return sum(right) / len(samples)
