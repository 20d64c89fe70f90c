"""A pack of schema 1 with a shared space opens for ever, and says what it said."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmcl_edge.learners.comet.storage import space_of
from mmcl_edge.packs import read_pack
from mmcl_edge.packs.precision import reduced_contents
from tests.crossmodal import host
from tests.golden.make_pack_v1_space import FOLDER, SETTINGS

DIGEST = "6443faf9223c9ee4ba1fa2bf31397357905f2cc72ecce79b01c0f72752ac8d82"
SAID = {
    "text": [0.49756, 0.19872, -0.08431, -0.17717],
    "image": [-0.06051, 0.54895, -0.24369, -0.20799],
    "speech": [0.217, -0.26417, -0.15105, 0.14884],
}
"""The first four numbers of what it says of features that rise from -1 to 1."""


def told(modality: str) -> Tensor:
    """A unit vector of features that rise from -1 to 1."""
    stored = space_of(read_pack(FOLDER, expected_digest=DIGEST))
    assert stored is not None
    space = stored.learner(host()).space
    with torch.no_grad():
        h = torch.linspace(-1, 1, len(stored.tensors[f"branches.{modality}.mean"]))[None]
        y = space(space.branch(modality).read(h), modality)
        return torch.nn.functional.normalize(y.flatten(1), dim=1)[0]


def test_schema_1_with_a_space_loads():
    pack = read_pack(FOLDER, expected_digest=DIGEST)
    stored = space_of(pack)
    assert stored is not None
    assert stored.config == SETTINGS
    assert stored.facts.modalities == ("text", "image", "speech")
    assert (stored.facts.mediators, stored.facts.stages) == (("text",), ("pictures", "voices"))
    assert stored.facts.pairs == {"image": 60, "speech": 60}
    assert stored.facts.experts_frozen == 4
    assert pack.manifest.label_names == ("dog", "cät", "ドア"), "the classes beside it"
    assert pack.evaluation["retrieval_image"] == 0.75
    summary = pack.space()
    assert summary is not None
    assert (summary.experts, summary.codes) == (4, len(stored.tensors["codebook.codes"]))


@pytest.mark.parametrize("modality", SAID)
def test_it_says_what_it_said(modality: str):
    vector = told(modality)
    assert float(vector.norm()) == pytest.approx(1.0, abs=1e-6)
    assert vector[:4].tolist() == pytest.approx(SAID[modality], abs=1e-4)


def test_its_facts_and_names_are_the_format():
    names = set(read_pack(FOLDER).entries)
    assert {"space.codebook.counts", "space.memory.text.means", "space.branches.speech.project.weight"} <= names
    assert "space.codebook.idle" not in names
    exact = {name for name in reduced_contents(read_pack(FOLDER), "int8").tensors if name.startswith("space.codebook.")}
    assert exact == {"space.codebook.codes", "space.codebook.counts", "space.codebook.sums"}
