"""Hostile archives: every one is refused with a sentence, nothing larger than its limit is read, nothing changes."""

import bz2
import gzip
import io
import json
import lzma
import os
import struct
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest

from mmcl_edge.errors import PackError
from mmcl_edge.fileio import canonical_json, sha256_bytes
from mmcl_edge.packs import read_pack, write_pack
from mmcl_edge.packs.archive import MAX_ARCHIVE_BYTES, open_archive, read_archive, write_archive
from mmcl_edge.packs.names import label_id
from mmcl_edge.packs.tensors import parse_layout, serialise
from mmcl_edge.packs.ustar import archive_bytes, header
from mmcl_edge.runtime.workspace import Workspace
from tests.builders import OTHER_BUNDLE, forge_file, forge_manifest, pack_contents, snapshot, write_bundle
from tests.signed import signed_pack, signer

TENSORS = "adapter_model.safetensors"


@pytest.fixture
def workspace(tmp_path):
    """A workspace with a bundle and the pack that deltas are made against, in use."""
    workspace = Workspace(tmp_path / "home").create()
    bundle = workspace.install_bundle(write_bundle(tmp_path / "bundle").path)
    workspace.use_pack(write_pack(workspace.packs_path, pack_contents(bundle_digest=bundle.digest)))
    return workspace


@pytest.fixture
def pack(tmp_path, workspace):
    """A good pack that is not in the workspace: a child of the one there."""
    parent = read_pack(workspace.current_pack())
    tensors = {**parent.tensors(), "new": np.ones(3, dtype=np.float32)}
    changes = {"bundle_digest": workspace.bundle_family(), "parents": (parent.as_parent(),), "version": 2}
    return signed_pack(tmp_path / "source", "a", tensors=tensors, **changes)


def _refused(workspace, file, words, **options):
    before = snapshot(workspace.root)
    with pytest.raises(PackError, match=words):
        open_archive(
            file,
            workspace.packs_path,
            parent_of=lambda digest: None,
            bundle_digest=workspace.bundle_family(),
            **options,
        )
    assert snapshot(workspace.root) == before


def _members(file):
    found = read_archive(file)
    return list(found.files.items())


