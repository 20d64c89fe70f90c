"""The analytic learner on a device: adapt, predict, calibrate, and sums that keep whose samples they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmcl_edge.errors import InputError, PackError
from mmcl_edge.learners.analytic.addends import addends_of
from mmcl_edge.packs import read_pack
from mmcl_edge.runtime.adapt import AdaptRequest, adapt
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.workspace import Workspace
from tests.adapting import method, request, write_task
from tests.bundles import tiny_bundle

ANALYTIC = method().model_copy(update={"learner": "analytic"})


def asked(name: str) -> AdaptRequest:
    return request(name, method=ANALYTIC)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace that learned two tasks."""
    root = tmp_path_factory.mktemp("analytic")
    workspace = Workspace(root / "home").create()
    workspace.install_bundle(tiny_bundle(root / "bundle").path)
    write_task(workspace, "one", {"low": "pair", "high": "pair"}, count=8)
    write_task(workspace, "two", {"middle": "pair", "hum": "sound"}, count=8, seed=1)
    for name in ("one", "two"):
        assert adapt(workspace, asked(name)).accepted
    return workspace


def test_each_run_adds_one_contribution(taught: Workspace):
    current, previous = taught.current_pack(), taught.previous_pack()
    assert current is not None
    assert previous is not None
    first, second = addends_of(read_pack(previous)), addends_of(read_pack(current))
    assert [len(one.atoms) for one in second] == [1, 1]
    assert {one.id for one in first} < {one.id for one in second}
    assert {frozenset(one.classes) for one in second} == {frozenset({"low", "high"}), frozenset({"middle", "hum"})}


def test_it_keeps_no_samples_but_held_out_ones(taught: Workspace):
    from mmcl_edge.runtime.replay_store import ReplayStore

    current = taught.current_pack()
    assert current is not None
    kept = ReplayStore(taught.replay_path).read(current.name)
    assert kept.train == ()
    assert {sample.label for sample in kept.holdout} == {"low", "high", "middle", "hum"}


def test_it_predicts_every_class_with_any_modality(taught: Workspace):
    time_s = np.arange(8000) / 16000
    tone = (0.3 * np.sin(2 * np.pi * 250 * time_s)).astype(np.float32)
    picture = np.full((32, 32, 3), 230, np.uint8)
    with Runtime.open(taught.bundle_path, taught.current_pack(), provider="cpu", threads=1) as runtime:
        assert runtime.labels == ("high", "low", "hum", "middle")
        heard, seen = runtime.predict(tone, None), runtime.predict(None, picture)
        assert heard.label == "low"
        assert seen.label == "high"
        assert heard.expert_load == {}
        assert sum(heard.probabilities.values()) == pytest.approx(1.0)


def test_the_same_request_again_does_nothing(taught: Workspace):
    before = taught.current_pack()
    assert adapt(taught, asked("two")).repeated
    assert taught.current_pack() == before


def test_another_learner_than_the_pack_in_use_is_refused(taught: Workspace):
    with pytest.raises(InputError, match="made by the learner 'analytic'"):
        adapt(taught, request("one"))


def test_its_pack_has_no_adapters(taught: Workspace):
    from mmcl_edge.learners.persistence import model_from_pack

    current = taught.current_pack()
    assert current is not None
    with pytest.raises(PackError, match="should hold adapters"):
        model_from_pack(read_pack(current), {})


def test_confidence_can_be_calibrated_from_a_folder(taught: Workspace, tmp_path: Path):
    from mmcl_edge.calibration.confidence import calibrate_confidence

    other = Workspace(tmp_path / "other").create()
    write_task(other, "check", {"low": "pair", "high": "pair", "middle": "pair", "hum": "sound"}, count=4, seed=7)
    report = calibrate_confidence(taught, data=other.task_folder("check"), provider="cpu", threads=1)
    assert report.unknown_kind == "logit"
    assert report.samples == 16
    with Runtime.open(taught.bundle_path, taught.current_pack(), provider="cpu", threads=1) as runtime:
        assert runtime.predict(np.zeros(8000, np.float32), None).unknown is not None
    taught.rollback()
