"""``mmcl-edge pack prune``, run as a person runs it."""

import json

import pytest
from click.testing import CliRunner

from mmcl_edge.commands.main import cli
from mmcl_edge.packs import read_pack, write_pack
from mmcl_edge.runtime.workspace import HOME_VARIABLE, Workspace
from tests.builders import pack_contents, snapshot, write_bundle


@pytest.fixture
def packs(tmp_path, monkeypatch):
    """Digests of four packs, each made from the one before, the last in use; and a folder that is none."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    workspace = Workspace().create()
    workspace.install_bundle(write_bundle(tmp_path / "bundle").path)
    digests = []
    for version in (1, 2, 3, 4):
        parents = tuple(read_pack(workspace.packs_path / digest).as_parent() for digest in digests[-1:])
        contents = pack_contents(bundle_digest=workspace.bundle_family(), parents=parents, version=version)
        digests.append(write_pack(workspace.packs_path, contents))
        workspace.use_pack(digests[-1])
    (workspace.packs_path / "notes").mkdir()
    return digests


def run(*arguments):
    return CliRunner().invoke(cli, ["pack", "prune", *arguments])


def test_json_says_what_went_what_stays_and_what_was_left(packs):
    result = json.loads(run("--keep", "1", "--json").stdout)
    assert [(one["digest"], one["version"]) for one in result["removed"]] == [(packs[0], 1)]
    assert result["freed_bytes"] == result["removed"][0]["size_bytes"] > 1000
    assert result["left"] == [{"name": "notes", "why": "it is no pack"}]
    assert {one["digest"]: one["why"] for one in result["kept"]} == {
        packs[1]: "one of the newest of the others",
        packs[2]: "previous",
        packs[3]: "in use",
    }
    assert (result["dry_run"], result["exemplar_files"]) == (False, 0)
    listed = json.loads(CliRunner().invoke(cli, ["pack", "list", "--json"]).stdout)
    assert [pack["digest"] for pack in listed["packs"]] == packs[:0:-1]


def test_a_dry_run_says_the_same_in_words_and_changes_nothing(packs):
    before = snapshot(Workspace().root)
    dry = run("--dry-run")
    assert snapshot(Workspace().root) == before
    assert dry.exit_code == 0
    assert "Would free" in dry.stdout
    assert "2 packs" in dry.stdout
    done = run()
    assert "Freed" in done.stdout
    for packs_gone in (dry.stdout, done.stdout):
        assert all(digest[:16] in packs_gone for digest in packs)
        assert "notes" in packs_gone


def test_without_a_pack_in_use_it_is_refused(packs):
    (Workspace().root / "current").unlink()
    result = run("--json")
    error = json.loads(result.stdout)["error"]
    assert (error["type"], result.exit_code) == ("InputError", 2)
    assert "pack use" in error["message"]


def test_a_number_below_nothing_is_wrong_usage(packs):
    assert run("--keep", "-1").exit_code == 2


def test_help_shows_examples():
    text = run("--help").stdout
    assert "Examples:" in text
    assert "--json" in text
