"""``mmcl-edge merge`` on packs that devices trained: judged on real answers, kept or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mmcl_edge.commands.main import Entry, MainGroup
from mmcl_edge.fleet.merge import MergeOptions, merge_packs
from mmcl_edge.fleet.merge.evaluation import open_evaluator
from mmcl_edge.packs import read_pack
from mmcl_edge.runtime.adapt import adapt
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.workspace import Workspace
from tests.adapting import method, request, write_task
from tests.conftest import TinyBundle

TASKS = {"pets": ("low", "high"), "machines": ("middle", "hum")}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, tiny: TinyBundle) -> dict[str, Any]:
    """Two devices that went on from one release, each with other classes; samples of all."""
    root = tmp_path_factory.mktemp("story")
    first = Workspace(root / "first").create()
    first.install_bundle(tiny().path)
    write_task(first, "pets", dict.fromkeys(TASKS["pets"], "pair"), count=4)
    adapt(first, request("pets", method=method(epochs=6)))
    base = first.current_pack()
    assert base is not None
    packs = []
    for number, (name, classes) in enumerate(TASKS.items()):
        device = Workspace(root / name).create()
        device.install_bundle(tiny().path)
        device.use_pack(device.install_pack(base))
        write_task(device, "more", dict.fromkeys(classes, "pair"), count=4, seed=1 + number)
        adapt(device, request("more", method=method(epochs=6)))
        found = device.current_pack()
        assert found is not None
        packs.append(found)
    write_task(first, "check", dict.fromkeys([*TASKS["pets"], *TASKS["machines"]], "pair"), count=3, seed=9)
    return {"bundle": tiny().path, "base": base, "packs": packs, "data": first.task_folder("check")}


def merge(home: Path, *words: object, monkeypatch: pytest.MonkeyPatch) -> Result:
    monkeypatch.setenv("MMCL_EDGE_HOME", str(home))
    group = MainGroup("mmcl-edge", entries={"merge": Entry("mmcl_edge.commands.merge", "Merge packs.")})
    return CliRunner().invoke(group, ["merge", *map(str, words)])


def test_the_merged_pack_answers_for_the_classes_of_both(story, tmp_path, monkeypatch):
    out = tmp_path / "out"
    words = (*story["packs"], "--bundle", story["bundle"], "--eval", story["data"], "--out", out, "--tolerance", 1)
    result = merge(tmp_path / "none", *words, "--base", story["base"], "--json", monkeypatch=monkeypatch)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert sorted(report["labels"]) == sorted([*TASKS["pets"], *TASKS["machines"]])
    assert {trial["method"] for trial in report["tried"]} == {"mean", "union", "task-arithmetic", "ties"}
    assert report["judgement"]["accuracy"] == max(trial["accuracy"] for trial in report["tried"])
    assert {one["label"]: one["samples"] for one in report["judgement"]["classes"]} == dict.fromkeys(
        report["labels"], 3
    )
    with Runtime.open(story["bundle"], report["path"], "cpu", 1) as runtime:
        assert set(runtime.labels) == set(report["labels"])
    frozen = {e.id for pack in story["packs"] for e in read_pack(pack).manifest.experts if e.frozen}
    dropped = {one["dropped"] for one in report["folded"]}
    assert {e.id for e in read_pack(report["path"]).manifest.experts if e.frozen} == frozen - dropped


def test_a_result_that_lost_too_much_is_refused_with_code_3(story, tmp_path, monkeypatch):
    liar = read_pack(story["packs"][1])
    tensors = {name: -value for name, value in liar.tensors().items() if not name.startswith("confidence.")}
    from mmcl_edge.packs import PackContents, write_pack

    contents = PackContents(
        tensors=tensors,
        config=liar.config,
        bundle_digest=liar.manifest.bundle_digest,
        labels=liar.manifest.label_names,
        experts=liar.manifest.experts,
    )
    poisoned = tmp_path / write_pack(tmp_path, contents)
    out = tmp_path / "out"
    words = (story["packs"][0], poisoned, "--weights", "1,50", "--method", "mean", "--bundle", story["bundle"])
    words = (*words, "--eval", story["data"], "--out", out)
    result = merge(tmp_path / "none", *words, "--tolerance", 0.02, monkeypatch=monkeypatch)
    assert result.exit_code == 3, result.output
    assert "refused, not written" in result.stdout
    assert "Each class before and after" in result.stdout
    assert "above the tolerance" in result.stderr
    assert not out.exists()
    as_json = merge(tmp_path / "none", *words, "--json", monkeypatch=monkeypatch)
    assert as_json.exit_code == 3
    assert json.loads(as_json.stdout)["accepted"] is False


def test_in_a_workspace_packs_have_names_and_a_base_is_found(story, tmp_path, tiny, monkeypatch):
    home = Workspace(tmp_path / "home").create()
    home.install_bundle(story["bundle"])
    names = [home.install_pack(pack)[:10] for pack in (*story["packs"], story["base"])]
    result = merge(
        home.root, *names[:2], "--method", "ties", "--workers", 2, "--engine", "thread", monkeypatch=monkeypatch
    )
    assert result.exit_code == 0, result.output
    assert names[2] in result.stdout  # the base
    assert "Nothing was measured" in result.stdout
    assert len(home.list_packs()) == 4


def test_what_cannot_be_merged_is_said_with_code_2(story, tmp_path, monkeypatch):
    for words, sentence in (
        ((story["packs"][0],), "at least two different packs"),
        ((*story["packs"], "--weights", "a,b"), "numbers with commas"),
        ((*story["packs"], "--method", "fisher"), "--eval DATA"),
        ((*story["packs"], "--eval", story["data"]), "pass --bundle"),
        ((tmp_path / "nothing", *story["packs"]), "there is none"),
    ):
        result = merge(tmp_path / "none", *words, "--out", tmp_path / "out", monkeypatch=monkeypatch)
        assert result.exit_code == 2, result.output
        assert sentence in result.stderr.replace("\n", " ")
        assert not (tmp_path / "out").exists()
    result = merge(tmp_path / "none", *story["packs"], monkeypatch=monkeypatch)
    assert result.exit_code == 2
    assert "pass --out" in result.stderr


def test_fisher_information_is_worked_out_on_the_data(story, tmp_path):
    with open_evaluator(story["bundle"], story["data"], provider="cpu", threads=1) as evaluator:
        found = evaluator.fisher(story["packs"][0])
        tensors = read_pack(story["packs"][0]).tensors()
        assert {name: value.shape for name, value in found.items()} == {
            name: tuple(value.shape) for name, value in tensors.items() if not name.startswith("confidence.")
        }
        assert all((value >= 0).all() for value in found.values())
        assert found["head.weight"].max() > 0
        options = MergeOptions(fisher=evaluator.fisher)
        report = merge_packs(
            story["packs"], tmp_path, method="fisher", evaluate=evaluator, tolerance=1.0, options=options
        )
    one, other = (read_pack(pack).tensors()["fusion.mlp.0.weight"].numpy() for pack in story["packs"])
    merged = read_pack(report.path).tensors()["fusion.mlp.0.weight"].numpy()
    low, high = np.minimum(one, other) - 1e-5, np.maximum(one, other) + 1e-5
    assert ((merged >= low) & (merged <= high)).all()
    assert not np.allclose(merged, (one + other) / 2, atol=1e-6)
