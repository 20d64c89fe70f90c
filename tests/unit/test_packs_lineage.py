"""Where a pack comes from stays known after the packs between were removed, and only what was true is believed."""

import errno
import os

import pytest

from mmcl_edge.fileio import remove_folder
from mmcl_edge.packs import read_manifest, read_pack, write_pack
from mmcl_edge.packs.lineage import ancestors, keep_manifest, known_manifest, lineage_file
from tests.builders import pack_contents


@pytest.fixture
def chain(tmp_path):
    """Digests of four packs, each made from the one before."""
    digests = [write_pack(tmp_path, pack_contents())]
    for version in (2, 3, 4):
        parents = (read_pack(tmp_path / digests[-1]).as_parent(),)
        digests.append(write_pack(tmp_path, pack_contents(parents=parents, version=version)))
    return digests


def _remove(digest, packs):
    keep_manifest(digest, packs)
    remove_folder(packs / digest)


def test_ancestors_are_found_through_removed_packs(chain, tmp_path):
    manifest = read_manifest(tmp_path / chain[-1])[0]
    for digest in chain[1:3]:
        _remove(digest, tmp_path)
    assert ancestors(manifest, tmp_path) == frozenset(chain[:3])
    assert ancestors(manifest, tmp_path, stop=chain[1]) == frozenset(chain[1:3])


def test_a_changed_manifest_says_nothing(chain, tmp_path):
    manifest = read_manifest(tmp_path / chain[-1])[0]
    _remove(chain[2], tmp_path)
    lineage_file(chain[2], tmp_path).write_bytes((tmp_path / chain[0] / "pack.json").read_bytes())
    assert known_manifest(chain[2], tmp_path) is None
    assert ancestors(manifest, tmp_path) == {chain[2]}


def test_a_changed_manifest_is_replaced(chain, tmp_path):
    lineage_file(chain[1], tmp_path).parent.mkdir()
    lineage_file(chain[1], tmp_path).write_bytes(b"{}")
    _remove(chain[1], tmp_path)
    assert known_manifest(chain[1], tmp_path).version == 2


def test_it_is_kept_where_files_can_have_one_name_only(chain, tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refused)
    _remove(chain[1], tmp_path)
    assert known_manifest(chain[1], tmp_path).version == 2


def test_a_missing_pack_has_no_manifest(chain, tmp_path):
    assert known_manifest("0" * 64, tmp_path) is None
