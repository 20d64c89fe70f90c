"""Writing and reading packs: what goes in comes out, in the same bytes every time."""

import json
import subprocess
import sys

import pytest
import torch

from mmcl_edge.errors import PackError
from mmcl_edge.packs import (
    Expert,
    Parent,
    holds_pack,
    label_id,
    next_version,
    nfc,
    read_manifest,
    read_pack,
    write_pack,
)
from tests.builders import OTHER_BUNDLE, on_full_disk, pack_contents, snapshot


def test_what_goes_in_comes_out(tmp_path):
    contents = pack_contents()
    pack = read_pack(tmp_path / write_pack(tmp_path, contents), bundle_digest=contents.bundle_digest)
    assert pack.path.name == pack.digest
    assert pack.config == contents.config
    assert pack.manifest.label_names == contents.labels
    assert pack.manifest.experts == contents.experts
    assert pack.evaluation == contents.evaluation
    found = pack.tensors()
    assert all(torch.equal(found[name], tensor) for name, tensor in contents.tensors.items())
    assert set(found) == set(contents.tensors)


def test_equal_contents_give_equal_bytes(tmp_path):
    contents = pack_contents()
    turned = pack_contents(tensors={name: contents.tensors[name] for name in reversed(contents.tensors)})
    assert write_pack(tmp_path / "a", contents) == write_pack(tmp_path / "b", turned)
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_memory_layout_does_not_matter(tmp_path):
    weight = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    plain = pack_contents(tensors={"a": weight, "b": weight.clone()})
    odd = pack_contents(tensors={"a": weight.t().contiguous().t(), "b": weight.requires_grad_()})
    assert write_pack(tmp_path, plain) == write_pack(tmp_path, odd)


