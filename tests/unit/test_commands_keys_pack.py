"""``mmcl-edge keys`` and the commands for archives, signatures and differences, run as a person runs them."""

import json
import stat
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from mmcl_edge.commands.main import Entry, MainGroup
from mmcl_edge.packs import read_pack, write_pack
from mmcl_edge.packs.archive import read_archive
from mmcl_edge.packs.keys import KeyStore, read_public_key
from mmcl_edge.packs.signing import verified_signers
from mmcl_edge.runtime.workspace import HOME_VARIABLE, Workspace
from tests.builders import OTHER_BUNDLE, pack_contents, snapshot, write_bundle

CLI = MainGroup(
    "mmcl-edge",
    entries={"keys": Entry("mmcl_edge.commands.keys", ""), "pack": Entry("mmcl_edge.commands.pack", "")},
)


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setenv("MMCL_EDGE_KEYS", str(tmp_path / "keys"))
    monkeypatch.setenv("MMCL_EDGE_PASSPHRASE", "secret")


def run(*arguments):
    return CliRunner().invoke(CLI, [str(argument) for argument in arguments])


def answer(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refusal(*arguments):
    """The sentence that a command is refused with."""
    result = run(*arguments, "--json")
    assert result.exit_code == 2, result.output
    return json.loads(result.stdout)["error"]["message"]


def _weights(seed):
    return torch.randn(16, 40, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace(tmp_path / "home").create()
    workspace.install_bundle(write_bundle(tmp_path / "bundle").path)
    return workspace


@pytest.fixture
def packs(workspace):
    """A parent and its child in the workspace, the child in use."""
    family = workspace.bundle_family()
    old = {"fusion.weight": _weights(0), "head.weight": _weights(1)}
    parent = write_pack(workspace.packs_path, pack_contents(bundle_digest=family, tensors=old))
    changes = {
        "tensors": {**old, "head.weight": _weights(2), "head.bias": torch.ones(3)},
        "labels": ("dog", "cät", "cow"),
        "parents": (read_pack(workspace.packs_path / parent).as_parent(),),
        "version": 2,
        "evaluation": {"accuracy": 0.75},
    }
    child = write_pack(workspace.packs_path, pack_contents(bundle_digest=family, **changes))
    for digest in (parent, child):
        workspace.use_pack(digest)
    return parent, child


def test_new_makes_a_key_with_the_passphrase_of_the_environment(tmp_path):
    made = answer("keys", "new", "root")
    assert stat.S_IMODE((tmp_path / "keys" / "root.pem").stat().st_mode) == 0o600
    assert made["keyid"] == KeyStore(tmp_path / "keys").signer("root", "secret").public_key.keyid
    assert "secret" not in json.dumps(made)
    assert "exists already" in refusal("keys", "new", "root")


def test_new_needs_a_passphrase_or_consent_to_none(tmp_path, monkeypatch):
    monkeypatch.delenv("MMCL_EDGE_PASSPHRASE")
    assert "MMCL_EDGE_PASSPHRASE" in refusal("keys", "new", "root")
    assert not (tmp_path / "keys").exists()
    monkeypatch.setenv("MMCL_EDGE_PASSPHRASE", "")
    answer("keys", "new", "root")
    assert not KeyStore(tmp_path / "keys").is_encrypted("root")


def test_the_key_of_a_device_is_apart_from_release_keys(tmp_path, workspace, monkeypatch):
    monkeypatch.delenv("MMCL_EDGE_PASSPHRASE")
    made = answer("keys", "new", "--device")
    assert made["name"] == "device"
    assert (workspace.trust_path / "keys" / "device.pem").is_file()
    assert not (tmp_path / "keys").exists()
    assert [key["name"] for key in answer("keys", "show")["keys"]] == ["device"]


def test_a_device_without_a_workspace_is_told_to_make_one():
    assert "mmcl-edge init" in refusal("keys", "new", "--device")


def test_show_prints_public_facts_alone(tmp_path):
    made = answer("keys", "new", "root")
    text = run("keys", "show", "root").stdout
    assert made["fingerprint"] in text
    assert "PRIVATE" not in text
    answer("keys", "show", "root", "--public-out", tmp_path / "root.pub.json")
    assert read_public_key(tmp_path / "root.pub.json").keyid == made["keyid"]
    assert "none is named" in refusal("keys", "show", "--public-out", tmp_path / "x")


@pytest.mark.parametrize("command", ["new", "rotate", "revoke"])
def test_a_key_must_be_named(command):
    assert "name of a key" in refusal("keys", command)
    assert "give one of them" in refusal("keys", command, "root", "--device")


def test_rotate_keeps_the_old_key_and_says_what_is_next(tmp_path):
    old = answer("keys", "new", "root")["keyid"]
    result = answer("keys", "rotate", "root")
    assert (result["old"], result["old_private_part_kept"]) == (old, True)
    assert [key["status"] for key in answer("keys", "show", "root")["keys"]] == ["active", "rotated"]
    assert "fleet keys rotate" in run("keys", "rotate", "root").stdout


def test_an_old_release_key_is_not_forgotten_before_the_fleet_knows(tmp_path):
    answer("keys", "new", "root")
    before = snapshot(tmp_path / "keys")
    assert "fleet keys rotate" in refusal("keys", "rotate", "root", "--forget-old")
    assert snapshot(tmp_path / "keys") == before


def test_the_old_key_of_a_device_may_be_forgotten_at_once(workspace):
    answer("keys", "new", "--device")
    last = answer("keys", "rotate", "--device", "--forget-old")
    assert last["old_private_part_kept"] is False
    assert not (workspace.trust_path / "keys" / f"device.{last['old'][:16]}.pem").exists()


def test_forget_removes_one_old_private_part(tmp_path):
    current = answer("keys", "new", "root")["keyid"]
    for few in (current, current[:5], "0" * 64):
        assert "keys show root" in refusal("keys", "forget", "root", few)
    old, new = current, answer("keys", "rotate", "root")["keyid"]
    assert "had before" in refusal("keys", "forget", "root", new)
    assert "had before" in refusal("keys", "forget", "root", old[:5])
    assert answer("keys", "forget", "root", old[:12])["removed"] is True
    assert not (tmp_path / "keys" / f"root.{old[:16]}.pem").exists()
    assert KeyStore(tmp_path / "keys").signer("root", "secret").public_key.keyid == new
    assert "no private part" in run("keys", "forget", "root", old).stdout
    assert "WARNING" in run("keys", "forget", "--help").stdout


def test_revoke_marks_the_key_and_says_what_the_fleet_needs(workspace):
    answer("keys", "new", "root")
    answer("keys", "new", "--device")
    assert "fleet keys rotate" in answer("keys", "revoke", "root")["next"]
    assert "fleet revoke" in run("keys", "revoke", "--device").stdout
    assert {key["status"] for key in answer("keys", "show")["keys"]} == {"revoked"}


def test_a_pack_travels_in_one_file(tmp_path, packs):
    made = answer("pack", "export", "--out", tmp_path / "a")
    assert (made["digest"], made["delta_from"], made["signed"]) == (packs[1], None, False)
    assert made["size_bytes"] == (tmp_path / "a").stat().st_size
    other = Workspace(tmp_path / "other").create()
    other.install_bundle(tmp_path / "bundle")
    result = CliRunner(env={HOME_VARIABLE: str(other.root)}).invoke(CLI, ["pack", "use", str(tmp_path / "a")])
    assert result.exit_code == 0, result.output
    assert other.current_pack().name == packs[1]


def test_a_delta_is_opened_with_the_parent_that_is_here(tmp_path, packs, workspace):
    made = answer("pack", "export", "--out", tmp_path / "d", "--delta-from", "parent")
    assert (made["delta_from"], made["tensors_from_parent"]) == (packs[0], 1)
    workspace.use_pack(packs[0])
    assert answer("pack", "use", tmp_path / "d")["current"] == packs[1]
    assert answer("pack", "export", "--out", tmp_path / "e", "--delta-from", packs[0][:8]) == {
        **made,
        "file": str(tmp_path / "e"),
    }


def test_a_pack_without_a_parent_here_cannot_be_a_delta_of_it(tmp_path, packs):
    assert "should have a parent" in refusal(
        "pack", "export", packs[0], "--out", tmp_path / "d", "--delta-from", "parent"
    )


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_export_reduces_and_signs_without_touching_the_workspace(tmp_path, packs, workspace, precision):
    answer("keys", "new", "root")
    before = snapshot(workspace.root)
    made = answer(
        "pack", "export", "--out", tmp_path / "d", "--delta-from", "parent", "--precision", precision, "--sign", "root"
    )
    assert snapshot(workspace.root) == before
    found = read_archive(tmp_path / "d", keys=[KeyStore(tmp_path / "keys").public("root").key])
    assert found.digest == made["digest"] != packs[1]
    assert found.manifest.parents[0].digest == packs[1]
    assert found.delta.from_parent == ("fusion.weight",)
    assert f"head.weight:{precision}" in {row["name"] for row in answer("pack", "inspect", tmp_path / "d")["tensors"]}


def test_fp32_of_a_plain_pack_is_the_pack_itself(tmp_path, packs):
    assert answer("pack", "export", "--out", tmp_path / "a", "--precision", "fp32")["digest"] == packs[1]


def test_inspect_shows_folders_and_archives_alike(tmp_path, packs, workspace):
    answer("pack", "export", "--out", tmp_path / "a")
    folder, archive = answer("pack", "inspect"), answer("pack", "inspect", tmp_path / "a")
    assert [folder["kind"], archive["kind"]] == ["folder", "archive"]
    for field in ("digest", "manifest", "tensors", "evaluation", "signatures", "precision"):
        assert folder[field] == archive[field], field
    text = run("pack", "inspect", tmp_path / "a").stdout
    for word in ("cow", "head.bias", "16x40", "e0", "Not signed", "accuracy", "0.75", packs[0][:16]):
        assert word in text, word


def test_inspect_needs_no_parent(tmp_path, packs, monkeypatch):
    answer("pack", "export", "--out", tmp_path / "d", "--delta-from", "parent")
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "nowhere"))
    result = answer("pack", "inspect", tmp_path / "d")
    assert result["delta_from"] == packs[0]
    assert [row["name"] for row in result["tensors"] if row["from"] == "parent"] == ["fusion.weight"]
    assert "not here" in refusal("pack", "verify", tmp_path / "d")


