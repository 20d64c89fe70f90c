"""Pictures for a page: colours as variables, ids of their own, text that stays text, the same bytes."""

import math
import re
import sys
import xml.etree.ElementTree as ElementTree
from itertools import combinations

import pytest

from mmcl_edge.benchmark.figures import (
    DARK,
    LIGHT,
    MARKERS,
    SERIES,
    Pen,
    _compact,
    standalone,
    svg,
)
from mmcl_edge.benchmark.figures_lines import interval_bars, step_curves
from mmcl_edge.benchmark.figures_matrix import (
    accuracy_heat_map,
    confusion_heat_map,
    expert_heat_map,
    overlap_heat_map,
    shortened,
)
from mmcl_edge.benchmark.figures_scatter import cost_scatter
from mmcl_edge.benchmark.intervals import Interval
from mmcl_edge.benchmark.tables import size_text
from mmcl_edge.errors import MissingExtraError

pytest.importorskip("matplotlib")
Markup = pytest.importorskip("markupsafe").Markup

HOSTILE = "<script>alert(1)</script>"
NAMES = ("plain", HOSTILE, "$x_1$", "名前", 'quote" & <b>')
PENS = {name: Pen(number) for number, name in enumerate(NAMES)}
VALUES = {name: Interval(0.3 + 0.1 * number, 0.05, 3) for number, name in enumerate(NAMES)}


def _with_xlink(text):
    """A page knows xlink without being told; an XML parser does not."""
    return text.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1)


def curves(name="a"):
    return step_curves({learner: [value] * 3 for learner, value in VALUES.items()}, PENS, name=name, title="Curves")


def scatter(first=0.0):
    points = {learner: (first + 10.0**n * (n > 0), value) for n, (learner, value) in enumerate(VALUES.items())}
    return cost_scatter(points, PENS, name="a", title="Scatter", label="cost", text=size_text)


PICTURES = {
    "accuracy matrix": lambda: accuracy_heat_map([[0.9, 0.1], [0.5, 1.0]], name="a", title=HOSTILE, taught_only=True),
    "overlap": lambda: overlap_heat_map([[1.0, 0.25], [0.25, 1.0]], name="a", title="Overlap"),
    "experts": lambda: expert_heat_map([[[0.5, 0.5], [1.0]], [[0.1, 0.9], [1.0]]], name="a", title="Use"),
    "confusion": lambda: confusion_heat_map([[3, 1], [0, 0]], ("b", HOSTILE), name="a", title="Confusion"),
    "curves": curves,
    "one seed": lambda: step_curves({"plain": [Interval(0.5, None, 1)]}, PENS, name="a", title="Curves"),
    "bars": lambda: interval_bars(VALUES, PENS, name="a", title="Bars", label="points"),
    "scatter": scatter,
    "scatter without a zero": lambda: scatter(first=2.0),
}


@pytest.fixture(params=PICTURES.values(), ids=PICTURES)
def picture(request):
    return request.param


def test_the_same_values_give_the_same_text(picture):
    assert picture() == picture()


def test_a_picture_is_well_formed_and_says_what_it_is(picture):
    root = ElementTree.fromstring(_with_xlink(picture()))
    assert (root.tag, root.get("role")) == ("svg", "img")
    assert [child.tag for child in root][:2] == ["title", "desc"]
    assert root[0].text == root.get("aria-label")
    assert len(root[1].text) > 10


def test_colours_follow_the_page(picture):
    text = picture()
    assert "#0102" not in text
    assert "var(--ink)" in text
    assert "http:" not in text.replace("http://www.w3.org/", "")


def test_every_id_is_referred_to_and_the_pictures_own(picture):
    text = picture()
    ids = re.findall(r' id="([^"]+)"', text)
    used = {one or other for one, other in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)}
    assert set(ids) == used
    assert all(one.startswith("a-") for one in ids)


def test_two_pictures_in_one_page_share_no_id():
    first, second = (set(re.findall(r' id="([^"]+)"', curves(name))) for name in ("a", "b"))
    assert first
    assert not first & second


def test_names_stay_text_and_never_become_markup():
    text = curves() + scatter() + PICTURES["confusion"]() + PICTURES["accuracy matrix"]()
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;" in text
    assert "$x_1$" in text
    assert "名前" in text


def test_a_pointer_reads_the_name_of_a_line():
    assert '<g class="hint"><title>plain</title>' in curves()


def test_names_of_points_never_lie_on_each_other():
    crowd = {f"learner {number}": Pen(number) for number in range(14)}
    points = {learner: (1000.0, Interval(0.5, None, 1)) for learner in crowd}
    text = cost_scatter(points, crowd, name="a", title="Scatter", label="cost", text=size_text)
    written = [one for one in ElementTree.fromstring(_with_xlink(text)).iter("text") if one.text.startswith("learner ")]
    places = [(float(one.get("x")), float(one.get("y"))) for one in written]
    assert 4 <= len(places) < 14
    assert all(abs(a - c) > 40 or abs(b - d) >= 8 for (a, b), (c, d) in combinations(places, 2))
    assert all(f"<title>{learner}: 1 kB</title>" in text for learner in crowd)


