"""Malformed and hostile pack folders: every one is refused with a sentence, and the workspace stays as it was."""

import json
import os
import socket

import pytest

from mmcl_edge.errors import PackError
from mmcl_edge.packs import read_pack, write_pack
from mmcl_edge.packs.names import label_id
from mmcl_edge.runtime.workspace import Workspace
from tests.builders import OTHER_BUNDLE, forge_file, forge_manifest, pack_contents, snapshot, write_bundle

FILES = ("pack.json", "adapter_model.safetensors", "adapter_config.json", "eval.json", "README.md")


def _truncate(name):
    return lambda pack: (pack / name).write_bytes((pack / name).read_bytes()[:-3])


def _flip(name):
    def harm(pack):
        data = bytearray((pack / name).read_bytes())
        data[len(data) // 2] ^= 1
        (pack / name).write_bytes(bytes(data))

    return harm


def _link(name):
    def harm(pack):
        (pack / name).rename(pack.parent / "moved")
        (pack / name).symlink_to(pack.parent / "moved")

    return harm


def _folder_in_place_of(name):
    def harm(pack):
        (pack / name).unlink()
        (pack / name).mkdir()

    return harm


def _socket(pack):
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(pack)
        try:
            server.bind("s")
        finally:
            os.chdir(here)


def _manifest(**changes):
    return lambda pack: forge_manifest(pack, lambda manifest: manifest.update(changes))


def _first_file(**changes):
    return lambda pack: forge_manifest(pack, lambda manifest: manifest["files"][0].update(changes))


def _labels(*rows):
    labels = [{"id": label_id(name) if id_ is None else id_, "name": name, "index": index} for id_, name, index in rows]
    return _manifest(labels=labels, sample_counts={})


def _drop_file(pack):
    forge_manifest(pack, lambda manifest: manifest["files"].pop())


def _list_twice(pack):
    forge_manifest(pack, lambda manifest: manifest["files"].append(manifest["files"][0]))


def _repeat_key(pack):
    data = (pack / "pack.json").read_bytes()
    (pack / "pack.json").write_bytes(b'{"version":9,' + data[1:])


def _reformat(pack):
    (pack / "pack.json").write_text(json.dumps(json.loads((pack / "pack.json").read_bytes()), indent=1))


def _sparse(name, size):
    def harm(pack):
        with (pack / name).open("wb") as file:
            file.truncate(size)

    return harm


def _raw(name, data):
    return lambda pack: (pack / name).write_bytes(data)


def _config(**changes):
    def harm(pack):
        config = json.loads((pack / "adapter_config.json").read_bytes())
        forge_file(pack, "adapter_config.json", json.dumps({**config, **changes}).encode())

    return harm


ATTACKS = {
    **{f"truncated {name}": (_truncate(name), "JSON|bytes") for name in FILES},
    **{f"changed byte in {name}": (_flip(name), "changed") for name in FILES[1:]},
    **{f"missing {name}": (lambda pack, name=name: (pack / name).unlink(), "none|contain") for name in FILES},
    **{f"link in place of {name}": (_link(name), "none|holds") for name in FILES},
    **{f"folder in place of {name}": (_folder_in_place_of(name), "none|holds") for name in FILES},
    "extra file": (_raw("run.sh", b"#!/bin/sh"), "run.sh"),
    "extra hidden file": (_raw(".hidden", b""), ".hidden"),
    "pickle beside the tensors": (_raw("adapter_model.bin", b"\x80\x04."), "adapter_model.bin"),
    "extra folder": (lambda pack: (pack / "sub").mkdir(), "'sub'"),
    "extra link": (lambda pack: (pack / "l").symlink_to("/etc/passwd"), "'l'"),
    "socket": (_socket, "'s'"),
    "manifest of 5 MiB": (_sparse("pack.json", 5 << 20), "at most"),
    "tensors of 2 TiB": (_sparse("adapter_model.safetensors", 2 << 40), "should have"),
    "manifest claims 2 TiB": (_first_file(size_bytes=2 << 40), "may have"),
    "manifest is not JSON": (_raw("pack.json", b"\x80\x04K\x01."), "parse"),
    "manifest is a list": (_raw("pack.json", b"[]"), "object"),
    "manifest nested too deep": (_raw("pack.json", b"[" * 100_000), "parse"),
    "manifest with NaN": (_raw("pack.json", b'{"schema_version":NaN}'), "canonical"),
    "manifest with a huge number": (_raw("pack.json", b'{"version":' + b"9" * 10_000 + b"}"), "parse"),
    "manifest with a lone surrogate": (_raw("pack.json", b'{"a":"\\ud800"}'), "canonical"),
    "manifest with a repeated key": (_repeat_key, "canonical"),
    "manifest reformatted": (_reformat, "canonical"),
    "future schema": (_manifest(schema_version=2), "schema version 2"),
    "schema as text": (_manifest(schema_version="1"), "schema version '1'"),
    "schema as truth value": (_manifest(schema_version=True), "schema version True"),
    "unknown field": (_manifest(post_install="rm"), "Extra inputs"),
    "version as text": (_manifest(version="3"), "integer"),
    "version zero": (_manifest(version=0), "greater"),
    "newer runtime": (_manifest(minimum_runtime="999.0.0"), "999.0.0"),
    "path traversal": (_first_file(path="../../evil"), "stay inside"),
    "absolute path": (_first_file(path="/etc/passwd"), "stay inside"),
    "unknown file listed": (_first_file(path="evil.py"), "files should be"),
    "file not listed": (_drop_file, "files should be"),
    "file listed twice": (_list_twice, "files should be"),
    "other bundle": (_manifest(bundle_digest=OTHER_BUNDLE), f"{'b' * 16}.*bundle here is"),
    "repeated label": (_labels((None, "dog", 0), (None, "dog", 1)), "unique"),
    "label in another case": (_labels((None, "dog", 0), (None, "DOG", 1)), "unique"),
    "label index gap": (_labels((None, "dog", 0), (None, "cow", 2)), "indices"),
    "label index twice": (_labels((None, "dog", 0), (None, "cow", 0)), "indices"),
    "label id of another class": (_labels((label_id("cow"), "dog", 0)), "should have the id"),
    "label is a path": (_labels((None, "../x", 0)), "dot"),
    "label with a control character": (_labels((None, "a\x1b[31m", 0)), "control"),
    "expert id with a dot": (_manifest(experts=[{"id": "a.b", "block": 0, "frozen": False, "owner": None}]), "pattern"),
    "config is not JSON": (lambda pack: forge_file(pack, "adapter_config.json", b"{"), "parse"),
    "config with a further part": (_config(code="import os"), "method"),
    "config with an unknown field": (_config(method={"evil": 1}), "configuration"),
    "config out of range": (_config(method={"adapter": {"experts": -1}}), "configuration"),
    "evaluation is a list": (lambda pack: forge_file(pack, "eval.json", b"[]"), "object"),
}


@pytest.fixture
def workspace(tmp_path):
    """A workspace with a bundle and a pack in use."""
    workspace = Workspace(tmp_path / "home").create()
    bundle = workspace.install_bundle(write_bundle(tmp_path / "bundle").path)
    workspace.use_pack(write_pack(workspace.packs_path, pack_contents(bundle_digest=bundle.digest)))
    return workspace


@pytest.fixture
def hostile(workspace, tmp_path):
    """A good pack, still to be harmed."""
    contents = pack_contents(bundle_digest=workspace.bundle_digest(), value=1.0)
    return tmp_path / "inbox" / write_pack(tmp_path / "inbox", contents)


@pytest.mark.parametrize(("harm", "words"), ATTACKS.values(), ids=ATTACKS)
def test_refused_and_nothing_changed(workspace, hostile, harm, words):
    before = snapshot(workspace.root)
    harm(hostile)
    with pytest.raises(PackError, match=words):
        read_pack(hostile, bundle_digest=workspace.bundle_digest())
    with pytest.raises(PackError, match=words):
        workspace.install_pack(hostile)
    assert snapshot(workspace.root) == before


def test_any_changed_byte_of_the_manifest_is_refused(workspace, hostile):
    before, data = snapshot(workspace.root), (hostile / "pack.json").read_bytes()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        (hostile / "pack.json").write_bytes(bytes(changed))
        with pytest.raises(PackError):
            workspace.install_pack(hostile, expected_digest=hostile.name)
    assert snapshot(workspace.root) == before


def test_the_good_pack_is_accepted(workspace, hostile):
    assert workspace.install_pack(hostile, expected_digest=hostile.name) == hostile.name


@pytest.mark.parametrize("target", ["../../outside", "/etc", "packs/../packs"], ids=["up", "absolute", "roundabout"])
def test_a_redirected_link_is_refused(workspace, target):
    (workspace.root / "current").unlink()
    (workspace.root / "current").symlink_to(target)
    with pytest.raises(PackError, match="damaged"):
        workspace.current_pack()


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "eval.json"])
def test_a_pack_damaged_in_place_is_never_put_in_use(workspace, hostile, name):
    digest = workspace.install_pack(hostile)
    _flip(name)(workspace.packs_path / digest)
    before = snapshot(workspace.root)
    with pytest.raises(PackError, match="changed"):
        workspace.use_pack(digest)
    assert snapshot(workspace.root) == before
