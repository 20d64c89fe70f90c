"""What an adapt run holds out, and what it measures there: accuracy of classes, retrieval of pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mmcl_edge.config import AdaptConfig
from mmcl_edge.data.crossmodal import PairSet, caption_key, relevance_groups
from mmcl_edge.data.split import split_holdout
from mmcl_edge.learners.comet.learner import caption_sample
from mmcl_edge.learners.retrieval import both_ways
from mmcl_edge.packs import Pack
from mmcl_edge.runtime.course import Pupil
from mmcl_edge.runtime.replay_store import Exemplars, HeldPair
from mmcl_edge.types import Sample

Embed = Callable[[Sequence[Sample], str], ArrayLike]
"""Samples and their modality to vectors ``(n, D)``."""
FIGURE = "retrieval_"
"""Name of a figure in ``eval.json`` is this and a modality: mean reciprocal rank on held-out pairs."""
LEAST_JUDGED = 3
"""Different captions that held-out pairs must have: among fewer, everything is found."""


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


def divide_pairs(pairs: PairSet, config: AdaptConfig, old: Sequence[HeldPair]) -> tuple[PairSet, tuple[HeldPair, ...]]:
    """Pairs to learn from, and pairs to measure with.

    Pairs that show the same (``relevance_groups``) stay on one side. Which are held out follows from their captions (or
    names) and the seed, so a folder that grew holds out the same again; what was held out before stays so. Where that
    leaves fewer than three different pairs on a side, none is held out: nothing could be measured.
    """
    kept = {_key(one.captions, one.sample.source) for one in old if one.modality == pairs.modality}
    keys: dict[int, set[str]] = {}
    for sample, captions, group in zip(pairs.samples, pairs.captions, pairs.groups, strict=True):
        keys.setdefault(group, set()).add(_key(captions, sample.source))
    ordered = sorted(keys, key=lambda group: (keys[group].isdisjoint(kept), _draw(min(keys[group]), config.seed)))
    count = max(
        LEAST_JUDGED, round(config.holdout_fraction * len(keys)), sum(bool(one & kept) for one in keys.values())
    )
    if len(keys) - count < LEAST_JUDGED:
        return pairs, ()
    held = set(ordered[:count])
    rows = [row for row, group in enumerate(pairs.groups) if group not in held]
    train = PairSet(
        pairs.modality,
        pairs.mediator,
        tuple(pairs.samples[row] for row in rows),
        tuple(pairs.captions[row] for row in rows),
    )
    out = [
        HeldPair(sample, pairs.modality, pairs.mediator, captions)
        for sample, captions, group in zip(pairs.samples, pairs.captions, pairs.groups, strict=True)
        if group in held
    ]
    return train, tuple(sorted(out, key=lambda one: _draw(_key(one.captions, one.sample.source), config.seed)))


def _key(captions: Sequence[str], source: str) -> str:
    return min(map(caption_key, captions)) if captions else source


def _draw(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {key}".encode()).digest()


def retrieval_of(embed: Embed, pairs: Sequence[HeldPair]) -> dict[str, float]:
    """Modality to mean reciprocal rank (0 to 1) on its held-out pairs, the mean of both ways; too few go without."""
    found = {}
    for modality, mediator in dict.fromkeys((one.modality, one.mediator) for one in pairs):
        mine = [one for one in pairs if (one.modality, one.mediator) == (modality, mediator)]
        groups = relevance_groups([one.captions for one in mine])
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
        found[modality] = sum(way.mrr for way in ways) / len(ways)
    return found


def retrieval_figures(pack: Pack | None) -> dict[str, Any]:
    """Figures of a pack's shared space in its ``eval.json``."""
    known: Mapping[str, Any] = {} if pack is None else pack.evaluation
    return {name: value for name, value in known.items() if name.startswith(FIGURE)}