def _tar(*infos):
    """A file of Python's tarfile: (name, data, fields of the member)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data, fields in infos:
            info = tarfile.TarInfo(name)
            info.mode, info.size = 0o644, len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _zip(data):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pack.json", bytes(50 << 20))
    return out.getvalue()


def _kind(kind, **fields):
    return lambda data: _tar(("pack.json", b"", {"type": kind, **fields}))


def _replaced(name, change):
    """The archive with one member changed."""
    return lambda data, members: archive_bytes((one, change(part) if one == name else part) for one, part in members)


def _claim(name, size):
    """The archive up to ``name``, whose header claims ``size`` bytes that do not follow."""

    def forge(data, members):
        before = archive_bytes(members[: [one for one, _ in members].index(name)])[:-1024]
        return before + header(name, size) + bytes(4096)

    return forge


def _plus(*extra, at=None):
    def forge(data, members):
        at_ = len(members) if at is None else at
        return archive_bytes([*members[:at_], *extra, *members[at_:]])

    return forge


def _twice(data, members):
    return archive_bytes([members[0], *members])


def _order(data, members):
    return archive_bytes(members[::-1])


def _pax(data, members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("pack.json")
        info.pax_headers = {"size": "99999999999", "comment": "x" * 200}
        archive.addfile(info)
    return out.getvalue()


def _old_gnu_sparse(data, members):
    block = bytearray(header("pack.json", 512))
    block[156:157] = b"S"
    return bytes(block) + data


def _with(field, value):
    """The first header with other bytes at ``field`` and a checksum that fits."""

    def forge(data, members):
        block = bytearray(data[:512])
        block[field : field + len(value)] = value
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return bytes(block) + data[512:]

    return forge


FILES = {
    "empty file": (lambda d, m: b"", "ends in the middle"),
    "text": (lambda d, m: b"hello " * 200, "no tar file"),
    "gzip of the archive": (lambda d, m: gzip.compress(d), "compressed .gzip"),
    "bzip2 of the archive": (lambda d, m: bz2.compress(d) + bytes(512), "compressed .bzip2"),
    "xz of the archive": (lambda d, m: lzma.compress(d) + bytes(512), "compressed .xz"),
    "zip bomb": (lambda d, m: _zip(d), "compressed .zip"),
    "gzip bomb": (lambda d, m: gzip.compress(bytes(50 << 20)), "compressed .gzip"),
    "path traversal": (_plus(("../../escape", b"x"), at=0), "found '../../escape'"),
    "path traversal behind the pack": (_plus(("../../escape", b"x")), "found '../../escape'"),
    "absolute path": (_plus(("/etc/cron.d/x", b"x")), "found '/etc/cron.d/x'"),
    "folder in a name": (_plus(("x/pack.json", b"x"), at=0), "found 'x/pack.json'"),
    "symbolic link": (lambda d, m: _kind(tarfile.SYMTYPE, linkname="/etc/passwd")(d), "symbolic link"),
    "hard link": (lambda d, m: _kind(tarfile.LNKTYPE, linkname="/etc/passwd")(d), "hard link"),
    "link behind the pack": (
        lambda d, m: d[:-1024] + _tar(("eval.json", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"})),
        "symbolic link",
    ),
    "character device": (lambda d, m: _kind(tarfile.CHRTYPE)(d), "device file"),
    "block device": (lambda d, m: _kind(tarfile.BLKTYPE)(d), "device file"),
    "pipe": (lambda d, m: _kind(tarfile.FIFOTYPE)(d), "pipe"),
    "folder": (lambda d, m: _kind(tarfile.DIRTYPE)(d), "folder"),
    "sparse member": (_old_gnu_sparse, "sparse"),
    "extended header": (_pax, "extended header"),
    "linkname of a plain file": (_with(157, b"/etc/passwd"), "not one that mmcl-edge writes"),
    "setuid": (_with(100, b"0004755"), "not one that mmcl-edge writes"),
    "owner": (_with(108, b"0001750"), "not one that mmcl-edge writes"),
    "time": (_with(136, b"14000000000"), "not one that mmcl-edge writes"),
    "prefix of a path": (_with(345, b"/etc"), "not one that mmcl-edge writes"),
    "size in base 256": (_with(124, b"\x80" + bytes(10) + b"\x01"), "malformed"),
    "negative size": (_with(124, b"-0000000001"), "malformed"),
    "wrong checksum": (lambda d, m: d[:150] + b"77" + d[152:], "not one that mmcl-edge writes"),
    "manifest claims 8 GiB": (_claim("pack.json", (1 << 33) - 1), "not read"),
    "evaluation claims 1 GiB": (_claim("eval.json", 1 << 30), "should have"),
    "tensors claim 8 GiB": (_claim(TENSORS, (1 << 33) - 1), "should have"),
    "signatures claim 1 GiB": (_claim("signatures.json", 1 << 30), "not read"),
    "ten thousand members": (_plus(*(("eval.json", b"{}") for _ in range(10_000))), "found 'eval.json'"),
    "duplicate member": (_twice, "found 'pack.json'"),
    "members in another order": (_order, "found 'adapter_model.safetensors'"),
    "further member": (_plus(("run.sh", b"#!/bin/sh")), "found 'run.sh'"),
    "both kinds of tensors": (_plus(("tensors.delta", b"x")), "found 'tensors.delta'"),
    "trailing byte": (lambda d, m: d + b"\0", "more bytes follow"),
    "trailing archive": (lambda d, m: d + d, "more bytes follow"),
    "no end": (lambda d, m: d[:-1024], "ends in the middle"),
    "half an end": (lambda d, m: d[:-512], "ends in the middle"),
    "cut in the middle": (lambda d, m: d[: len(d) // 2], "ends in the middle"),
    "bytes that fill a block": (lambda d, m: d[: -1024 - 1] + b"x" + d[-1024:], "should be zero"),
    "changed tensors": (_replaced(TENSORS, lambda part: part[:-1] + b"\x41"), "bytes were changed"),
    "changed card": (_replaced("README.md", lambda part: part.replace(b"a", b"b")), "bytes were changed"),
    "changed manifest": (
        _replaced("pack.json", lambda part: part.replace(b'"version":2', b'"version":3')),
        "another pack",
    ),
    "changed signature": (_replaced("signatures.json", lambda part: part.replace(b"keyid", b"keyi_")), "envelope"),
    "manifest of a future schema": (
        _replaced("pack.json", lambda part: part.replace(b'"schema_version":1', b'"schema_version":2')),
        "schema version 2",
    ),
}


@pytest.mark.parametrize(("forge", "words"), FILES.values(), ids=FILES)
def test_refused(workspace, pack, tmp_path, forge, words):
    file = tmp_path / "a.mmclpack"
    write_archive(pack, file)
    file.write_bytes(forge(file.read_bytes(), _members(file)))
    _refused(workspace, file, words)


def test_the_good_archive_is_accepted(workspace, pack, tmp_path):
    write_archive(pack, tmp_path / "a")
    digest = open_archive(tmp_path / "a", workspace.packs_path, bundle_digest=workspace.bundle_family())
    assert workspace.use_pack(digest).digest == pack.name


def test_a_file_larger_than_any_pack_is_not_read(workspace, tmp_path):
    with (tmp_path / "a").open("wb") as file:
        file.truncate(MAX_ARCHIVE_BYTES + 1)
    _refused(workspace, tmp_path / "a", "not read")


@pytest.mark.parametrize("name", ["pipe", "folder", "missing"])
def test_what_is_no_file_is_refused(workspace, tmp_path, name):
    {"pipe": os.mkfifo, "folder": os.mkdir, "missing": lambda path: None}[name](tmp_path / "a")
    _refused(workspace, tmp_path / "a", "no such file")


def test_claims_cost_no_memory(workspace, pack, tmp_path):
    """What a header claims is looked at before it is read or made room for."""
    file = tmp_path / "a"
    write_archive(pack, file)
    file.write_bytes(_claim(TENSORS, (1 << 33) - 1)(None, _members(file)))
    tracemalloc.start()
    _refused(workspace, file, "should have")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def _tensors_of(data):
    def forge(pack):
        forge_file(pack, TENSORS, data)

    return forge


def _array(value):
    return serialise({"head.weight": np.asarray(value)})


def _labels(*rows):
    labels = [{"id": identifier, "name": name, "index": index} for index, (identifier, name) in enumerate(rows)]
    return lambda pack: forge_manifest(pack, lambda manifest: manifest.update(labels=labels, sample_counts={}))


def _for_another_bundle(pack):
    forge_manifest(pack, lambda manifest: manifest.update(bundle_digest=OTHER_BUNDLE))


PACKS = {
    "header of 2^63 bytes": (_tensors_of(struct.pack("<Q", 1 << 63) + b"{}"), "claims"),
    "header above its limit": (_tensors_of(struct.pack("<Q", 5 << 20) + bytes(5 << 20)), "limit"),
    "not a number": (_tensors_of(_array([float("nan")])), "finite"),
    "infinite": (_tensors_of(_array([np.float32("inf")])), "finite"),
    "weight of 1e30": (_tensors_of(_array(np.float32([1e30]))), "no value above 1e\\+06"),
    "weight of -1e30": (_tensors_of(_array(np.float32([-1e30]))), "no value above 1e\\+06"),
    "double of 1e300": (_tensors_of(_array(np.array([1e300]))), "no value above"),
    "scale of 1e5": (
        _tensors_of(serialise({"w:int8": np.ones((2, 64), np.int8), "w:scale": np.full((2, 1), 1e5, np.float32)})),
        "no value above",
    ),
    "sums of 1e20": (
        _tensors_of(serialise({"analytic.a.audio.root": np.full((2, 2), 1e20)})),
        "no value above 1e\\+15",
    ),
    "id of one class with the name of another": (_labels((label_id("cat"), "dog")), "should have the id"),
    "two classes with their names exchanged": (
        _labels((label_id("b"), "a"), (label_id("a"), "b")),
        "should have the id",
    ),
    "pack for another bundle": (_for_another_bundle, "made for the bundle"),
}


@pytest.mark.parametrize(("forge", "words"), PACKS.values(), ids=PACKS)
def test_a_hostile_pack_in_a_well_formed_archive(workspace, pack, tmp_path, forge, words):
    (pack / "signatures.json").unlink()
    forge(pack)
    members = [(name, (pack / name).read_bytes()) for name in ("pack.json", "adapter_config.json", "eval.json")]
    members += [(name, (pack / name).read_bytes()) for name in ("README.md", TENSORS)]
    (tmp_path / "a").write_bytes(archive_bytes(members))
    _refused(workspace, tmp_path / "a", words)


TRUST = {
    "unsigned": ((), ("a",), 1, "not signed"),
    "wrong key": (("b",), ("a",), 1, "0 have"),
    "threshold not met": (("a",), ("a", "b"), 2, "1 have"),
    "one key twice": (("a",), ("a", "a"), 2, "1 have"),
}


@pytest.mark.parametrize(("signed", "trusted", "threshold", "words"), TRUST.values(), ids=TRUST)
def test_signatures_that_are_required(workspace, tmp_path, signed, trusted, threshold, words):
    pack = signed_pack(tmp_path / "source", *signed, bundle_digest=workspace.bundle_family(), value=5.0)
    write_archive(pack, tmp_path / "a")
    keys = [signer(name).public_key for name in trusted]
    _refused(workspace, tmp_path / "a", words, keys=keys, threshold=threshold)


def test_signatures_of_another_pack(workspace, pack, tmp_path):
    other = signed_pack(tmp_path / "other", "a", value=5.0)
    write_archive(pack, tmp_path / "a")
    stolen = (other / "signatures.json").read_bytes()
    members = [(name, stolen if name == "signatures.json" else data) for name, data in _members(tmp_path / "a")]
    (tmp_path / "a").write_bytes(archive_bytes(members))
    _refused(workspace, tmp_path / "a", "another pack", keys=[signer("a").public_key])
    _refused(workspace, tmp_path / "a", "another pack")


def _delta(**changes):
    """``delta.json`` with other fields."""

    def forge(members):
        return {**members, "delta.json": canonical_json({**json.loads(members["delta.json"]), **changes})}

    return forge


def _raw_delta(data):
    return lambda members: {**members, "delta.json": data}


def _told(change):
    return lambda members: {**members, "tensors.delta": change(members["tensors.delta"])}


def _claims_all_from_parent(members):
    """Says that every tensor is the parent's, also one that the parent has not."""
    entries, start = parse_layout(members["tensors.delta"], size_bytes=_size_of_tensors(members))
    raw = {**json.loads(members["delta.json"]), "from_parent": sorted(entries)}
    return {**members, "delta.json": canonical_json(raw), "tensors.delta": members["tensors.delta"][:start]}


