"""What every learner promises, checked on each of them: one table of learners, one list of checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from mmcl_edge.adapters.model import build_model
from mmcl_edge.config import AdapterConfig, HeadConfig, MethodConfig, ReplayConfig, TrainConfig
from mmcl_edge.data.streams import Experience
from mmcl_edge.learners.mmcl import MmclLearner
from mmcl_edge.learners.persistence import contents_of, model_from_pack
from mmcl_edge.learners.protocol import Progress
from mmcl_edge.learners.randomness import generator_for
from mmcl_edge.packs import read_pack, write_pack
from mmcl_edge.types import Sample
from tests.fakes import backbones, preprocess

CLASSES = ("ant", "bee", "cow", "dog")
EXEMPLARS, BUDGET_BYTES = 6, 12_000
FEW, ENOUGH = 3, 20
"""Epochs: for checks of form, and to learn well."""
BATCH = 8


@dataclass(frozen=True)
class Spec:
    """How to make a learner from a seed and a number of epochs, and the same one from what it stored in a folder."""

    new: Callable[[int, int], MmclLearner]
    reopened: Callable[[MmclLearner, Path], MmclLearner]


def mmcl(**adapter: object) -> Spec:
    """The method in one of its variants."""
    shape = MethodConfig(
        adapter=AdapterConfig(experts=3, rank=4, ladder_dim=8, ladder_tokens=4, map_grid=4, **adapter),
        head=HeadConfig(joint_dim=16, fusion_hidden=32),
        replay=ReplayConfig(exemplars=EXEMPLARS, budget_bytes=BUDGET_BYTES),
    )

    def new(seed: int, epochs: int) -> MmclLearner:
        train = TrainConfig(epochs=epochs, min_steps=0, batch_size=BATCH, learning_rate=1e-2)
        config = shape.model_copy(update={"train": train})
        model = build_model(config.adapter, config.head, backbones(), generator=generator_for(seed, "model"))
        return MmclLearner(model, config, preprocess=preprocess, seed=seed)

    def reopened(learner: MmclLearner, folder: Path) -> MmclLearner:
        facts = {"bundle_digest": "a" * 64, "parents": (), "sample_counts": {}, "evaluation": {}}
        config = learner.config
        contents = contents_of(learner.model, config, labels=learner.labels, experiences=("one",), **facts)
        model = model_from_pack(read_pack(folder / write_pack(folder, contents)), backbones())
        return MmclLearner(
            model,
            config,
            preprocess=preprocess,
            seed=learner.seed,
            labels=learner.labels,
            experiences=learner.experiences,
            buffer=learner.buffer,
        )

    return Spec(new, reopened)


LEARNERS = {
    "mmcl inline": mmcl(),
    "mmcl inline, token attention": mmcl(attention="tokens"),
    "mmcl ladder": mmcl(placement="ladder"),
    "mmcl without freezing": mmcl(freeze_experts=False),
}


@pytest.fixture(params=LEARNERS.values(), ids=LEARNERS)
def spec(request: pytest.FixtureRequest) -> Spec:
    found: Spec = request.param
    return found


def samples(label: str, count: int, *, seed: int, kind: str = "pair") -> list[Sample]:
    """Each class has its own pitch and its own colours; noise differs from sample to sample."""
    number = CLASSES.index(label)
    rng = np.random.default_rng([seed, number])
    made = []
    for index in range(count):
        length = 400 + 200 * (index % 2)
        wave = np.sin(np.arange(length) * 0.15 * (1 + number) ** 1.5) + rng.normal(0, 0.05, length)
        colours = np.array([60 * number, 240 - 70 * number, 30 + 40 * (number % 2)]) + rng.integers(
            0, 15, (1, 16, 16, 3)
        )
        audio = None if kind == "picture" else (0.5 * wave).astype(np.float32)
        frames = None if kind == "sound" else colours.clip(0, 255).astype(np.uint8)
        made.append(Sample(audio, frames, label, f"{label}_{index}"))
    return made


def experience(*classes: str, count: int = 8, kind: str = "pair") -> Experience:
    train = [sample for label in classes for sample in samples(label, count, seed=1, kind=kind)]
    test = [sample for label in classes for sample in samples(label, 4, seed=2, kind=kind)]
    return Experience("+".join(classes), train, test, classes)


def accuracy(learner: MmclLearner, tested: list[Sample]) -> float:
    best = learner.predict(tested).argmax(dim=1).tolist()
    return sum(learner.labels[i] == sample.label for i, sample in zip(best, tested, strict=True)) / len(tested)


def taught(spec: Spec, seed: int = 0, *, steps: int = 2, epochs: int = FEW) -> MmclLearner:
    learner = spec.new(seed, epochs)
    for step in range(steps):
        learner.observe(experience(*CLASSES[2 * step : 2 * step + 2]))
    return learner


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_it_learns_and_remembers(spec: Spec):
    learner = taught(spec, epochs=ENOUGH)
    assert accuracy(learner, experience(*CLASSES[2:]).test) >= 0.75
    assert accuracy(learner, experience(*CLASSES[:2]).test) >= 0.75
    assert accuracy(learner, experience(*CLASSES).test) >= 0.75, "chance is 0.25"


def test_it_answers_over_the_classes_seen_and_no_others(spec: Spec):
    learner, everything = spec.new(0, FEW), experience(*CLASSES).test
    for step, seen in ((0, CLASSES[:2]), (1, CLASSES)):
        learner.observe(experience(*CLASSES[2 * step : 2 * step + 2]))
        logits = learner.predict(everything)
        assert learner.labels == seen
        assert logits.shape == (len(everything), len(seen))
        assert bool(logits.isfinite().all())
        assert not logits.requires_grad


def test_answers_do_not_depend_on_company_or_order(spec: Spec):
    learner, tested = taught(spec), experience(*CLASSES).test
    together = learner.predict(tested)
    backwards = learner.predict(tested[::-1]).flip(0)
    alone = torch.cat([learner.predict([sample]) for sample in tested])
    torch.testing.assert_close(backwards, together, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)


def test_its_state_round_trips_and_it_goes_on_alike(spec: Spec, tmp_path: Path):
    learner = taught(spec, steps=1)
    again = spec.reopened(learner, tmp_path)
    assert equal(learner.state_dict(), again.state_dict())
    assert torch.equal(learner.predict(experience(*CLASSES).test), again.predict(experience(*CLASSES).test))
    for one in (learner, again):
        one.observe(experience(*CLASSES[2:]))
    assert equal(learner.state_dict(), again.state_dict())


def test_its_state_is_a_copy(spec: Spec):
    learner = taught(spec, steps=1)
    state = learner.state_dict()
    for value in state.values():
        value.zero_()
    assert not equal(state, learner.state_dict())


def test_it_honours_the_replay_budget(spec: Spec):
    learner = spec.new(0, FEW)
    for step in range(2):
        learner.observe(experience(*CLASSES[2 * step : 2 * step + 2]))
        assert 0 < len(learner.buffer) <= EXEMPLARS
        assert learner.buffer.size_bytes <= BUDGET_BYTES
        counts = Counter(sample.label for sample in learner.buffer.exemplars)
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
    assert not equal(states[0], states[2])


def test_what_it_froze_stays_to_the_last_bit(spec: Spec):
    learner = taught(spec, steps=1)
    frozen = {info.id for info in learner.model.experts() if info.frozen}
    freezes, active = learner.config.adapter.freeze_experts, learner.config.adapter.active_experts
    assert len(frozen) == (active * len(learner.model.blocks) if freezes else 0)
    before = learner.state_dict()
    learner.observe(experience(*CLASSES[2:]))
    after = learner.state_dict()
    owned = [name for name in before if any(f".{expert}." in name for expert in frozen)]
    assert bool(owned) == freezes
    assert equal({name: before[name] for name in owned}, {name: after[name] for name in owned})
    assert not torch.equal(before["head.weight"], after["head.weight"][:2]), "the rest does learn"
    owners = {info.owner for info in learner.model.experts() if info.frozen}
    assert owners == ({"ant+bee", "cow+dog"} if freezes else set())


def test_there_is_always_an_expert_left_to_learn(spec: Spec):
    learner = spec.new(0, FEW)
    for label in CLASSES:
        run = learner.begin(experience(label, count=2))
        assert all(block.trainable_experts >= learner.config.adapter.active_experts for block in learner.model.blocks)
        run.train_epoch()
        learner.finish(run)


@pytest.mark.parametrize("kind", ["sound", "picture"])
def test_it_learns_from_one_modality(spec: Spec, kind: str):
    learner = spec.new(0, ENOUGH)
    learner.observe(experience(*CLASSES[:2], kind=kind))
    learner.observe(experience(*CLASSES[2:]))
    assert accuracy(learner, experience(*CLASSES[2:]).test) >= 0.75
    tested = experience(*CLASSES, kind=kind).test
    assert bool(learner.predict(tested).isfinite().all())
    assert accuracy(learner, tested) > 0.25


def test_it_survives_classes_of_one_sample(spec: Spec):
    learner = spec.new(0, FEW)
    for step in range(2):
        learner.observe(experience(*CLASSES[2 * step : 2 * step + 2], count=1))
    assert learner.labels == CLASSES
    assert all(bool(value.isfinite().all()) for value in learner.state_dict().values())


def test_the_same_classes_again_add_none(spec: Spec):
    learner = taught(spec, steps=1)
    learner.observe(experience(*CLASSES[:2]))
    assert learner.labels == CLASSES[:2]
    assert learner.predict(experience(*CLASSES).test).shape[1] == 2


def test_it_tells_how_far_it_is(spec: Spec):
    told: list[Progress] = []
    spec.new(0, ENOUGH).observe(experience(*CLASSES[:2]), told.append)
    steps = 2 * 8 // BATCH
    assert [(one.epoch, one.step) for one in told] == [(e + 1, s + 1) for e in range(ENOUGH) for s in range(steps)]
    assert {(one.epochs, one.steps) for one in told} == {(ENOUGH, steps)}
    assert all(np.isfinite(list(one.losses.values())).all() for one in told)
    assert told[-1].losses["total"] < told[0].losses["total"]
