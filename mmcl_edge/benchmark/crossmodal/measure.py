"""What a shared space is asked after a stage: retrieval of every pair both ways, and classes told across modalities."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmcl_edge.benchmark.crossmodal.records import CODES, VECTORS, By, Found, Stage, Told
from mmcl_edge.benchmark.crossmodal.tasks import PairTask, View
from mmcl_edge.benchmark.transfer import CLASSIFIERS, cross_modal_accuracy
from mmcl_edge.data.crossmodal import caption_key
from mmcl_edge.learners.comet.joint import JointCometLearner
from mmcl_edge.learners.comet.learner import CometLearner, caption_sample
from mmcl_edge.learners.protocol import MEMORY
from mmcl_edge.learners.retrieval import chance, permuted, retrieval
from mmcl_edge.types import TEXT

BOTH: tuple[By, ...] = (VECTORS, CODES)
REPEATS = 60
"""Permutations that tell how far luck goes."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A view in the space: continuous ``vectors (n, T D)`` of length 1, ``codes (n, T, L)`` distributions."""

    view: View
    slots: Tensor
    vectors: Tensor
    codes: Tensor

    def rows(self, by: By) -> Tensor:
        """What classifiers read, ``(n, width)``."""
        return self.vectors if by == VECTORS else self.codes.flatten(1)

    @property
    def groups(self) -> list[str]:
        """Whose captions are equal are each other's right answers."""
        return [caption_key(caption) for caption in self.view.captions]


def learn_and_measure(learner: CometLearner, task: PairTask, order: Sequence[str]) -> tuple[Stage, ...]:
    """Let ``learner`` learn the stages of ``order``, and ask everything after each.

    The joint control, which starts anew each time, is let learn once: all pairs, at the last stage.
    """
    if isinstance(learner, JointCometLearner):
        learner.kept = tuple(learner.pairs(task.stage(modality)) for modality in order[:-1])
        order = order[-1:]
    return tuple(_stage(learner, task, modality) for modality in order)


def _stage(learner: CometLearner, task: PairTask, modality: str) -> Stage:
    experience = task.stage(modality)
    learner.features(experience.train, modality)  # so that reading them is not timed
    started = time.perf_counter()
    learner.observe(experience)
    train_s = time.perf_counter() - started
    test = {name: embedded(learner, task.test[name]) for name in learner.modalities}
    train = {name: embedded(learner, task.train[name]) for name in learner.modalities if name != TEXT}
    usage = learner.space.codebook.usage({name: one.slots.flatten(0, 1) for name, one in test.items()})
    facts = learner.last
    assert facts is not None
    return Stage(
        modality=modality,
        pairs=len(experience.train),
        train_s=round(train_s, 3),
        steps=facts.steps,
        codes=usage.codes,
        codes_added=facts.codes_added,
        codes_joined=facts.codes_joined,
        codes_reset=facts.codes_reset,
        experts=learner.space.cmoe.experts,
        perplexity=usage.perplexity,
        shared=usage.shared,
        residual=usage.residual,
        memory_bytes=learner.memory_bytes,
        space_bytes=sum(v.nbytes for name, v in learner.state_dict().items() if not name.startswith(MEMORY)),
        found=tuple(retrievals(test)),
        told=tuple(classifications(learner, task, train, test)),
    )


def embedded(learner: CometLearner, view: View) -> Embedded:
    """A view in the learner's space."""
    with torch.no_grad():
        slots = learner.vectors(view.samples, view.modality)
        return Embedded(
            view, slots, learner.embed(view.samples, view.modality), learner.space.told(slots).probabilities
        )


def retrievals(test: dict[str, Embedded]) -> Iterator[Found]:
    """Every modality by every other, by vectors and by codes."""
    for one, query in test.items():
        for other, gallery in test.items():
            if one == other:
                continue
            for by in BOTH:
                left, right = _compared(query, gallery, by)
                rng = np.random.default_rng(0)
                luck = permuted(left, right, query.groups, gallery.groups, rng=rng, repeats=REPEATS)
                found = retrieval(left, right, query.groups, gallery.groups)
                yield Found(
                    query=one,
                    gallery=other,
                    by=by,
                    figures=found.figures(),
                    chance=chance(query.groups, gallery.groups).figures(),
                    luck=dict(luck.high),
                    queries=found.queries,
                    gallery_size=found.gallery,
                )


def _compared(query: Embedded, gallery: Embedded, by: By) -> tuple[Tensor, Tensor]:
    """Rows whose dot products are the scores: cosines, or ``losses.crossmodal.code_scores``."""
    if by == VECTORS:
        return query.vectors, gallery.vectors
    p, q = query.codes.flatten(1), gallery.codes.flatten(1)
    least = torch.finfo(p.dtype).tiny
    return torch.cat([p, p.clamp_min(least).log()], dim=1), torch.cat([q.clamp_min(least).log(), q], dim=1)


def classifications(
    learner: CometLearner, task: PairTask, train: dict[str, Embedded], test: dict[str, Embedded]
) -> Iterator[Told]:
    """Classes taught in one modality and told in another, or by name alone; a modality itself is the ceiling."""
    names = _names(learner, task) if task.names else None
    for asked, told in test.items():
        if asked == TEXT:
            continue
        labels = list(told.view.labels)
        most = max(Counter(labels).values()) / len(labels)
        for by in BOTH:
            for taught, known in train.items():
                for how in CLASSIFIERS:
                    accuracy = cross_modal_accuracy(
                        known.rows(by), list(known.view.labels), told.rows(by), labels, how=how
                    )
                    yield Told.model_validate(
                        {"train": taught, "test": asked, "how": how, "by": by, "accuracy": accuracy, "chance": most}
                    )
            if names is not None:
                left, right = _compared(told, names, by)
                best = (left @ right.T).argmax(dim=1).tolist()
                hits = sum(names.view.labels[row] == label for row, label in zip(best, labels, strict=True))
                yield Told(train=TEXT, test=asked, how="name", by=by, accuracy=hits / len(labels), chance=most)


def _names(learner: CometLearner, task: PairTask) -> Embedded:
    said = tuple(task.names.values())
    return embedded(learner, View(TEXT, tuple(map(caption_sample, said)), said, tuple(task.names)))
