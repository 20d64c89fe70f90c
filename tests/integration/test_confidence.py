"""Confidence on a device: after adapt, by command, in predictions; and refusals that change nothing."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from mmcl_edge.calibration.confidence import calibrate_confidence
from mmcl_edge.errors import CalibrationError, InputError
from mmcl_edge.fleet.prune import prune
from mmcl_edge.packs import read_pack
from mmcl_edge.runtime.adapt import AdaptEvents, adapt
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.replay_store import ReplayStore
from mmcl_edge.runtime.workspace import HOME_VARIABLE, Workspace
from tests.adapting import in_use, request, write_task
from tests.builders import on_full_disk, snapshot
from tests.conftest import TinyBundle
from tests.integration.commands import answer, refused, run

KNOWN = {"low": "pair", "high": "pair"}
COUNT = 30
"""Samples a class: six of each are held out."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, tiny: TinyBundle) -> Path:
    """A workspace that has learned two classes with enough held-out samples to be calibrated."""
    made = Workspace(tmp_path_factory.mktemp("confidence") / "home").create()
    made.install_bundle(tiny().path)
    write_task(made, "first", KNOWN, count=COUNT)
    assert adapt(made, request("first")).accepted
    return made.root


@pytest.fixture
def workspace(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    root = tmp_path / "home"
    shutil.copytree(template, root, symlinks=True)
    monkeypatch.setenv(HOME_VARIABLE, str(root))
    return Workspace(root).open()


def stored(workspace: Workspace):
    return ReplayStore(workspace.replay_path).read(workspace.current_pack().name)


def files(workspace: Workspace) -> list[Path]:
    folder = workspace.task_folder("first") / "low"
    return [folder / "low_0.wav", folder / "low_0.png"]


def test_adapt_calibrates(workspace: Workspace):
    confidence = read_pack(workspace.current_pack()).manifest.confidence
    assert (confidence.samples, confidence.classes) == (12, 2)
    assert confidence.unknown.kind == "distance-and-logit"
    assert confidence.unknown.false_alarm_rate == 0.1
    assert confidence.temperature != 1.0


def test_adapt_with_too_few_samples_goes_without(tmp_path: Path, tiny: TinyBundle, caplog: pytest.LogCaptureFixture):
    made = Workspace(tmp_path / "few").create()
    made.install_bundle(tiny().path)
    write_task(made, "first", KNOWN)
    with caplog.at_level("INFO", logger="mmcl_edge"):
        assert adapt(made, request("first")).accepted
    assert read_pack(made.current_pack()).manifest.confidence is None
    assert "needs 10 held-out samples or more, but there are 2" in caplog.text
    with Runtime.open(made.bundle_path, made.current_pack()) as runtime:
        found = runtime.predict_batch(stored(made).holdout)[0]
    assert (found.unknown, found.unknown_score) == (None, None)
    with pytest.raises(InputError, match="Expected a calibrated pack"):
        found.label_set(0.9)
    before = snapshot(made.root)
    with pytest.raises(CalibrationError, match="but there are 2; give more samples a class, or name labelled files"):
        calibrate_confidence(made)
    assert snapshot(made.root) == before


def test_predictions_are_calibrated(workspace: Workspace):
    pack, held = read_pack(workspace.current_pack()), stored(workspace).holdout
    confidence = pack.manifest.confidence
    with Runtime.open(workspace.bundle_path, pack.path, "cpu", 1) as runtime:
        found = runtime.predict_batch(held)
        alone = runtime.predict(held[0].audio, held[0].frames)
    assert alone.unknown_score == pytest.approx(found[0].unknown_score, abs=1e-2)
    right = sorted(1 - one.probabilities[sample.label] for one, sample in zip(found, held, strict=True))
    assert right == pytest.approx(confidence.scores, abs=1e-3)
    alarms = [one.unknown for one in found]
    assert alarms == [one.unknown_score < confidence.unknown.threshold for one in found]
    assert sum(alarms) <= 0.1 * len(held) + 1  # as stored, samples are rounded to 16 bits
    sets = [one.label_set(0.9) for one in found]
    assert sum(sample.label in one for one, sample in zip(sets, held, strict=True)) >= math.floor(0.9 * len(held))
    with pytest.raises(InputError, match="needs 99 held-out samples, but there are 12"):
        alone.label_set(0.99)


def test_a_run_that_was_cut_ends_with_the_same_calibrated_pack(workspace: Workspace, tmp_path: Path):
    write_task(workspace, "second", {"middle": "pair", "hum": "pair"}, count=12)
    whole = Workspace(Path(shutil.copytree(workspace.root, tmp_path / "whole", symlinks=True))).open()

    def interrupt(epoch: int, losses: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapt(workspace, request("second"), AdaptEvents(on_epoch=interrupt))
    resumed, expected = adapt(workspace, request("second")), adapt(whole, request("second"))
    assert resumed.resumed_from_epoch == 1
    assert resumed.pack_digest == expected.pack_digest == in_use(workspace)
    assert read_pack(workspace.current_pack()).manifest.confidence.classes == 4


def test_the_command_calibrates_anew_and_can_be_undone(workspace: Workspace):
    old, kept = in_use(workspace), stored(workspace)
    result = answer("calibrate", "confidence", "--false-alarm-rate", 0.2, "--threads", 1)
    assert result["changed"]
    assert (result["parent_digest"], result["pack_digest"]) == (old, in_use(workspace))
    assert (result["samples"], result["classes"], result["strangers"]) == (12, 2, 0)
    assert result["false_alarms"] <= 0.2
    assert [sum(count for count, _, _ in result["bins"][when]) for when in ("before", "after")] == [12, 12]
    pack = read_pack(workspace.current_pack())
    assert pack.manifest.confidence.unknown.false_alarm_rate == 0.2
    assert [(one.digest, one.method) for one in pack.manifest.parents] == [(old, "calibrate")]
    assert [one.source for one in stored(workspace).train] == [one.source for one in kept.train]
    again = answer("calibrate", "confidence", "--false-alarm-rate", 0.2, "--threads", 1)
    assert (again["changed"], again["pack_digest"]) == (False, pack.digest)
    assert answer("pack", "rollback")["current"] == old == in_use(workspace)


def test_what_was_learned_is_still_recognised_after_a_new_calibration(workspace: Workspace):
    calibrate_confidence(workspace, false_alarm_rate=0.2)
    calibrate_confidence(workspace, false_alarm_rate=0.3)
    again = adapt(workspace, request("first"))
    assert (again.repeated, again.pack_digest) == (True, in_use(workspace))


def test_nor_does_pruning_the_packs_between_make_it_learn_again(workspace: Workspace):
    for rate in (0.2, 0.3, 0.4):
        calibrate_confidence(workspace, false_alarm_rate=rate)
    assert len(prune(workspace).removed) == 2
    again = adapt(workspace, request("first"))
    assert (again.repeated, again.pack_digest) == (True, in_use(workspace))


def test_a_folder_of_labelled_samples_with_strangers(workspace: Workspace, tmp_path: Path):
    write_task(workspace, "checked", KNOWN | {"middle": "pair", "hum": "pair"}, count=8, seed=5)
    data, picture = workspace.task_folder("checked"), tmp_path / "reliability.svg"
    result = answer("calibrate", "confidence", "--data", data, "--picture", picture)
    assert (result["samples"], result["classes"], result["strangers"]) == (16, 2, 16)
    assert 0 <= result["auroc"] <= 1
    assert 0 <= result["detected"] <= 1
    assert picture.read_text().startswith("<?xml")
    text = run("calibrate", "confidence", "--data", data).stdout
    assert "16 held out, of 2 classes" in text
    assert "of 16 noticed (AUROC" in text
    assert "says so already, unchanged" in text


def test_samples_that_the_model_was_trained_on_are_set_aside(workspace: Workspace, tmp_path: Path):
    kept, data = stored(workspace), workspace.task_folder("first")
    result = answer("calibrate", "confidence", "--data", data)
    assert result["set_aside"] == len(kept.train) > 0
    assert result["samples"] == 2 * COUNT - len(kept.train)
    assert "that the pack was trained on" in run("calibrate", "confidence", "--data", data).stdout
    for sample in kept.train:
        place = tmp_path / "taught" / sample.label
        place.mkdir(parents=True, exist_ok=True)
        for suffix in (".wav", ".png"):
            name = Path(sample.source).name.split(".")[0] + suffix
            shutil.copy(data / sample.label / name, place / name)
    refused(run("calibrate", "confidence", "--data", tmp_path / "taught"), "was trained on all", "leave out --data")


def test_predict_shows_what_is_unknown(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    row = answer("predict", *files(workspace), "--coverage", 0.9)["predictions"][0]
    assert row["unknown"] in (True, False)
    assert isinstance(row["unknown_score"], float)
    assert set(row["label_set"]) <= {"low", "high"}
    pack = read_pack(workspace.current_pack())
    strict = pack.manifest.confidence.unknown.model_copy(update={"threshold": 1e6})
    doubtful = pack.manifest.confidence.model_copy(update={"unknown": strict})
    real = Runtime.load_pack

    def load(self: Runtime, path: Path) -> str:
        digest = real(self, path)
        object.__setattr__(self._loaded.classes.voice, "confidence", doubtful)
        return digest

    monkeypatch.setattr(Runtime, "load_pack", load)
    text = run("predict", *files(workspace), "--top", 1).stdout
    assert "unknown (closest: " in text
    assert "one of" not in text


def test_pack_show_tells_whether_it_is_calibrated(workspace: Workspace):
    text = run("pack", "show").stdout
    assert "calibrated on 12 held-out samples of 2 classes" in text
    assert answer("pack", "show")["manifest"]["confidence"]["temperature"] > 0


def test_group_help_imports_neither_command():
    result = run("calibrate", "--help")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in ("confidence", "ranges"))
    assert "Examples:" in run("calibrate", "confidence", "--help").stdout


def strangers_only(workspace: Workspace) -> tuple[object, ...]:
    write_task(workspace, "strange", {"middle": "pair"}, count=12)
    return ("--data", workspace.task_folder("strange"))


def too_few(workspace: Workspace) -> tuple[object, ...]:
    write_task(workspace, "few", KNOWN, count=4, seed=5)
    return ("--data", workspace.task_folder("few"))


REFUSALS = {
    "strangers only": (strangers_only, ["knows (high, low", "all 12", "never taught"]),
    "too few samples": (too_few, ["needs 10 held-out samples or more, but there are 8"]),
    "too low a rate": (lambda _: ("--false-alarm-rate", 0.01), ["needs 99 held-out samples or more, but there are 12"]),
    "a rate out of range": (lambda _: ("--false-alarm-rate", 1.0), ["--false-alarm-rate"]),
    "no folder": (lambda w: ("--data", w.root / "nowhere"), ["Expected a task folder"]),
    "a picture of another kind": (lambda _: ("--picture", "a.gif"), [".png or .svg"]),
}


@pytest.mark.parametrize(("prepare", "words"), REFUSALS.values(), ids=REFUSALS)
def test_refusals_change_nothing(workspace: Workspace, prepare, words):
    options = prepare(workspace)
    before = snapshot(workspace.root)
    refused(run("calibrate", "confidence", *options), *words)
    assert snapshot(workspace.root) == before


@pytest.mark.parametrize("coverage", [0, 1, "nan", 0.999])
def test_a_coverage_that_cannot_be_had_is_refused(workspace: Workspace, coverage: object):
    refused(run("predict", *files(workspace), "--coverage", coverage), "overage")


def test_without_a_pack(tmp_path: Path, tiny: TinyBundle, monkeypatch: pytest.MonkeyPatch):
    Workspace(tmp_path / "empty").create().install_bundle(tiny().path)
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "empty"))
    refused(run("calibrate", "confidence"), "nothing has been learned yet", "mmcl-edge adapt")


def test_a_full_disk_leaves_the_old_pack_in_use(workspace: Workspace):
    old = in_use(workspace)
    for error in on_full_disk(lambda: calibrate_confidence(workspace, false_alarm_rate=0.25)):
        if error is not None:
            assert in_use(workspace.open()) == old
    pack = read_pack(workspace.current_pack())
    assert pack.manifest.confidence.unknown.false_alarm_rate == 0.25
    assert json.loads((pack.path / "pack.json").read_text())["confidence"]["classes"] == 2
