"""Every program in examples/, and the one in README, runs on a tiny bundle with random weights."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from mmcl_edge.commands.main import COMMANDS
from mmcl_edge.runtime.workspace import Workspace
from tests.integration.commands import write_pair, write_task
from tests.integration.test_data_makers import write_picture, write_sound

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
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


def test_the_program_in_readme(home, tmp_path, monkeypatch, capsys):
    program = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    Path("bundle").symlink_to(Workspace(home).bundle_path)
    write_task(Path("home/tasks/new_sounds"), "low", "high")
    write_sound(Path("ring.wav"))
    write_picture(Path("ring.jpg"))
    exec(compile(program, "README.md", "exec"), {})
    assert "'low'" in capsys.readouterr().out


def test_readme_names_every_command():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"`mmcl-edge {name}" not in text] == []


@pytest.mark.parametrize("document", [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")], ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\((?!https?://)([^)#]+)[^)]*\)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []
