"""Streams of the benchmark: orders and draws by seed, validation by whole groups, scenarios."""

from __future__ import annotations

from collections import Counter

import pytest

from mmcl_edge.benchmark.streams import VALIDATION, build_stream
from mmcl_edge.benchmark.suites import SUITES, StreamSpec, find_suite
from mmcl_edge.config import MethodConfig
from mmcl_edge.data.conditions import CONDITIONS
from mmcl_edge.data.datasets import Row
from mmcl_edge.data.items import MediaItem
from mmcl_edge.errors import InputError
from mmcl_edge.learners.catalogue import LEARNERS
from mmcl_edge.types import Sample

LABELS = ("ant", "bee", "cow", "dog", "eel", "fox")


def rows(domains: tuple[str, ...] = ("",)) -> list[Row]:
    """Ten training rows in five groups and four test rows, of each class and domain."""
    found = []
    for domain in domains:
        for label in LABELS:
            for number in range(14):
                split, name = ("train" if number < 10 else "test"), f"{domain}{label}{number}"
                found.append(Row(name, label, split, f"{domain}{label}{number // 2}", domain, MediaItem(label, name)))
    return found


def stream(seed: int = 0, domains: tuple[str, ...] = ("",), **fields: object):
    known = rows(domains)
    samples = {row.id: Sample(None, None, row.label, row.id) for row in known}
    spec = StreamSpec.model_validate({"name": "made up", "dataset": "none", "classes_per_experience": 2} | fields)
    return build_stream(spec, known, seed, samples)


def ids(samples) -> list[str]:
    return [sample.source for sample in samples]


def test_a_seed_draws_the_order_of_classes_and_another_seed_another():
    orders = {tuple(name for one in stream(seed) for name in one.classes) for seed in range(6)}
    assert all(sorted(order) == list(LABELS) for order in orders)
    assert len(orders) > 3
    again = [ids(one.train) for one in stream(3)]
    assert again == [ids(one.train) for one in stream(3)]


def test_all_samples_of_a_class_come_once_in_its_experience():
    found = stream()
    assert Counter(name for one in found for name in ids(one.train)) == Counter(
        row.id for row in rows() if row.split == "train"
    )
    for one in found:
        assert {sample.label for sample in (*one.train, *one.test)} == set(one.classes)
        assert len(one.test) == 4 * 2


def test_few_pairs_are_drawn_by_seed_and_test_stays_whole():
    draws = [stream(seed, pairs=3) for seed in (0, 1)]
    for draw in draws:
        assert all(Counter(s.label for s in one.train) == dict.fromkeys(one.classes, 3) for one in draw)
        assert sum(len(one.test) for one in draw) == 4 * len(LABELS)
    assert {n for one in draws[0] for n in ids(one.train)} != {n for one in draws[1] for n in ids(one.train)}


def test_validation_takes_whole_groups_of_train_and_never_a_test_row():
    group_of = {row.id: row.group for row in rows()}
    split_of = {row.id: row.split for row in rows()}
    for seed in range(5):
        for one in stream(seed, test="validation"):
            train, held = ids(one.train), ids(one.test)
            assert {split_of[name] for name in (*train, *held)} == {"train"}
            assert not {group_of[name] for name in train} & {group_of[name] for name in held}
            assert VALIDATION <= len(held) / (len(train) + len(held)) <= 0.4


def test_domains_come_in_an_order_by_seed_and_hold_every_class():
    found = stream(domains=("x", "y", "z"), scenario="domain")
    assert len(found) == 3
    assert all(set(one.classes) == set(LABELS) for one in found)
    assert all(len({name[0] for name in ids(one.train)}) == 1 for one in found)
    with pytest.raises(InputError, match="several domains"):
        stream(scenario="domain")


def test_online_is_one_pass():
    spec = StreamSpec(name="x", dataset="y", online=True)
    train = spec.method(MethodConfig()).train
    assert (train.epochs, train.min_steps) == (1, 0)
    assert StreamSpec(name="x", dataset="y").method(MethodConfig()) == MethodConfig()


@pytest.mark.parametrize("name", SUITES)
def test_suites_name_what_exists(name: str):
    suite = find_suite(name)
    for one in suite.streams:
        assert set(one.learners or suite.learners) <= set(LEARNERS)
        assert set(one.conditions) <= set(CONDITIONS)


def test_every_learner_is_in_the_results_or_the_ablations():
    shown = {name for key in ("results", "ablations") for one in SUITES[key].streams for name in one.learners or ()}
    shown |= {*SUITES["results"].learners, *SUITES["ablations"].learners}
    assert shown == set(LEARNERS)


def test_an_unknown_suite_is_named_with_those_there_are():
    with pytest.raises(InputError, match="results"):
        find_suite("nothing")


def test_choices_are_made_on_validation():
    assert all(one.test == "validation" for one in SUITES["validation"].streams)
