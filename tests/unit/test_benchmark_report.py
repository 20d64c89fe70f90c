"""The report as a page: what it says, what it escapes, and that the same records give the same bytes."""

import re
import sys
from html.parser import HTMLParser

import pytest

from mmcl_edge.benchmark import report
from mmcl_edge.benchmark.columns import METRICS
from mmcl_edge.benchmark.gather import gather
from mmcl_edge.benchmark.records import Confusion, path_of
from mmcl_edge.benchmark.report import pens_of, render_report, write_report
from mmcl_edge.benchmark.report_origin import origin_of
from mmcl_edge.benchmark.report_pictures import mean_rows, summed_confusion
from mmcl_edge.benchmark.report_stream import verdict
from mmcl_edge.benchmark.summaries import summarise_stream
from mmcl_edge.errors import InputError, MissingExtraError
from tests.recording import record, records, write_benchmark

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

HOSTILE = '<script>alert(1)</script>" onload="alert(2)'
VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """Checks that elements nest, and keeps ids, links, tags and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.ids, self.links, self.text = [], set(), set(), [], [], ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in ("href", "src", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += f"{data} " if self.open and self.open[-1] not in ("style", "script") else ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("benchmark")
    write_benchmark(place)
    return place


@pytest.fixture(scope="module")
def page(folder):
    return write_report(folder).report.read_text(encoding="utf-8")


def test_the_same_records_give_the_same_files(folder, page):
    names = ("report.html", "summary.json", "summary.csv", "matrices.csv")
    before = [(folder / name).read_bytes() for name in names]
    write_report(folder)
    assert [(folder / name).read_bytes() for name in names] == before


def test_the_page_is_whole_and_self_contained(page):
    found = Page(page)
    assert len(found.ids) == len(set(found.ids))
    local = {f"#{one}" for one in found.ids}
    assert all(link in local or link.startswith("data:") for link in found.links), found.links
    assert not found.tags & {"script", "iframe", "img", "object", "embed"}
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert "url(http" not in page


def test_the_page_says_everything(page):
    text = " ".join(Page(page).text.split())
    for words in (
        "33 runs of 8 learners on 2 streams, 3 seeds",
        "class-incremental: 7 experiences, 21 classes, 24 runs",
        "ranpac has the highest final accuracy (joint training",
        "Accuracy matrices",
        "Experts of mmcl",
        "What ranpac confuses",
        "noise 5db",
        "upper bound",
        "mmcl-edge bench run --suite standard",
        "versions.torch 2.14.1",
        record("der++", seed=2, stream="sounds, 5 pairs a class").key,
    ):
        assert words in text, words
    assert all(metric.title in text and metric.meaning in text for metric in METRICS.values())
    # two streams: curves, forgetting, two costs, confusion, two of experts; a matrix for each of 8 and 3 learners
    assert page.count('class="picture"') == 2 * 7 + 8 + 3


def test_names_are_never_markup():
    matrix = ((1.0, 0.0), (0.5, 1.0))
    names = {"stream": HOSTILE, "suite": HOSTILE, "made_by": {HOSTILE: HOSTILE}, "classes": ((HOSTILE,), ("b",))}
    names |= {"confusion": Confusion(labels=(HOSTILE, "b"), counts=((1, 0), (0, 1)))}
    names |= {"matrices": {"clean": matrix, HOSTILE: matrix}}
    given = [record(HOSTILE, seed=seed, experiences=2, **names) for seed in range(2)]
    text = render_report([one.model_copy(update={"experiences": (HOSTILE, "b")}) for one in given])
    assert "<script" not in text
    found = Page(text)
    assert "script" not in found.tags
    assert not [name for name in found.attributes if name.startswith("on")]
    assert found.text.count(HOSTILE) > 10


SMALL = {
    "one run": [record("er", experiences=1)],
    "one seed of each": records(("er", "mmcl"), seeds=1, experiences=2),
    "joint alone": records(("joint",), experiences=2),
    "nothing measured": [
        record("a", experiences=2, matrices={"clean": ((0.0, 0.0), (0.0, 0.0))}, expert_use=None, routing_overlap=None)
    ],
    "no conditions": [record("mmcl", experiences=2, matrices={"clean": ((1.0, 0.0), (1.0, 1.0))})],
    "no facts": [record("er", experiences=2, made_by={})],
}


@pytest.mark.parametrize("given", SMALL.values(), ids=SMALL)
def test_small_benchmarks_are_reported_too(given):
    text = " ".join(Page(render_report(given)).text.split())
    assert given[0].learner in text
    assert "nan" not in text.lower().split()


def stream_of(*given):
    stream = gather(given)[0]
    return verdict(stream, summarise_stream(stream))


def flat(learner, seed, accuracy):
    matrix = ((accuracy, 0.0), (accuracy, accuracy))
    return record(learner, seed=seed, experiences=2, matrices={"clean": matrix})


VERDICTS = {
    "alone": ([flat("a", 0, 0.5)], "nothing to compare it with yet"),
    "one seed": ([flat("a", 0, 0.5), flat("b", 0, 0.4)], "ahead of b by 10.0 points on the one seed"),
    "no common seed": ([flat("a", 0, 0.5), flat("b", 1, 0.4)], "no seed in common with the next, b"),
    "sure": (
        [flat(name, seed, 0.5 + seed / 100 - (name == "b") / 5) for name in "ab" for seed in range(3)],
        "20.0 ± 0.0",
    ),
    "unsure": (
        [flat("a", 0, 0.9), flat("a", 1, 0.5), flat("b", 0, 0.5), flat("b", 1, 0.8)],
        "seeds alone could explain",
    ),
}


@pytest.mark.parametrize(("given", "words"), VERDICTS.values(), ids=VERDICTS)
def test_the_verdict_is_no_surer_than_the_seeds(given, words):
    assert words in stream_of(*given)
    assert ("more than seeds explain" in stream_of(*given)) == (words == "20.0 ± 0.0")


def test_a_learner_looks_the_same_in_every_stream():
    streams = gather([*records(("b", "a"), seeds=1), *records(("c", "b"), seeds=1, stream="other")])
    pens = pens_of(streams)
    assert [(name, pen.number) for name, pen in pens.items()] == [("a", 0), ("b", 1), ("c", 2)]


def test_confusions_are_added_by_class_whatever_their_order():
    first = Confusion(labels=("a", "b"), counts=((3, 1), (0, 4)))
    second = Confusion(labels=("b", "a"), counts=((2, 2), (1, 3)))
    runs = {seed: record(seed=seed).model_copy(update={"confusion": one}) for seed, one in enumerate((first, second))}
    assert summed_confusion(runs) == (("a", "b"), [[6, 2], [2, 6]])


def test_matrices_are_averaged_cell_by_cell():
    assert mean_rows([[[0.0, 1.0]], [[1.0, 0.5]]]) == [[0.5, 0.75]]


def test_the_origin_names_each_fact_once():
    made = [
        {"command": ["mmcl-edge", "bench"], "versions": {"torch": "2"}, "when": str(hour)} for hour in range(10, 20)
    ]
    found = origin_of([record(seed=seed, made_by=one) for seed, one in enumerate(made)])
    assert found["command"] == ("mmcl-edge bench",)
    assert found["versions.torch"] == ("2",)
    assert found["when"] == ("10", "... (8 more)", "19")


def test_nothing_is_written_when_a_record_is_broken(tmp_path):
    for one in records(("er",), seeds=2):
        path_of(tmp_path, one.key).parent.mkdir(exist_ok=True)
        path_of(tmp_path, one.key).write_text(one.model_dump_json())
    path_of(tmp_path, one.key).write_text("{")
    with pytest.raises(InputError, match="should be the record of a run"):
        write_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib.figure"])
def test_what_is_missing_is_named_before_anything_is_read(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=rf"{missing.split('.')[0]}.*mmcl-edge\[bench\]"):
        write_report(tmp_path)


def test_templates_are_part_of_the_package():
    from importlib import resources

    for name in (report.TEMPLATE, "base.html.jinja", "document.html.jinja"):
        text = resources.files("mmcl_edge.benchmark").joinpath(name).read_text(encoding="utf-8")
        assert text.rstrip().endswith("</html>" if name.startswith("base") else "{% endblock %}")
        assert not re.search(r"\|\s*safe", text)
