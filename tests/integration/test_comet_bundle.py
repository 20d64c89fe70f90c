"""Comet on a bundle's own backbones: texts, pictures and sounds through ONNX, from pairs to embeddings."""

from __future__ import annotations

import pytest
import torch

from mmcl_edge.config import MethodConfig
from mmcl_edge.data.crossmodal import pair_set
from mmcl_edge.errors import InputError
from mmcl_edge.learners.comet.learner import CometLearner
from mmcl_edge.learners.comet.reading import PairExperience
from mmcl_edge.learners.features import FeatureCache
from mmcl_edge.learners.host import Host
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.types import Sample
from tests.conftest import TinyBundle
from tests.predicting import picture, sound
from tests.space_packs import CAPTIONS, TINY


def learner_on(runtime: Runtime) -> CometLearner:
    return CometLearner(Host(runtime.backbones, MethodConfig(), runtime.preprocess, 0, FeatureCache()), TINY)


def shown(number: int) -> Sample:
    return Sample(None, picture(1, seed=number), source=f"{number}.png", text=CAPTIONS[number])


def heard(number: int) -> Sample:
    return Sample(sound(0.5, seed=number), None, source=f"{number}.wav", text=CAPTIONS[number])


def test_pictures_and_sounds_that_share_texts_meet(tiny: TinyBundle):
    learner = learner_on(Runtime.open(tiny("captioned").path, threads=1))
    rows = range(len(CAPTIONS))
    pictures, sounds = [shown(row) for row in rows], [heard(row) for row in rows]
    learner.observe(PairExperience.of(pair_set(pictures, "image"), classes=("red dog",)))
    learner.observe(PairExperience.of(pair_set(sounds, "sound")))
    assert learner.modalities == ("text", "image", "sound")
    seen, told = learner.embed(pictures, "image"), learner.embed(pictures, "text")
    assert (seen @ told.T).argmax(dim=1).tolist() == list(rows), "what was taught is found"
    across = seen @ learner.embed(sounds, "sound").T
    assert float((across.argmax(dim=1) == torch.arange(len(rows))).float().mean()) > 0.5, "never shown together"
    assert learner.predict([pictures[0], sounds[0]]).shape == (2, 1)

    again = learner_on(Runtime.open(tiny("captioned").path, threads=1))
    again.load_state(learner.state())
    assert torch.equal(again.embed(pictures, "image"), seen)


def test_a_bundle_without_text_is_refused(tiny: TinyBundle):
    learner = learner_on(Runtime.open(tiny().path, threads=1))
    with pytest.raises(InputError, match="a backbone for text"):
        learner.observe(PairExperience.of(pair_set([shown(0), shown(1)], "image")))
