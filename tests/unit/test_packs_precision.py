"""fp16 and int8: what stays exact, what the rest may lose, and which forms are refused."""

import pytest
import torch

from mmcl_edge.errors import PackError
from mmcl_edge.learners.comet.storage import space_of
from mmcl_edge.packs import read_pack, write_pack
from mmcl_edge.packs.archive import open_archive, read_archive, write_archive
from mmcl_edge.packs.precision import plain_name, precision_of, reduced_contents, write_reduced
from tests.builders import forge_file, pack_contents
from tests.crossmodal import host, samples
from tests.golden.make_pack_v1_confidence import calibrated_contents
from tests.space_packs import small_space, space_contents
from tests.space_packs import written as written_space
from tests.unit.test_analytic_addends import DEVICES, written


def _weights(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TENSORS = {
    "blocks.0.router": _weights(8, 40),
    "blocks.0.experts.e0.audio.down": _weights(16, 48, seed=1) * torch.logspace(-3, 2, 16)[:, None],
    "blocks.0.experts.e0.audio.bias": _weights(16, seed=2),
    "fusion.kernel": _weights(4, 3, 3, 3, seed=3),
    "fusion.small": _weights(2, 4, seed=4),
    "fusion.zero": torch.zeros(8, 16),
    "head.log_scale": torch.tensor(2.7),
    "head.seen": torch.tensor([True, False]),
    "head.empty": torch.zeros(0, 3),
    "dtypes.double": _weights(8, 16, seed=5).double(),
    "analytic.a1.audio.root": _weights(16, 16, seed=6),
    "fusion.large": _weights(8, 16, seed=7) * 1e5,
}
EXACT = {
    "head.log_scale",
    "head.seen",
    "head.empty",
    "dtypes.double",
    "analytic.a1.audio.root",
    "fusion.large",
}


@pytest.fixture
def pack(tmp_path):
    return read_pack(tmp_path / write_pack(tmp_path, pack_contents(tensors=TENSORS)))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_names_shapes_and_dtypes_stay(pack, tmp_path, precision):
    child = read_pack(tmp_path / write_reduced(pack, precision, tmp_path))
    found = child.tensors()
    assert {name: (value.shape, value.dtype) for name, value in found.items()} == {
        name: (value.shape, value.dtype) for name, value in TENSORS.items()
    }
    for name in EXACT:
        assert torch.equal(found[name], TENSORS[name]), name


def test_fp16_loses_at_most_its_rounding(pack, tmp_path):
    found = read_pack(tmp_path / write_reduced(pack, "fp16", tmp_path)).tensors()
    for name in set(TENSORS) - EXACT:
        assert torch.allclose(found[name], TENSORS[name], rtol=2**-11, atol=2**-25), name


def test_int8_loses_at_most_half_a_step_of_its_row(pack, tmp_path):
    child = read_pack(tmp_path / write_reduced(pack, "int8", tmp_path))
    found, stored = child.tensors(), child.entries
    rows = [name for name in TENSORS if f"{name}:int8" in stored]
    assert set(rows) == {"blocks.0.router", "blocks.0.experts.e0.audio.down", "fusion.kernel", "fusion.zero"}
    for name in rows:
        value = TENSORS[name].flatten(1)
        half_a_step = value.abs().amax(1, keepdim=True) / 127 / 2
        assert ((found[name].flatten(1) - value).abs() <= half_a_step * 1.0001).all(), name
    assert {"fusion.small:fp16", "blocks.0.experts.e0.audio.bias:fp16"} <= set(stored)


def test_the_child_says_what_it_is(pack, tmp_path):
    child = read_pack(tmp_path / write_reduced(pack, "int8", tmp_path))
    assert (child.manifest.parents[0].digest, child.manifest.parents[0].method) == (pack.digest, "int8")
    assert child.manifest.version == pack.manifest.version + 1
    assert child.manifest.labels == pack.manifest.labels
    assert child.manifest.experts == pack.manifest.experts
    assert child.evaluation == {**pack.evaluation, "precision": "int8", "figures_are_of": pack.digest}
    assert (precision_of(pack.entries), precision_of(child.entries)) == ("fp32", "int8")


def test_reducing_twice_gives_equal_digests(pack, tmp_path):
    for precision in ("fp16", "int8"):
        assert write_reduced(pack, precision, tmp_path / "1") == write_reduced(pack, precision, tmp_path / "2")


def test_it_gets_smaller(tmp_path):
    tensors = {f"w{number}": _weights(256, 256, seed=number) for number in range(3)}
    pack = read_pack(tmp_path / write_pack(tmp_path, pack_contents(tensors=tensors)))
    sizes = [pack.manifest.file("adapter_model.safetensors").size_bytes]
    for precision in ("fp16", "int8"):
        child = read_pack(tmp_path / write_reduced(pack, precision, tmp_path))
        sizes.append(child.manifest.file("adapter_model.safetensors").size_bytes)
    assert sizes[1] < 0.51 * sizes[0]
    assert sizes[2] < 0.26 * sizes[0]


@pytest.mark.parametrize(("first", "second"), [("fp16", "fp16"), ("int8", "fp16"), ("int8", "int8"), ("int8", "int4")])
def test_a_pack_never_gets_a_precision_it_has_lost(pack, tmp_path, first, second):
    source = read_pack(tmp_path / write_reduced(pack, first, tmp_path))
    with pytest.raises(PackError, match="cannot be reduced"):
        reduced_contents(source, second)


def test_fp16_may_become_int8(pack, tmp_path):
    half = read_pack(tmp_path / write_reduced(pack, "fp16", tmp_path))
    assert precision_of(read_pack(tmp_path / write_reduced(half, "int8", tmp_path)).entries) == "int8"


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_confidence_stays_and_its_statistics_are_never_less_than_fp16(tmp_path, precision):
    pack = read_pack(tmp_path / write_pack(tmp_path, calibrated_contents()))
    child = read_pack(tmp_path / write_reduced(pack, precision, tmp_path, keep_to=pack_without_confidence(tmp_path)))
    assert child.manifest.confidence == pack.manifest.confidence
    found = {name for name in child.entries if name.startswith("confidence.")}
    assert found == {"confidence.means:fp16", "confidence.directions:fp16", "confidence.precision"}
    assert torch.equal(child.tensors()["confidence.means"], pack.tensors()["confidence.means"])


def pack_without_confidence(folder):
    return read_pack(folder / write_pack(folder, pack_contents(tensors=TENSORS)))


@pytest.mark.parametrize("before", ["fp32", "fp16", "int8"])
def test_equal_tensors_keep_the_form_that_a_parent_has(tmp_path, before):
    parent = read_pack(tmp_path / write_pack(tmp_path, pack_contents(tensors=TENSORS)))
    if before != "fp32":
        parent = read_pack(tmp_path / write_reduced(parent, before, tmp_path))
    values = {**parent.tensors(), "head.weight": _weights(9, 40, seed=9)}
    child = read_pack(tmp_path / write_pack(tmp_path, pack_contents(tensors=values)))
    small = tmp_path / write_reduced(child, "int8", tmp_path, keep_to=parent)
    write_archive(small, tmp_path / "delta", parent=parent.path)
    delta = read_archive(tmp_path / "delta").delta
    assert set(delta.from_parent) == set(parent.entries)
    assert set(read_pack(small).entries) - set(parent.entries) == {"head.weight:int8", "head.weight:scale"}


def test_int4_needs_a_pack_to_keep_to(pack):
    with pytest.raises(PackError, match="none is named"):
        reduced_contents(pack, "int4")


def test_int4_tells_changes_in_steps_and_the_rest_as_int8(tmp_path):
    parent = read_pack(tmp_path / write_pack(tmp_path, pack_contents(tensors=TENSORS)))
    moved = {
        name: value + 0.01 * _weights(*value.shape, seed=11) for name, value in TENSORS.items() if name not in EXACT
    }
    values = {**TENSORS, **moved, "head.weight": _weights(9, 40, seed=9)}
    child = read_pack(tmp_path / write_pack(tmp_path, pack_contents(tensors=values)))
    small = read_pack(tmp_path / write_reduced(child, "int4", tmp_path, keep_to=parent))
    write_archive(small.path, tmp_path / "delta", parent=parent.path)
    found = read_archive(tmp_path / "delta")
    large = {name for name in moved if values[name].numel() >= 64}
    assert set(found.delta.in_steps) == large
    assert {"head.weight:int8", "head.weight:scale", "fusion.small:fp16"} <= set(small.entries)
    tensors = small.tensors()
    for name in large:
        change, error = values[name] - TENSORS[name], tensors[name] - values[name]
        assert error.abs().max() <= change.abs().max() / 7 + 1e-3 * values[name].abs().max() * 2**-8, name
        assert error.norm() < 0.25 * change.norm(), name
    digest = open_archive(tmp_path / "delta", tmp_path / "new", parent_of=lambda _: parent.path)
    assert digest == small.digest


def test_plain_names():
    assert [plain_name(name) for name in ("a.b", "a.b:fp16", "a.b:int8", "a.b:scale")] == ["a.b"] * 4


FORMS = {
    "unknown form": {"a:int4": torch.zeros(2, dtype=torch.int8)},
    "two marks": {"a:fp16:fp16": torch.zeros(2, dtype=torch.float16)},
    "fp16 of another dtype": {"a:fp16": torch.zeros(2)},
    "int8 of another dtype": {"a:int8": torch.zeros(2, 2), "a:scale": torch.zeros(2, 1)},
    "int8 without a scale": {"a:int8": torch.zeros(2, 2, dtype=torch.int8)},
    "scale without int8": {"a:scale": torch.zeros(2, 1)},
    "scale of another shape": {"a:int8": torch.zeros(2, 2, dtype=torch.int8), "a:scale": torch.zeros(1, 1)},
    "scale of another rank": {"a:int8": torch.zeros(2, 2, dtype=torch.int8), "a:scale": torch.zeros(2)},
    "scale in fp16": {"a:int8": torch.zeros(2, 2, dtype=torch.int8), "a:scale": torch.zeros(2, 1).half()},
    "int8 without rows": {"a:int8": torch.zeros(4, dtype=torch.int8), "a:scale": torch.zeros(4)},
    "plain and fp16": {"a": torch.zeros(2), "a:fp16": torch.zeros(2).half()},
    "fp16 and int8": {
        "a:fp16": torch.zeros(2, 2).half(),
        "a:int8": torch.zeros(2, 2, dtype=torch.int8),
        "a:scale": torch.zeros(2, 1),
    },
}


@pytest.mark.parametrize("tensors", FORMS.values(), ids=FORMS)
def test_broken_forms_are_refused(tmp_path, tensors):
    from mmcl_edge.packs.tensors import serialise

    pack = tmp_path / write_pack(tmp_path, pack_contents())
    forge_file(pack, "adapter_model.safetensors", serialise(tensors))
    with pytest.raises(PackError, match="one whole form"):
        read_pack(pack)


def test_a_pack_of_sums_alone_is_not_reduced(tmp_path):
    pack = read_pack(written(tmp_path, DEVICES))
    with pytest.raises(PackError, match="stay exact"):
        write_reduced(pack, "fp16", tmp_path)


def _forms(pack, part):
    return {name.partition(":")[2] for name in pack.entries if part in name}


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_of_a_shared_space_what_adds_up_stays_and_projections_are_never_less_than_fp16(tmp_path, precision):
    parent = written_space(tmp_path, space_contents(small_space("image")))
    pack = written_space(tmp_path, space_contents(small_space("image", "speech")))
    found = read_pack(tmp_path / write_reduced(pack, precision, tmp_path, keep_to=parent))
    exact = {name for name in pack.tensors() if name.startswith(("space.codebook.", "space.memory."))}
    assert len(exact) == 3 + 3 * 3
    assert all(torch.equal(found.tensors()[name], pack.tensors()[name]) for name in exact)
    assert _forms(found, "branches.speech.project.weight") == {"fp16"}
    large = {"fp16"} if precision == "fp16" else {"int8", "scale"}
    assert _forms(found, "branches.speech.basis") == _forms(found, "branches.speech.decoder.0.weight") == large
    assert _forms(found, "branches.image.basis") == {""}, "as the parent has it, so a delta says nothing of it"
    assert space_of(found).facts == space_of(pack).facts


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_reduced_space_embeds_as_before(tmp_path, precision):
    pack = written_space(tmp_path, space_contents(small_space("image", "speech")))
    small = read_pack(tmp_path / write_reduced(pack, precision, tmp_path))
    for modality in ("text", "image", "speech"):
        shown = samples("image" if modality == "text" else modality)
        one, other = (space_of(each).learner(host()).embed(shown, modality) for each in (pack, small))
        assert float((1 - (one * other).sum(dim=1)).max()) < (1e-5 if precision == "fp16" else 5e-3)
