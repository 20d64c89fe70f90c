"""Canaries: which are asked, and what their answers say of a pack."""

import numpy as np
import pytest

from mmcl_edge.bundle import AudioInput, FileEntry, FramesInput, MotionInput, TextInput
from mmcl_edge.fleet.health import (
    MAX_CANARIES,
    MAX_PAIRS,
    Examination,
    chosen,
    chosen_pairs,
    complaint,
    judged,
    synthetic,
)
from mmcl_edge.runtime.replay_store import HeldPair
from mmcl_edge.types import Prediction, Sample

DOG, CAT = frozenset({"dog"}), frozenset({"cat"})
BOTH = DOG | CAT
OLD = Examination(8, 10, BOTH)

HEARD = Examination(8, 10, BOTH, modalities=("text", "image"), retrieval={"image": 0.6})


def seen(rank: float, *modalities: str) -> Examination:
    return Examination(8, 10, BOTH, modalities=("text", *modalities), retrieval={"image": rank} if rank else {})


# name: (pack in use, new pack, classes asked, withdrawal, words)
COMPLAINTS = {
    "as good": (OLD, Examination(8, 10, BOTH), BOTH, False, None),
    "better": (OLD, Examination(10, 10, BOTH), BOTH, False, None),
    "worse within tolerance": (OLD, Examination(7, 10, BOTH), BOTH, False, None),
    "worse": (OLD, Examination(6, 10, BOTH), BOTH, False, "60.0 %"),
    "worse, in the place of a withdrawn one": (OLD, Examination(0, 10, BOTH), BOTH, True, None),
    "no pack before": (None, Examination(0, 0, BOTH), frozenset(), False, None),
    "no canaries": (Examination(0, 0, DOG), Examination(0, 0, CAT), frozenset(), False, None),
    "a class is lost": (OLD, Examination(10, 10, CAT), BOTH, False, "'dog'"),
    "a class is lost, in the place of a withdrawn one": (OLD, Examination(10, 10, CAT), BOTH, True, None),
    "a space comes": (OLD, seen(0.5, "image"), BOTH, False, None),
    "retrieval worse within tolerance": (HEARD, seen(0.5, "image", "sound"), BOTH, False, None),
    "retrieval worse": (HEARD, seen(0.49, "image"), BOTH, False, "rank of 0.490, the pack in use with 0.600"),
    "retrieval worse, in the place of a withdrawn one": (HEARD, seen(0.1, "image"), BOTH, True, None),
    "a modality is lost": (HEARD, seen(0.0, "sound"), BOTH, False, "does not know image"),
    "the space is lost": (HEARD, OLD, BOTH, False, "does not know text, image"),
    "the space is lost, in the place of a withdrawn one": (HEARD, OLD, BOTH, True, None),
    "a modality cannot be measured any more": (HEARD, seen(0.0, "image"), BOTH, False, "rank of 0.000"),
    "not finite": (OLD, Examination(10, 10, BOTH, ("x.wav",)), BOTH, False, "x.wav"),
    "not finite, in the place of a withdrawn one": (OLD, Examination(10, 10, BOTH, ("x",)), BOTH, True, "not finite"),
    "not finite, no pack before": (None, Examination(0, 0, BOTH, ("x",)), BOTH, False, "not finite"),
}


@pytest.mark.parametrize(("old", "new", "asked", "withdrawal", "words"), COMPLAINTS.values(), ids=COMPLAINTS)
def test_complaints(old, new, asked, withdrawal, words):
    found = complaint(old, new, asked, tolerance=0.1, withdrawal=withdrawal)
    assert found is None if words is None else words in found


def answer(label: str, probability: float = 1.0) -> Prediction:
    return Prediction(label, {label: probability}, {}, {}, "a" * 64)


def test_answers_are_judged_by_label_and_by_whether_they_are_finite():
    canaries = [Sample(None, None, "dog", "1.wav"), Sample(None, None, "cat", "2.wav")]
    found = judged(canaries, [answer("dog"), answer("dog", np.nan), answer("dog", np.inf)], DOG)
    assert (found.right, found.canaries, found.accuracy) == (1, 2, 0.5)
    assert found.unusable == ("2.wav", "a synthetic sample")
    assert judged([], [answer("dog")], DOG).accuracy is None


def test_canaries_are_taken_class_by_class_in_turn():
    samples = [Sample(None, None, label, f"{label}{n}") for label, count in (("a", 90), ("b", 2)) for n in range(count)]
    found = chosen(samples)
    assert len(found) == MAX_CANARIES
    assert [sample.source for sample in found[:5]] == ["a0", "b0", "a1", "b1", "a2"]
    assert chosen([]) == ()


def test_the_first_pairs_of_each_modality_are_asked():
    pairs = [
        HeldPair(Sample(None, None, None, f"{m}{n}"), m, "text", ()) for m in ("b", "a") for n in range(MAX_PAIRS + 2)
    ]
    found = chosen_pairs(pairs)
    assert [one.modality for one in found] == ["b"] * MAX_PAIRS + ["a"] * MAX_PAIRS
    assert found[1].sample.source == "b1"
    assert chosen_pairs([]) == ()


def test_a_synthetic_sample_holds_all_that_the_bundle_takes():
    motion = MotionInput(channels=2, rate_hz=50, window_s=2, mean=(1.0, 2.0), std=(1.0, 1.0), samples_per_token=10)
    audio = AudioInput(max_duration_s=30.0, token_stride=160)
    vocabulary = FileEntry(path="text/vocab.txt", sha256="0" * 64, size_bytes=9)
    text = TextInput(vocabulary=vocabulary, vocabulary_size=9)
    found = synthetic([audio, FramesInput(height=8, width=12), motion, text])
    assert found.audio is not None
    assert not found.audio.any()
    assert found.frames.shape == (1, 8, 12, 3)
    assert found.motion.shape == (100, 2)
    assert found.text
    assert found.label is None
    assert synthetic([FramesInput(height=8, width=12)]).audio is None
