"""The guide's part "On the device", and sync, push and the inbox as commands: all runs as it is written there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mmcl_edge.commands.main import cli
from mmcl_edge.packs import read_pack
from mmcl_edge.packs.keys import KEYS_VARIABLE
from mmcl_edge.runtime.workspace import Workspace
from tests.integration.commands import answer, refused, run

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "fleet.md"


@pytest.fixture
def fleet(tmp_path: Path, taught: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fleet in ./fleet that released what the device in MMCL_EDGE_HOME has learned; root.json beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(KEYS_VARIABLE, str(tmp_path / "keys"))
    monkeypatch.setenv("MMCL_EDGE_PASSPHRASE", "")
    answer("fleet", "init", "fleet", "--bins", "2")
    answer("fleet", "publish", "current", "--channel", "stable")
    return tmp_path / "fleet"


def section() -> str:
    return GUIDE.read_text().partition("## On the device")[2]


def typed(line: str) -> Result:
    return CliRunner().invoke(cli, shlex.split(line)[1:])


def test_the_guide_runs_as_it_is_written(fleet: Path, tmp_path: Path, taught: Path):
    blocks = re.findall(r"```sh\n(.*?)```", section(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) >= 9
    for line in lines:
        if line.endswith("--trial"):  # something to be on trial
            answer("adapt", "--task", "more", "--epochs", "1", "--tolerance", "1", "--data", task(tmp_path))
            answer("fleet", "publish", "current", "--channel", "stable")
            run("pack", "rollback")
        result = typed(line)
        assert result.exit_code == 0, (line, result.output)
    current = Workspace(taught).current_pack()
    assert current is not None
    assert read_pack(tmp_path / "collected" / current.name).digest == current.name


def task(folder: Path) -> Path:
    from tests.integration.commands import write_task

    return write_task(folder / "more", "middle")


def test_another_device_learns_by_sync_what_it_was_never_taught(fleet: Path, tmp_path: Path, taught: Path, monkeypatch):
    from mmcl_edge.runtime.workspace import HOME_VARIABLE

    bundle = Workspace(taught).bundle_path
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "second"))
    other = Workspace(tmp_path / "second").create()
    other.install_bundle(bundle)
    found = answer("sync", "fleet", "--root", "root.json", "--provider", "cpu")
    assert (found["outcome"], found["canaries"], found["before"]) == ("in-use", 0, None)
    assert answer("sync")["outcome"] == "up-to-date"
    picture = next((taught / "tasks").rglob("*.png"))
    assert answer("predict", picture)["pack_digest"] == found["in_use"]


def test_a_first_sync_without_trust_is_a_sentence(fleet: Path):
    refused(run("sync"), "--root FILE")
    refused(run("sync", "fleet", "--fingerprint", "abc"), "64 hexadecimal digits")
    refused(run("sync", "fleet", "--fingerprint", "00" * 32), "fingerprint")
    refused(run("sync", "nowhere", "--trust-first-use"), "unreachable")


def test_a_fingerprint_may_be_written_as_people_do(fleet: Path):
    from mmcl_edge.fileio import sha256_file

    digest = sha256_file(fleet / "metadata" / "1.root.json").upper()
    written = ":".join(digest[i : i + 2] for i in range(0, 64, 2))
    assert answer("sync", "fleet", "--fingerprint", written)["joined"] == digest.lower()


def test_mark_good_without_a_trial_is_a_sentence(fleet: Path):
    refused(run("mark-good"), "sync --trial")


def test_push_without_a_key_or_a_fleet_is_a_sentence(fleet: Path):
    refused(run("push"), "keys new --device")
    answer("keys", "new", "--device")
    refused(run("push"), "--to URL")


def test_a_pack_that_forgets_is_refused_with_exit_code_3(fleet: Path, tmp_path: Path, taught: Path):
    """A release that knows none of this device's classes: found by the real runtime on real canaries."""
    from mmcl_edge.packs import write_pack
    from tests.builders import pack_contents

    answer("sync", "fleet", "--root", "root.json")
    family = Workspace(taught).bundle_family()
    strange = write_pack(tmp_path, pack_contents(bundle_digest=family, version=9))
    answer("fleet", "publish", tmp_path / strange, "--channel", "stable")
    before = Workspace(taught).current_pack()
    result = run("sync", "--json")
    assert result.exit_code == 3
    found = json.loads(result.stdout)
    assert found["outcome"] == "refused"
    assert found["reason"]
    assert Workspace(taught).current_pack() == before
    assert run("sync").exit_code == 3
    assert "did not work on this device before" in run("sync").stdout


