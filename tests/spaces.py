"""Shared spaces of devices, small and quick to learn, for tests of merging."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcl_edge.config import CometConfig, MethodConfig
from mmcl_edge.fleet.merge.spaces_held import HeldSpace
from mmcl_edge.learners.comet.learner import CometLearner
from mmcl_edge.learners.comet.storage import StoredSpace
from mmcl_edge.learners.persistence import contents_of
from mmcl_edge.packs import Pack, write_pack
from tests.crossmodal import SMALL, THINGS, host, stage

Stage = tuple[str, tuple[str, ...]]
"""A modality and the things that its pairs show."""
EVERY = tuple(THINGS)


@cache
def learned(*stages: Stage, seed: int = 0, config: CometConfig = SMALL) -> CometLearner:
    """A learner after ``stages``; what it begins with is learned once."""
    made = copy.copy(learned(*stages[:-1], seed=seed, config=config)) if stages else CometLearner(host(seed), config)
    if stages:
        made.mediators, made._labels = list(made.mediators), []
        modality, things = stages[-1]
        made.observe(stage(modality, things))
    return made


def stored(*stages: Stage, seed: int = 0, config: CometConfig = SMALL) -> StoredSpace:
    """The space after ``stages``."""
    pairs: dict[str, int] = {}
    for modality, things in stages:
        pairs[modality] = pairs.get(modality, 0) + 2 * len(things)
    names = [f"text-{modality}" for modality, _ in stages]
    return StoredSpace.of(learned(*stages, seed=seed, config=config), stages=names, pairs=pairs)


def held(digest: str, *stages: Stage, weight: float = 1.0, seed: int = 0, config: CometConfig = SMALL) -> HeldSpace:
    """The space after ``stages`` as merging sees it."""
    return HeldSpace(digest, weight, stored(*stages, seed=seed, config=config))


def changed(space: HeldSpace, change: Callable[[str, Tensor], Tensor], **facts: Any) -> HeldSpace:
    """The space with other tensors, and other facts."""
    one = space.stored
    tensors = {name: change(name, value.clone()) for name, value in one.tensors.items()}
    told = type(one.facts).model_validate(one.facts.model_dump() | facts)
    return replace(space, stored=StoredSpace(one.config, tensors, told))


def embedded(space: StoredSpace, modality: str, samples: Sequence[Any]) -> Tensor:
    """What the space says of samples, ``(n, T D)``."""
    return space.learner(host()).embed(samples, modality)


def same(one: StoredSpace, other: StoredSpace) -> bool:
    """Whether two spaces have the same bits, and the same facts."""
    equal = one.tensors.keys() == other.tensors.keys() and one.facts == other.facts
    return equal and all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())


def write(folder: Path, space: StoredSpace | None, *parents: Pack, **fields: Any) -> Path:
    """A pack that holds nothing but a space."""
    given: Mapping[str, Any] = {
        "bundle_digest": "a" * 64,
        "labels": (),
        "sample_counts": {},
        "experiences": space.facts.stages if space else (),
        "evaluation": {},
    }
    made = contents_of(None, MethodConfig(learner="none"), parents=parents, space=space, **{**given, **fields})
    return folder / write_pack(folder, made)
