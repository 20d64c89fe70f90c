"""Which runs there are, and what names their records; records that are not what they should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmcl_edge.benchmark.crossmodal.plan import LEARNERS, plan
from mmcl_edge.benchmark.crossmodal.records import read_runs, read_timings, write_timings
from mmcl_edge.benchmark.crossmodal.tasks import TASKS
from mmcl_edge.benchmark.records import write_record
from mmcl_edge.config import CometConfig
from mmcl_edge.errors import InputError
from mmcl_edge.learners.comet.catalogue import COMET
from tests.crossmodal_runs import cross_run, timings, write_all


def test_every_learner_meets_every_order_with_every_seed_once():
    specs = plan("d", seeds=2)
    found = {(spec.task, spec.learner, spec.order, spec.seed) for spec in specs}
    assert found == {
        (task, learner, order, seed)
        for task, learners in LEARNERS.items()
        for learner in learners
        for order in TASKS[task].orders
        for seed in range(2)
    }
    assert len({spec.key for spec in specs}) == len(specs)


@pytest.mark.parametrize("task", TASKS)
def test_each_modality_comes_first_and_last_once(task: str):
    spec = TASKS[task]
    for place in (0, -1):
        assert sorted(order[place] for order in spec.orders) == sorted(spec.domains)
    assert all(sorted(order) == sorted(spec.domains) for order in spec.orders)


def test_the_learners_of_the_plan_are_known_and_the_controls_are_among_them():
    assert {name for names in LEARNERS.values() for name in names} <= COMET.keys()
    for names in LEARNERS.values():
        assert {"comet", "comet-joint", "comet-fine-tune", "comet-fine-tune-random", "comet-continuous"} <= set(names)


def test_what_decides_the_result_decides_the_key():
    asked = {"tasks": ["av21"], "learners": ["comet"], "seeds": 1}
    plans = [plan("d", **asked), plan("e", **asked), plan("d", **asked, config=CometConfig(epochs=3))]
    plans.append(plan("d", **{**asked, "learners": ["comet-no-cmoe"]}))
    keys = [spec.key for one in plans for spec in one]
    assert len(keys) == len(set(keys)) == 8
    assert [spec.key for spec in plan("d", **asked)] == keys[:2]


@pytest.mark.parametrize(
    ("asked", "words"),
    [({"tasks": ["birds"]}, "stamps, av21, digits"), ({"learners": ["nobody"]}, "comet-joint")],
)
def test_unknown_names_are_refused(asked: dict[str, list[str]], words: str):
    with pytest.raises(InputError, match=words):
        plan("d", **asked)


def test_records_come_back_as_they_were_written(tmp_path: Path):
    records = [cross_run("comet", seed=1), cross_run("comet-joint", joint=True), cross_run("comet", task="av21")]
    write_all(tmp_path, records)
    assert read_runs(tmp_path) == (records[2], records[0], records[1])


def test_a_run_has_the_stages_of_its_order_or_the_last_alone():
    record = cross_run("comet")
    for stages in (record.stages[:2], record.stages[::-1], ()):
        with pytest.raises(ValueError, match=r"expected stages|at least 1 item"):
            type(record).model_validate({**record.model_dump(), "stages": [one.model_dump() for one in stages]})


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"seed":0', b'"seed":7', "was changed"),
        (b'"schema_version":1', b'"schema_version":9', "it is not"),
        (b"{", b"[", "it is not"),
    ],
)
def test_a_changed_record_is_refused(tmp_path: Path, old: bytes, new: bytes, words: str):
    path = write_record(tmp_path, cross_run("comet"))
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(InputError, match=words):
        read_runs(tmp_path)


def test_no_records_are_said(tmp_path: Path):
    with pytest.raises(InputError, match="bench crossmodal"):
        read_runs(tmp_path)


def test_timings_are_there_or_not_or_broken(tmp_path: Path):
    assert read_timings(tmp_path) is None
    write_timings(tmp_path, timings())
    assert read_timings(tmp_path) == timings()
    (tmp_path / "timings.json").write_text("{}")
    with pytest.raises(InputError, match="should hold timings"):
        read_timings(tmp_path)
