"""``mmcl-edge init`` and ``mmcl-edge pack``, run as a person runs them."""

import json
import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from mmcl_edge.commands.main import cli
from mmcl_edge.errors import StorageError
from mmcl_edge.packs import write_pack
from mmcl_edge.runtime.workspace import HOME_VARIABLE, Workspace
from tests.builders import pack_contents, snapshot, write_bundle


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    return tmp_path / "home"


def run(*arguments):
    """The result of ``mmcl-edge`` with these arguments."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def answer(*arguments):
    """The JSON answer of a command that succeeds."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def packs(home, tmp_path):
    """A workspace with a bundle and two packs, the second in use."""
    workspace = Workspace(home).create()
    bundle = workspace.install_bundle(write_bundle(tmp_path / "bundle").path)
    contents = [
        pack_contents(bundle_digest=bundle.digest),
        pack_contents(bundle_digest=bundle.digest, version=2, labels=("dog", "cät", "cow")),
    ]
    digests = [write_pack(workspace.packs_path, item) for item in contents]
    for digest in digests:
        workspace.use_pack(digest)
    return digests


def test_init_installs_a_bundle_and_is_idempotent(home, tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    first = answer("init", "--bundle", bundle.path)
    before = snapshot(home)
    second = answer("init", "--bundle", bundle.path)
    assert (first["created"], second["created"]) == (True, False)
    assert first["bundle"]["digest"] == second["bundle"]["digest"] == bundle.digest
    assert answer("init")["bundle_installed"] is False
    assert snapshot(home) == before


def test_init_elsewhere_says_which_variable_to_set(home, tmp_path):
    result = run("init", "--home", tmp_path / "else", "--bundle", write_bundle(tmp_path / "bundle").path)
    assert f"export {HOME_VARIABLE}={tmp_path / 'else'}" in result.stdout
    assert not home.exists()


def test_init_exports_the_default_bundle(home, monkeypatch):
    def export_bundle(out, *, progress):
        progress("segment", 1, 2)
        return write_bundle(out)

    monkeypatch.setitem(sys.modules, "mmcl_edge.export.exporter", SimpleNamespace(export_bundle=export_bundle))
    result = run("init")
    assert result.exit_code == 0, result.output
    assert "Exporting [1/2] segment" in result.stderr
    assert (home / "bundle" / "bundle.json").is_file()
    assert not list(home.glob(".staging-*"))


def test_an_export_that_fails_leaves_nothing(home, monkeypatch):
    def export_bundle(out, *, progress):
        out.mkdir()
        raise StorageError("Could not write: no space is left.")

    monkeypatch.setitem(sys.modules, "mmcl_edge.export.exporter", SimpleNamespace(export_bundle=export_bundle))
    assert run("init").exit_code == 2
    assert not list(home.glob(".staging-*"))
    assert Workspace(home).bundle_digest() is None


def test_init_without_the_export_extra_says_how_to_get_a_bundle(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "mmcl_edge.export.exporter", None)
    result = run("init")
    assert result.exit_code == 2
    assert "mmcl-edge[export,defaults]" in result.stderr
    assert "init --bundle DIR" in result.stderr
    assert Workspace(home).exists()


def test_init_refuses_another_bundle_without_consent(home, tmp_path):
    run("init", "--bundle", write_bundle(tmp_path / "a").path)
    other = write_bundle(tmp_path / "b", seed=1)
    assert run("init", "--bundle", other.path).exit_code == 2
    assert answer("init", "--bundle", other.path, "--replace")["bundle"]["digest"] == other.digest


def test_init_refuses_a_missing_bundle(home, tmp_path):
    result = run("init", "--bundle", tmp_path / "none", "--json")
    assert json.loads(result.stdout)["error"]["type"] == "BundleError"
    assert result.exit_code == 2


def test_list_shows_what_is_in_use(packs):
    result = answer("pack", "list")
    assert (result["current"], result["previous"]) == (packs[1], packs[0])
    assert [pack["digest"] for pack in result["packs"]] == [packs[1], packs[0]]
    assert result["packs"][0]["labels"] == ["dog", "cät", "cow"]
    text = run("pack", "list").stdout
    assert packs[0][:16] in text
    assert "current" in text


def test_list_marks_damaged_and_foreign_packs(home, packs):
    workspace = Workspace(home)
    (workspace.packs_path / packs[0] / "pack.json").write_text("{")
    foreign = write_pack(workspace.packs_path, pack_contents())
    rows = {pack["digest"]: pack for pack in answer("pack", "list")["packs"]}
    assert "JSON" in rows[packs[0]]["problem"]
    assert rows[foreign]["fits_bundle"] is False
    assert "made for another bundle" in run("pack", "list").stdout


def test_list_without_packs(home):
    Workspace(home).create()
    assert "No packs yet" in run("pack", "list").stdout


@pytest.mark.parametrize("name", ["current", "previous", "prefix", "folder"])
def test_show(home, packs, name):
    pack = {"prefix": packs[1][:8], "folder": home / "packs" / packs[1]}.get(name, name)
    shown = answer("pack", "show", pack)
    assert shown["digest"] == packs[0 if name == "previous" else 1]
    assert shown["evaluation"] == {"accuracy": 0.5}
    assert "cät" in run("pack", "show", pack).stdout


def test_show_needs_no_workspace_for_a_folder(home, tmp_path):
    digest = write_pack(tmp_path, pack_contents())
    assert answer("pack", "show", tmp_path / digest)["digest"] == digest
    assert not home.exists()


def test_use_and_rollback(home, packs):
    assert answer("pack", "use", packs[0][:6])["current"] == packs[0]
    assert answer("pack", "rollback")["current"] == packs[1]
    assert "In use" in run("pack", "rollback").stdout
    assert Workspace(home).current_pack().name == packs[0]


def test_use_brings_a_folder_into_the_workspace(home, packs, tmp_path):
    contents = pack_contents(bundle_digest=Workspace(home).bundle_digest(), value=5.0)
    digest = write_pack(tmp_path / "inbox", contents)
    assert answer("pack", "use", tmp_path / "inbox" / digest)["current"] == digest
    assert (home / "packs" / digest).is_dir()


REFUSED = {
    "list without a workspace": (["list"], "mmcl-edge init"),
    "use of nothing": (["use", "0" * 8], "fits 0 of 0"),
    "show before the first": (["show"], "there is none"),
    "rollback before the first": (["rollback"], "there is none"),
}


@pytest.mark.parametrize(("arguments", "words"), REFUSED.values(), ids=REFUSED)
def test_refusals(home, arguments, words):
    if "init" not in words:
        Workspace(home).create()
    result = run("pack", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize("name", ["list", "show", "use", "rollback"])
def test_every_command_shows_examples(name):
    text = run("pack", name, "--help").stdout
    assert "Examples:" in text
    assert "--json" in text
