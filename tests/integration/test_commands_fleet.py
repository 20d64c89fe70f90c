"""``mmcl-edge fleet`` as an admin runs it: founding, releasing, revoking, and the key ceremony across machines."""

import json

import pytest
from click.testing import CliRunner

from mmcl_edge.commands.main import cli
from mmcl_edge.commands.passphrase import PASSPHRASE_VARIABLE
from mmcl_edge.fileio import sha256_bytes
from mmcl_edge.packs.keys import KEYS_VARIABLE, KeyStore
from mmcl_edge.packs.private_keys import pem
from mmcl_edge.runtime.workspace import HOME_VARIABLE
from tests.builders import snapshot
from tests.founded import pack


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An admin's machine: a folder of keys, no workspace, keys without a passphrase."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(KEYS_VARIABLE, str(tmp_path / "alice"))
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "no workspace"))
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "")
    monkeypatch.delenv("MMCL_EDGE_FLEET", raising=False)
    return tmp_path


@pytest.fixture
def at(monkeypatch, tmp_path):
    """Go to another person's machine, and back."""

    def go(name):
        monkeypatch.setenv(KEYS_VARIABLE, str(tmp_path / name))

    return go


def run(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def answer(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def text(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments):
    """The sentence that a command ends with."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


@pytest.fixture
def fleet():
    return answer("fleet", "init", "store", "--bins", 4)


def test_a_fleet_from_founding_to_withdrawal(fleet, tmp_path):
    one, two = pack(tmp_path / "packs", 1), pack(tmp_path / "packs", 2)
    assert fleet["made"]
    assert set(KeyStore(tmp_path / "alice").names()) == {"root", "release", "online"}
    assert sha256_bytes((tmp_path / "root.json").read_bytes()) == fleet["fingerprint"]
    assert answer("fleet", "publish", one, "--channel", "beta")["counter"] == 1
    assert answer("fleet", "promote")["current"]["pack"] == one.name
    assert "release 2" in text("fleet", "publish", two)
    assert "promote" not in text("fleet", "revoke", two.name[:8])
    found = answer("fleet", "status")
    assert {channel["channel"]: (channel["counter"], channel["current"]["pack"]) for channel in found["channels"]} == {
        "beta": (1, one.name),
        "stable": (3, one.name),
    }
    shown = text("fleet", "status")
    for word in ("stable", "beta", one.name[:16], "timestamp", "3 in 4 bins", fleet["fingerprint"]):
        assert word in shown


def test_archives_and_digests_are_packs_too(fleet, tmp_path):
    from mmcl_edge.packs.archive import write_archive

    write_archive(pack(tmp_path / "packs"), tmp_path / "one.mmclpack")
    assert answer("fleet", "publish", "one.mmclpack")["current"]["pack"] == pack(tmp_path / "packs").name
    assert "no" in refused("fleet", "publish", "0123456789")


def test_devices(fleet, tmp_path):
    KeyStore(tmp_path / "device").new("device")
    file = tmp_path / "device" / "device.pub.json"
    added = answer("fleet", "devices", "add", "kitchen-7", "--key", file)
    assert added["enrolled"][0]["name"] == "kitchen-7"
    keyid = added["enrolled"][0]["keyid"]
    assert "kitchen-7" in text("fleet", "devices", "list")
    assert answer("fleet", "revoke", keyid[:12])["device"] == "kitchen-7"
    assert [device["name"] for device in answer("fleet", "devices", "list")["revoked"]] == ["kitchen-7"]
    assert "revoked" in refused("fleet", "devices", "add", "again", "--key", file)
    assert "there is none" in refused("fleet", "devices", "add", "x", "--key", "missing.json")
    assert "six or more" in refused("fleet", "revoke", "kitchen-7")


def test_what_names_a_pack_and_a_device_is_refused(fleet, tmp_path):
    """A device may be called like the beginning of a digest, whatever letter that is."""
    packs = [pack(tmp_path / "packs", version, value=value) for version in (1, 2) for value in range(20)]
    one, two = (next(path for path in some if path.name[0] in "abcdef") for some in (packs[:20], packs[20:]))
    KeyStore(tmp_path / "device").new("device")
    name = two.name[:8]
    answer("fleet", "devices", "add", name, "--key", tmp_path / "device" / "device.pub.json")
    answer("fleet", "publish", one)
    answer("fleet", "publish", two)
    before = snapshot(tmp_path / "store")
    assert "--device or --pack" in refused("fleet", "revoke", name)
    assert "give one of them" in refused("fleet", "revoke", name, "--pack", "--device")
    assert "give one of them" in refused("fleet", "revoke", name, "--channel", "stable", "--device")
    assert "there is none" in refused("fleet", "revoke", one.name[:8], "--device")
    assert snapshot(tmp_path / "store") == before
    assert answer("fleet", "revoke", name, "--pack")["releases"][0]["current"]["pack"] == one.name
    assert [device["name"] for device in answer("fleet", "devices", "list")["enrolled"]] == [name]
    assert answer("fleet", "revoke", name, "--device") == {"device": name, "releases": []}


def test_the_same_command_again_changes_nothing(fleet, tmp_path):
    one = pack(tmp_path / "packs")
    answer("fleet", "publish", one)
    before = snapshot(tmp_path / "store")
    assert answer("fleet", "publish", one)["counter"] == 1
    assert "already" in refused("fleet", "init", "store", "--bins", 4)
    assert snapshot(tmp_path / "store") == before


def test_refresh_signs_the_timestamp(fleet):
    assert answer("fleet", "refresh") == {"renewed": ["timestamp"], "waiting": []}
    assert "4 bins" in text("fleet", "refresh", "--all")
    assert answer("fleet", "status")["versions"]["root"] == 2


def test_a_key_that_was_rotated_here_is_rotated_in_the_fleet(fleet, tmp_path):
    assert "nothing to change" in refused("fleet", "keys", "rotate")
    old = KeyStore(tmp_path / "alice").public("release")
    new = answer("keys", "rotate", "release")
    result = answer("fleet", "keys", "rotate")
    assert result["in_force"]
    assert result["keys"]["targets"]["keyids"] == [new["keyid"]]
    KeyStore(tmp_path / "alice").forget("release", old.keyid)
    assert answer("fleet", "publish", pack(tmp_path / "packs"))["counter"] == 1
    assert answer("fleet", "keys", "show")["version"] == 2


@pytest.mark.parametrize(("name", "role"), [("release", "targets"), ("root", "root"), ("online", "online")])
def test_a_key_that_was_revoked_here_signs_its_succession_alone(fleet, tmp_path, name, role):
    one = pack(tmp_path / "packs")
    answer("keys", "revoke", name)
    before = snapshot(tmp_path / "store")
    if name == "root":
        assert answer("fleet", "refresh", "--all")["waiting"] == ["root"]
    else:
        assert f"keys new {name}" in refused("fleet", "publish", one)
        assert snapshot(tmp_path / "store") == before
    new = answer("keys", "new", name)
    result = answer("fleet", "keys", "rotate")
    assert result["in_force"]
    assert result["keys"][role]["keyids"] == [new["keyid"]]
    assert answer("fleet", "publish", one)["counter"] == 1
    assert answer("fleet", "refresh", "--all")["waiting"] == []


def test_a_key_that_was_rotated_here_signs_until_the_fleet_knows(fleet, tmp_path):
    answer("keys", "rotate", "release")
    assert answer("fleet", "publish", pack(tmp_path / "packs"))["counter"] == 1


def test_a_ceremony_with_keys_on_two_machines(at, tmp_path):
    """Bob's key never leaves his machine; the fleet is made once both have signed the same root metadata."""
    at("bob")
    answer("keys", "new", "bob")
    text("keys", "show", "bob", "--public-out", "bob.pub.json")
    at("alice")
    for name in ("alice", "release", "online"):
        answer("keys", "new", name)
    init = (
        "fleet",
        "init",
        "store",
        "--bins",
        4,
        "--root-key",
        "alice",
        "--root-key",
        "bob.pub.json",
        "--threshold",
        2,
    )
    first = answer(*init)
    assert first["made"] is False
    assert "1 more of the new keys" in first["waiting_for"]
    assert not list((tmp_path / "store").iterdir())
    at("bob")
    assert "2 of 2" in text("fleet", "keys", "show", "root.json")
    assert len(answer("fleet", "keys", "sign", "root.json")["signatures"]) == 2
    at("alice")
    made = answer(*init)
    assert made["made"] is True
    assert made["threshold"] == 2

    at("carol")
    answer("keys", "new", "carol")
    text("keys", "show", "carol", "--public-out", "carol.pub.json")
    at("alice")
    change = (
        "--role",
        "root",
        "--add",
        "carol.pub.json",
        "--remove",
        answer("fleet", "keys", "show")["keys"]["root"]["keyids"][1],
    )
    waiting = answer("fleet", "keys", "rotate", *change)
    assert waiting["in_force"] is False
    assert "lacks signatures" in refused("fleet", "keys", "publish", "root-2.json")
    at("bob")
    assert "No root key" in refused("fleet", "keys", "sign", "root-2.json")
    answer("fleet", "keys", "sign", "root-2.json", "--key", "bob")
    at("carol")
    answer("fleet", "keys", "sign", "root-2.json")
    at("alice")
    assert answer("fleet", "keys", "publish", "root-2.json")["in_force"]
    assert answer("fleet", "keys", "show")["version"] == 2
    assert answer("fleet", "publish", pack(tmp_path / "packs"))["counter"] == 1


def test_a_second_admin_gets_to_know_the_fleet(fleet, at, tmp_path):
    at("bob")
    assert "not known here" in refused("fleet", "status", "--fleet", "store")
    assert "none is known" in refused("fleet", "status")
    assert "not the one given" in refused("fleet", "trust", "store", "--fingerprint", "0" * 64)
    assert "one of them" in refused("fleet", "trust", "store")
    answer("fleet", "trust", "store", "--fingerprint", fleet["fingerprint"])
    assert answer("fleet", "status")["fingerprint"] == fleet["fingerprint"]
    assert "not here" in refused("fleet", "publish", pack(tmp_path / "packs"))


def test_where_several_fleets_are_known_one_must_be_named(fleet, monkeypatch, tmp_path):
    assert "another --root-file" in refused("fleet", "init", "other", "--bins", 4)
    answer("fleet", "init", "other", "--bins", 4, "--root-file", "other-root.json")
    assert "2 are known" in refused("fleet", "status")
    monkeypatch.setenv("MMCL_EDGE_FLEET", "other")
    assert answer("fleet", "status")["url"] == str(tmp_path / "other")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("init", "ftp://x"), "begins with 'ftp'"),
        (("init", "store", "--bins", "3"), "power of two"),
        (("init", "store", "--root-key", "nobody"), "keys new nobody"),
        (("init", "store", "--root-key", "../x.json"), "there is none"),
        (("init", "store", "--threshold", "2"), "threshold"),
        (("status", "--fleet", "/no/such/store"), "no such folder"),
        (("keys", "sign", "missing.json"), "there is none"),
        (("trust", "/no/such/store", "--fingerprint", "x"), "no such folder"),
    ],
)
def test_what_is_mistyped_is_a_sentence(arguments, message):
    assert message in refused("fleet", *arguments)


