"""A shared space in a pack: the same again, and nothing malformed is built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmcl_edge.config import CometConfig, MethodConfig
from mmcl_edge.errors import PackError
from mmcl_edge.learners.comet.learner import CometLearner
from mmcl_edge.learners.comet.storage import StoredSpace, space_of
from mmcl_edge.learners.persistence import predictor_from_pack
from mmcl_edge.packs import write_pack
from tests.crossmodal import BACKBONES, SMALL, THINGS, host, samples, stage
from tests.space_packs import space_contents, written


@pytest.fixture(scope="module")
def learner() -> CometLearner:
    made = CometLearner(host(), SMALL)
    made.observe(stage("image"))
    made.observe(stage("speech"))
    return made


def stored(learner: CometLearner) -> StoredSpace:
    return StoredSpace.of(learner, stages=("pictures", "voices"), pairs={"speech": 60, "image": 60})


def test_a_learner_goes_on_from_a_pack_as_it_would_have(learner: CometLearner, tmp_path: Path):
    found = space_of(written(tmp_path, space_contents(stored(learner))))
    assert found is not None
    assert (found.config, found.facts.modalities, found.facts.pairs) == (
        SMALL,
        ("text", "image", "speech"),
        {"image": 60, "speech": 60},
    )
    again, goes_on = found.learner(host()), stored(learner).learner(host())
    for modality in ("image", "speech", "text"):
        shown = samples("image" if modality == "text" else modality, THINGS[:6])
        assert torch.equal(again.embed(shown, modality), learner.embed(shown, modality))
    again.observe(stage("sound"))
    goes_on.observe(stage("sound"))
    assert all(torch.equal(value, goes_on.state_dict()[name]) for name, value in again.state_dict().items())


def test_equal_spaces_make_equal_packs(learner: CometLearner, tmp_path: Path):
    first = write_pack(tmp_path, space_contents(stored(learner)))
    assert first == write_pack(tmp_path / "b", space_contents(stored(stored(learner).learner(host()))))


def test_a_pack_without_a_space_says_nothing_of_one(tmp_path: Path):
    pack = written(tmp_path, space_contents(None))
    assert space_of(pack) is None
    assert "space" not in pack.config.model_dump(mode="json")
    assert "space" not in (pack.path / "adapter_config.json").read_text()
    assert predictor_from_pack(pack, BACKBONES) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"module": {}}, "its facts"),
        ({"config": MethodConfig(learner="none")}, "its configuration"),
        ({"modalities": ["text", "smell", "speech"]}, "each once"),
        ({"modalities": ["text", "image", "image"]}, "each once"),
        ({"modalities": ["text", "image"]}, "among the modalities"),
        ({"mediators": ["video"]}, "among the modalities"),
        ({"mediators": []}, "among the modalities"),
        ({"pairs": {"image": -1}}, "greater than or equal"),
        ({"stages": ["a\nb"]}, "stages"),
        ({"more": 1}, "more"),
        ({"experts_frozen": 3}, "cmoe.frozen_"),
        ({"codes_settled": 10_000}, "settled"),
        ({"slots": 3}, "should be float32"),
        ({"hidden": 1 << 12}, "should be float32"),
        ({"pairs": {"image": 10**300}}, "less than or equal"),
        ({"pseudo_replay": "none"}, "unknown"),
        ({"without": "space.codebook.sums"}, "missing"),
        ({"without": "space.codebook.codes"}, "should be there"),
        ({"without": "space.branches.speech.basis"}, "should be there"),
        ({"space.branches.image.other": torch.zeros(1)}, "unknown"),
        ({"space.memory.image.variances": -1.0}, "below zero"),
        ({"space.codebook.counts": -1.0}, "below zero"),
        ({"space.codebook.codes": torch.zeros(4)}, "2 dimensions"),
        ({"space.codebook.sums": torch.zeros(5, 8)}, "should be float32"),
        ({"space.branches.text.mean": torch.zeros(10, dtype=torch.float64)}, "float64"),
    ],
)
def test_malformed_spaces_are_refused(learner: CometLearner, tmp_path: Path, change: dict, words: str):
    made = space_contents(stored(learner))
    tensors, module, config = dict(made.tensors), dict(made.module), made.config
    for name, value in change.items():
        if name == "module":
            module = value
        elif name == "config":
            config = value
        elif name == "without":
            del tensors[value]
        elif name.startswith("space."):
            tensors[name] = torch.full_like(tensors[name], value) if isinstance(value, float) else value
        elif name in CometConfig.model_fields:
            config = config.model_copy(update={"space": config.space.model_copy(update={name: value})})
        else:
            module = {"space": {**module["space"], name: value}}
    pack = written(tmp_path, space_contents(None, tensors=tensors, module=module, config=config))
    with pytest.raises(PackError, match=words):
        space_of(pack)


def test_a_space_of_other_features_is_refused(learner: CometLearner):
    narrow = dict(stored(learner).tensors)
    narrow["branches.image.mean"], narrow["branches.image.basis"] = (
        value[:-1] for value in (narrow["branches.image.mean"], narrow["branches.image.basis"])
    )
    found = StoredSpace(SMALL, narrow, stored(learner).facts).checked()
    with pytest.raises(PackError, match="made for this bundle"):
        found.learner(host())