def test_verify_says_each_check(tmp_path, packs):
    answer("keys", "new", "root")
    answer("keys", "show", "root", "--public-out", tmp_path / "root.pub.json")
    answer("pack", "export", "--out", tmp_path / "d", "--delta-from", "parent", "--sign", "root")
    result = answer("pack", "verify", tmp_path / "d", "--key", tmp_path / "root.pub.json")
    checks = [row["check"] for row in result["checks"]]
    assert {"archive", "delta", "manifest", "files", "tensors", "bundle", "signatures"} <= set(checks)
    assert result["signers"] == [read_public_key(tmp_path / "root.pub.json").keyid]
    assert "none verified" in run("pack", "verify", tmp_path / "d").stdout
    assert "not signed" in refusal("pack", "verify", packs[1], "--key", tmp_path / "root.pub.json")
    assert "threshold" in refusal("pack", "verify", packs[1], "--key", tmp_path / "root.pub.json", "--threshold", "2")


def test_verify_names_a_bundle_that_does_not_fit(tmp_path, packs):
    other = tmp_path / write_pack(tmp_path, pack_contents(bundle_digest=OTHER_BUNDLE))
    assert "NOT for the bundle here" in run("pack", "verify", other).stdout


def test_use_takes_only_what_is_signed_where_keys_are_named(tmp_path, packs, workspace):
    answer("keys", "new", "root")
    answer("keys", "show", "root", "--public-out", tmp_path / "root.pub.json")
    answer("pack", "export", packs[0], "--out", tmp_path / "plain")
    answer("pack", "export", packs[0], "--out", tmp_path / "signed", "--sign", "root")
    before = snapshot(workspace.root)
    for pack in (tmp_path / "plain", packs[0]):
        assert "trusted keys" in refusal("pack", "use", pack, "--key", tmp_path / "root.pub.json")
    assert snapshot(workspace.root) == before
    assert answer("pack", "use", tmp_path / "signed", "--key", tmp_path / "root.pub.json")["current"] == packs[0]


