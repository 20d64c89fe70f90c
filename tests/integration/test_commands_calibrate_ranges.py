"""``mmcl-edge calibrate ranges`` as a person uses it: install, go on, go back; and what it refuses."""

import subprocess
import sys

import pytest

from mmcl_edge.bundle import Bundle
from mmcl_edge.runtime.workspace import Workspace
from tests.builders import snapshot
from tests.calibrating import live_samples, write_data
from tests.integration.commands import answer, refused, run
from tests.integration.test_data_makers import write_picture, write_sound

RANGES = ("calibrate", "ranges")
FAST = ("--any-speed", "--keep-accuracy", "1", "--threads", "1")


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data", count=20)


def _packs(home):
    workspace = Workspace(home)
    return [None if one is None else one.name for one in (workspace.current_pack(), workspace.previous_pack())]


def test_the_workspace_becomes_int8_keeps_its_packs_learns_on_and_goes_back(taught, data, tmp_path):
    float_digest, packs = Workspace(taught).bundle_digest(), _packs(taught)
    sample = data / "low" / "000.wav"
    before = answer("predict", sample)
    result = answer(*RANGES, "--data", data, *FAST)
    assert result["installed"]
    assert result["quantized_from"] == float_digest
    assert result["accuracy"]["of"] == "pack"
    assert result["accuracy"]["against"] == "labels"
    assert result["samples"] == {"calibrate": 10, "measure": 10, "set_aside": 0}
    workspace = Workspace(taught)
    assert workspace.bundle_digest() == result["digest"]
    assert _packs(taught) == packs
    assert Bundle.open(workspace.bundle_path).family == float_digest
    after = answer("predict", sample)
    assert after["pack_digest"] == before["pack_digest"]
    old, new = (one["predictions"][0]["top"] for one in (before, after))
    probabilities = [{best["label"]: best["probability"] for best in top} for top in (old, new)]
    assert all(abs(probabilities[0][name] - probabilities[1][name]) < 0.2 for name in probabilities[0])
    assert {check["name"]: check["status"] for check in answer("doctor")["checks"]}["bundle"] != "fail"
    learned = answer(
        "adapt",
        "--task",
        "more",
        "--data",
        write_data(tmp_path / "more", classes=("middle", "hum")),
        "--epochs",
        "1",
        "--tolerance",
        "1",
    )
    assert learned["accepted"]
    assert Workspace(taught).current_pack().name == learned["pack_in_use"]
    arguments = result["way_back"].split()
    assert arguments[0] == "mmcl-edge"
    assert run(*arguments[1:]).exit_code == 0
    assert Workspace(taught).bundle_digest() == float_digest
    assert _packs(taught)[0] == learned["pack_in_use"]
    assert answer("predict", sample)["pack_digest"] == learned["pack_in_use"]


def test_out_writes_a_folder_and_touches_no_workspace(tiny, home, data, tmp_path):
    before = snapshot(home)
    result = run(*RANGES, "--data", data, "--bundle", tiny().path, "--out", tmp_path / "int8", *FAST)
    assert result.exit_code == 0, result.output
    assert "nearest class mean" in result.stdout
    assert "Way back" not in result.stdout
    assert Bundle.open(tmp_path / "int8").family == tiny().digest
    assert snapshot(home) == before


def _silent(folder):
    for number, sample in enumerate(live_samples(20)):
        (folder / "low").mkdir(parents=True, exist_ok=True)
        write_sound(folder / "low" / f"{number}.wav", 0 * sample.audio)
        write_picture(folder / "low" / f"{number}.png", sample.frames[0])


def _no_pictures(folder):
    write_data(folder)
    for path in folder.rglob("*.png"):
        path.unlink()


DATA = {
    "missing": (lambda folder: None, ["no such folder"]),
    "empty": (lambda folder: folder.mkdir(), ["class folders"]),
    "too few": (lambda folder: write_data(folder, count=6), ["at least 16", "it has 6"]),
    "wrong modality": (_no_pictures, ["with frames", "none of its 24"]),
    "silence": (_silent, ["with audio", "20 of 20 are silent"]),
}


@pytest.mark.parametrize(("write", "words"), DATA.values(), ids=DATA)
def test_data_that_is_no_use_is_refused_and_nothing_changes(home, tmp_path, write, words):
    before = snapshot(home)
    write(tmp_path / "data")
    refused(run(*RANGES, "--data", tmp_path / "data", *FAST), *words)
    assert snapshot(home) == before


def test_an_int8_bundle_is_refused(taught, data):
    answer(*RANGES, "--data", data, *FAST)
    before = snapshot(taught)
    refused(run(*RANGES, "--data", data, *FAST), "int8 already", "--bundle")
    assert snapshot(taught) == before


def test_a_folder_that_exists_is_refused_before_any_work(home, data, tmp_path):
    refused(run(*RANGES, "--data", tmp_path / "none", "--out", data, *FAST), "exists already")


def test_without_onnx_the_sentence_names_the_extra(home, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    refused(run(*RANGES, "--data", data), "mmcl-edge[export]")


def test_help_has_examples_and_loads_neither_torch_nor_onnxruntime():
    result = run(*RANGES, "--help")
    assert result.exit_code == 0
    assert "mmcl-edge calibrate ranges --data" in result.stdout
    look = "import mmcl_edge.commands.calibrate_ranges, sys; print({'torch', 'onnxruntime', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
