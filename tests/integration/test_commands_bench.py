"""``mmcl-edge bench report`` as a person runs it."""

import csv
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from mmcl_edge.benchmark.records import path_of, write_record
from mmcl_edge.benchmark.summaries import final, summarise
from mmcl_edge.commands.main import cli
from tests.integration.commands import answer, refused, run
from tests.recording import record, records

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


@pytest.fixture
def folder(tmp_path):
    """Two learners, two seeds, three experiences."""
    for one in records(("er", "mmcl"), seeds=2, experiences=3):
        write_record(tmp_path / "results", one)
    return tmp_path / "results"


def test_a_report_for_people(folder):
    result = run("bench", "report", folder)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "standard: made up"
    assert lines[1].split() == ["learner", "seeds", "final", "%", "average", "%", "forgetting", "kept", "training"]
    assert [line.split()[0] for line in lines[2:4]] == ["mmcl", "er"]
    assert f"page       {folder / 'report.html'}" in lines
    assert sorted(path.name for path in folder.iterdir()) == [
        "matrices.csv", "report.html", "runs", "summary.csv", "summary.json",
    ]  # fmt: skip


def test_a_report_for_programs(folder, tmp_path):
    found = answer("bench", "report", folder, "--out", tmp_path / "elsewhere" / "page.html")
    expected = summarise(records(("er", "mmcl"), seeds=2, experiences=3))
    assert found["report"] == str(tmp_path / "elsewhere" / "page.html")
    assert (tmp_path / "elsewhere" / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not (folder / "report.html").exists()
    assert found["runs"] == 4
    assert [one["learner"] for one in found["summaries"]] == [one.learner for one in expected]
    assert json.loads((folder / "summary.json").read_text()) == {"schema_version": 1, "summaries": found["summaries"]}
    with (folder / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["final_accuracy"]) for row in rows] == [
        pytest.approx(final(one).mean, abs=1e-6) for one in expected
    ]


def _no_records(folder):
    for path in (folder / "runs").iterdir():
        path.unlink()


def _not_json(folder):
    path_of(folder, record("er", experiences=3).key).write_text("{")


def _too_deep(folder):
    path_of(folder, record("er", experiences=3).key).write_text("[" * 100_000)


def _no_number(folder):
    path = path_of(folder, record("er", experiences=3).key)
    path.write_text(path.read_text().replace('"config":{', '"config":{"rate":NaN,'))


def _changed(folder):
    path = path_of(folder, record("er", experiences=3).key)
    path.write_text(path.read_text().replace('"seed":0', '"seed":7'))


def _too_large(folder):
    path_of(folder, record("er", experiences=3).key).write_bytes(b" " * ((16 << 20) + 1))


def _two_of_a_seed(folder):
    config = {"learner": "er", "seed": 0, "again": True}
    from mmcl_edge.benchmark.records import key_of

    write_record(folder, record("er", experiences=3, config=config, key=key_of(config)))


BROKEN = {
    "no records": (_no_records, ("there is none", "mmcl-edge bench run")),
    "not JSON": (_not_json, ("should be the record of a run", "remove it and run again")),
    "too deep": (_too_deep, ("should be the record of a run",)),
    "a setting that is no number": (_no_number, ("should be the record of a run",)),
    "changed": (_changed, ("should have the key of its configuration",)),
    "too large": (_too_large, ("bytes, but at most",)),
    "two runs of a seed": (_two_of_a_seed, ("Expected one run of 'er'", "move one of them away")),
}


@pytest.mark.parametrize(("break_it", "words"), BROKEN.values(), ids=BROKEN)
def test_broken_records_are_sentences(folder, break_it, words):
    break_it(folder)
    refused(run("bench", "report", folder), *words)
    assert [path.name for path in folder.iterdir()] == ["runs"]


def test_a_folder_that_is_not_there(tmp_path):
    refused(run("bench", "report", tmp_path / "none"), "there is none", "bench run")


def test_where_nothing_can_be_written_says_so(folder, tmp_path):
    (tmp_path / "file").touch()
    refused(run("bench", "report", folder, "--out", tmp_path / "file" / "page.html"), "file")


def test_the_group_lists_its_commands():
    result = CliRunner().invoke(cli, ["bench", "--help"])
    assert result.exit_code == 0
    assert "\n  run " in result.stdout
    assert "\n  report " in result.stdout


@pytest.mark.parametrize("arguments", [["bench", "--help"], ["bench", "report", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments):
    heavy = ("torch", "numpy", "pydantic", "matplotlib", "jinja2", "mmcl_edge.benchmark")
    code = f"""
import sys
from mmcl_edge.commands.main import cli
try:
    cli({arguments!r})
except SystemExit as done:
    assert done.code == 0
print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Examples:" in done.stdout
    assert done.stderr.splitlines()[-1] == "[]"
