"""Figures of hand-made records: scores, intervals, verdicts, and what each part is worth."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mmcl_edge.benchmark.crossmodal.board import Board
from mmcl_edge.benchmark.crossmodal.parts import PARTS, judged
from mmcl_edge.benchmark.crossmodal.records import CrossmodalRecord, Timings
from mmcl_edge.benchmark.crossmodal.scores import CHANCE, LUCK, SCORES, first_pair, pair_scores
from mmcl_edge.benchmark.crossmodal.targets import MET, MISSED, NOT_MEASURED, ONE_SEED, target_tables, targets
from mmcl_edge.benchmark.intervals import mean_interval
from mmcl_edge.errors import InputError
from mmcl_edge.learners.comet.catalogue import COMET
from tests import crossmodal_runs as made
from tests.crossmodal_runs import cross_run, cross_runs, timings

SOUND_FIRST = ("sound", "speech", "image")


def test_the_score_of_a_pair_is_the_mean_of_its_recalls_both_ways():
    record = cross_run(seen=0.5, unseen=0.3)
    one = record.stages[1].found[0]
    higher = one.model_copy(update={"figures": one.figures | {"R@1": one.figures["R@1"] + 0.6}})
    stage = record.stages[1].model_copy(update={"found": (higher, *record.stages[1].found[1:])})
    scores = pair_scores(stage)
    assert scores == pytest.approx({"text-image": 0.6, "text-sound": 0.5, "image-sound": 0.3})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("seen", 0.5 * (1 + 1 + 0.8) / 3),
        ("unseen", 0.3),
        ("seen_codes", 0.5 * (1 + 1 + 0.8) / 3 + 0.1),
        ("unseen_codes", 0.4),
        ("forgetting", 0.2),
        ("forgetting_all", 0.2 / 3),
        ("across_mean", 0.7),
        ("across_linear", 0.7),
        ("across_mean_vectors", 0.7),
        ("across_linear_vectors", 0.7),
        ("named", 0.7),
        ("within", 0.9),
        ("shared", 0.75),
        ("perplexity", 8.0),
        ("codes", 12.0),
        ("memory_bytes", 1000.0),
        ("space_bytes", 5e6),
        ("stage_s", 6.0),
    ],
)
def test_every_figure_follows_from_the_record(name: str, expected: float):
    record = cross_run(seen=0.5, unseen=0.3, by_codes=0.1, forgets=0.2, across=0.7)
    assert SCORES[name].measure(record) == pytest.approx(expected)


def test_every_figure_is_tested():
    (cases,) = [m.args[1] for m in test_every_figure_follows_from_the_record.pytestmark]
    assert {name for name, _ in cases} == SCORES.keys()


def test_chance_and_luck_come_of_the_record():
    record = cross_run()
    assert [measure(record) for measure in CHANCE.values()] == [pytest.approx(made.CHANCE)] * len(CHANCE)
    assert [measure(record) for measure in LUCK.values()] == [pytest.approx(made.LUCK)] * len(LUCK)


def test_a_joint_run_has_forgotten_nothing_and_says_so():
    record = cross_run(joint=True)
    assert len(first_pair(record)) == 1
    assert SCORES["forgetting"].measure(record) is None


def test_intervals_are_over_seeds_of_means_over_orders():
    runs = [
        cross_run(seed=0, unseen=0.2),
        cross_run(seed=0, unseen=0.4, order=SOUND_FIRST),
        cross_run(seed=1, unseen=0.5),
        cross_run(seed=1, unseen=0.7, order=SOUND_FIRST),
    ]
    found, expected = Board(runs).value("stamps", "comet", "unseen"), mean_interval([0.3, 0.6])
    assert found is not None
    assert (found.mean, found.half_width, found.count) == (
        pytest.approx(expected.mean),
        pytest.approx(expected.half_width),
        2,
    )
    assert Board(runs).seeds("stamps", "comet") == (0, 1)
    assert Board(runs).orders("stamps") == (("image", "sound", "speech"), SOUND_FIRST)


def test_learners_are_compared_on_common_runs_alone():
    runs = [
        cross_run(seed=0, unseen=0.5),
        cross_run(seed=1, unseen=0.9),
        cross_run("comet-ridge", seed=0, unseen=0.4),
        cross_run("comet-ridge", seed=1, unseen=0.1, order=SOUND_FIRST),
    ]
    board = Board(runs)
    found = board.difference("stamps", "comet", "comet-ridge", "unseen")
    assert found is not None
    assert (found.mean, found.count) == (pytest.approx(0.1), 1)
    ratio = board.ratio("stamps", "comet", "comet-ridge", "unseen")
    assert ratio is not None
    assert ratio.mean == pytest.approx(1.25)
    assert board.difference("stamps", "comet", "comet-joint", "unseen") is None
    assert board.value("av21", "comet", "unseen") is None


def test_records_that_do_not_belong_together_are_refused():
    with pytest.raises(InputError, match="one record of comet on stamps with seed 0"):
        Board([cross_run(), cross_run()])
    with pytest.raises(InputError, match="one bundle, but found 2"):
        Board([cross_run(), cross_run(seed=1, bundle="c" * 64)])


def verdicts(records: Sequence[CrossmodalRecord], waited: Timings | None = None) -> dict[str, str]:
    rows = [one.row for one in targets(Board(records), waited)]
    assert len({asked for asked, _, _ in rows}) == len(rows)
    return {asked: word for asked, _, word in rows}


STEADY, HIGH, NEAR = (0.50, 0.51, 0.52), (0.80, 0.81, 0.82), (0.49, 0.50, 0.53)


@pytest.mark.parametrize(
    ("records", "asked", "word"),
    [
        (cross_runs("comet", STEADY, name="unseen"), "stamps, unseen pairs: above chance", MET),
        (cross_runs("comet", (0.19, 0.2, 0.21), name="unseen"), "stamps, unseen pairs: above chance", MISSED),
        (cross_runs("comet", (0.5,), name="unseen"), "stamps, unseen pairs: above chance", ONE_SEED),
        (
            cross_runs("comet", HIGH, name="unseen") + cross_runs("comet-fine-tune", STEADY, name="unseen"),
            "stamps, unseen pairs: above comet-fine-tune",
            MET,
        ),
        (
            cross_runs("comet", HIGH, name="unseen") + cross_runs("comet-fine-tune", (0.5,), name="unseen"),
            "stamps, unseen pairs: above comet-fine-tune",
            ONE_SEED,
        ),
        (
            cross_runs("comet", STEADY, name="unseen") + cross_runs("comet-fine-tune", NEAR, name="unseen"),
            "stamps, unseen pairs: above comet-fine-tune",
            MISSED,
        ),
        (
            cross_runs("comet", STEADY, name="unseen") + cross_runs("comet-fine-tune-random", HIGH, name="unseen"),
            "stamps, unseen pairs: above comet-fine-tune-random",
            MISSED,
        ),
        (cross_runs("comet", STEADY), "stamps, unseen pairs: above comet-fine-tune", NOT_MEASURED),
        (
            cross_runs("comet", HIGH, name="across", task="av21")
            + cross_runs("comet-fine-tune", STEADY, name="across", task="av21"),
            "av21, classes across: above comet-fine-tune",
            MET,
        ),
        (
            cross_runs("comet", STEADY, name="across", task="digits"),
            "digits, classes across (linear): above chance",
            MET,
        ),
        (
            [cross_run(seen=0.46), cross_run("comet-joint", seen=0.5, joint=True)],
            "stamps, seen pairs: at least 90 % of comet-joint's score",
            MET,
        ),
        (
            [cross_run(seen=0.44), cross_run("comet-joint", seen=0.5, joint=True)],
            "stamps, seen pairs: at least 90 % of comet-joint's score",
            MISSED,
        ),
        (
            [cross_run(forgets=0.09)],
            "stamps, the first pair after the last stage: at most 10 % of its score forgotten",
            MET,
        ),
        (
            [cross_run(forgets=0.11)],
            "stamps, the first pair after the last stage: at most 10 % of its score forgotten",
            MISSED,
        ),
        ([cross_run()], "a query among 10,000 items: at most 10 ms", NOT_MEASURED),
    ],
)
def test_verdicts_follow_from_records(records: list[CrossmodalRecord], asked: str, word: str):
    assert verdicts(records)[asked] == word


@pytest.mark.parametrize(("stage_s", "search_ms", "words"), [(20, 0.3, (MET, MET)), (301, 10.1, (MISSED, MISSED))])
def test_waiting_is_judged(stage_s: float, search_ms: float, words: tuple[str, str]):
    found = verdicts([cross_run()], timings(stage_s=stage_s, search_ms=search_ms))
    stage = "a stage of 500 pairs (image) from files, features included: at most 5 minutes"
    assert (found[stage], found["a query among 10,000 items: at most 10 ms"]) == words


def test_comparisons_stand_side_by_side():
    records = cross_runs("comet", HIGH, name="unseen") + cross_runs("comet-fine-tune", STEADY, name="unseen")
    found = targets(Board(records), timings())
    assert [one.row for one in found[:3]] == [
        ("stamps, unseen pairs: above chance", "81.0 ± 2.5 against 20.0", MET),
        ("stamps, unseen pairs: above comet-fine-tune", "81.0 ± 2.5 against 51.0 ± 2.5", MET),
        ("stamps, unseen pairs: above comet-fine-tune-random", "81.0 ± 2.5", NOT_MEASURED),
    ]
    compared, others = target_tables(found)
    assert compared.header == ("asked", "comet", "chance", "comet-fine-tune", "comet-fine-tune-random")
    assert compared.rows[0] == (
        "stamps, unseen pairs", "81.0 ± 2.5", "20.0: met", "51.0 ± 2.5: met", "-: not measured",
    )  # fmt: skip
    assert [row[2] for row in others.rows] == [NOT_MEASURED, MET, MET, MET]


def told(whole: dict[str, float], without: dict[str, float], name: str = "comet-no-replay") -> dict[str, str]:
    """What is shown of each part, of three seeds that differ by a little from one to the next."""
    runs = [
        cross_run(
            learner, seed=seed, **{key: value + 0.001 * seed * (learner == "comet") for key, value in one.items()}
        )
        for learner, one in (("comet", whole), (name, without))
        for seed in range(3)
    ]
    return {part.without: word for part, word in judged(Board(runs), "stamps")}


@pytest.mark.parametrize(
    ("whole", "without", "word"),
    [
        ({"unseen": 0.5}, {"unseen": 0.4}, "helps (unseen pairs and unseen by codes)"),
        ({"unseen": 0.4}, {"unseen": 0.5}, "hurts (unseen pairs and unseen by codes)"),
        ({"unseen": 0.4}, {"unseen": 0.4005}, "no difference"),
        ({"forgets": 0.1}, {"forgets": 0.3}, "helps (seen pairs, seen by codes and first pair forgotten)"),
    ],
)
def test_a_part_helps_where_its_difference_is_sure(whole: dict[str, float], without: dict[str, float], word: str):
    assert told(whole, without) == {"comet-no-replay": word}


def test_one_seed_tells_nothing_of_a_part():
    runs = [cross_run("comet", unseen=0.5), cross_run("comet-no-replay", unseen=0.2)]
    assert [word for _, word in judged(Board(runs), "stamps")] == [ONE_SEED]


def test_parts_name_learners_of_the_catalogue():
    assert {name for part in PARTS for name in (part.whole, part.without)} <= COMET.keys()