def _size_of_tensors(members):
    files = json.loads(members["pack.json"])["files"]
    return next(file["size_bytes"] for file in files if file["path"] == TENSORS)


def _shape_of_parent_changed(members):
    """The child's header gives a tensor of the parent another shape with as many bytes."""
    return {**members, "tensors.delta": members["tensors.delta"].replace(b'"shape":[2,3]', b'"shape":[3,2]')}


DELTAS = {
    "parent missing": (_delta(parent="0" * 64), "not here"),
    "parent is no digest": (_delta(parent="../../packs"), "malformed"),
    "future schema": (_delta(schema_version=2), "schema version 2"),
    "schema as text": (_delta(schema_version="1"), "schema version '1'"),
    "further field": (_delta(note="x"), "malformed"),
    "not JSON": (_raw_delta(b"\x80"), "does not parse"),
    "a list": (_raw_delta(b"[]"), "schema version None"),
    "nested too deep": (_raw_delta(b"[" * 100_000), "does not parse"),
    "names out of order": (_delta(from_parent=["head.weight", "head.seen"]), "ascending"),
    "a name twice": (_delta(from_parent=["head.seen", "head.seen"]), "ascending"),
    "a tensor that the parent has not": (_claims_all_from_parent, "not there"),
    "steps of what is no float32": (_delta(in_steps=["head.seen"], from_parent=[]), "float32"),
    "steps of a tensor that the parent has not": (_delta(in_steps=["new"]), "not there"),
    "equal and steps at once": (_delta(in_steps=["head.seen"]), "not both"),
    "steps that are not in order": (_delta(in_steps=["new", "new"]), "ascending"),
    "steps in place of whole values": (
        _delta(in_steps=["blocks.0.experts.e0.audio.down"], from_parent=["head.seen", "head.weight"]),
        "should hold",
    ),
    "a tensor that the child has not": (_delta(from_parent=["zebra"]), "not there"),
    "a shape that the parent has not": (_shape_of_parent_changed, "dtype or shape"),
    "bytes too many": (_told(lambda data: data + bytes(4)), "should hold"),
    "bytes too few": (_told(lambda data: data[:-4]), "should hold"),
    "changed bytes": (_told(lambda data: data[:-1] + b"\x41"), "should give tensors"),
    "more than the tensors may have": (_told(lambda data: data + bytes(1 << 20)), "not read"),
    "less from the parent than it says": (_delta(from_parent=[]), "should hold"),
    "header of 2^63 bytes": (_told(lambda data: struct.pack("<Q", 1 << 63) + data[8:]), "claims"),
    "header that is no JSON": (_told(lambda data: data[:8] + b"\x80" + data[9:]), "not JSON"),
    "whole tensors beside the delta": (lambda members: {**members, TENSORS: b"x"}, "found 'adapter_model.safetensors'"),
}


