"""Packs of every schema load for ever. A failure here is a pack in the field that the release could not open."""

import torch

from mmcl_edge.packs import read_pack
from tests.golden.make_pack_v1 import FOLDER, golden_contents

DIGEST_V1 = "118f42ceb14ad6df6d53c2a1c6e215a393c3b5f2d72fda51d163ec88f1d511a5"


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


def test_schema_1_keeps_its_values():
    found, expected = read_pack(FOLDER).tensors(), golden_contents().tensors
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
