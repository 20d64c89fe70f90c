"""Packs of every schema load for ever. A failure here is a pack in the field that the release could not open."""

import torch

from mmcl_edge.learners.persistence import familiarity_of
from mmcl_edge.packs import read_pack
from tests.golden.make_pack_v1 import FOLDER, golden_contents
from tests.golden.make_pack_v1_confidence import FOLDER as CALIBRATED
from tests.golden.make_pack_v1_confidence import calibrated_contents

DIGEST_V1 = "118f42ceb14ad6df6d53c2a1c6e215a393c3b5f2d72fda51d163ec88f1d511a5"
DIGEST_V1_CALIBRATED = "cbec5da9e54cb9671ce12a57c3533685054a94bfa92217cab4f129714ac9eaca"


def test_schema_1_loads():
    pack, expected = read_pack(FOLDER, expected_digest=DIGEST_V1), golden_contents()
    assert pack.manifest.label_names == expected.labels
    assert pack.manifest.experts == expected.experts
    assert pack.manifest.parents == expected.parents
    assert pack.manifest.version == 7
    assert pack.manifest.sample_counts == expected.sample_counts
    assert pack.manifest.privacy == expected.privacy
    assert pack.module == expected.module
    assert pack.evaluation == expected.evaluation
    assert pack.config.adapter.experts == 8
    assert pack.config.head.voters == "joint", "it was made before modalities voted, and must answer as it did"


def test_schema_1_keeps_its_values():
    found, expected = read_pack(FOLDER).tensors(), golden_contents().tensors
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_a_calibrated_pack_of_schema_1_loads():
    pack, expected = read_pack(CALIBRATED, expected_digest=DIGEST_V1_CALIBRATED), calibrated_contents()
    assert pack.manifest.confidence == expected.confidence
    assert familiarity_of(pack).precision == 8.0
    assert torch.equal(familiarity_of(pack).means, expected.tensors["confidence.means"])


def test_a_pack_that_was_never_calibrated_says_nothing_of_it():
    assert read_pack(FOLDER).manifest.confidence is None
    assert "confidence" not in (FOLDER / "pack.json").read_text()
    assert "confidence" not in read_pack(FOLDER).manifest.model_dump(mode="json")
    assert familiarity_of(read_pack(FOLDER)) is None
