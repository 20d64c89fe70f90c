"""Running suites on a tiny bundle and a generated dataset: records, resuming, workers, failures, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmcl_edge.benchmark import suites
from mmcl_edge.benchmark.place import Where
from mmcl_edge.benchmark.records import read_records
from mmcl_edge.benchmark.runner import Outcome, plan, run_suite
from mmcl_edge.benchmark.suites import StreamSpec, Suite
from mmcl_edge.bundle import Bundle
from mmcl_edge.errors import InputError
from tests.adapting import LOOKS, method, write_sample
from tests.conftest import TinyBundle
from tests.integration.commands import answer, refused, run

LEARNERS = ("mmcl", "mmcl-analytic", "er")
PER_CLASS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``toy/<split>/<class>``: tones and shades that can be told apart."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split in ("train", "test"):
        for label in LOOKS:
            (root / "toy" / split / label).mkdir(parents=True)
            for number in range(PER_CLASS):
                write_sample(root / "toy" / split / label / f"{split}_{label}_{number}", label, "pair", rng)
    return root


def suite(**changes: object) -> Suite:
    fields = {
        "name": "toy, all pairs",
        "dataset": "folders:toy",
        "classes_per_experience": 2,
        "conditions": ("audio_only", "blur"),
        "seeds": (0,),
    }
    stream = StreamSpec.model_validate(fields | changes)
    return Suite(name="toy", about="A generated set.", streams=(stream,), learners=LEARNERS, method=method())


def go(folder: Path, bundle: Bundle, data: Path, chosen: Suite, *, workers: int = 1) -> Outcome:
    where = Where(folder, bundle.path, data, "a test")
    return run_suite(plan(chosen, bundle.digest), where, workers=workers)


@pytest.fixture(scope="module")
def done(tiny: TinyBundle, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done")
    outcome = go(folder, tiny(), data, suite())
    assert (len(outcome.done), outcome.skipped, outcome.failed) == (3, [], {})
    return folder


def test_each_run_leaves_a_record_of_all_that_was_measured(done: Path):
    records = {record.learner: record for record in read_records(done)}
    assert set(records) == set(LEARNERS)
    for name, record in records.items():
        assert set(record.matrices) == {"clean", "audio_only", "blur"}
        assert [len(row) for row in record.matrix] == [2, 2]
        assert record.matrix[0][1] == 0.0, "a class not taught is never the answer"
        assert record.test_counts == (2 * PER_CLASS, 2 * PER_CLASS)
        assert sum(map(sum, record.confusion.counts)) == 4 * PER_CLASS
        right = sum(record.confusion.counts[i][i] for i in range(4)) / (4 * PER_CLASS)
        assert right == pytest.approx(sum(record.matrix[-1]) / 2)
        assert (record.expert_use is None) == (name == "mmcl-analytic")
        assert record.cost.persistent_bytes > 0
        assert record.cost.trainable_parameters > 0
        assert record.cost.train_s > 0
        assert record.made_by["command"] == "a test"
        assert str(done) not in json.dumps(record.model_dump(mode="json")), "no folder of this machine"
    assert sum(records["mmcl-analytic"].matrix[-1]) / 2 >= 0.9, "the set is easy"


def test_what_was_run_is_not_run_again(done: Path, tiny: TinyBundle, data: Path):
    before = {path: path.stat().st_mtime_ns for path in (done / "runs").iterdir()}
    outcome = go(done, tiny(), data, suite())
    assert (outcome.done, len(outcome.skipped)) == ([], 3)
    assert {path: path.stat().st_mtime_ns for path in (done / "runs").iterdir()} == before


def test_workers_side_by_side_find_the_same(done: Path, tiny: TinyBundle, data: Path, tmp_path: Path):
    outcome = go(tmp_path, tiny(), data, suite(), workers=2)
    assert len(outcome.done) == 3
    for one, other in zip(read_records(done), read_records(tmp_path), strict=True):
        assert (one.key, one.matrices, one.confusion) == (other.key, other.matrices, other.confusion)


def test_what_decides_the_result_decides_the_key(tiny: TinyBundle):
    digest = tiny().digest
    plans = [suite(), suite(pairs=2), suite(scenario="task"), suite(online=True), suite(seeds=(1,))]
    keys = [spec.key for one in plans for spec in plan(one, digest)]
    assert len(set(keys)) == len(keys) == 15
    assert plan(suite(name="another name"), digest)[0].key == plan(suite(), digest)[0].key
    assert plan(suite(), "0" * 64)[0].key not in keys


def test_one_that_fails_leaves_the_others_alone(tiny: TinyBundle, data: Path, tmp_path: Path):
    starved = method()
    starved = starved.model_copy(update={"replay": starved.replay.model_copy(update={"budget_bytes": 100})})
    outcome = go(tmp_path, tiny(), data, suite(conditions=()).model_copy(update={"method": starved}))
    assert len(outcome.done) == 2
    (sentence,) = outcome.failed.values()
    assert "mmcl-analytic" in sentence
    assert "budget" in sentence


def test_where_the_task_is_known_only_its_classes_compete(tiny: TinyBundle, data: Path, tmp_path: Path):
    go(tmp_path, tiny(), data, suite(scenario="task", conditions=()))
    for record in read_records(tmp_path):
        assert record.initial is None, "where classes come with experiences, forward transfer means nothing"
        names = record.confusion.labels
        for classes in record.classes:
            for label in classes:
                row = record.confusion.counts[names.index(label)]
                assert sum(row[names.index(other)] for other in classes) == PER_CLASS


def test_an_unknown_learner_and_an_absent_dataset_are_said(tiny: TinyBundle, tmp_path: Path):
    with pytest.raises(InputError, match="mmcl-analytic"):
        plan(suite(), tiny().digest, learners=["nobody"])
    outcome = go(tmp_path, tiny(), tmp_path, suite())
    assert len(outcome.failed) == len(LEARNERS)
    assert all("toy" in sentence for sentence in outcome.failed.values())


def test_the_command_runs_reports_and_resumes(
    tiny: TinyBundle, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(suites.SUITES, "toy", suite(conditions=()))
    asked = ("bench", "run", "toy", "--bundle", tiny().path, "--data", data, "--out", tmp_path, "--workers", 1)
    first = answer(*asked, "--learners", "er,mmcl-analytic")
    assert (first["done"], first["skipped"], first["failed"]) == (2, 0, [])
    second = answer(*asked)
    assert (second["done"], second["skipped"]) == (1, 2)
    assert answer("bench", "report", tmp_path)["runs"] == 3
    assert "toy, all pairs: er, seed 0" in run(*asked, "--learners", "er", "--seeds", 2).stderr.replace(
        "seed 1", "seed 0"
    )
    refused(run(*asked, "--streams", "nothing like it"), "nothing like it")
    refused(run("bench", "run", "nothing", "--bundle", tiny().path), "results", "nothing")


def test_the_list_names_suites_and_learners():
    listed = answer("bench", "run", "list")
    assert {"results", "ablations"} <= set(listed["suites"])
    assert listed["learners"]["mmcl"]["kind"] == "method"
    assert "der++" in run("bench", "run", "list").stdout