@pytest.fixture
def delta(workspace, pack, tmp_path):
    """A good delta against the pack in the workspace."""
    write_archive(pack, tmp_path / "delta", parent=workspace.current_pack())
    return tmp_path / "delta"


@pytest.mark.parametrize(("forge", "words"), DELTAS.values(), ids=DELTAS)
def test_a_forged_delta(workspace, delta, forge, words):
    delta.write_bytes(archive_bytes(forge(dict(_members(delta))).items()))
    _refused(workspace, delta, words)


def test_the_good_delta_is_accepted(workspace, delta, pack):
    assert open_archive(delta, workspace.packs_path) == pack.name


def test_a_parent_that_is_another_pack(workspace, delta, tmp_path):
    """The source of parents hands out another pack than the one asked for."""
    other, before = signed_pack(tmp_path / "other", value=3.0), snapshot(workspace.root)
    with pytest.raises(PackError, match="Expected the pack"):
        open_archive(delta, workspace.packs_path, parent_of=lambda digest: other)
    assert snapshot(workspace.root) == before


def test_a_parent_that_was_damaged(workspace, delta):
    file = workspace.current_pack() / TENSORS
    file.write_bytes(file.read_bytes()[:-1] + b"\x41")
    _refused(workspace, delta, "bytes were changed")


