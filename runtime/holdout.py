"""What an adapt run holds out, and what it measures there: accuracy of classes, retrieval of pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mmcl_edge.config import AdaptConfig
from mmcl_edge.data.split import split_holdout
from mmcl_edge.learners.comet.learner import caption_sample
from mmcl_edge.learners.retrieval import both_ways
from mmcl_edge.packs import Pack
from mmcl_edge.runtime.course import Pupil
from mmcl_edge.runtime.pair_division import LEAST_JUDGED, shown_alike
from mmcl_edge.runtime.replay_store import Exemplars, HeldPair
from mmcl_edge.types import Sample

Embed = Callable[[Sequence[Sample], str], ArrayLike]
"""Samples and their modality to vectors ``(n, D)``."""
FIGURE = "retrieval_"
"""Name of a figure in ``eval.json`` is this and a modality: mean reciprocal rank on held-out pairs."""


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


def retrieval_of(embed: Embed, pairs: Sequence[HeldPair]) -> dict[str, float]:
    """Modality to mean reciprocal rank (0 to 1) on its held-out pairs, the mean of both ways and of its mediators.

    Where too few different pairs are held out, it goes without.
    """
    found: dict[str, list[float]] = {}
    for modality, mediator in dict.fromkeys((one.modality, one.mediator) for one in pairs):
        mine = [one for one in pairs if (one.modality, one.mediator) == (modality, mediator)]
        groups = shown_alike(mine)
        if len(set(groups)) < LEAST_JUDGED:
            continue
        told = [
            (caption_sample(caption), group)
            for one, group in zip(mine, groups, strict=True)
            for caption in one.captions
        ] or [(one.sample, group) for one, group in zip(mine, groups, strict=True)]
        shown = np.asarray(embed([one.sample for one in mine], modality))
        texts = np.asarray(embed([sample for sample, _ in told], mediator))
        ways = both_ways(shown, texts, groups, [group for _, group in told])
        found.setdefault(modality, []).append(sum(way.mrr for way in ways) / len(ways))
    return {modality: sum(values) / len(values) for modality, values in found.items()}


def retrieval_figures(pack: Pack | None) -> dict[str, Any]:
    """Figures of a pack's shared space in its ``eval.json``."""
    known: Mapping[str, Any] = {} if pack is None else pack.evaluation
    return {name: value for name, value in known.items() if name.startswith(FIGURE)}
