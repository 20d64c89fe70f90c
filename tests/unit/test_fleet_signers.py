"""Which keys of a folder and of the environment sign for a fleet."""

import pytest

from mmcl_edge.errors import KeyFileError
from mmcl_edge.fleet.signers import StoredSigners
from mmcl_edge.packs.keys import KeyStore


@pytest.fixture
def keys(tmp_path):
    return KeyStore(tmp_path / "keys")


def _never(name):
    raise AssertionError(f"asked for the passphrase of {name}")


def test_a_revoked_key_signs_nothing_but_its_succession(keys):
    key = keys.new("release").key
    signers = StoredSigners(keys, _never)
    assert signers.signer(key).public_key.keyid == key.keyid
    keys.revoke("release")
    for _ in range(2):
        with pytest.raises(KeyFileError, match=r"keys new release.*fleet keys rotate"):
            signers.signer(key)
        assert signers.signer(key, succession=True).public_key.keyid == key.keyid
    successor = keys.new("release").key
    with pytest.raises(KeyFileError, match="was revoked"):
        signers.signer(key)
    assert signers.signer(key, succession=True).public_key.keyid == key.keyid
    assert signers.signer(successor).public_key.keyid == successor.keyid


def test_a_rotated_key_signs_until_the_fleet_knows_its_successor(keys):
    old = keys.new("online").key
    new = keys.rotate("online").key
    signers = StoredSigners(keys, _never)
    assert [signers.signer(key).public_key.keyid for key in (old, new)] == [old.keyid, new.keyid]


def test_a_key_that_is_elsewhere_is_not_here(keys, tmp_path):
    keys.new("release")
    assert StoredSigners(keys, _never).signer(KeyStore(tmp_path / "other").new("release").key) is None


def test_an_encrypted_key_of_the_environment_is_opened_once(keys, monkeypatch):
    key = keys.new("online", "secret").key
    monkeypatch.setenv("MMCL_EDGE_KEY_ONLINE", (keys.folder / "online.pem").read_text())
    asked = []
    signers = StoredSigners(KeyStore(keys.folder / "none"), lambda name: asked.append(name) or "secret")
    assert signers.signer(key).public_key.keyid == key.keyid
    assert signers.signer(keys.new("root").key) is None
    assert signers.signer(key) is not None
    assert asked == ["online"]


def test_keys_of_the_environment_that_are_not_meant_are_not_opened(keys, monkeypatch):
    key = keys.new("online").key
    monkeypatch.setenv("MMCL_EDGE_KEY_OTHER", "no key")
    signers = StoredSigners(keys, _never)
    assert signers.signer(key).public_key.keyid == key.keyid
    with pytest.raises(KeyFileError, match="'other'"):
        signers.signer(KeyStore(keys.folder / "none").new("release").key)
