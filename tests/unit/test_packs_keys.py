"""Keys: what is written, what is refused, and what rotating and revoking leave."""

import json
import stat

import pytest

from mmcl_edge.errors import KeyFileError, StorageError
from mmcl_edge.packs.keys import KeyStore, device_keys_folder, read_public_key, release_keys_folder
from tests.builders import on_full_disk, snapshot


@pytest.fixture
def keys(tmp_path):
    return KeyStore(tmp_path / "keys")


def _mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_private_parts_are_for_their_owner_alone(keys):
    keys.new("root", "secret")
    keys.new("online")
    assert _mode(keys.folder) == 0o700
    assert [_mode(file) for file in keys.folder.glob("*.pem")] == [0o600, 0o600]


def test_a_passphrase_encrypts_the_private_file(keys):
    key = keys.new("root", "secret")
    assert b"ENCRYPTED" in (keys.folder / "root.pem").read_bytes()
    assert keys.is_encrypted("root")
    assert keys.signer("root", "secret").public_key.keyid == key.keyid


@pytest.mark.parametrize("passphrase", [None, "", "wrong"])
def test_a_wrong_or_missing_passphrase_is_refused(keys, passphrase):
    keys.new("root", "secret")
    with pytest.raises(KeyFileError, match="passphrase"):
        keys.signer("root", passphrase)


def test_without_a_passphrase_the_file_is_plain(keys):
    key = keys.new("device")
    assert not keys.is_encrypted("device")
    assert keys.signer("device").public_key.keyid == key.keyid == keys.public("device").keyid


def test_what_is_signed_verifies_with_the_public_part(keys):
    keys.new("root")
    keys.public("root").key.verify_signature(keys.signer("root").sign(b"words"), b"words")


def test_the_fingerprint_is_the_beginning_of_the_key_id(keys):
    key = keys.new("root")
    assert key.fingerprint.replace(" ", "") == key.keyid[:32]
    assert key.key.keyid == key.keyid


def test_names_are_in_order_and_leave_out_old_keys(keys):
    for name in ("targets", "root", "device"):
        keys.new(name)
    keys.rotate("root")
    assert keys.names() == ("device", "root", "targets")
    assert KeyStore(keys.folder / "none").names() == ()


def test_a_name_is_never_overwritten(keys):
    keys.new("root")
    before = snapshot(keys.folder)
    with pytest.raises(KeyFileError, match="exists already"):
        keys.new("root")
    assert snapshot(keys.folder) == before


@pytest.mark.parametrize("name", ["", "../root", "Root", "a" * 33, "a.b", "-a", "a b"])
def test_bad_names_are_refused(keys, name):
    for call in (keys.new, keys.public, keys.signer, keys.rotate, keys.revoke):
        with pytest.raises(KeyFileError, match="cannot name a key"):
            call(name)
    assert not keys.folder.exists()


def test_a_missing_key_says_how_to_make_it(keys):
    with pytest.raises(KeyFileError, match="keys new root"):
        keys.public("root")
    with pytest.raises(KeyFileError, match="keys new --device"):
        keys.public("device")


def test_a_private_file_that_others_can_read_is_refused(keys):
    keys.new("root")
    (keys.folder / "root.pem").chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        keys.signer("root")


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_folder_that_others_can_write_is_refused(keys, mode):
    keys.new("root")
    old = keys.rotate("root")
    keys.folder.chmod(mode)
    before = snapshot(keys.folder)
    calls = (keys.new, keys.public, keys.ended, keys.signer, keys.rotate, keys.revoke)
    for call in (*calls, lambda name: keys.signer(name, keyid=old.keyid)):
        with pytest.raises(KeyFileError, match="chmod 700"):
            call("root" if call != keys.new else "other")
    assert snapshot(keys.folder) == before
    keys.folder.chmod(0o755)
    assert keys.signer("root").public_key.keyid == old.keyid


def test_rotating_keeps_the_old_key_with_its_end(keys):
    old = keys.new("root", "first")
    new = keys.rotate("root", "second")
    (ended,) = keys.ended("root")
    assert (ended.keyid, ended.status) == (old.keyid, "rotated")
    assert ended.ended is not None
    assert keys.public("root") == new
    assert new.keyid != old.keyid
    assert keys.signer("root", "second").public_key.keyid == new.keyid
    assert keys.signer("root", "first", keyid=old.keyid).public_key.keyid == old.keyid, "it signs its succession"


def test_a_forgotten_key_signs_nothing_more(keys):
    old = keys.new("root")
    with pytest.raises(KeyFileError, match="had before"):
        keys.forget("root", old.keyid)
    keys.rotate("root")
    assert keys.forget("root", old.keyid)
    assert not keys.forget("root", old.keyid)
    assert [key.keyid for key in keys.ended("root")] == [old.keyid]
    with pytest.raises(KeyFileError, match="none"):
        keys.signer("root", keyid=old.keyid)


def test_a_revoked_key_signs_only_when_named_by_its_id(keys):
    key = keys.new("online")
    revoked = keys.revoke("online")
    assert (revoked.keyid, revoked.status) == (key.keyid, "revoked")
    assert keys.revoke("online") == revoked
    with pytest.raises(KeyFileError, match="revoked"):
        keys.signer("online")
    assert keys.signer("online", keyid=key.keyid).public_key.keyid == key.keyid