def test_classes_that_changed_places_are_refused_by_real_canaries(fleet: Path, tmp_path: Path, taught: Path):
    """Label-map hijack that no format can tell: ids fit names, but the rows of the head were exchanged."""
    from mmcl_edge.packs import PackContents, write_pack

    answer("sync", "fleet", "--root", "root.json")
    good = read_pack(Workspace(taught).current_pack())
    manifest = good.manifest
    tensors = {name: value for name, value in good.tensors().items() if not name.startswith("confidence.")}
    contents = PackContents(
        tensors=tensors,
        module=good.module,
        config=good.config,
        bundle_digest=manifest.bundle_digest,
        labels=manifest.label_names[::-1],
        experts=manifest.experts,
        version=9,
    )
    from mmcl_edge.fleet.health import RuntimeExaminer
    from mmcl_edge.runtime.replay_store import ReplayStore

    hijacked = tmp_path / write_pack(tmp_path, contents)
    examiner = RuntimeExaminer(
        Workspace(taught).bundle_path, ReplayStore(taught / "replay").read(good.digest).holdout, provider="cpu"
    )
    right, wrong = examiner.examine(good.path), examiner.examine(hijacked)
    examiner.close()
    assert right.canaries == wrong.canaries == right.right + wrong.right > 0, "every right answer is wrong, and back"
    answer("fleet", "publish", hijacked, "--channel", "stable")
    better = wrong.right >= right.right  # one epoch may have taught the classes the wrong way round
    assert run("sync", "--tolerance", "0").exit_code == (0 if better else 3)


def test_the_inbox_may_be_empty_and_says_so(fleet: Path):
    assert "empty" in run("fleet", "inbox", "list").stdout
    assert "empty" in run("fleet", "inbox", "collect", "--out", "collected").stdout


def test_a_stranger_is_listed_and_refused(fleet: Path, tmp_path: Path):
    answer("keys", "new", "--device")
    answer("push", "--to", "fleet")
    assert "not enrolled" in run("fleet", "inbox", "list").stdout
    result = run("fleet", "inbox", "collect", "--out", "collected", "--json")
    assert result.exit_code == 1, "every upload was refused"
    (upload,) = json.loads(result.stdout)["uploads"]
    assert (upload["status"], upload["reason"]) == ("refused", "its key is not enrolled")
    (tmp_path / "fleet" / "inbox" / "notes.txt").write_text("")
    assert "notes.txt" in run("fleet", "inbox", "list").stdout


def test_refused_uploads_are_removed_where_that_is_asked_for(fleet: Path, tmp_path: Path):
    answer("keys", "new", "--device")
    answer("push", "--to", "fleet")
    collect = ("fleet", "inbox", "collect", "--out", "collected", "--remove-refused", "--json")
    assert json.loads(run(*collect).stdout)["removed_objects"] == 0, "it may be enrolled later"
    answer("keys", "show", "--device", "--public-out", "porch.pub.json")
    answer("fleet", "devices", "add", "porch", "--key", "porch.pub.json")
    (description,) = (tmp_path / "fleet" / "inbox").rglob("upload.json")
    description.write_text('{"payload": "é"}')
    count = len(list(description.parent.iterdir()))
    result = run(*collect)
    told = json.loads(result.stdout)
    assert (result.exit_code, told["uploads"][0]["status"], told["removed_objects"]) == (1, "refused", count)
    assert json.loads(run(*collect).stdout)["uploads"] == []
    assert "other bundles" in run(*collect, "--bundle", "abcdef").output
