"""Shared spaces of several devices as one: what is kept bit for bit, what is combined, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from mmcl_edge.errors import MergeError
from mmcl_edge.fleet.merge.outliers import astray
from mmcl_edge.fleet.merge.spaces import merge_spaces
from mmcl_edge.fleet.merge.spaces_branches import chosen_shares
from mmcl_edge.fleet.merge.spaces_held import HeldSpace, bounded
from mmcl_edge.learners.retrieval import retrieval
from tests.crossmodal import SMALL, THINGS, host, samples, stage
from tests.spaces import EVERY, Stage, changed, embedded, held, same

IMAGE: Stage = ("image", EVERY)
SPEECH: Stage = ("speech", EVERY)
SOUND: Stage = ("sound", EVERY)
HALVES = tuple(THINGS[::2]), tuple(THINGS[1::2])

BASE = held("0", IMAGE)
ONE, TWO = held("a", IMAGE, SPEECH), held("b", IMAGE, SOUND)


def noisy(space: HeldSpace, modality: str, by: float = 0.01, *, seed: int = 0) -> HeldSpace:
    """The space with another projection of a modality."""
    generator = torch.Generator().manual_seed(seed)

    def change(name: str, value: torch.Tensor) -> torch.Tensor:
        touched = name.startswith(f"branches.{modality}.project.")
        return value + by * torch.randn(value.shape, generator=generator) if touched else value

    return changed(space, change)


def test_a_single_space_and_equal_ones_are_the_same_again():
    assert same(merge_spaces([ONE]).stored, ONE.stored)
    again = HeldSpace("z", 1.0, ONE.stored)
    assert same(merge_spaces([ONE, again]).stored, ONE.stored)
    assert same(merge_spaces([again, ONE], base=BASE).stored, ONE.stored)


@pytest.mark.parametrize("base", [None, BASE])
def test_the_order_of_packs_does_not_matter(base):
    three = held("c", IMAGE, SOUND, SPEECH)
    found = [merge_spaces(order, base=base).stored for order in ([ONE, TWO, three], [three, TWO, ONE])]
    assert same(*found)


def test_each_device_brings_its_modality_and_what_both_had_keeps_its_bits():
    found = merge_spaces([ONE, TWO], base=BASE)
    assert found.stored.facts.modalities == ("text", "image", "speech", "sound")
    assert found.stored.facts.pairs == {"image": 60, "speech": 60, "sound": 60}
    assert found.stored.facts.stages == ("text-image", "text-speech", "text-sound")
    for modality, device in (("text", ONE), ("image", ONE), ("speech", ONE), ("sound", TWO)):
        for name, value in device.branch(modality).items():
            assert torch.equal(found.stored.tensors[f"branches.{modality}.{name}"], value), (modality, name)
    assert not any(one.combined for one in found.figures.modalities)
    assert found.stored.facts.experts_frozen == 6, "two of the release, two of each device"


def test_a_parent_and_its_child_give_the_child():
    found = merge_spaces([BASE, ONE], base=BASE).stored
    assert found.facts == ONE.stored.facts
    for name, value in ONE.stored.tensors.items():
        if name.startswith(("branches.", "cmoe.", "prediction.")):
            assert torch.equal(found.tensors[name], value) or name.startswith("branches.text.specific_"), name


def test_what_devices_embed_stays_nearly_what_it_was():
    found = merge_spaces([ONE, TWO], base=BASE).stored
    for modality, device in (("text", ONE), ("image", ONE), ("speech", ONE), ("sound", TWO)):
        asked = samples(modality if modality != "text" else "image")
        before, after = (embedded(one, modality, asked) for one in (device.stored, found))
        assert float((before * after).sum(dim=1).min()) > 0.9, modality


def test_what_never_met_meets_in_the_merged_space():
    found = merge_spaces([ONE, TWO], base=BASE).stored
    speech, sound = (embedded(found, name, samples(name)) for name in ("speech", "sound"))
    share = retrieval(speech.numpy(), sound.numpy(), THINGS, THINGS).recall[5]
    assert share > 0.5, "chance is one in six"


def test_shares_of_one_modality_are_combined_as_maps():
    devices = [held(name, IMAGE, ("speech", half)) for name, half in zip("ab", HALVES, strict=True)]
    found = merge_spaces(devices, base=BASE)
    figures = {one.modality: one for one in found.figures.modalities}
    speech = figures["speech"]
    assert (speech.combined, speech.packs, speech.pairs) == (True, ("a", "b"), 60)
    texts, speech = samples("image"), samples("speech")
    scores = []
    for space in (*(one.stored for one in devices), found.stored):
        told, heard = (embedded(space, *asked).numpy() for asked in (("text", texts), ("speech", speech)))
        scores.append(retrieval(heard, told, THINGS, THINGS).recall[1])
    assert scores[2] > max(scores[:2]), scores


def test_a_branch_that_only_one_changed_is_that_ones():
    other = noisy(ONE, "image")
    found = merge_spaces([other, TWO], base=BASE).stored
    name = "branches.image.project.weight"
    assert torch.equal(found.tensors[name], other.stored.tensors[name])
    unknown = merge_spaces([other, TWO]).stored.tensors[name]
    wanted = (other.stored.tensors[name] + TWO.stored.tensors[name]) / 2
    torch.testing.assert_close(unknown, wanted, rtol=1e-2, atol=1e-3)


def test_pairs_and_weights_are_shares():
    name = "branches.image.project.bias"
    one, two = noisy(BASE, "image", seed=1), noisy(BASE, "image", seed=2)
    one, two = HeldSpace("a", 1.0, one.stored), HeldSpace("b", 3.0, two.stored)
    found = merge_spaces([one, two]).stored.tensors[name]
    torch.testing.assert_close(
        found, 0.25 * one.stored.tensors[name] + 0.75 * two.stored.tensors[name], rtol=1e-4, atol=1e-5
    )
    more = changed(one, lambda name, value: value, pairs={"image": 180})
    found = merge_spaces([more, two]).stored.tensors[name]
    torch.testing.assert_close(
        found, 0.5 * one.stored.tensors[name] + 0.5 * two.stored.tensors[name], rtol=1e-4, atol=1e-5
    )
    union = merge_spaces([more, HeldSpace("b", 1.0, two.stored)], method="union").stored.tensors[name]
    assert torch.equal(union, more.stored.tensors[name])


def test_devices_without_a_common_release_meet_by_their_texts():
    one, two = held("a", ("image", HALVES[0])), held("b", ("speech", HALVES[1]))
    found = merge_spaces([one, two])
    assert {name.modality: name.combined for name in found.figures.modalities} == {
        "text": True,
        "image": False,
        "speech": False,
    }
    for modality, device in (("image", one), ("speech", two), ("text", one), ("text", two)):
        asked = samples(modality if modality != "text" else "image")
        before, after = (embedded(space, modality, asked) for space in (device.stored, found.stored))
        assert float(functional.cosine_similarity(before, after).mean()) > 0.9, modality


def test_the_mediator_of_most_is_kept_and_the_odd_one_named():
    odd = noisy(held("c", IMAGE, SOUND), "text")
    found = merge_spaces([ONE, TWO, odd], base=BASE)
    name = "branches.text.project.weight"
    assert torch.equal(found.stored.tensors[name], ONE.stored.tensors[name])
    assert any("c..." in note and "mediator text" in note for note in found.notes)


def test_codes_and_gaussians_follow():
    found = merge_spaces([ONE, TWO], base=BASE)
    codes = len(found.stored.tensors["codebook.codes"])
    assert codes <= SMALL.expand_cap * SMALL.codes
    assert codes == found.figures.codes == found.stored.facts.codes_settled
    for modality in found.stored.facts.modalities:
        counts = found.stored.tensors[f"memory.{modality}.counts"]
        device = ONE if modality in ONE.modalities else TWO
        before = device.stored.tensors[f"memory.{modality}.counts"]
        assert len(counts) == codes
        assert float(counts.sum()) == pytest.approx(float(before.sum()), rel=1e-5)


def test_a_merged_space_goes_on_learning():
    learner = merge_spaces([held("a", IMAGE), held("b", ("speech", HALVES[0]))]).stored.learner(host())
    learner.observe(stage("sound"))
    assert set(learner.modalities) == {"text", "image", "speech", "sound"}


def test_claims_count_within_bounds():
    assert bounded([10, 1e9]) == [10, 100]
    assert bounded([1e9, 5, 7]) == [70, 5, 7]
    name = "branches.image.project.bias"
    two = HeldSpace("b", 1.0, noisy(BASE, "image", seed=2).stored)
    liar = changed(noisy(BASE, "image", seed=1), lambda name, value: value, pairs={"image": 10**9})
    found = merge_spaces([liar, two]).stored
    share = 10 / 11
    wanted = share * liar.stored.tensors[name] + (1 - share) * two.stored.tensors[name]
    torch.testing.assert_close(found.tensors[name], wanted, rtol=1e-4, atol=1e-5)
    assert found.facts.pairs["image"] == 660


def test_a_map_of_huge_numbers_does_not_decide_alone():
    devices = [HeldSpace(name, 1.0, noisy(BASE, "image", seed=n).stored) for n, name in enumerate("abc")]
    huge = changed(
        noisy(BASE, "image", seed=7),
        lambda name, value: -1e5 * value if name.startswith("branches.image.project.") else value,
    )
    four = [*devices, HeldSpace("d", 1.0, huge.stored)]
    seen = []
    found = merge_spaces(four, method="median", look=lambda part, digests, products: seen.append((part, digests)))
    assert seen == [("space.image", ["a", "b", "c", "d"])]
    asked = samples("image")
    before, after = (embedded(one, "image", asked) for one in (BASE.stored, found.stored))
    assert float(functional.cosine_similarity(before, after).min()) > 0.95


def test_what_points_elsewhere_is_named_and_left_out_by_robust_methods():
    rows = np.random.default_rng(0).normal(size=(6, 400)) + 0.4
    rows[1] *= -1
    rows[2] *= 50
    products = rows @ rows.T
    assert astray(products).tolist() == [False, True, False, False, False, False]
    assert not astray(products[:3, :3]).any(), "too few to tell"
    share = np.full(6, 1 / 6)
    for method in ("median", "krum"):
        found = chosen_shares(method, products, share)
        assert found[1] == 0
        assert found.sum() == pytest.approx(1)
    assert chosen_shares("mean", products, share).tolist() == share.tolist()


def reshaped(**fields: object) -> HeldSpace:
    return held("c", IMAGE, config=SMALL.model_copy(update=fields))


def turned(space: HeldSpace) -> HeldSpace:
    name = "branches.text.project.weight"
    return changed(space, lambda n, value: value.flip(0) if n == name else value)


REFUSED = {
    "other slots": (lambda: reshaped(slots=3), "differ in slots (2 and 3)"),
    "other codes": (lambda: reshaped(codes=10), "differ in codes (12 and 10)"),
    "another replay": (lambda: reshaped(pseudo_replay="none"), "differ in pseudo_replay (light and none)"),
    "another mediator": (
        lambda: changed(ONE, lambda name, value: value, mediators=["image"]),
        "were told by image and by text",
    ),
    "a mediator that points elsewhere": (lambda: turned(ONE), "points the same way"),
    "features of another width": (
        lambda: changed(
            ONE, lambda name, value: value[:-1] if name in ("branches.image.mean", "branches.image.basis") else value
        ),
        "features of image of one width",
    ),
    "too many codes": (
        lambda: changed(ONE, lambda name, value: value.repeat(9, 1) if name == "codebook.codes" else value),
        "at most 24 codes",
    ),
    "too many experts": (
        lambda: changed(ONE, lambda name, value: value, experts_frozen=1000),
        "at most 256 frozen experts",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_one_is_refused(name):
    make, sentence = REFUSED[name]
    with pytest.raises(MergeError) as found:
        merge_spaces([make(), TWO])
    assert sentence in str(found.value)


def test_what_the_first_pack_does_not_know_must_fit_too():
    """Of three packs, the first in order knows no speech: the others are compared with each other."""
    first, one = held("a", IMAGE), held("b", IMAGE, SPEECH)
    front = ("branches.speech.mean", "branches.speech.basis")
    wider = changed(held("c", IMAGE, SPEECH), lambda name, value: value[:-1] if name in front else value)
    with pytest.raises(MergeError, match=r"features of speech of one width, but those of b\.\.\. and c"):
        merge_spaces([wider, first, one])
    telling = changed(held("c", IMAGE, SPEECH), lambda name, value: value, mediators=["text", "speech"])
    with pytest.raises(MergeError, match=r"those of b\.\.\. and c\.\.\. were told by text and by text, speech"):
        merge_spaces([telling, first, one])


def test_settings_of_learning_may_differ_and_are_noted():
    other = held("c", IMAGE, config=SMALL.model_copy(update={"epochs": 1}))
    assert any("different settings" in note for note in merge_spaces([ONE, other]).notes)


def test_settings_of_learning_are_those_of_most():
    def set_to(digest: str, weight: float = 1.0, **fields: object) -> HeldSpace:
        return held(digest, IMAGE, weight=weight, config=SMALL.model_copy(update=fields))

    odd, one, two = set_to("a", epochs=1), set_to("b"), set_to("c")
    assert merge_spaces([odd, one, two]).stored.config == SMALL
    assert merge_spaces([odd, one], base=BASE).stored.config == SMALL, "of equal weight, the base's"
    assert merge_spaces([set_to("a", weight=3.0, epochs=1), one, two]).stored.config.epochs == 1
