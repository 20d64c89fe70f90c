"""What a learner is asked after each stage, on the small world that every modality tells of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmcl_edge.benchmark.crossmodal.measure import _compared, embedded, learn_and_measure
from mmcl_edge.benchmark.crossmodal.records import CODES, VECTORS, Stage
from mmcl_edge.benchmark.crossmodal.scores import pair_scores
from mmcl_edge.benchmark.crossmodal.tasks import PairTask, View, captions_of, pair_name
from mmcl_edge.learners.comet.catalogue import comet_entry
from mmcl_edge.learners.comet.joint import JointCometLearner
from mmcl_edge.losses.crossmodal import code_scores
from mmcl_edge.types import TEXT
from tests.crossmodal import SMALL, THINGS, host, samples

ORDER = ("image", "speech", "sound")


def view(modality: str, *, seed: int, each: int) -> View:
    made = samples(modality, seed=seed, each=each)
    bare = [replace(one, label=None) for one in made]
    return View(modality, tuple(bare), tuple(str(one.text) for one in made), tuple(str(one.label) for one in made))


@pytest.fixture(scope="module")
def task() -> PairTask:
    train = {modality: view(modality, seed=1, each=2) for modality in ORDER}
    test = {modality: view(modality, seed=2, each=1) for modality in ORDER}
    return PairTask("stamps", train, {TEXT: captions_of(tuple(test.values())), **test}, {})


@pytest.fixture(scope="module")
def stages(task: PairTask) -> tuple[Stage, ...]:
    return learn_and_measure(comet_entry("comet").make(host(), SMALL), task, ORDER)


def test_every_pair_learned_so_far_is_asked_both_ways(stages: tuple[Stage, ...]):
    for step, stage in enumerate(stages, start=1):
        known = ("text", *ORDER[:step])
        asked = {(one.query, one.gallery, one.by) for one in stage.found}
        assert asked == {(a, b, by) for a in known for b in known if a != b for by in (VECTORS, CODES)}
        told = {(one.train, one.test, one.how, one.by) for one in stage.told}
        assert len(told) == step * step * 2 * 2 == len(stage.told)
        assert (stage.modality, stage.pairs, set(stage.residual)) == (ORDER[step - 1], 2 * len(THINGS), set(known))
        assert stage.experts == step * SMALL.experts


def test_what_never_met_is_found_above_luck(stages: tuple[Stage, ...]):
    unseen = pair_name("image", "speech")
    assert pair_scores(stages[-1])[unseen] > 2 * pair_scores(stages[-1], kind="luck")[unseen]
    chance = pair_scores(stages[-1], kind="chance")[unseen]
    assert chance == pytest.approx((1 + 5 + 10) / 3 / len(THINGS))


def test_classes_are_told_across_modalities_above_chance(stages: tuple[Stage, ...]):
    across = [
        one for one in stages[-1].told if one.how == "nearest_mean" and one.by == VECTORS and one.train != one.test
    ]
    assert all(one.accuracy > 3 * one.chance for one in across)
    assert {one.chance for one in across} == {1 / len(THINGS)}


def test_scores_of_codes_are_those_that_training_matches(task: PairTask):
    learner = comet_entry("comet-ridge").make(host(), SMALL)
    learner.observe(task.stage("image"))
    image, text = embedded(learner, task.test["image"]), embedded(learner, task.test[TEXT])
    left, right = _compared(image, text, CODES)
    torch.testing.assert_close(left @ right.T / SMALL.slots, code_scores(image.codes, text.codes))


def test_classes_with_names_are_told_by_name(task: PairTask):
    named = replace(task, names={thing: thing for thing in THINGS})
    (stage,) = learn_and_measure(comet_entry("comet-ridge").make(host(), SMALL), named, ("image",))
    by_name = [one for one in stage.told if one.how == "name"]
    assert [(one.train, one.test, one.by) for one in by_name] == [(TEXT, "image", VECTORS), (TEXT, "image", CODES)]
    assert by_name[0].accuracy > 5 * by_name[0].chance


def test_the_joint_control_learns_once_all_that_there_is(task: PairTask):
    learner = comet_entry("comet-joint").make(host(), SMALL)
    assert isinstance(learner, JointCometLearner)
    (stage,) = learn_and_measure(learner, task, ORDER)
    assert stage.modality == ORDER[-1]
    assert [one.modality for one in learner.kept] == list(ORDER)
    assert set(pair_scores(stage)) == {pair_name(a, b) for a in ("text", *ORDER) for b in ("text", *ORDER) if a != b}
    again = comet_entry("comet-joint").make(host(), SMALL)
    for modality in ORDER:
        again.observe(task.stage(modality))
    picture = task.test["image"].samples
    assert torch.equal(again.embed(picture, "image"), learner.embed(picture, "image")), "as if it saw one by one"


def test_texts_are_every_caption_once():
    one, other = view("image", seed=1, each=2), view("sound", seed=1, each=1)
    louder = replace(other, captions=tuple(caption.upper() for caption in other.captions))
    found = captions_of((one, louder))
    assert found.captions == THINGS
    assert [sample.text for sample in found.samples] == list(THINGS)
