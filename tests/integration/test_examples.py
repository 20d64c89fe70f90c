"""Every program in examples/ runs, on a tiny bundle with random weights."""

import runpy
import sys
from pathlib import Path

import pytest

from mmcl_edge.runtime.workspace import Workspace
from tests.integration.commands import write_pair, write_task

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MAX_LINES = 60


@pytest.fixture
def example(monkeypatch, capsys):
    """Runs an example with arguments; returns its lines."""

    def example(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return example


def test_adapt_from_python(example, home, tmp_path):
    bundle = Workspace(home).bundle_path
    lines = example("adapt_from_python.py", tmp_path / "new", bundle, write_task(tmp_path / "sounds", "low", "high"))
    assert lines[0].startswith("epoch 1: loss ")
    assert "classes   high, low" in lines
    assert lines[-1] == f"in use    {Workspace(tmp_path / 'new').current_pack().name}"


def test_predict_from_python(example, taught, tmp_path):
    lines = example("predict_from_python.py", taught / "bundle", taught / "current", *write_pair(tmp_path / "a", "low"))
    assert lines[0] == "classes: high, low"
    assert lines[1].startswith("a.wav+png: ")


def test_missing_modality(example, taught, tmp_path):
    lines = example("missing_modality.py", taught / "bundle", taught / "current", *write_pair(tmp_path / "a", "low"))
    assert [line[:17].strip() for line in lines] == ["sound and picture", "sound alone", "picture alone"]


def test_every_example_is_tested_and_short():
    programs = sorted(EXAMPLES.glob("*.py"))
    assert programs
    for program in programs:
        assert f'"{program.name}"' in Path(__file__).read_text(), program.name
        assert len(program.read_text().splitlines()) < MAX_LINES