def test_a_delta_made_against_another_pack_of_the_same_form(workspace, delta, tmp_path):
    """It names the parent here, but its bytes fit another one."""
    there = read_pack(workspace.current_pack())
    other = signed_pack(tmp_path / "other", bundle_digest=workspace.bundle_family(), value=3.0)
    child = dict(_members(delta))
    child["delta.json"] = canonical_json({**json.loads(child["delta.json"]), "parent": other.name})
    delta.write_bytes(archive_bytes(child.items()))
    workspace.install_pack(other)
    _refused(workspace, delta, "should give tensors")
    assert sha256_bytes((there.path / "pack.json").read_bytes()) == there.digest


def _positions(size):
    """Every byte of the first headers, and a spread of the others."""
    return sorted({*range(0, min(size, 600)), *range(600, size, 97), *range(size - 1100, size, 7)})


@pytest.mark.parametrize("kind", ["whole", "delta"])
def test_no_byte_may_differ(workspace, pack, tmp_path, kind):
    """What carries the expected pack has one form, signatures apart: whichever byte is changed, it is refused."""
    (pack / "signatures.json").unlink()
    file = tmp_path / "a"
    write_archive(pack, file, parent=workspace.current_pack() if kind == "delta" else None)
    good, before = file.read_bytes(), snapshot(workspace.root)
    for position in _positions(len(good)):
        file.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(PackError):
            open_archive(file, workspace.packs_path, expected_digest=pack.name)
    assert snapshot(workspace.root) == before


@pytest.mark.parametrize("kind", ["whole", "delta"])
def test_no_byte_may_be_missing(workspace, pack, tmp_path, kind):
    file = tmp_path / "a"
    write_archive(pack, file, parent=workspace.current_pack() if kind == "delta" else None)
    good, before = file.read_bytes(), snapshot(workspace.root)
    for size in _positions(len(good)):
        file.write_bytes(good[:size])
        with pytest.raises(PackError):
            open_archive(file, workspace.packs_path, expected_digest=pack.name)
    assert snapshot(workspace.root) == before
