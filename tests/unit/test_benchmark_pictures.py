"""The picture of an accuracy matrix."""

import sys

import pytest

from mmcl_edge.benchmark.pictures import write_accuracy_matrix
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


WRONG = {"an extension": ("a.gif", ("first", "second")), "too few names": ("a.png", ("first",))}


@pytest.mark.parametrize(("name", "names"), WRONG.values(), ids=WRONG)
def test_wrong_arguments(tmp_path, name, names):
    with pytest.raises(InputError, match=r"\.png or \.svg and one name for each of 2 rows"):
        write_accuracy_matrix(tmp_path / name, MATRIX, names=names, title="Title")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"mmcl-edge\[quickstart\]"):
        write_accuracy_matrix(tmp_path / "a.png", MATRIX, names=("first", "second"), title="Title")