def test_sign_adds_a_signature_beside_the_pack(tmp_path, packs, workspace):
    answer("keys", "new", "root")
    answer("keys", "new", "--device")
    assert answer("pack", "sign", "--key", "root")["digest"] == packs[1]
    result = answer("pack", "sign", packs[1][:8], "--key", "device")
    assert len(result["signatures"]) == 2
    keys = [KeyStore(tmp_path / "keys").public("root").key]
    assert len(verified_signers(workspace.packs_path / packs[1], keys)) == 1
    assert "signature" in run("pack", "sign", "--key", "root").stdout


def test_sign_with_a_wrong_passphrase_changes_nothing(packs, workspace, monkeypatch):
    answer("keys", "new", "root")
    monkeypatch.setenv("MMCL_EDGE_PASSPHRASE", "wrong")
    before = snapshot(workspace.root)
    message = refusal("pack", "sign", "--key", "root")
    assert "passphrase is wrong" in message
    assert snapshot(workspace.root) == before


def test_diff_shows_classes_tensors_and_figures(tmp_path, packs):
    result = answer("pack", "diff", "previous")
    assert result["labels"] == {"added": ["cow"], "removed": []}
    assert result["tensors"]["added"] == ["head.bias"]
    assert result["tensors"]["equal"] == 1
    (changed,) = result["tensors"]["changed"]
    expected = float((_weights(2) - _weights(1)).norm() / _weights(1).norm())
    assert (changed["name"], changed["relative_change"]) == ("head.weight", pytest.approx(expected, rel=1e-5))
    assert {"figure": "accuracy", "old": 0.5, "new": 0.75} in result["evaluation"]
    answer("pack", "export", "--out", tmp_path / "a")
    assert answer("pack", "diff", packs[0], tmp_path / "a") == result
    text = run("pack", "diff", "previous").stdout
    for word in ("cow", "head.weight", "16x40", "accuracy"):
        assert word in text, word


@pytest.mark.parametrize(
    "arguments",
    [("keys", name) for name in ("new", "show", "rotate", "revoke")]
    + [("pack", name) for name in ("export", "inspect", "verify", "sign", "diff", "use")],
    ids=" ".join,
)
def test_help_has_examples(arguments):
    text = run(*arguments, "--help").stdout
    assert "Examples:" in text
    assert f"mmcl-edge {' '.join(arguments)}" in text


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from mmcl_edge.commands import keys, pack; "
        "sys.exit(bool({'torch', 'onnxruntime', 'cryptography', 'securesystemslib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
