"""Malformed tensors files under a manifest that fits them: refused before any library parses them."""

import json
import struct
from unittest import mock

import pytest
import safetensors.torch

from mmcl_edge.errors import PackError
from mmcl_edge.packs import read_pack, write_pack
from mmcl_edge.packs.tensors import check_tensors
from tests.builders import forge_file, pack_contents


def _file(header, values=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


def _one(dtype="F32", shape=(1,), offsets=(0, 4), values=bytes(4), **more):
    return _file({"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}}, values)


def _two(first, second, size):
    entry = {"dtype": "F32", "shape": [1]}
    return _file({"a": {**entry, "data_offsets": first}, "b": {**entry, "data_offsets": second}}, bytes(size))


def _values(dtype, data):
    return _one(dtype, (1,), (0, len(data)), data)


ATTACKS = {
    "empty": (b"", "its header"),
    "header length cut": (b"\x01\x00", "its header"),
    "header longer than the file": (struct.pack("<Q", 1000) + b"{}", "claims 1,000"),
    "header of 2^63 bytes": (struct.pack("<Q", 1 << 63) + b"{}", "claims"),
    "header above its limit": (_file(b"{}" + b" " * (5 << 20)), "limit"),
    "header is not JSON": (_file(b"{"), "not JSON"),
    "header is a list": (_file([]), "object"),
    "header nested too deep": (_file(b"[" * 100_000), "not JSON"),
    "header is not text": (_file(b"\xff\xfe\xfd"), "not JSON"),
    "too many tensors": (_file({str(number): 0 for number in range(100_001)}), "at most"),
    "repeated name": (_file(b'{"a":1,"a":2}'), "twice"),
    "entry is a number": (_file({"a": 1}), "alone"),
    "entry without dtype": (_file({"a": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "alone"),
    "entry with a further field": (_one(code="x"), "alone"),
    "name with a separator": (_file({"../a": {}}), "not a tensor name"),
    "empty name": (_file({"": {}}), "not a tensor name"),
    "very long name": (_file({"a" * 10_000: {}}), "not a tensor name"),
    "unknown dtype": (_one("F4"), "dtype 'F4'"),
    "complex dtype": (_one("C64", offsets=(0, 8), values=bytes(8)), "dtype 'C64'"),
    "dtype is a list": (_one(["F32"]), "dtype"),
    "negative length": (_one(shape=(-1,)), "shape"),
    "length as text": (_one(shape=("1",)), "shape"),
    "length as truth value": (_one(shape=(True,)), "shape"),
    "length as fraction": (_one(shape=(1.0,)), "shape"),
    "overflowing length": (_one(shape=(1 << 63, 0), offsets=(0, 0), values=b""), "shape"),
    "overflowing product": (_one(shape=(1 << 31, 1 << 31, 4)), "should take"),
    "nine dimensions": (_one(shape=(1,) * 9), "shape"),
    "negative offset": (_one(offsets=(-4, 0)), "offsets"),
    "one offset": (_one(offsets=(0,)), "offsets"),
    "three offsets": (_one(offsets=(0, 2, 4)), "offsets"),
    "offsets turned round": (_one(offsets=(4, 0)), "begins at byte 4"),
    "offset beyond the file": (_one(offsets=(0, 4), values=b""), "are there"),
    "size does not fit the shape": (_one(shape=(2,)), "should take 8"),
    "overlapping tensors": (_two([0, 4], [0, 4], 4), "begins at byte 0"),
    "partly overlapping tensors": (_two([0, 4], [2, 6], 6), "begins at byte 2"),
    "gap between tensors": (_two([0, 4], [8, 12], 12), "begins at byte 8"),
    "gap before the first": (_one(offsets=(4, 8), values=bytes(8)), "begins at byte 4"),
    "bytes after the last": (_one(values=bytes(100)), "are there"),
    "F64 not a number": (_values("F64", struct.pack("<d", float("nan"))), "finite"),
    "F32 not a number": (_values("F32", struct.pack("<f", float("nan"))), "finite"),
    "F32 infinite": (_values("F32", struct.pack("<f", float("-inf"))), "finite"),
    "F16 not a number": (_values("F16", b"\x00\x7e"), "finite"),
    "BF16 not a number": (_values("BF16", b"\xc0\x7f"), "finite"),
    "BF16 infinite": (_values("BF16", b"\x80\xff"), "finite"),
    "truth value of two": (_values("BOOL", b"\x02"), "neither"),
}


@pytest.fixture
def pack(tmp_path):
    return tmp_path / write_pack(tmp_path, pack_contents())


@pytest.mark.parametrize(("data", "words"), ATTACKS.values(), ids=ATTACKS)
def test_refused_before_anything_is_loaded(pack, data, words):
    forge_file(pack, "adapter_model.safetensors", data)
    refused = mock.Mock(side_effect=AssertionError("the tensors were loaded"))
    with mock.patch.object(safetensors.torch, "load", refused), pytest.raises(PackError, match=words):
        read_pack(pack)


def test_a_well_formed_file_is_accepted():
    assert set(check_tensors(_one())) == {"a"}
    assert check_tensors(_file({})) == {}
    assert check_tensors(_two([4, 8], [0, 4], 8))["a"].begin == 4


def test_metadata_cannot_hide_anything(pack):
    """Free-form metadata is not ours: a pack that carries some is refused."""
    data = _file({"__metadata__": {"note": "x"}, "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"\x00")
    forge_file(pack, "adapter_model.safetensors", data)
    with pytest.raises(PackError, match="alone"):
        read_pack(pack)
