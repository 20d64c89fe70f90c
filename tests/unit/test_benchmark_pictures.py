"""The picture of an accuracy matrix."""

import sys

import pytest

from mmcl_edge.benchmark.pictures import write_accuracy_matrix
from mmcl_edge.benchmark.reliability import write_reliability
from mmcl_edge.errors import InputError, MissingExtraError

pytest.importorskip("matplotlib")

MATRIX = [[1.0], [0.9, 0.5]]


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_matrix_gives_the_same_bytes(tmp_path, kind):
    paths = [tmp_path / f"{name}.{kind}" for name in "ab"]
    for path in paths:
        write_accuracy_matrix(path, MATRIX, names=("first", "second"), title="Title", note="a note", chance=0.25)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].stat().st_size > 5_000


def test_text_in_the_picture_is_what_was_given(tmp_path, monkeypatch):
    import matplotlib as mpl

    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "none")
    write_accuracy_matrix(tmp_path / "a.svg", MATRIX, names=("first", "second"), title="Title")
    text = (tmp_path / "a.svg").read_text()
    assert all(words in text for words in ("Title", "1. first", "2. second", "90 %", "50 %", "not taught"))


WRONG = {
    "an extension": ("a.gif", ("first", "second"), r"ends in \.png or \.svg"),
    "too few names": ("a.png", ("first",), "one name for each of 2 rows"),
}


@pytest.mark.parametrize(("name", "names", "problem"), WRONG.values(), ids=WRONG)
def test_wrong_arguments(tmp_path, name, names, problem):
    with pytest.raises(InputError, match=problem):
        write_accuracy_matrix(tmp_path / name, MATRIX, names=names, title="Title")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"mmcl-edge\[quickstart\]"):
        write_accuracy_matrix(tmp_path / "a.png", MATRIX, names=("first", "second"), title="Title")


def test_a_reliability_diagram_names_its_panels_and_errors(tmp_path, monkeypatch):
    import matplotlib as mpl

    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "none")
    panels = {"raw": [(0, 0.0, 0.0), (4, 0.75, 1.0)], "fitted": [(2, 0.25, 0.0), (2, 1.0, 1.0)]}
    write_reliability(tmp_path / "a.svg", panels, title="Title", note="a note")
    text = (tmp_path / "a.svg").read_text()
    assert all(words in text for words in ("Title", "a note", "raw: calibration error 0.250", "fitted", "0.125"))
    write_reliability(tmp_path / "b.png", panels, title="Title")
    assert (tmp_path / "b.png").stat().st_size > 5_000
