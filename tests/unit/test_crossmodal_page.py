"""The page and the report: what they say follows from the records, and nothing else is needed to read them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from mmcl_edge.benchmark.crossmodal.board import Board
from mmcl_edge.benchmark.crossmodal.document import Table, interval_text, markdown_rows
from mmcl_edge.benchmark.crossmodal.page import not_measured, page
from mmcl_edge.benchmark.crossmodal.records import CrossmodalRecord, write_timings
from mmcl_edge.benchmark.crossmodal.report import write_page
from mmcl_edge.benchmark.crossmodal.tables import pairs_table, stages_table, summary_csv
from mmcl_edge.benchmark.crossmodal.tasks import TASKS
from mmcl_edge.benchmark.intervals import Interval
from tests.crossmodal_runs import cross_run, timings, write_all
from tests.unit.test_benchmark_report import Page

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

SEEN = {"comet": 0.5, "comet-joint": 0.52, "comet-fine-tune": 0.4, "comet-no-cmoe": 0.45}


def made() -> list[CrossmodalRecord]:
    stamps = [
        cross_run(name, seed=seed, order=order, seen=value + 0.01 * seed, joint=name == "comet-joint")
        for name, value in SEEN.items()
        for seed in range(2)
        for order in TASKS["stamps"].orders
    ]
    return [*stamps, cross_run(task="digits", seen=0.97)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = write_all(tmp_path_factory.mktemp("crossmodal"), made())
    write_timings(place, timings())
    write_page(place, place / "docs")
    return place


def test_the_page_says_what_the_records_say(folder: Path):
    text = (folder / "docs" / "crossmodal.md").read_text()
    assert "| comet | 2 | 50.5 ± 6.4 | 40.0 ± 0.0 |" in text
    assert " targets are met, 4 missed: 4 above comet-fine-tune." in text
    assert "| comet-joint | 2 | 52.5 ± 6.4 | 40.0 ± 0.0 | 52.5 ± 6.4 | 40.0 ± 0.0 | - |" in text
    assert "| chance |  | 10.0 | 10.0 |" in text
    assert "CMoE-Adapter, from the default start: stamps: helps (seen pairs and seen by codes)." in text
    assert "20 s for 500 pairs of image (2 cores)" in text
    assert "at least 90 % of comet-joint's score | 96.2 ± 0.5 % | met |" in text
    assert "video and motion: no set at hand" in text
    assert "av21: no run of it is among the records." in text


def test_another_figure_gives_another_page(tmp_path: Path, folder: Path):
    records = made()
    records[0] = cross_run("comet", seen=0.1)
    write_all(tmp_path, records)
    write_page(tmp_path, tmp_path / "docs")
    assert "| comet | 2 | 50.5" not in (tmp_path / "docs" / "crossmodal.md").read_text()


def test_the_same_records_give_the_same_files(folder: Path):
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    before = [path.read_bytes() for path in paths]
    write_page(folder, folder / "docs")
    assert [path.read_bytes() for path in paths] == before


def test_every_picture_of_the_page_is_there(folder: Path):
    text = (folder / "docs" / "crossmodal.md").read_text()
    named = [line.partition("](")[2].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert named == [f"results/crossmodal-{task}-{what}.svg" for task in ("stamps", "digits") for what in _PICTURES]
    for name in named:
        assert (folder / "docs" / name).read_text().startswith("<svg xmlns=")
    for name in ("crossmodal.html", "crossmodal.csv", "crossmodal-pairs.csv.gz"):
        assert f"](results/{name})" in text
        assert (folder / "docs" / "results" / name).is_file()


_PICTURES = ("pairs", "first")


def test_the_report_is_whole_and_self_contained(folder: Path):
    text = (folder / "report.html").read_text()
    found = Page(text)
    assert len(found.ids) == len(set(found.ids))
    local = {f"#{one}" for one in found.ids}
    assert all(link in local or link.startswith("data:") for link in found.links), found.links
    assert "script" not in found.tags
    assert "50.5 ± 6.4" in found.text
    assert (folder / "docs" / "results" / "crossmodal.html").read_text() == text


def test_what_is_compared_pair_by_pair_and_stage_by_stage():
    board = Board(made())
    pairs = pairs_table(board, "stamps")
    assert pairs.header[3:] == ("comet", "comet-joint", "comet-fine-tune", "chance")
    assert pairs.rows[0] == (
        "image to text",
        "seen",
        "20",
        "46 / 50 / 56",
        "48 / 52 / 58",
        "36 / 40 / 46",
        "10 / 10 / 10",
    )
    assert [row[1] for row in pairs.rows] == ["seen"] * 6 + ["unseen"] * 6
    stages = stages_table(board, "stamps")
    assert len(stages.rows) == 9, "a line a stage of each order"
    assert stages.rows[0][:4] == ("text, image", "40", "50.5", "-")


def test_the_summary_holds_every_figure():
    lines = summary_csv(Board(made())).decode().splitlines()
    assert lines[0] == "task,learner,figure,mean,ci95,seeds"
    assert "stamps,comet,unseen,0.4,0.0,2" in lines
    assert "digits,comet,seen,0.97,,1" in lines


def test_every_recall_is_in_the_long_table(folder: Path):
    packed = (folder / "docs" / "results" / "crossmodal-pairs.csv.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()
    assert lines == (folder / "pairs.csv").read_text().splitlines()
    assert len(lines) == 1 + sum(len(stage.found) for one in made() for stage in one.stages)
    assert "stamps,comet,1,image sound speech,3,sound,speech,codes,0.35,0.4,0.45,3.0,0.4,0.1,0.1,0.1,20,30" in lines
    assert not any(line.startswith("stamps,comet-joint,0,image sound speech,1,") for line in lines), (
        "learned at the end"
    )


def test_what_was_not_measured_is_said():
    assert list(not_measured(Board(made())))[-1].startswith("av21")
    every = [cross_run(task=task) for task in TASKS]
    assert len(list(not_measured(Board(every)))) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (Interval(0.437, 0.012, 3), "43.7 ± 1.2"),
        (Interval(0.437, None, 1), "43.7"),
        (Interval(0.437, 0.0, 3), "43.7 ± 0.0"),
        (Interval(-0.0001, None, 1), "0.0"),
    ],
)
def test_cells_of_intervals(value: Interval | None, text: str):
    assert interval_text(value) == text


def test_nothing_ends_a_cell_and_words_stand_left():
    table = Table("", ("a", "b", "c"), (("x|y", "1.0", "met"), ("z\nw", "-", "missed")))
    assert markdown_rows(table).splitlines() == [
        "| a | b | c |",
        "| --- | ---: | --- |",
        "| x\\|y | 1.0 | met |",
        "| z w | - | missed |",
    ]


def test_a_page_needs_no_timings_and_no_method():
    text = page(Board([cross_run("comet-ridge")]), None)
    assert text.sections[0].title == "Targets"
    compared, others = text.sections[0].tables
    assert {cell.partition(": ")[2] for row in compared.rows for cell in row[2:]} == {"not measured"}
    assert {row[2] for row in others.rows} == {"not measured"}
