"""What every learner promises, checked on each of them: one table of learners, one list of checks."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from mmcl_edge.data.streams import Experience
from mmcl_edge.learners.catalogue import LEARNERS
from mmcl_edge.learners.protocol import Learner, Progress
from mmcl_edge.learners.trained import TrainedLearner
from tests.contract.learner_table import CATALOGUE, SPECS, Spec
from tests.fakes import backbones
from tests.learning import (
    BACKBONES,
    BATCH,
    BUDGET_BYTES,
    CLASSES,
    EXEMPLARS,
    accuracy,
    equal,
    experience,
    part,
    samples,
)

FEW, ENOUGH = 3, 20
"""Epochs: for checks of form, and to learn well."""
EVERYTHING = [sample for label in CLASSES for sample in samples(label, 4, seed=2)]


def marks(name: str) -> tuple[pytest.MarkDecorator, ...]:
    """Ablations are the method with one field changed: 'make test-all' checks them."""
    return (pytest.mark.slow,) if name in LEARNERS and LEARNERS[name].kind == "ablation" else ()


@pytest.fixture(params=[pytest.param(spec, id=name, marks=marks(name)) for name, spec in SPECS.items()])
def spec(request: pytest.FixtureRequest) -> Spec:
    found: Spec = request.param
    return found


def taught(spec: Spec, seed: int = 0, *, steps: int = 2, epochs: int = FEW) -> Learner:
    learner = spec.new(seed, epochs)
    for step in range(steps):
        learner.observe(part(step))
    return learner


@cache
def well_taught(name: str) -> Learner:
    """Both experiences, learned well; for checks that only ask."""
    return taught(SPECS[name], epochs=ENOUGH)


def experts(learner: Learner) -> list[dict]:
    return [info for block in learner.state().facts.get("experts", []) for info in block]


def knows(learner: Learner, spec: Spec, one: Experience) -> float:
    """Accuracy on the experience learned last: over all classes, or among its own where it is learned apart."""
    if not spec.promise.apart:
        return accuracy(learner, one.test)
    columns = [learner.labels.index(label) for label in one.classes]
    best = learner.predict(one.test)[:, columns].argmax(dim=1).tolist()
    return sum(one.classes[i] == sample.label for i, sample in zip(best, one.test, strict=True)) / len(best)


def test_every_entry_of_the_catalogue_is_checked():
    assert set(CATALOGUE) == set(LEARNERS)


def test_it_learns_and_remembers(spec: Spec):
    learner = well_taught(spec.name)
    assert knows(learner, spec, part(1)) >= 0.75
    if spec.promise.remembers:
        assert accuracy(learner, part(0).test) >= 0.75
        assert accuracy(learner, EVERYTHING) >= 0.75, "chance is 0.25"


def test_it_answers_over_the_classes_seen_and_no_others(spec: Spec):
    learner = spec.new(0, FEW)
    for step, seen in ((0, CLASSES[:2]), (1, CLASSES)):
        learner.observe(part(step))
        logits = learner.predict(EVERYTHING)
        assert learner.labels == seen
        assert logits.shape == (len(EVERYTHING), len(seen))
        assert bool(logits.isfinite().all())
        assert not logits.requires_grad


def test_answers_do_not_depend_on_company_or_order(spec: Spec):
    learner = well_taught(spec.name)
    together = learner.predict(EVERYTHING)
    backwards = learner.predict(EVERYTHING[::-1]).flip(0)
    alone = torch.cat([learner.predict([sample]) for sample in EVERYTHING])
    near = 1e-4 * max(1.0, float(together.abs().max()))
    torch.testing.assert_close(backwards, together, rtol=1e-4, atol=near)
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=near)


def goes_on_alike(learner: Learner, again: Learner) -> None:
    assert equal(learner.state_dict(), again.state_dict())
    assert torch.equal(learner.predict(EVERYTHING), again.predict(EVERYTHING))
    for one in (learner, again):
        one.observe(part(1))
    assert equal(learner.state_dict(), again.state_dict())
    assert learner.labels == again.labels
    assert learner.memory_bytes == again.memory_bytes


def test_its_state_round_trips_and_it_goes_on_alike(spec: Spec):
    learner, again = taught(spec, steps=1), spec.new(0, FEW)
    again.load_state(learner.state())
    goes_on_alike(learner, again)


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.reopened])
def test_its_pack_round_trips_and_it_goes_on_alike(name: str, tmp_path: Path):
    learner = taught(SPECS[name], steps=1)
    goes_on_alike(learner, SPECS[name].reopened(learner, tmp_path))


def test_its_state_is_a_copy(spec: Spec):
    learner = taught(spec, steps=1)
    before, state = learner.predict(EVERYTHING), learner.state_dict()
    for value in state.values():
        value.zero_()
    assert not equal(state, learner.state_dict())
    assert torch.equal(learner.predict(EVERYTHING), before)


def test_its_memory_is_bounded_as_it_promises(spec: Spec):
    learner, sizes = spec.new(0, FEW), []
    for step in range(2):
        learner.observe(part(step))
        sizes.append(learner.memory_bytes)
        if spec.promise.memory == "budget":
            assert sizes[-1] <= BUDGET_BYTES
            assert len(learner.state().exemplars) <= EXEMPLARS
        if spec.promise.memory == "model":
            assert sizes[-1] <= 2 * 4 * learner.trainable_parameters
    assert spec.promise.memory != "grows" or sizes[1] > 1.5 * sizes[0]


def test_its_exemplars_are_balanced_where_it_promises(spec: Spec):
    learner = well_taught(spec.name)
    counts = Counter(sample.label for sample in learner.state().exemplars)
    assert set(counts) <= set(learner.labels)
    if spec.promise.balanced:
        assert set(counts) == set(learner.labels)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_it_is_reproducible_whatever_the_global_random_state(spec: Spec):
    states = []
    for number, seed in enumerate((3, 3, 4)):
        torch.manual_seed(number)
        np.random.seed(number)
        before = torch.random.get_rng_state()
        states.append(taught(spec, seed).state_dict())
        assert torch.equal(torch.random.get_rng_state(), before), "the global random state was touched"
    assert equal(states[0], states[1])
    assert not spec.promise.seeded or not equal(states[0], states[2])


def test_what_it_froze_stays_to_the_last_bit(spec: Spec):
    learner = taught(spec, steps=1)
    frozen = {info["id"] for info in experts(learner) if info["frozen"]}
    assert bool(frozen) == spec.promise.freezes
    before = learner.state_dict()
    learner.observe(part(1))
    after = learner.state_dict()
    owned = [name for name in before if any(f".{expert}." in name for expert in frozen)]
    assert equal({name: before[name] for name in owned}, {name: after[name] for name in owned})
    assert not equal({name: after[name] for name in before if name in after}, before), "the rest does learn"
    owners = {info["owner"] for info in experts(learner) if info["frozen"]}
    assert owners == ({"ant+bee", "cow+dog"} if spec.promise.freezes else set())


def test_backbones_never_change(spec: Spec):
    well_taught(spec.name)
    for name, untouched in backbones().items():
        for block, fresh in zip(BACKBONES[name]._blocks, untouched._blocks, strict=True):
            assert equal(block.state_dict(), fresh.state_dict())


def test_it_learns_one_class_at_a_time(spec: Spec):
    learner = spec.new(0, FEW)
    for number, label in enumerate(CLASSES):
        if isinstance(learner, TrainedLearner):
            run = learner.begin(experience(label, count=2))
            active = learner.config.adapter.active_experts
            assert all(block.trainable_experts >= active for block in learner.model.blocks), "none is left to learn"
            run.train_epoch()
            learner.finish(run)
        else:
            learner.observe(experience(label, count=2))
        assert learner.labels == CLASSES[: number + 1]
        assert bool(learner.predict(EVERYTHING).isfinite().all())


@pytest.mark.parametrize("kind", ["sound", "picture"])
def test_it_learns_from_one_modality(spec: Spec, kind: str):
    learner = spec.new(0, ENOUGH)
    learner.observe(experience(*CLASSES[:2], kind=kind))
    learner.observe(part(1))
    assert knows(learner, spec, part(1)) >= 0.75
    tested = experience(*CLASSES, kind=kind).test
    assert bool(learner.predict(tested).isfinite().all())
    assert not spec.promise.remembers or accuracy(learner, tested) > 0.25


def test_it_survives_classes_of_one_sample(spec: Spec):
    learner = spec.new(0, FEW)
    for step in range(2):
        learner.observe(experience(*CLASSES[2 * step : 2 * step + 2], count=1))
    assert learner.labels == CLASSES
    assert all(bool(value.isfinite().all()) for value in learner.state_dict().values())


def test_the_same_classes_again_add_none(spec: Spec):
    learner = taught(spec, steps=1)
    learner.observe(part(0))
    assert learner.labels == CLASSES[:2]
    assert learner.predict(EVERYTHING).shape[1] == 2


def test_it_tells_how_far_it_is(spec: Spec):
    told: list[Progress] = []
    spec.new(0, ENOUGH).observe(part(0), told.append)
    assert told
    assert (told[-1].epoch, told[-1].step) == (told[-1].epochs, told[-1].steps)
    assert all(np.isfinite(list(one.losses.values())).all() for one in told)
    if spec.promise.epochs:
        steps = 2 * 8 // BATCH
        assert [(one.epoch, one.step) for one in told] == [(e + 1, s + 1) for e in range(ENOUGH) for s in range(steps)]
        assert {(one.epochs, one.steps) for one in told} == {(ENOUGH, steps)}
        assert told[-1].losses["total"] < told[0].losses["total"]
