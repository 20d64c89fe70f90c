"""From records to rows: grouping, refusals, CSV, Markdown."""

import csv
import io
import json

import pytest

from mmcl_edge.benchmark.columns import COSTS, METRICS
from mmcl_edge.benchmark.gather import gather
from mmcl_edge.benchmark.intervals import Interval, mean_interval
from mmcl_edge.benchmark.metrics import final_accuracy, routing_overlap
from mmcl_edge.benchmark.records import Confusion
from mmcl_edge.benchmark.summaries import best_of, compare, final, summarise
from mmcl_edge.benchmark.tables import (
    MATRIX_COLUMNS,
    markdown_table,
    percent,
    size_text,
    summary_csv,
    summary_json,
    write_csv,
)
from mmcl_edge.errors import InputError
from tests.recording import CONDITIONS, record, records

LOW = [[0.5, 0.0], [0.25, 0.5]]
HIGH = [[1.0, 0.0], [0.75, 1.0]]


def small(learner, seed, matrix, **changes):
    """Two experiences of 10 and 30 test samples."""
    return record(
        learner, seed=seed, experiences=2, test_counts=(10, 30), matrices={"clean": matrix, **changes}
    )  # fmt: skip


def test_a_summary_by_hand():
    found = summarise([small("a", 0, LOW), small("a", 1, HIGH)])[0]
    # by sample: (10 * 0.25 + 30 * 0.5) / 40 = 0.4375 and (7.5 + 30) / 40 = 0.9375; by task: 0.375 and 0.875
    assert found.seeds == (0, 1)
    assert final(found).mean == pytest.approx((0.4375 + 0.9375) / 2)
    # s = 0.5 / sqrt(2), so the half width is 12.7062 * 0.5 / 2
    assert final(found).half_width == pytest.approx(12.7062 / 4, abs=1e-4)
    assert found.metrics["final_accuracy_by_task"].mean == pytest.approx((0.375 + 0.875) / 2)
    assert found.metrics["forgetting"].mean == pytest.approx(0.25)
    assert found.metrics.keys() == METRICS.keys()
    assert found.costs.keys() == COSTS.keys()


def test_conditions_are_what_they_lose_seed_by_seed():
    half = [[0.5, 0.0], [0.0, 0.5]]
    found = summarise([small("a", 0, LOW, blur=half), small("a", 1, HIGH, blur=half, noise=half)])[0]
    assert list(found.conditions) == ["blur"]
    # under blur 30 * 0.5 / 40 = 0.375 both times
    assert found.conditions["blur"].accuracy == Interval(0.375, 0.0, 2)
    assert found.conditions["blur"].loss == mean_interval([0.4375 - 0.375, 0.9375 - 0.375])


def test_costs_are_medians():
    seconds = [record("er", seed=seed) for seed in range(3)]
    costs = [one.cost.model_copy(update={"train_s": took}) for one, took in zip(seconds, (9.0, 1.0, 2.0), strict=True)]
    changed = [one.model_copy(update={"cost": cost}) for one, cost in zip(seconds, costs, strict=True)]
    assert summarise(changed)[0].costs["train_s"] == 2.0


def test_metrics_that_do_not_apply_are_none():
    found = {one.learner: one.metrics for one in summarise(records(("er", "mmcl"), seeds=2))}
    absent = {learner: {name for name, value in values.items() if value is None} for learner, values in found.items()}
    never = {"forward_transfer", "intransigence"}
    assert absent == {"er": never | {"routing_overlap"}, "mmcl": never}


def test_forward_transfer_of_domains_and_intransigence_against_the_joint_run_of_the_seed():
    domain = {"scenario": "domain", "initial": (0.25, 0.25)}
    above = [[0.5, 0.375], [0.25, 0.5]]
    runs = [small("a", 0, above), small("a", 1, above), small("joint", 1, HIGH)]
    runs = [type(one).model_validate({**one.model_dump(), **domain}) for one in runs]
    found = {one.learner: one.metrics for one in summarise(runs)}
    assert found["a"]["forward_transfer"].mean == 0.125
    # of seed 1 alone: (1 - 0.5 + 1 - 0.5) / 2
    assert found["a"]["intransigence"] == Interval(0.5, None, 1)


def test_overlap_is_worked_out_where_the_record_lacks_it():
    with_use = record("mmcl").model_copy(update={"routing_overlap": None})
    rows = routing_overlap(with_use.expert_use)
    pairs = [rows[i][j] for i in range(7) for j in range(i)]
    assert summarise([with_use])[0].metrics["routing_overlap"].mean == pytest.approx(sum(pairs) / 21)


def test_rows_fall_with_final_accuracy_and_joint_training_is_never_the_best():
    found = summarise(records())
    values = [final(one).mean for one in found]
    assert values == sorted(values, reverse=True)
    assert (found[0].learner, best_of(found).learner) == ("joint", "ranpac")
    assert best_of(found[:1]).learner == "joint"


def test_learners_are_compared_seed_by_seed():
    stream = gather(records(("er", "mmcl")))[0]
    pairs = zip(stream.runs["mmcl"].values(), stream.runs["er"].values(), strict=True)
    gains = [final_accuracy(a.matrix, a.test_counts) - final_accuracy(b.matrix, b.test_counts) for a, b in pairs]
    assert compare(stream, "mmcl", "er") == mean_interval(gains)
    assert compare(stream, "mmcl", "er", metric="intransigence") is None


