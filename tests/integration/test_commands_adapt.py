"""``mmcl-edge adapt``, run as a person runs it, on a tiny bundle with random weights."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from mmcl_edge.commands import adapt_text, adapt_view
from mmcl_edge.learners.experience_run import ExperienceRun
from mmcl_edge.learners.protocol import Progress
from mmcl_edge.runtime import adapt as engine
from mmcl_edge.runtime.workspace import Workspace
from tests.builders import snapshot
from tests.integration.commands import answer, refused, run, write_pair, write_task

QUICK = ("--placement", "ladder", "--epochs", 2)


def test_the_first_task_is_learned_and_comes_into_use(home):
    write_task(home / "tasks" / "new_sounds", "low", "high")
    result = answer("adapt", "--task", "new_sounds", *QUICK)
    assert result["accepted"]
    assert result["classes"] == ["high", "low"]
    assert result["before"]["old"] is result["after"]["old"] is None
    assert (result["train_samples"], result["holdout_samples"], result["epochs"]) == (4, 2, 2)
    assert Workspace(home).current_pack().name == result["pack_digest"] == result["pack_in_use"]


def test_the_next_task_keeps_the_model_of_the_pack_in_use(taught, tmp_path):
    data = write_task(tmp_path / "next", "middle", "hum")
    result = answer("adapt", "--task", "next", "--data", data, "--epochs", 1, "--tolerance", 1)
    assert result["placement"] == "ladder"
    assert result["before"]["old"] is not None
    assert answer("pack", "show")["manifest"]["experiences"] == ["first", "next"]


def test_the_result_as_text(taught, tmp_path):
    data = write_task(tmp_path / "next", "middle")
    text = run("adapt", "--task", "next", "--data", data, "--epochs", 1, "--tolerance", 1).stdout
    assert "Learned next (middle) in " in text
    rows = {line.split("  ")[0]: line for line in text.splitlines() if line}
    assert "%" in rows["old classes"]
    assert "now in use" in rows["pack"]
    assert "no files" in rows["skipped"]


def test_options_reach_the_engine(home, monkeypatch, tmp_path):
    asked = []

    def stop(workspace, request, events):
        asked.append(request)
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "adapt", stop)
    options = ["--memory-exemplars", 7, "--max-minutes", 1.5, "--tolerance", 0.25, "--seed", 3, "--threads", 1]
    run("adapt", "--task", "a", "--data", tmp_path, "--placement", "inline", "--epochs", 9, *options)
    request = asked[0]
    assert (request.name, request.data, request.threads) == ("a", tmp_path, 1)
    assert (request.method.replay.exemplars, request.method.train.epochs) == (7, 9)
    assert (request.adapt.max_minutes, request.adapt.tolerance, request.adapt.seed) == (1.5, 0.25, 3)


def test_the_same_command_again_says_that_it_is_done(home):
    write_task(home / "tasks" / "a", "low", "high")
    first = answer("adapt", "--task", "a", *QUICK)
    before = snapshot(home)
    again = answer("adapt", "--task", "a", *QUICK)
    assert again["repeated"]
    assert again["pack_digest"] == first["pack_digest"]
    assert snapshot(home) == before
    assert "Done already" in run("adapt", "--task", "a", *QUICK).stdout


@pytest.fixture
def forgetful(monkeypatch):
    """An engine that measures a loss of 40 points on old classes."""
    figures = [{"old": 1.0, "new": 0.0}, {"old": 0.6, "new": 1.0}] * 2
    monkeypatch.setattr(engine, "accuracies", lambda *_: figures.pop(0))


def test_a_refused_result_says_why_and_what_stays(taught, tmp_path, forgetful):
    current = Workspace(taught).current_pack().name
    data = write_task(tmp_path / "next", "middle")
    result = run("adapt", "--task", "next", "--data", data, "--epochs", 1, "--json")
    assert result.exit_code == 3
    body = json.loads(result.stdout)
    assert (body["accepted"], body["pack_digest"], body["pack_in_use"]) == (False, None, current)
    text = run("adapt", "--task", "next", "--data", data, "--epochs", 1)
    assert text.exit_code == 3
    assert "fell from 100.0 % to 60.0 %, and at most 10 points may be lost" in text.stdout
    assert f"The pack {current[:16]} stays in use" in text.stdout


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_poor_new_classes_come_with_advice(home, monkeypatch, accuracy):
    write_task(home / "tasks" / "a", "low", "high")
    monkeypatch.setattr(engine, "accuracies", lambda *_: {"old": None, "new": accuracy})
    text = run("adapt", "--task", "a", *QUICK).stdout
    assert ("recognised poorly" in text) == (accuracy == 0.0)


def test_corrupt_files_are_counted_and_the_first_are_named(home):
    data = write_task(home / "tasks" / "a", "low", "high", count=3)
    for number in range(7):
        (data / "low" / f"broken_{number}.wav").write_bytes(b"")
    result = run("adapt", "--task", "a", *QUICK, "--json")
    body = json.loads(result.stdout)
    assert (body["skipped"], len(body["skipped_files"]), body["train_samples"]) == (7, 7, 4)
    text = run("adapt", "--task", "a", "--placement", "ladder", "--epochs", 1)
    assert "7 that could not be decoded" in text.stdout
    assert text.stdout.count("broken_") == adapt_text.MAX_LISTED
    assert "and 2 more" in text.stdout
    assert "WARNING" not in text.stderr


def test_a_time_limit_stops_after_an_epoch_and_says_so(home):
    write_task(home / "tasks" / "a", "low", "high")
    result = answer("adapt", "--task", "a", "--placement", "ladder", "--epochs", 50, "--max-minutes", 1e-6)
    assert result["epochs"] == 1
    assert "time allowed" in result["warnings"][0]


def test_progress_names_stages_epochs_and_losses(home):
    write_task(home / "tasks" / "a", "low", "high")
    lines = run("adapt", "--task", "a", *QUICK).stderr.splitlines()
    assert "a: training" in lines
    first, second = (line for line in lines if line.startswith("a: epoch"))
    assert first.startswith("a: epoch 1/2: classification ")
    assert first.endswith(" s left")
    assert "total" in second
    assert "left" not in second


def test_a_terminal_gets_a_bar_and_lines_that_stay(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with adapt_view.AdaptView("a", quiet=False) as view:
        events = view.events()
        events.on_stage("train")
        events.on_progress(Progress(1, 2, 1, 1, {"classification": 0.5}))
        events.on_epoch(1, {"classification": 0.5})
        events.on_stage("write")
    written = capsys.readouterr()
    assert "a: epoch 1/2: classification 0.500" in written.err
    assert written.out == ""


def test_an_interrupted_run_is_resumed_by_the_same_command(home, monkeypatch):
    write_task(home / "tasks" / "a", "low", "high")
    train_epoch = ExperienceRun.train_epoch

    def interrupted(self, on_progress):
        if self.epoch == 1:
            raise KeyboardInterrupt
        return train_epoch(self, on_progress)

    with monkeypatch.context() as patch:
        patch.setattr(ExperienceRun, "train_epoch", interrupted)
        result = run("adapt", "--task", "a", *QUICK)
    assert result.exit_code == 130
    assert "Interrupted; epoch 1 of 2 is kept. Run the same command again" in result.stderr
    assert Workspace(home).current_pack() is None
    assert answer("adapt", "--task", "a", *QUICK)["resumed_from_epoch"] == 1


def test_ctrl_c_ends_with_a_sentence(home):
    write_task(home / "tasks" / "a", "low", "high")
    command = [sys.executable, "-m", "mmcl_edge.commands.main", "adapt", "--task", "a"]
    process = subprocess.Popen(
        [*command, "--placement", "ladder", "--epochs", "5000"],
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "epoch 1/" in line:
            process.send_signal(signal.SIGINT)
            break
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 130, (lines, rest)
    assert "is kept. Run the same command again" in rest
    assert "Traceback" not in rest


def _empty_class(data):
    (data / "nothing").mkdir()


def _one_sample(data):
    write_task(data, "hum", count=1)


def _case_clash(data):
    write_task(data, "HUM", "hum")


def _known_clash(data):
    write_task(data, "LOW")


def _all_corrupt(data):
    for path in data.rglob("*.*"):
        path.write_bytes(b"")


def _nan_sounds(data):
    for path in data.rglob("*.wav"):
        soundfile.write(path, np.full(8000, np.nan, np.float32), 16_000, subtype="FLOAT")
        path.with_suffix(".png").unlink()


def _no_classes(data):
    for path in (data / "middle").iterdir():
        path.unlink()
    (data / "middle").rmdir()


def _leads_out(data):
    write_pair(data.parent / "outside", "hum")
    (data / "middle" / "link.wav").symlink_to(data.parent / "outside.wav")


def _file_in_the_way(data):
    _no_classes(data)
    data.rmdir()
    data.write_text("not a folder")


BAD_DATA = {
    "an empty class": (_empty_class, ["'nothing'", "at least 2 samples", "has 0"]),
    "too few samples": (_one_sample, ["'hum'", "at least 2 samples", "has 1"]),
    "class names that differ in case": (_case_clash, ["'HUM'", "'hum'", "rename"]),
    "a class known in another case": (_known_clash, ["'LOW'", "already known as 'low'"]),
    "every file corrupt": (_all_corrupt, ["'middle'", "after skipping 3 files"]),
    "sounds of NaN only": (_nan_sounds, ["'middle'", "after skipping 3 files"]),
    "no class folders": (_no_classes, ["should contain class folders"]),
    "a link that leads out": (_leads_out, ["leads out"]),
    "a file instead of a folder": (_file_in_the_way, ["Expected a task folder"]),
}


@pytest.mark.parametrize(("spoil", "words"), BAD_DATA.values(), ids=BAD_DATA)
def test_bad_data_is_refused_and_nothing_changes(taught, tmp_path, spoil, words):
    data = write_task(tmp_path / "data", "middle")
    spoil(data)
    before = snapshot(taught)
    refused(run("adapt", "--task", "a", "--data", data), *words)
    assert snapshot(taught) == before


BAD_REQUESTS = {
    "no such task": (["--task", "nothing"], ["Expected a task folder", "nothing", "--data"]),
    "a name that is a path": (["--task", "../first"], ["'../first' cannot name a task"]),
    "an empty name": (["--task", ""], ["cannot name a task"]),
    "a name too long": (["--task", "n" * 65], ["at most 64 characters"]),
    "another placement": (["--task", "first", "--placement", "inline"], ["adapter.placement", "'ladder'"]),
    "an unknown provider": (["--task", "first", "--provider", "abacus"], ["should be one of auto", "'abacus'"]),
    "a provider that is not here": (["--task", "first", "--provider", "tensorrt"], ["'tensorrt' was asked for"]),
}


@pytest.mark.parametrize(("arguments", "words"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_bad_requests_are_refused_and_nothing_changes(taught, arguments, words):
    before = snapshot(taught)
    refused(run("adapt", *arguments), *words)
    error = json.loads(run("adapt", *arguments, "--json").stdout)["error"]
    assert error["exit_code"] == 2
    assert snapshot(taught) == before


BAD_OPTIONS = {
    "no task": [],
    "no epochs": ["--task", "first", "--epochs", 0],
    "epochs in words": ["--task", "first", "--epochs", "many"],
    "no time": ["--task", "first", "--max-minutes", 0],
    "endless time": ["--task", "first", "--max-minutes", "inf"],
    "time that is not a number": ["--task", "first", "--max-minutes", "nan"],
    "negative memory": ["--task", "first", "--memory-exemplars", -1],
    "tolerance above one": ["--task", "first", "--tolerance", 1.5],
    "tolerance that is not a number": ["--task", "first", "--tolerance", "nan"],
    "negative seed": ["--task", "first", "--seed", -1],
    "no threads": ["--task", "first", "--threads", 0],
    "unknown placement": ["--task", "first", "--placement", "sideways"],
    "unknown option": ["--task", "first", "--colour", "red"],
}


@pytest.mark.parametrize("arguments", BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options_are_refused_before_any_work(tmp_path, monkeypatch, arguments):
    monkeypatch.setenv("MMCL_EDGE_HOME", str(tmp_path / "none"))
    refused(run("adapt", *arguments), "Error: ")
    assert not (tmp_path / "none").exists()


def test_without_a_workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("MMCL_EDGE_HOME", str(tmp_path / "none"))
    refused(run("adapt", "--task", "a"), "Expected a workspace", "mmcl-edge init")
    assert not (tmp_path / "none").exists()


def test_without_a_bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("MMCL_EDGE_HOME", str(tmp_path / "home"))
    Workspace(tmp_path / "home").create()
    write_task(tmp_path / "home" / "tasks" / "a", "low")
    refused(run("adapt", "--task", "a"), "should hold a bundle", "mmcl-edge init")


DAMAGED = {
    "the pack in use": ("current/adapter_model.safetensors", "mmcl-edge pack list"),
    "the bundle": ("bundle/bundle.json", ""),
    "an exemplar": ("replay/objects", "roll back"),
}


@pytest.mark.parametrize(("name", "words"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_found_before_anything_is_learned(taught, tmp_path, name, words):
    victim = taught / name
    victim = next(victim.iterdir()) if victim.is_dir() else victim.resolve()
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    before = snapshot(taught)
    refused(run("adapt", "--task", "next", "--data", write_task(tmp_path / "next", "hum")), words)
    assert snapshot(taught) == before


def test_two_adapts_at_once(taught, tmp_path):
    data = write_task(tmp_path / "next", "hum")
    held, done = threading.Event(), threading.Event()

    def other():
        with Workspace(taught).lock():
            held.set()
            done.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait(10)
    before = snapshot(taught)
    result = run("adapt", "--task", "next", "--data", data)
    done.set()
    thread.join()
    refused(result, "should be free", "wait until it ends")
    assert snapshot(taught) == before


@pytest.mark.parametrize("name", ["adapt", "predict", "quickstart"])
def test_help_shows_examples_and_imports_nothing_heavy(name):
    text = run(name, "--help").stdout
    assert "Examples:" in text
    assert "--json" in text
    code = f"""
import sys
from mmcl_edge.commands.main import cli
try:
    cli([{name!r}, "--help"])
except SystemExit:
    pass
print([name for name in ("torch", "onnxruntime") if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_help_draws_the_task_folder():
    assert "tasks/new_sounds/dog/bark_1.wav" in run("adapt", "--help").stdout


def test_an_interruption_before_the_first_epoch(home, monkeypatch):
    def stop(workspace, request, events):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "adapt", stop)
    result = run("adapt", "--task", "a")
    assert result.exit_code == 130
    assert "before an epoch was finished" in result.stderr


def test_other_log_records_pass_while_warnings_are_held():
    passed = []
    keeper = adapt_view._Keeper(adapt_view.Held(), [SimpleNamespace(handle=passed.append)])
    for level in (logging.INFO, logging.WARNING, logging.ERROR):
        keeper.handle(logging.LogRecord("x", level, "", 0, "text", None, None))
    assert [record.levelno for record in passed] == [logging.INFO, logging.ERROR]
