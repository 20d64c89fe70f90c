"""What an admin remembers of fleets lies beside the admin's keys, and is as closed to others as they are."""

import os
import stat

import pytest

from mmcl_edge.fleet.known import FOLDER, KnownFleets
from mmcl_edge.fleet.metadata import Memory
from mmcl_edge.packs.keys import KeyStore

URL = "https://store.example/fleet"


@pytest.fixture
def open_umask():
    before = os.umask(0o002)
    yield
    os.umask(before)


def test_the_folders_are_private_whatever_the_umask(tmp_path, open_umask):
    keys = tmp_path / "keys"
    KnownFleets(keys).keep(URL, Memory(root="{}"))
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (keys, keys / FOLDER)} == {0o700}
    KeyStore(keys).new("root")  # refuses a folder that others can write


def test_what_was_seen_never_goes_back(tmp_path):
    known = KnownFleets(tmp_path)
    for timestamp in (2, 1):
        known.keep(URL, Memory(root="{}", timestamp=timestamp))
    assert known.find(URL) == Memory(root="{}", timestamp=2)
    assert known.urls() == (URL,)