def test_a_mistyped_name_makes_no_channel(fleet, tmp_path):
    one = pack(tmp_path / "packs")
    assert "name of a channel" in refused("fleet", "publish", one, "--channel", "Not A Channel")
    answer("fleet", "publish", one, "--channel", "beta")
    assert "no channel 'bet'" in refused("fleet", "promote", "--from", "bet")
    assert "--role" in refused("fleet", "keys", "rotate", "--add", "root")


def test_passphrases_are_asked_for_once_and_never_shown(monkeypatch, tmp_path):
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "correct horse")
    made = run("fleet", "init", "store", "--bins", 4, "--json")
    assert made.exit_code == 0
    assert "horse" not in made.output
    assert b"ENCRYPTED" in (tmp_path / "alice" / "release.pem").read_bytes()
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "wrong")
    assert "passphrase is wrong" in refused("fleet", "publish", pack(tmp_path / "packs"))


def test_a_key_in_the_environment_signs(fleet, monkeypatch, tmp_path):
    """A machine without key files: continuous integration that renews the timestamp."""
    private = (tmp_path / "alice" / "online.pem").read_text()
    (tmp_path / "ci").mkdir()
    monkeypatch.setenv(KEYS_VARIABLE, str(tmp_path / "ci"))
    monkeypatch.setenv("MMCL_EDGE_KEY_ONLINE", private)
    answer("fleet", "trust", "store", "--fingerprint", fleet["fingerprint"])
    assert answer("fleet", "refresh")["renewed"] == ["timestamp"]


def test_an_encrypted_key_in_the_environment_signs(fleet, monkeypatch, tmp_path):
    keys = KeyStore(tmp_path / "alice")
    monkeypatch.setenv("MMCL_EDGE_KEY_ONLINE", pem(keys.signer("online"), "secret").decode())
    monkeypatch.setenv(KEYS_VARIABLE, str(tmp_path / "ci"))
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "secret")
    answer("fleet", "trust", "store", "--fingerprint", fleet["fingerprint"])
    assert answer("fleet", "refresh")["renewed"] == ["timestamp"]
    assert answer("keys", "show", "online")["keys"][0]["keyid"] == keys.signer("online", "secret").public_key.keyid


def test_help_is_light(tmp_path):
    """Neither torch nor the metadata library is needed to read help."""
    import subprocess
    import sys

    code = (
        "import sys; from mmcl_edge.commands import fleet, fleet_init, fleet_status, fleet_keys, fleet_devices, "
        "fleet_publish, fleet_promote, fleet_revoke, fleet_refresh, fleet_trust; "
        "print(sorted({'torch', 'onnxruntime', 'tuf', 'obstore', 'cryptography'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
