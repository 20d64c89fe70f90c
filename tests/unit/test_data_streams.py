import numpy as np
import pytest

from mmcl_edge.data.streams import class_incremental, domain_incremental, shuffled
from mmcl_edge.errors import InputError
from mmcl_edge.types import Sample


def samples(*labels: str, count: int = 2) -> list[Sample]:
    return [Sample(None, None, label, f"{label}{i}") for label in labels for i in range(count)]


def test_classes_arrive_a_few_at_a_time_in_the_given_order():
    splits = {"train": samples("a", "b", "c", "d", "e"), "test": samples("e", "a", "b", "x", count=1)}
    stream = class_incremental(splits, classes_per_experience=2, class_order=["d", "a", "c", "b", "e"])
    assert [experience.classes for experience in stream] == [("d", "a"), ("c", "b"), ("e",)]
    assert [s.source for s in stream[0].train] == ["d0", "d1", "a0", "a1"]
    assert [[s.label for s in experience.test] for experience in stream] == [["a"], ["b"], ["e"]]
    assert len({experience.name for experience in stream}) == 3


def test_classes_outside_the_order_are_left_out():
    stream = class_incremental({"train": samples("a", "b")}, classes_per_experience=1, class_order=["b"])
    assert [(e.classes, len(e.train), len(e.test)) for e in stream] == [(("b",), 2, 0)]


REFUSED = {
    "a count of 0": (0, ["a"], "at least 1"),
    "a repeated class": (1, ["a", "b", "a"], "once"),
    "a class without samples": (1, ["a", "z"], "'z'"),
}


@pytest.mark.parametrize("count, order, message", REFUSED.values(), ids=REFUSED.keys())
def test_bad_streams_are_refused(count, order, message):
    with pytest.raises(InputError, match=message):
        class_incremental({"train": samples("a", "b")}, classes_per_experience=count, class_order=order)


def test_samples_need_classes():
    with pytest.raises(InputError, match="clip"):
        class_incremental({"train": [Sample(None, None, None, "clip")]}, classes_per_experience=1, class_order=["a"])


def test_domains_arrive_one_by_one():
    domains = {name: {"train": samples("b", "a"), "test": samples("a")} for name in ("rain", "sun")}
    stream = domain_incremental(domains, domain_order=["sun", "rain"])
    assert [(e.name, e.classes) for e in stream] == [("domain_sun", ("a", "b")), ("domain_rain", ("a", "b"))]
    with pytest.raises(InputError, match="'snow'"):
        domain_incremental(domains, domain_order=["snow"])


def test_an_order_is_drawn_from_the_generator_passed_in():
    names = tuple("abcdefgh")
    first, second = (shuffled(names, generator=np.random.default_rng(4)) for _ in range(2))
    assert first == second != names
    assert sorted(first) == sorted(names)