def test_a_picture_can_stand_alone(picture):
    text = standalone(picture()).decode()
    assert standalone(Markup(picture())).decode() == text
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    styles = [one.text for one in root.iter("{http://www.w3.org/2000/svg}style")]
    used = set(re.findall(r"var\((--\w+)\)", text))
    assert used <= set(re.findall(r"(--\w+):", styles[0]))


def test_curves_that_stand_alone_name_their_learners():
    lines = {learner: [value] * 3 for learner, value in VALUES.items()}
    texts = [step_curves(lines, PENS, name="a", title="Curves", legend=legend) for legend in (False, True)]
    found = [re.findall(r"<text[^>]*>([^<]*)</text>", text) for text in texts]
    assert "plain" not in found[0]
    assert {"plain", "$x_1$", "名前"} <= set(found[1])


def test_outlines_are_short():
    drawn = "M 109.49512 3.00024 \nL 121.238445 3 \nz"
    assert _compact(drawn) == "M109.5 3L121.24 3z"
    assert _compact("M 0.001 -0.5 \nL 1e-05 2") == "M0 -0.5L1e-05 2"


def test_cells_not_taught_are_left_empty():
    rows = [[0.91, 0.123], [0.52, 1.0]]
    texts = {taught: accuracy_heat_map(rows, name="a", title="Matrix", taught_only=taught) for taught in (True, False)}
    shown = {taught: set(re.findall(r">(\d+)</text>", text)) for taught, text in texts.items()}
    assert shown[True] >= {"91", "52", "100"}
    assert shown[False] - shown[True] == {"12"}


def test_many_rows_become_one_image():
    rows = [[0.5] * 70 for _ in range(70)]
    text = overlap_heat_map(rows, name="a", title="Overlap")
    assert "data:image/png;base64," in text
    assert len(text) < 200_000


def test_a_reader_s_settings_change_nothing(monkeypatch):
    import matplotlib as mpl

    before = curves()
    monkeypatch.setitem(mpl.rcParams, "font.size", 30)
    monkeypatch.setitem(mpl.rcParams, "axes.grid", True)
    assert curves() == before
    assert mpl.rcParams["font.size"] == 30


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"mmcl-edge\[bench\]"):
        svg(lambda figure: None, name="a", size=(1, 1), title="Empty")


def test_fifty_learners_are_drawn_differently():
    looks = {(pen.color, pen.marker, str(pen.dash)) for pen in map(Pen, range(50))}
    assert len(looks) == 50
    assert len(MARKERS) > len(SERIES)  # so that the same colour has another marker at its next use


PAPERS = {"light": (LIGHT[3:], LIGHT[0]), "dark": (DARK[3:], DARK[0])}


@pytest.mark.parametrize(("colors", "paper"), PAPERS.values(), ids=PAPERS)
def test_colours_stand_out_from_their_paper(colors, paper):
    assert len(colors) == len(SERIES)
    # 3 : 1 is what WCAG 2.1 asks of graphics
    assert all(_contrast(color, paper) >= 3 for color in colors)


@pytest.mark.parametrize(("colors", "paper"), PAPERS.values(), ids=PAPERS)
@pytest.mark.parametrize("sight", ["usual", "protan", "deutan"])
def test_colours_stay_apart_for_colour_blind_people(colors, paper, sight):
    seen = [_as_seen(color, _MACHADO[sight]) for color in colors]
    assert min(math.dist(one, other) for one, other in combinations(seen, 2)) > 0.075


_MACHADO = {
    "usual": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    # Machado, Oliveira, Fernandes 2009, severity 1.0, for linear RGB
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
}


def _linear(color):
    shares = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]


def _luminance(color):
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), _linear(color), strict=True))


def _contrast(one, other):
    """As WCAG 2 defines it."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _as_seen(color, sight):
    """In OKLab, where a step of 0.02 can just be seen."""
    seen = [min(1.0, max(0.0, share)) for share in _times(sight, _linear(color))]
    return _times(_TO_LAB, [share ** (1 / 3) for share in _times(_TO_CONES, seen)])


def _times(matrix, vector):
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


_TO_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_TO_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


SHORT = {"short": ("er", "er"), "long": ("a" * 30, "a" * 21 + "…"), "two lines": ("a\n b", "a b")}


@pytest.mark.parametrize(("name", "expected"), SHORT.values(), ids=SHORT)
def test_names_on_axes_are_short(name, expected):
    assert shortened(name) == expected