def test_an_order_that_follows_from_the_seed_leaves_numbers():
    first, second = record(seed=0, experiences=2), record(seed=1, experiences=2)
    second = second.model_copy(update={"experiences": tuple(reversed(second.experiences))})
    assert gather([first])[0].experiences == first.experiences
    assert gather([first, second])[0].experiences == ("experience 1", "experience 2")


def _refused_records():
    one = record(seed=1, experiences=2)

    def changed(**changes):
        return [one.model_copy(update=changes)]

    nan = ((0.5, 0.0), (float("nan"), 0.5))
    return {
        "two runs of a seed": ([one, one.model_copy(update={"key": "other"})], f"found {one.key} and other"),
        "another length": ([one, record(seed=2, experiences=3)], "has 3 experiences"),
        "another scenario": ([one, record("er", experiences=2, scenario="domain")], "class-incremental"),
        "no experience": (changed(experiences=()), "at least one experience"),
        "no test sample": (changed(test_counts=(0, 1)), "each with test samples"),
        "a number that is none": (changed(matrices={"clean": nan}), "finite numbers"),
        "an endless cost": (changed(cost=one.cost.model_copy(update={"train_s": float("inf")})), "finite numbers"),
        "half a letter": (changed(learner="\ud800"), r"'\\ud800', seed 1\) should hold .* whole letters"),
        "a fact that is no number": (changed(made_by={"hours": float("nan")}), "finite numbers"),
        "per cent": (changed(initial=(50.0, 0.0)), "shares from 0 to 1"),
        "overlap of others": (changed(routing_overlap=((1.0,),)), "2 values for each experience in routing_overlap"),
        "initial of others": (changed(initial=(0.1,)), "2 values for each experience in initial"),
        "a torn confusion": (changed(confusion=Confusion(labels=("a", "b"), counts=((1, 2),))), "square confusion"),
        "uneven experts": (changed(expert_use=(((0.5, 0.5),), ((1.0,),))), "the same blocks and experts"),
        "no blocks": (changed(expert_use=((), ())), "the same blocks and experts"),
    }


REFUSED = _refused_records()


@pytest.mark.parametrize(("given", "problem"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_compared_is_refused(given, problem):
    with pytest.raises(InputError, match=problem):
        gather(given)


def test_matrices_in_long_form(tmp_path):
    given = records(("er",), seeds=2, experiences=3)
    _, path = write_csv(tmp_path, given, summarise(given))
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == MATRIX_COLUMNS
    assert len(rows) == 2 * len(CONDITIONS) * 3 * 3
    for one in given:
        for row in (row for row in rows if row["seed"] == str(one.seed)):
            i = one.experiences.index(row["experience"])
            assert float(row["accuracy"]) == one.matrices[row["condition"]][int(row["step"]) - 1][i]
            assert int(row["test_count"]) == one.test_counts[i]


def test_the_summary_has_a_line_a_learner_and_empty_cells_where_nothing_is():
    found = summarise([*records(("er", "mmcl"), seeds=2), record("single")])
    rows = list(csv.DictReader(io.StringIO(summary_csv(found).decode())))
    assert [row["learner"] for row in rows] == [one.learner for one in found]
    for row, one in zip(rows, found, strict=True):
        assert float(row["final_accuracy"]) == pytest.approx(final(one).mean, abs=1e-6)
        assert (row["final_accuracy_ci95"] == "") == (len(one.seeds) == 1)
        assert float(row["loss:blur"]) == pytest.approx(one.conditions["blur"].loss.mean, abs=1e-6)
        assert row["forward_transfer"] == row["forward_transfer_ci95"] == ""
        assert float(row["persistent_bytes"]) == one.costs["persistent_bytes"]


def test_names_with_commas_and_quotes_come_back():
    name = 'a, "b"\nc'
    rows = list(csv.DictReader(io.StringIO(summary_csv(summarise([record(name)])).decode(), newline="")))
    assert rows[0]["learner"] == name


def test_json_is_plain_data():
    found = summarise(records(("er",), seeds=1))
    again = json.loads(json.dumps(summary_json(found), allow_nan=False))
    assert again[0]["metrics"]["final_accuracy"]["mean"] == final(found[0]).mean
    assert again[0]["metrics"]["final_accuracy"]["half_width"] is None
    assert again[0]["metrics"]["forward_transfer"] is None


def test_a_markdown_table():
    found = summarise([small("a|b <i>", 0, LOW, blur=LOW), small("plain", 0, HIGH)])
    lines = markdown_table(found, metrics=("final_accuracy",), costs=("persistent_bytes",), conditions=("blur",))
    assert lines.splitlines() == [
        "| Learner | Seeds | Final accuracy | Loss: blur | Kept between experiences |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| plain | 1 | 93.8 | - | 1.7 MB |",
        "| a\\|b \\<i\\> | 1 | 43.8 | 0.0 | 1.7 MB |",
    ]


TEXTS = {
    "none": (None, "-"),
    "one seed": (Interval(0.5, None, 1), "50.0"),
    "zero": (Interval(-1e-9, 0.01, 3), "0.0 ± 1.0"),
}


@pytest.mark.parametrize(("value", "text"), TEXTS.values(), ids=TEXTS)
def test_per_cent(value, text):
    assert percent(value) == text


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (999, "999 B"), (2_160_000, "2.16 MB"), (6.4e13, "64 TB")])
def test_sizes(size, text):
    assert size_text(size) == text
