"""Held-out pairs: never learned from, whatever a folder grows by, is named, or is told by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from mmcl_edge.config import AdaptConfig, ReplayConfig
from mmcl_edge.data.crossmodal import PairSet, pair_set
from mmcl_edge.runtime.holdout import retrieval_of
from mmcl_edge.runtime.pair_division import divide_pairs, judged_pairs, kept_pairs
from mmcl_edge.runtime.replay_store import HeldPair
from mmcl_edge.types import Sample

HOW = AdaptConfig()


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (1, 2, 2, 3), np.uint8)


def told(numbers: Sequence[int], *, caption: str = "thing {}", modality: str = "image") -> PairSet:
    samples = [Sample(None, picture(n), source=f"{n}.png", text=caption.format(n)) for n in numbers]
    return pair_set(samples, modality)


def wordless(numbers: Sequence[int], *, name: str = "{}.png") -> PairSet:
    samples = [Sample(np.full(800, 0.001 * (n + 1), np.float32), picture(n), source=name.format(n)) for n in numbers]
    return pair_set(samples, "image", "sound")


def contents(pairs: PairSet | Sequence[HeldPair]) -> set[bytes]:
    samples = pairs.samples if isinstance(pairs, PairSet) else [one.sample for one in pairs]
    return {one.frames.tobytes() for one in samples if one.frames is not None}


@pytest.mark.parametrize("make", [told, wordless])
@pytest.mark.parametrize("few", [10, 60, 400])
def test_a_folder_that_grows_never_holds_out_what_was_learned_from(make, few: int):
    old: tuple[HeldPair, ...] = ()
    learned: set[bytes] = set()
    for count in (few, few + few // 2, 3 * few):
        pairs = make(range(count))
        train, held = divide_pairs(pairs, HOW, old)
        assert len(train) + len(held) == count
        assert held
        learned |= contents(train)
        judged = judged_pairs(old, train, held)
        assert not learned & contents(judged)
        assert contents(old) <= contents(held), "what was held out before stays so"
        old = kept_pairs(judged, "image", HOW)
        assert len(old) <= HOW.holdout_pairs


def test_neither_order_nor_seed_nor_names_decide():
    numbers = list(range(40))
    expected = contents(divide_pairs(wordless(numbers), HOW, ())[1])
    assert contents(divide_pairs(wordless(numbers[::-1]), HOW, ())[1]) == expected
    assert contents(divide_pairs(wordless(numbers, name="again/{}.jpg"), HOW, ())[1]) == expected
    assert contents(divide_pairs(wordless(numbers), HOW.model_copy(update={"seed": 7}), ())[1]) == expected
    assert len(expected) == 8


def test_one_picture_under_two_captions_stays_on_one_side():
    first, again = told(range(30)), told(range(30), caption="another thing {}")
    both = PairSet("image", "text", first.samples + again.samples, first.captions + again.captions)
    train, held = divide_pairs(both, HOW, ())
    assert held
    assert not contents(train) & contents(held)


def test_other_captions_do_not_bring_a_held_out_picture_into_training():
    held = divide_pairs(told(range(30)), HOW, ())[1]
    train, _ = divide_pairs(told(range(30), caption="another thing {}"), HOW, held)
    assert not contents(train) & contents(held)


def test_another_mediator_does_not_bring_a_held_out_picture_into_training():
    held = divide_pairs(told(range(30)), HOW, ())[1]
    train, more = divide_pairs(wordless(range(30)), HOW, held)
    learned = contents(train)
    assert not learned & contents(held)
    old = kept_pairs(judged_pairs(held, train, more), "image", HOW)
    assert {one.mediator for one in old} == {"text", "sound"}
    train, later = divide_pairs(wordless(range(60)), HOW, old)
    assert not (learned | contents(train)) & contents(judged_pairs(old, train, later))


def test_what_another_folder_held_out_stays_to_be_measured():
    old = divide_pairs(told(range(30)), HOW, ())[1]
    train, held = divide_pairs(told(range(100, 130)), HOW, old)
    judged = judged_pairs(old, train, held)
    assert contents(judged) == contents(old) | contents(held)
    assert len(judged) == len(old) + len(held)
    again = judged_pairs(judged, train, held)
    assert len(again) == len(judged), "none counts twice"


def test_what_has_to_be_learned_from_is_measured_with_no_more():
    old = divide_pairs(told(range(30)), HOW, ())[1]
    numbers = sorted(int(one.sample.source.partition(".")[0]) for one in old)
    train, held = divide_pairs(told([*numbers, 100, 101]), HOW, old)
    assert (len(train), held) == (len(numbers) + 2, ())
    assert judged_pairs(old, train, held) == ()


def test_a_pair_too_large_to_keep_does_not_push_out_the_others():
    pairs = [
        HeldPair(Sample(None, picture(n), source=str(n), text=f"thing {n}"), "image", "text", (f"thing {n}",))
        for n in range(20)
    ]
    wide = np.zeros((1, 1, ReplayConfig().budget_bytes // 3 + 1, 3), np.uint8)
    large = HeldPair(Sample(None, wide, source="wide", text="wide"), "image", "text", ("wide",))
    kept = kept_pairs([*pairs, large], "image", HOW)
    assert {one.sample.source for one in kept} == {str(n) for n in range(20)}


def test_one_content_twice_is_no_wrong_answer():
    pairs = [
        HeldPair(Sample(np.full(800, n + 1, np.float32) / 100, picture(n), source=str(row)), "image", "sound", ())
        for row, n in enumerate((0, 1, 2, 3, 0))
    ]

    def embed(samples: Sequence[Sample], modality: str) -> np.ndarray:
        def number(one: Sample) -> int:
            return next(n for n in range(4) if np.array_equal(one.frames, picture(n)))

        return np.eye(4)[[number(one) for one in samples]]

    assert retrieval_of(embed, pairs) == {"image": 1.0}


def test_two_mediators_of_one_modality_both_count():
    numbers = range(4)
    by_text = [HeldPair(one, "image", "text", (one.text,)) for one in told(numbers).samples]
    by_sound = [HeldPair(one, "image", "sound", ()) for one in wordless(numbers).samples]

    def embed(samples: Sequence[Sample], modality: str) -> np.ndarray:
        rows = np.arange(len(samples))
        return np.eye(4)[rows if modality != "sound" else rows[::-1]]

    alone = [retrieval_of(embed, pairs)["image"] for pairs in (by_text, by_sound)]
    assert alone[0] == 1.0 > alone[1]
    assert retrieval_of(embed, by_text + by_sound)["image"] == pytest.approx(sum(alone) / 2)


def test_a_small_beginning_does_not_hold_out_much_of_what_comes_later():
    few = told(range(6))
    old = divide_pairs(few, HOW, ())[1]
    assert len(old) == 3
    train, held = divide_pairs(told(range(400)), HOW, old)
    assert len(train) + len(held) == 400
    assert len(held) < 0.3 * 400