CHANGES = {
    "a value": {"value": 1.0},
    "the bundle": {"bundle_digest": OTHER_BUNDLE},
    "a label": {"labels": ("dog", "cät", "cow")},
    "the version": {"version": 2},
    "an expert": {"experts": (Expert(id="e0", block=0),)},
    "the evaluation": {"evaluation": {"accuracy": 0.75}},
    "the module": {"module": {"width": 3}},
    "privacy": {"privacy": {"noise": 1.0}},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_every_part_is_under_the_digest(tmp_path, changes):
    assert write_pack(tmp_path, pack_contents()) != write_pack(tmp_path, pack_contents(**changes))


def test_writing_again_changes_nothing_and_repairs_damage(tmp_path):
    digest = write_pack(tmp_path, pack_contents())
    before = snapshot(tmp_path)
    stamp = (tmp_path / digest).stat().st_ino
    assert write_pack(tmp_path, pack_contents()) == digest
    assert (tmp_path / digest).stat().st_ino == stamp
    (tmp_path / digest / "eval.json").write_bytes(b"{}")
    assert not holds_pack(tmp_path / digest, digest)
    write_pack(tmp_path, pack_contents())
    assert snapshot(tmp_path) == before


INVALID = {
    "not a number": ({"tensors": {"a": torch.tensor([float("nan")])}}, "finite"),
    "infinite": ({"tensors": {"a": torch.tensor([float("inf")], dtype=torch.bfloat16)}}, "finite"),
    "complex": ({"tensors": {"a": torch.zeros(2, dtype=torch.complex64)}}, "dtype 'C64'"),
    "tensor name": ({"tensors": {"a b": torch.zeros(2)}}, "not a tensor name"),
    "repeated label": ({"labels": ("dog", "dog"), "sample_counts": {}}, "unique"),
    "label in another case": ({"labels": ("dog", "Dog"), "sample_counts": {}}, "unique"),
    "label not in form NFC": ({"labels": ("dog", "ca\u0308t"), "sample_counts": {}}, "NFC"),
    "label with a separator": ({"labels": ("a/b",), "sample_counts": {}}, "separator"),
    "count of no label": ({"sample_counts": {"cow": 1}}, "cow"),
    "negative count": ({"sample_counts": {"dog": -1}}, "greater than or equal to 0"),
    "repeated expert": ({"experts": (Expert(id="e0", block=0), Expert(id="e0", block=0))}, "unique"),
    "version below its parents": ({"parents": (Parent(digest="c" * 64),)}, "parents"),
    "bundle digest": ({"bundle_digest": "abc"}, "bundle_digest"),
    "evaluation not a number": ({"evaluation": {"accuracy": float("nan")}}, "JSON"),
    "evaluation no JSON": ({"evaluation": {"accuracy": torch.zeros(1)}}, "JSON"),
    "newer runtime": ({"minimum_runtime": "999.0.0"}, r"999\.0\.0"),
}


@pytest.mark.parametrize(("changes", "words"), INVALID.values(), ids=INVALID)
def test_invalid_contents_are_refused_and_leave_nothing(tmp_path, changes, words):
    with pytest.raises(PackError, match=words):
        write_pack(tmp_path, pack_contents(**changes))
    assert snapshot(tmp_path) == {}


def test_disk_full_at_any_write_leaves_the_packs_before_or_after(tmp_path):
    write_pack(tmp_path, pack_contents())
    before, refusals = snapshot(tmp_path), 0
    for refused in on_full_disk(lambda: write_pack(tmp_path, pack_contents(value=1.0))):
        refusals += refused is not None
        extra = {name for name in snapshot(tmp_path) if name not in before and "/" not in name}
        assert before.items() <= snapshot(tmp_path).items()
        assert all(holds_pack(tmp_path / name, name) for name in extra)
    assert refusals >= 10
    assert len(extra) == 1


def test_tensors_are_checked_again_when_loaded(tmp_path):
    pack = read_pack(tmp_path / write_pack(tmp_path, pack_contents()))
    file = pack.path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(PackError, match="changed"):
        pack.tensors()


def test_versions_grow_along_parents(tmp_path):
    first = read_pack(tmp_path / write_pack(tmp_path, pack_contents()))
    assert next_version(()) == 1
    assert next_version((first,)) == 2
    child = pack_contents(version=2, parents=(first.as_parent(weight=0.5, method="mean"),))
    second = read_pack(tmp_path / write_pack(tmp_path, child))
    assert second.manifest.parents[0].digest == first.digest
    assert next_version((first, second)) == 3


def test_label_ids_depend_on_the_name_alone():
    assert label_id("cät") == label_id("ca\u0308t") == label_id(nfc("ca\u0308t"))
    assert label_id("dog") == "f7186768-744e-160e-a300-b90830e0d778"


def test_nothing_about_time_or_machine_is_inside(tmp_path):
    folder = tmp_path / write_pack(tmp_path, pack_contents())
    text = "".join(file.read_text(errors="replace") for file in sorted(folder.iterdir()))
    assert str(tmp_path) not in text
    assert set(json.loads((folder / "pack.json").read_text())) == {
        "bundle_digest", "experiences", "experts", "files", "labels", "minimum_runtime", "parents", "privacy",
        "sample_counts", "schema_version", "version",
    }  # fmt: skip


def test_the_card_takes_names_literally(tmp_path):
    contents = pack_contents(labels=("a|b", "<script>"), sample_counts={})
    card = (tmp_path / write_pack(tmp_path, contents) / "README.md").read_text()
    assert "a\\|b" in card
    assert "\\<script>" in card


def test_manifests_are_read_without_the_tensor_library(tmp_path):
    digest = write_pack(tmp_path, pack_contents())
    code = """
import sys
from mmcl_edge.packs import read_manifest, read_pack
manifest, digest = read_manifest(sys.argv[1])
assert read_pack(sys.argv[1]).digest == digest
print(digest, "torch" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(tmp_path / digest)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [digest, "False"]
    assert read_manifest(tmp_path / digest)[1] == digest