def test_a_revoked_name_may_be_taken_again(keys):
    old = keys.new("online")
    keys.revoke("online")
    new = keys.new("online")
    assert keys.signer("online").public_key.keyid == new.keyid
    assert [(key.keyid, key.status) for key in keys.ended("online")] == [(old.keyid, "revoked")]


def test_old_keys_are_listed_oldest_first(keys):
    made = [keys.new("root").keyid, *(keys.rotate("root").keyid for _ in range(3))]
    assert {key.keyid for key in keys.ended("root")} == set(made[:-1])
    assert list(keys.ended("root")) == sorted(keys.ended("root"), key=lambda key: (key.ended, key.keyid))


def test_the_environment_may_hold_the_private_part(keys, monkeypatch):
    key = keys.new("online")
    monkeypatch.setenv("MMCL_EDGE_KEY_ONLINE", (keys.folder / "online.pem").read_text())
    elsewhere = KeyStore(keys.folder / "none")
    assert elsewhere.signer("online").public_key.keyid == key.keyid
    assert elsewhere.public("online").keyid == key.keyid
    before = snapshot(keys.folder)
    for change in (keys.rotate, keys.revoke):
        with pytest.raises(KeyFileError, match="environment"):
            change("online")
    assert snapshot(keys.folder) == before


def test_the_environment_may_hold_an_encrypted_key_and_its_passphrase(keys, monkeypatch):
    key = keys.new("online", "secret")
    monkeypatch.setenv("MMCL_EDGE_KEY_ONLINE", (keys.folder / "online.pem").read_text())
    monkeypatch.delenv("MMCL_EDGE_PASSPHRASE", raising=False)
    elsewhere = KeyStore(keys.folder / "none")
    with pytest.raises(KeyFileError, match="MMCL_EDGE_PASSPHRASE"):
        elsewhere.public("online")
    monkeypatch.setenv("MMCL_EDGE_PASSPHRASE", "secret")
    assert elsewhere.public("online").keyid == key.keyid


def test_the_environment_must_hold_a_private_key(keys, monkeypatch):
    monkeypatch.setenv("MMCL_EDGE_KEY_ONLINE", "no key")
    with pytest.raises(KeyFileError, match="PEM") as refused:
        keys.signer("online")
    assert "no key" not in str(refused.value)


def test_another_kind_of_key_is_refused(keys, monkeypatch):
    from securesystemslib.signer import CryptoSigner

    monkeypatch.setenv("MMCL_EDGE_KEY_ONLINE", CryptoSigner.generate_ecdsa().private_bytes.decode())
    with pytest.raises(KeyFileError, match="ed25519"):
        keys.signer("online")


def test_a_private_part_of_another_key_is_refused(keys):
    keys.new("root")
    keys.new("online")
    (keys.folder / "root.pem").write_bytes((keys.folder / "online.pem").read_bytes())
    with pytest.raises(KeyFileError, match="belongs to the key"):
        keys.signer("root")


FORGERIES = {
    "id of another key": {"keyid": "0" * 64},
    "public part that is none": {"public": "00"},
    "another kind": {"keytype": "rsa"},
    "future schema": {"schema_version": 2},
    "further field": {"private": "x"},
    "end of an active key": {"ended": "2026-01-01T00:00:00Z"},
    "rotated without an end": {"status": "rotated"},
    "name that is a path": {"name": "../root"},
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES)
def test_forged_public_parts_are_refused(keys, change):
    keys.new("root")
    file = keys.folder / "root.pub.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(KeyFileError, match="should be a public key"):
        read_public_key(file)


def test_public_parts_that_are_no_json_or_too_large_are_refused(tmp_path):
    for name, data in {"a": b"\x80", "b": b"[]", "c": b" " * 5000}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(KeyFileError):
            read_public_key(tmp_path / name)
    with pytest.raises(KeyFileError, match="none"):
        read_public_key(tmp_path / "missing")


def test_a_public_part_under_another_name_is_refused(keys):
    keys.new("root")
    (keys.folder / "root.pub.json").rename(keys.folder / "online.pub.json")
    with pytest.raises(KeyFileError, match="should hold the key 'online'"):
        keys.public("online")


def test_a_change_of_keys_that_was_cut_short_is_mended_by_the_same_call(keys):
    old = keys.new("root")
    for refused in on_full_disk(lambda: keys.rotate("root")):
        if refused is None:
            break
        assert isinstance(refused, StorageError)
    new = keys.rotate("root")
    assert keys.signer("root").public_key.keyid == new.keyid
    assert keys.signer("root", keyid=old.keyid).public_key.keyid == old.keyid
    assert not list(keys.folder.glob(".staging-*"))


def test_folders_of_keys(monkeypatch, tmp_path):
    monkeypatch.setenv("MMCL_EDGE_KEYS", str(tmp_path / "admin"))
    assert release_keys_folder() == tmp_path / "admin"
    monkeypatch.delenv("MMCL_EDGE_KEYS")
    assert release_keys_folder().name == "keys"
    assert device_keys_folder(tmp_path / "trust") == tmp_path / "trust" / "keys"
