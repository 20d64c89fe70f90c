"""Deltas: what differs goes along, what does not is taken from the parent, and the result is the child to the byte."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmcl_edge.errors import PackError
from mmcl_edge.packs import read_pack
from mmcl_edge.packs.archive import open_archive, read_archive, write_archive
from mmcl_edge.packs.delta import Delta, apply_delta, make_delta, read_delta
from mmcl_edge.packs.tensors import serialise
from tests.builders import pack_contents, snapshot
from tests.signed import signed_pack

PARENT = "e" * 64


def _file(**arrays):
    return serialise({name: np.asarray(value, dtype=np.float32) for name, value in arrays.items()})


CASES = {
    "equal": ({"a": [1, 2], "b": [3]}, {"a": [1, 2], "b": [3]}, ("a", "b")),
    "one changed": ({"a": [1, 2], "b": [3]}, {"a": [1, 2], "b": [4]}, ("a",)),
    "one added": ({"a": [1, 2]}, {"a": [1, 2], "b": [4]}, ("a",)),
    "one removed": ({"a": [1, 2], "b": [3]}, {"b": [3]}, ("b",)),
    "grown": ({"a": [[1, 2]]}, {"a": [[1, 2], [3, 4]]}, ()),
    "reshaped": ({"a": [[1, 2]]}, {"a": [[1], [2]]}, ()),
    "negative zero": ({"a": [0.0]}, {"a": [-0.0]}, ()),
    "moved to another name": ({"a": [1, 2]}, {"b": [1, 2]}, ()),
    "nothing before": ({}, {"a": [1]}, ()),
    "nothing after": ({"a": [1]}, {}, ()),
    "empty tensors": ({"a": []}, {"a": [], "b": [[]]}, ("a",)),
}


@pytest.mark.parametrize(("parent", "child", "shared"), CASES.values(), ids=CASES)
def test_a_delta_gives_the_child(parent, child, shared):
    parent, child = _file(**parent), _file(**child)
    delta, data = make_delta(child, parent, parent_digest=PARENT)
    assert delta == Delta(parent=PARENT, from_parent=shared)
    assert apply_delta(delta, data, parent, size_bytes=len(child)) == child
    assert read_delta(delta.to_bytes()) == delta


_ARRAYS = st.dictionaries(
    st.sampled_from("abcdef"),
    st.tuples(st.sampled_from(["float32", "float16", "int8"]), st.lists(st.integers(0, 3), max_size=5)),
)


@given(_ARRAYS, _ARRAYS)
@settings(max_examples=60, deadline=None)
def test_any_pair_of_files(parent, child):
    one, other = (
        serialise({name: np.array(value, dtype=dtype) for name, (dtype, value) in arrays.items()})
        for arrays in (parent, child)
    )
    delta, data = make_delta(other, one, parent_digest=PARENT)
    assert len(data) <= len(other)
    assert apply_delta(delta, data, one, size_bytes=len(other)) == other


@pytest.fixture
def pair(tmp_path):
    """A parent and a child that differs in one tensor of three, both in ``packs``."""
    parent = signed_pack(tmp_path / "packs")
    before = pack_contents().tensors
    child = signed_pack(
        tmp_path / "packs",
        "a",
        tensors={**before, "head.weight": before["head.weight"] * 2},
        parents=(read_pack(parent).as_parent(),),
        version=2,
    )
    return parent, child


def test_an_archive_may_be_a_delta(tmp_path, pair):
    parent, child = pair
    write_archive(child, tmp_path / "delta", parent=parent)
    found = read_archive(tmp_path / "delta")
    assert found.delta == Delta(parent=parent.name, from_parent=("blocks.0.experts.e0.audio.down", "head.seen"))
    digest = open_archive(tmp_path / "delta", tmp_path / "new", parent_of=lambda digest: tmp_path / "packs" / digest)
    assert snapshot(tmp_path / "new" / digest) == snapshot(child)


def test_the_parent_is_looked_for_beside_the_result(tmp_path, pair):
    parent, child = pair
    write_archive(child, tmp_path / "delta", parent=parent)
    signed_pack(tmp_path / "new")
    assert open_archive(tmp_path / "delta", tmp_path / "new") == child.name


def test_the_parent_need_not_be_an_ancestor(tmp_path, pair):
    parent, child = pair
    write_archive(parent, tmp_path / "back", parent=child)
    assert open_archive(tmp_path / "back", tmp_path / "new", parent_of=lambda _: child) == parent.name


def test_a_missing_parent_is_named(tmp_path, pair):
    parent, child = pair
    write_archive(child, tmp_path / "delta", parent=parent)
    with pytest.raises(PackError, match=f"against the pack {parent.name[:16]}.*not here"):
        open_archive(tmp_path / "delta", tmp_path / "new", parent_of=lambda _: None)
    assert not (tmp_path / "new").exists()
