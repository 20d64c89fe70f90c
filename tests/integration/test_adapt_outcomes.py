"""What adapt decides: accepted, refused, repeated, locked; and what it does with odd data."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from mmcl_edge.errors import InputError, LockedError, TaskDataError
from mmcl_edge.packs import read_pack
from mmcl_edge.runtime.adapt import AdaptEvents, adapt
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.run_record import RunRecord
from mmcl_edge.runtime.workspace import Workspace
from tests.adapting import in_use, method, outcome, request, write_sample, write_task
from tests.builders import snapshot
from tests.conftest import TinyBundle

FIRST, SECOND = {"low": "pair", "high": "pair"}, {"middle": "pair", "hum": "pair"}
WRECKING = {"exemplars": 0, "learning_rate": 0.3, "epochs": 6}
"""A method that forgets: no exemplars, and steps far too large."""


@pytest.fixture
def workspace(tmp_path: Path, tiny: TinyBundle) -> Workspace:
    """A workspace with two tasks, which has learned nothing."""
    made = Workspace(tmp_path / "home").create()
    made.install_bundle(tiny().path)
    write_task(made, "first", FIRST)
    write_task(made, "second", SECOND)
    return made


@pytest.fixture(scope="module")
def taught_home(tmp_path_factory: pytest.TempPathFactory, tiny: TinyBundle) -> Path:
    made = Workspace(tmp_path_factory.mktemp("taught") / "home").create()
    made.install_bundle(tiny().path)
    write_task(made, "first", FIRST, count=6)
    write_task(made, "second", SECOND)
    report = adapt(made, request("first", method=method(epochs=12)))
    assert report.after["new"] == 1.0, "the first task is too easy not to be learned"
    return made.root


@pytest.fixture
def taught(tmp_path: Path, taught_home: Path) -> Workspace:
    """A workspace that has learned the first task, all of its held-out samples right."""
    shutil.copytree(taught_home, tmp_path / "taught", symlinks=True)
    return Workspace(tmp_path / "taught").open()


@pytest.mark.parametrize("placement", ["inline", "ladder"])
def test_two_tasks_are_learned_and_their_packs_follow_each_other(workspace: Workspace, placement: str):
    how = {"method": method(placement=placement), "tolerance": 1.0}
    reports = [adapt(workspace, request(name, **how)) for name in ("first", "second")]
    assert [report.accepted for report in reports] == [True, True]
    pack = read_pack(workspace.current_pack())
    assert pack.digest == reports[1].pack_digest == in_use(workspace)
    assert pack.manifest.label_names == ("high", "low", "hum", "middle")
    assert pack.manifest.experiences == ("first", "second")
    assert pack.manifest.sample_counts == dict.fromkeys(pack.manifest.label_names, 2)
    assert [parent.digest for parent in pack.manifest.parents] == [reports[0].pack_digest]
    assert workspace.previous_pack().name == reports[0].pack_digest
    assert not list(workspace.runs_path.glob("*/checkpoint*"))


def test_the_first_report_has_no_old_classes_and_the_second_has(workspace: Workspace):
    first, second = (adapt(workspace, request(name)) for name in ("first", "second"))
    assert (first.before["old"], first.after["old"], first.parent_digest) == (None, None, None)
    assert first.before["new"] == 0.0
    assert second.before["old"] is not None
    assert (second.parent_digest, second.before["new"]) == (first.pack_digest, 0.0)
    assert (first.train_samples, first.holdout_samples, first.exemplars) == (4, 2, 4)
    assert (second.train_samples, second.holdout_samples, second.exemplars) == (4, 2, 8)


def test_a_result_that_forgets_is_refused_and_changes_nothing(taught: Workspace):
    old, before = in_use(taught), snapshot(taught.root)
    asked = request("second", method=method(**WRECKING), tolerance=0.0)
    report = adapt(taught, asked)
    assert not report.accepted
    assert (report.before["old"], report.pack_digest) == (1.0, None)
    assert report.after["old"] < 1.0
    assert in_use(taught) == old
    added = {name for name in snapshot(taught.root) if name not in before and not name.startswith("features/")}
    assert {name: value for name, value in snapshot(taught.root).items() if name in before} == before
    assert added == {f"runs/{report.run_id}", f"runs/{report.run_id}/report.json"}
    assert outcome(adapt(taught, asked)) == (False, None)


def test_the_same_loss_is_accepted_where_the_tolerance_allows_it(taught: Workspace):
    report = adapt(taught, request("second", method=method(**WRECKING), tolerance=1.0))
    assert report.accepted
    assert in_use(taught) == report.pack_digest


def test_exemplars_keep_the_old_classes(taught: Workspace):
    report = adapt(taught, request("second", method=method(epochs=40), tolerance=0.0))
    assert report.accepted
    assert report.after == {"old": 1.0, "new": 1.0}


def test_the_same_request_again_is_answered_from_the_record(workspace: Workspace):
    first = adapt(workspace, request("first"))
    before = snapshot(workspace.root)
    again = adapt(workspace, request("first"))
    assert again.repeated
    assert not first.repeated
    assert outcome(again) == outcome(first)
    assert snapshot(workspace.root) == before


@pytest.mark.parametrize(
    "changed", [{"seed": 1}, {"method": method(epochs=1)}, {"holdout_per_class": 1}], ids=["seed", "method", "adapt"]
)
def test_another_request_is_not_taken_for_the_same(workspace: Workspace, changed: dict):
    adapt(workspace, request("first"))
    assert not adapt(workspace, request("first", tolerance=1.0, **changed)).repeated


def test_a_second_adapt_at_once_is_refused(workspace: Workspace):
    entered, leave = threading.Event(), threading.Event()

    def wait(stage: str) -> None:
        entered.set()
        assert leave.wait(60)

    thread = threading.Thread(target=adapt, args=(workspace, request("first"), AdaptEvents(on_stage=wait)))
    thread.start()
    try:
        assert entered.wait(60)
        with pytest.raises(LockedError, match="is working in it"):
            adapt(workspace, request("second"))
    finally:
        leave.set()
        thread.join()
    assert read_pack(workspace.current_pack()).manifest.experiences == ("first",)


def test_corrupt_files_are_skipped_and_counted(workspace: Workspace):
    folder = workspace.task_folder("first") / "low"
    (folder / "noise.wav").write_bytes(b"RIFF but not a sound")
    (folder / "broken.png").write_bytes((folder / "low_0.png").read_bytes()[:60])
    report = adapt(workspace, request("first"))
    assert (report.accepted, report.skipped) == (True, 2)
    assert report.train_samples + report.holdout_samples == 6


def test_too_many_corrupt_files_end_the_run(workspace: Workspace):
    for path in sorted((workspace.task_folder("first") / "low").glob("*.wav"))[:2]:
        path.with_suffix(".png").unlink()
        path.write_bytes(b"no sound")
    with pytest.raises(TaskDataError, match="'low' needs at least 2 samples, but has 1"):
        adapt(workspace, request("first"))
    assert workspace.current_pack() is None


def test_the_same_classes_in_another_domain(taught: Workspace):
    write_task(taught, "rainy", FIRST, seed=9)
    report = adapt(taught, request("rainy", method=method(epochs=4)))
    pack = read_pack(taught.current_pack())
    assert report.accepted
    assert pack.manifest.label_names == ("high", "low")
    assert pack.manifest.sample_counts == {"high": 5 + 2, "low": 5 + 2}
    assert report.before["new"] is not None
    assert report.before["new"] > 0


def test_classes_of_one_modality(workspace: Workspace):
    write_task(workspace, "mixed", {"low": "sound", "high": "picture", "hum": "pair"})
    report = adapt(workspace, request("mixed", method=method(epochs=12)))
    assert report.accepted
    assert report.after["new"] == 1.0
    rng = np.random.default_rng(3)
    picture = (230 + rng.integers(-15, 16, (32, 32, 3))).astype(np.uint8)
    with Runtime.open(workspace.bundle_path, workspace.current_pack(), "cpu", 1) as runtime:
        assert runtime.predict(None, picture).label == "high"


def test_time_that_is_up_ends_the_run_after_an_epoch(workspace: Workspace):
    report = adapt(workspace, request("first", method=method(epochs=9), max_minutes=1e-6))
    assert (report.accepted, report.epochs) == (True, 1)
    assert in_use(workspace) == report.pack_digest


@pytest.mark.parametrize("placement", ["inline", "ladder"])
def test_equal_seeds_give_equal_packs_and_others_others(tmp_path: Path, tiny: TinyBundle, placement: str):
    digests = []
    for number, seed in enumerate((5, 5, 6)):
        workspace = Workspace(tmp_path / str(number)).create()
        workspace.install_bundle(tiny().path)
        for name, classes in {"first": FIRST, "second": SECOND}.items():
            write_task(workspace, name, classes)
            adapt(workspace, request(name, seed=seed, method=method(placement=placement), tolerance=1.0))
        digests.append(in_use(workspace))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": method(placement="inline")}, "adapter.placement = 'ladder', but 'inline'"),
        ({"data": Path("/nonexistent")}, "there is none"),
        ({"name": "a/b"}, "cannot name a task"),
    ],
    ids=["another placement", "no data", "bad name"],
)
def test_requests_that_do_not_fit_are_refused(taught: Workspace, change: dict, sentence: str):
    before = snapshot(taught.root)
    with pytest.raises((InputError, TaskDataError), match=sentence):
        adapt(taught, request(change.pop("name", "second"), **change))
    assert snapshot(taught.root) == before


def test_a_damaged_record_is_no_record(workspace: Workspace):
    report = adapt(workspace, request("first"))
    record = RunRecord(workspace.run_folder(report.run_id))
    (record.folder / "report.json").write_text("{")
    assert record.report() is None
    write_sample(workspace.task_folder("first") / "low" / "low_9", "low", "pair", np.random.default_rng(1))
    assert adapt(workspace, request("first")).accepted
