"""Shared spaces in packs for tests: of a small world without a bundle, and of a tiny bundle's own backbones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from mmcl_edge.config import CometConfig, MethodConfig
from mmcl_edge.data.crossmodal import pair_set
from mmcl_edge.learners.comet.learner import CometLearner
from mmcl_edge.learners.comet.reading import PairExperience
from mmcl_edge.learners.comet.storage import StoredSpace
from mmcl_edge.learners.features import FeatureCache
from mmcl_edge.learners.host import Host
from mmcl_edge.learners.persistence import alone
from mmcl_edge.packs import Pack, PackContents, read_pack, write_pack
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.replay_store import HeldPair
from mmcl_edge.types import Sample
from tests.crossmodal import SMALL, host, stage
from tests.predicting import picture, sound

CAPTIONS = (
    "a red dog",
    "the blue bird",
    "a loud cat",
    "the night cafe",
    "dogs bark",
    "a bird sings",
    "meow",
    "red night",
)
TINY = CometConfig(slots=2, dim=8, codes=8, rank=4, specific_dim=4, hidden=16, epochs=2, batch_size=4)


def space_contents(stored: StoredSpace | None, **changes: Any) -> PackContents:
    """A pack that holds a shared space alone; ``changes`` are fields of ``PackContents``."""
    bundle_digest, method = "0" * 64, MethodConfig(learner="none")
    nothing = PackContents(tensors={}, config=method, bundle_digest=bundle_digest)
    made = nothing if stored is None else alone(stored, bundle_digest=bundle_digest)
    return replace(made, **changes)


def written(folder: Path, contents: PackContents) -> Pack:
    """The pack of ``contents``, in ``folder``."""
    return read_pack(folder / write_pack(folder, contents))


@cache
def small_space(*modalities: str, seed: int = 0) -> StoredSpace:
    """A space that learned pairs of each modality and text, in the small world of ``tests.crossmodal``."""
    learner = CometLearner(host(seed), SMALL)
    for modality in modalities:
        learner.observe(stage(modality))
    return StoredSpace.of(learner, stages=modalities, pairs=dict.fromkeys(modalities, 60))


def shown(number: int, modality: str = "image") -> Sample:
    """What a tiny bundle is shown of a caption: a picture, or a sound."""
    audio = None if modality == "image" else sound(0.5, seed=number)
    frames = picture(1, seed=number) if modality == "image" else None
    return Sample(audio, frames, None, f"{modality}/{number}", text=CAPTIONS[number])


def held_pairs(modality: str, rows: Sequence[int] = range(len(CAPTIONS))) -> tuple[HeldPair, ...]:
    """Pairs of a modality and text; the tiny space was taught the same, so it finds them."""
    return tuple(HeldPair(shown(row, modality), modality, "text", (CAPTIONS[row],)) for row in rows)


def bundle_space(runtime: Runtime, *modalities: str, base: StoredSpace | None = None) -> StoredSpace:
    """A space on the backbones of ``runtime`` that learned ``modalities``, on top of ``base``."""
    on = Host(runtime.backbones, MethodConfig(), runtime.preprocess, 0, FeatureCache())
    learner = CometLearner(on, TINY) if base is None else base.learner(on)
    stages, pairs = ((), {}) if base is None else (base.facts.stages, dict(base.facts.pairs))
    for modality in modalities:
        told = pair_set([shown(row, modality) for row in range(len(CAPTIONS))], modality)
        learner.observe(PairExperience.of(told))
    taught = pairs | dict.fromkeys(modalities, len(CAPTIONS))
    return StoredSpace.of(learner, stages=(*stages, *modalities), pairs=taught)
