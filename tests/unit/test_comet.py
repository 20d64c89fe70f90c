"""The learner ``comet``: what every learner promises, for stages of pairs; its controls; what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from mmcl_edge.config import CometConfig
from mmcl_edge.data.crossmodal import PairSet, pair_set
from mmcl_edge.data.streams import Experience
from mmcl_edge.errors import InputError
from mmcl_edge.learners.comet.catalogue import COMET, comet_entry
from mmcl_edge.learners.comet.learner import CometLearner
from mmcl_edge.learners.comet.reading import PairExperience
from mmcl_edge.learners.protocol import MEMORY, Progress
from mmcl_edge.types import Sample
from tests.crossmodal import SMALL, THINGS, host, samples, stage
from tests.learning import equal

STAGES = ("image", "speech", "sound")
LEFT_OUT = THINGS[::7]
"""Things that no pair shows: what is said of them must follow from their words."""
TAUGHT = tuple(thing for thing in THINGS if thing not in LEFT_OUT)


def taught(name: str = "comet", *stages: str, seed: int = 0, **changes: object) -> CometLearner:
    learner = comet_entry(name).make(host(seed), SMALL.model_copy(update=changes))
    for one in stages or STAGES[:2]:
        learner.observe(stage(one, TAUGHT))
    return learner


@cache
def well_taught() -> CometLearner:
    """All stages; for checks that only ask."""
    return taught("comet", *STAGES)


def ranks(learner: CometLearner, query: str, items: str, things: tuple[str, ...] = THINGS) -> float:
    """Mean rank (from 1) of the right item among one of each thing; chance is (n + 1) / 2."""
    asked, found = (learner.embed(samples(one, things, seed=5), one) for one in (query, items))
    scores = asked @ found.T
    return float((scores >= scores.diagonal()[:, None]).sum(dim=1).float().mean())


@pytest.mark.parametrize(
    ("query", "items"),
    [("text", "image"), ("speech", "text"), ("image", "speech"), ("sound", "image"), ("speech", "sound")],
)
def test_it_finds_across_modalities_also_where_no_pair_was_ever_shown(query: str, items: str):
    assert ranks(well_taught(), query, items) < 6, f"chance is {(len(THINGS) + 1) / 2}"


def test_it_finds_things_that_were_in_no_pair():
    everything = [ranks(well_taught(), "text", one) for one in STAGES]
    left_out = [ranks(well_taught(), "text", one, LEFT_OUT) for one in STAGES]
    assert max(everything) < 6
    assert np.mean(left_out) < (len(LEFT_OUT) + 1) / 2 - 0.5


def test_embeddings_have_length_one_and_distributions_sum_to_one():
    asked = samples("image", THINGS[:5])
    embedded, codes = (
        well_taught().embed(asked, "image"),
        well_taught().code_distribution(asked, "image"),
    )
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(5))
    assert embedded.shape == (5, SMALL.slots * SMALL.dim)
    assert codes.shape[:2] == (5, SMALL.slots)
    torch.testing.assert_close(codes.sum(dim=2), torch.ones(5, SMALL.slots))
    assert not embedded.requires_grad
    assert well_taught().embed([], "image").shape == (0, SMALL.slots * SMALL.dim)


def test_answers_do_not_depend_on_company_or_order():
    asked = samples("speech", THINGS[:6])
    together = well_taught().embed(asked, "speech")
    torch.testing.assert_close(well_taught().embed(asked[::-1], "speech").flip(0), together, rtol=1e-4, atol=1e-5)
    alone = torch.cat([well_taught().embed([one], "speech") for one in asked])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


def test_it_names_classes_that_are_only_texts():
    learner = well_taught()
    learner.name_classes(THINGS)
    learner.name_classes(THINGS[:2])
    assert learner.labels == THINGS
    asked = samples("image", THINGS, seed=5)
    logits = learner.predict(asked)
    assert logits.shape == (len(asked), len(THINGS))
    right = (logits.argmax(dim=1) == torch.arange(len(THINGS))).float().mean()
    assert float(right) > 0.3, "chance is 0.03"
    heard = samples("sound", THINGS[:4])
    ways = [learner.predict(heard, one) for one in ("speech", "sound")]
    torch.testing.assert_close(learner.predict(heard), (ways[0] + ways[1]) / 2)


def test_a_stage_brings_its_classes():
    learner = comet_entry("comet").make(host(), SMALL)
    learner.observe(stage("image", TAUGHT, classes=("red ant", "grey_fox")))
    assert learner.labels == ("red ant", "grey_fox")
    assert learner.predict(samples("image", THINGS[:2])).shape == (2, 2)


def marks(name: str) -> tuple[pytest.MarkDecorator, ...]:
    """Ablations are the method with a few fields changed: 'make test-all' checks them."""
    return (pytest.mark.slow,) if COMET[name].kind == "ablation" else ()


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in COMET])
def test_every_entry_learns_answers_and_goes_on_after_its_state_was_carried(name: str):
    learner, again = taught(name, "image"), comet_entry(name).make(host(), SMALL)
    again.load_state(learner.state())
    for one in (learner, again):
        one.observe(stage("speech", TAUGHT))
    assert equal(learner.state_dict(), again.state_dict())
    assert (again.modalities, again.experiences) == (("text", "image", "speech"), 2)
    assert learner.memory_bytes == again.memory_bytes
    assert learner.trainable_parameters > 0
    asked = samples("speech", THINGS, seed=5)
    assert torch.equal(learner.embed(asked, "speech"), again.embed(asked, "speech"))
    assert bool(learner.embed(asked, "speech").isfinite().all())
    if "random" not in name:
        assert ranks(learner, "text", "speech") < 9, "chance is 15.5"


def test_its_state_is_a_copy():
    learner = taught("comet", "image")
    before, state = learner.embed(samples("image"), "image"), learner.state_dict()
    for value in state.values():
        value.zero_()
    assert torch.equal(learner.embed(samples("image"), "image"), before)


def test_it_is_reproducible_whatever_the_global_random_state():
    states = []
    for number, seed in enumerate((3, 3, 4)):
        torch.manual_seed(number)
        before = torch.random.get_rng_state()
        states.append(taught(seed=seed).state_dict())
        assert torch.equal(torch.random.get_rng_state(), before), "the global random state was touched"
    assert equal(states[0], states[1])
    assert not equal(states[0], states[2])


def test_branches_and_experts_of_earlier_stages_keep_their_bits():
    learner = taught("comet", "image")
    before = learner.state_dict()
    learner.observe(stage("speech", TAUGHT))
    after = learner.state_dict()
    old = [name for name in before if name.startswith(("branches.image", "branches.text"))]
    assert len(old) > 10
    assert all(torch.equal(before[name], after[name]) for name in old)
    for part in ("down", "bias", "up", "route"):
        frozen = before[f"cmoe.frozen_{part}"]
        assert len(frozen) == SMALL.experts
        assert torch.equal(after[f"cmoe.frozen_{part}"][: len(frozen)], frozen)
    assert float(after["cmoe.frozen_up"][SMALL.experts :].abs().max()) > 0, "the fresh ones learned"


def test_without_anything_that_holds_it_the_mediator_moves():
    learner = taught("comet-fine-tune", "image")
    before = learner.state_dict()["branches.text.project.weight"]
    learner.observe(stage("speech", TAUGHT))
    assert not torch.equal(learner.state_dict()["branches.text.project.weight"], before)


@pytest.mark.parametrize("kind", ["light", "generative", "none"])
def test_memory_is_what_the_chosen_replay_needs(kind: str):
    learner = taught("comet", pseudo_replay=kind)
    codes, dim = len(learner.space.codebook), SMALL.dim
    decoders = [learner.space.branch(name) for name in learner.modalities]
    decoder = sum(value.nbytes for one in decoders for value in one.decoder.parameters())
    expected = {
        "light": 3 * 4 * codes * (2 * dim + 1),  # text, image, speech
        "generative": decoder + 3 * 2 * 4 * SMALL.specific_dim,
        "none": 0,
    }
    assert learner.memory_bytes == expected[kind]
    assert any(name.startswith(MEMORY) for name in learner.state_dict()) == (kind == "light")


def test_the_codebook_grows_under_its_cap_and_only_where_it_may():
    grows = taught("comet", codes=4, expand_codes=3, expand_margin=0.0, merge_cosine=1.0)
    fixed = taught("comet-fixed-codebook", codes=4, expand_codes=3, expand_margin=0.0, merge_cosine=1.0)
    assert 4 < len(grows.space.codebook) <= 8
    assert len(fixed.space.codebook) == 4
    assert grows.last is not None
    assert grows.last.codes_added == len(grows.space.codebook) - 4


def test_usage_tells_what_modalities_share():
    usage = well_taught().usage([*samples("image"), *samples("speech")], ("text", "image", "speech"))
    assert usage.codes == len(well_taught().space.codebook)
    assert 1 < usage.perplexity <= usage.codes
    assert 0 < usage.shared <= 1
    assert set(usage.residual) == {"text", "image", "speech"}


def test_several_captions_of_one_picture_are_several_pairs():
    shown = samples("image", TAUGHT)
    said = [(one.text or "", (one.text or "").split()[1]) for one in shown]
    learner = comet_entry("comet").make(host(), SMALL)
    pairs = learner.pairs(PairExperience.of(pair_set(shown, "image", captions=said)))
    assert len(pairs.own) == len(pairs.text) == len(pairs.groups) == 2 * len(shown)
    assert torch.equal(pairs.own[0], pairs.own[1])
    assert int(pairs.groups[0]) == int(pairs.groups[1])


def test_it_tells_how_far_it_is():
    told: list[Progress] = []
    learner = comet_entry("comet").make(host(), SMALL)
    learner.observe(stage("image", TAUGHT), told.append)
    steps = -(-2 * len(TAUGHT) // SMALL.batch_size)
    assert [(one.epoch, one.step) for one in told] == [(e + 1, s + 1) for e in range(3) for s in range(steps)]
    assert all(np.isfinite(list(one.losses.values())).all() for one in told)
    comet_entry("comet-ridge").make(host(), SMALL).observe(stage("image", TAUGHT), told.append)
    assert told[-1] == Progress(1, 1, 1, 1, {})


def plain() -> Experience:
    return Experience("pets", (), (), ("dog",))


def one_caption() -> Experience:
    return stage("image", THINGS[:1])


def told_by_speech() -> Experience:
    shown = [replace(one, audio=samples("speech")[0].audio, text=None) for one in samples("image", TAUGHT)]
    return PairExperience.of(PairSet("image", "speech", tuple(shown), ((),) * len(shown)))


def of_motion() -> Experience:
    moved = [replace(one, motion=np.zeros((50, 3), np.float32)) for one in samples("image", TAUGHT)]
    return PairExperience.of(pair_set(moved, "motion"))


@pytest.mark.parametrize(
    ("experience", "sentence"),
    [
        (plain, "make it with PairExperience.of"),
        (one_caption, "all 2 have the same text"),
        (told_by_speech, "Expected a mediator that the space knows"),
        (of_motion, "a backbone for motion"),
    ],
)
def test_what_it_cannot_learn_is_refused_and_changes_nothing(experience: Callable[[], Experience], sentence: str):
    learner = taught("comet", "image")
    before = learner.state()
    with pytest.raises(InputError, match=sentence):
        learner.observe(experience())
    assert equal(learner.state().tensors, before.tensors)
    assert (learner.labels, learner.experiences, learner.modalities) == ((), 1, ("text", "image"))


def test_an_interrupted_stage_changes_nothing():
    learner = taught("comet", "image")
    before = learner.state_dict()

    def stop(progress: Progress) -> None:
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learner.observe(stage("speech", TAUGHT), stop)
    assert equal(learner.state_dict(), before)
    assert learner.experiences == 1


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda learner: learner.embed(samples("sound"), "sound"), "Expected a modality that was learned"),
        (lambda learner: learner.embed([Sample(None, None, text="red ant")], "image"), "Expected samples with image"),
        (lambda learner: learner.predict([Sample(None, None, text="red ant")]), "Expected a sample with one of"),
        (lambda _: comet_entry("comets"), "Expected one of the learners"),
    ],
)
def test_what_it_cannot_answer_is_said(ask: Callable[[CometLearner], object], sentence: str):
    with pytest.raises(InputError, match=sentence):
        ask(taught("comet-ridge", "image"))


def test_the_same_modality_again_goes_on_learning():
    learner = taught("comet", "image")
    before = learner.state_dict()
    learner.observe(stage("image", TAUGHT[:9]))
    assert learner.modalities == ("text", "image")
    assert not torch.equal(
        learner.state_dict()["branches.image.project.weight"], before["branches.image.project.weight"]
    )


def test_configurations_refuse_what_makes_no_sense():
    with pytest.raises(ValueError, match="slots"):
        CometConfig(slots=0)
    with pytest.raises(ValueError, match="Extra inputs"):
        CometConfig(speed=3)  # type: ignore[call-arg]
