"""The training loop of one experience: batches, learning rate, modality dropout, checkpoints."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from mmcl_edge.config import HeadConfig, MethodConfig, TrainConfig
from mmcl_edge.learners.experience_run import ExperienceRun
from mmcl_edge.learners.randomness import generator_for
from tests.contract.learner_table import SPECS
from tests.learning import CLASSES, experience

SPEC = SPECS["mmcl ladder"]


def run(*, steps: int = 2, **changes: object) -> ExperienceRun:
    """The run of the last of ``steps`` experiences, just begun; ``changes`` are fields of ``MethodConfig``."""
    learner = SPEC.new(0, 3)
    learner.config = learner.config.model_copy(update=changes)
    for step in range(steps - 1):
        learner.observe(experience(*CLASSES[2 * step : 2 * step + 2]))
    return learner.begin(experience(*CLASSES[2 * steps - 2 : 2 * steps]))


def batches_of(one: ExperienceRun, seed: int = 0) -> list[list[int]]:
    return [batch.tolist() for batch in one._batches(generator_for(seed))]


def test_every_current_sample_comes_once_an_epoch_with_different_exemplars_beside_it():
    one = run()
    current, exemplars = one.current, len(one.prepared) - one.current
    assert (current, exemplars) == (16, 6)
    assert sorted(index for batch in batches_of(one) for index in batch if index < current) == list(range(current))
    for batch in batches_of(one):
        assert len(set(batch)) == len(batch) == 8 + 6, "as many exemplars as there are, but none twice"


def test_exemplars_are_as_many_as_current_samples_where_there_are_enough():
    one = run(train=TrainConfig(epochs=1, batch_size=4))
    seen = Counter()
    for seed in range(50):
        for batch in batches_of(one, seed):
            replayed = [index for index in batch if index >= one.current]
            assert len(set(replayed)) == len(replayed) == len(batch) - len(replayed) == 4
            seen.update(replayed)
    assert min(seen.values()) > 0.7 * max(seen.values())


def test_without_exemplars_batches_hold_current_samples_alone():
    assert sorted(index for batch in batches_of(run(steps=1)) for index in batch) == list(range(16))


def test_batches_follow_from_their_generator():
    one = run()
    assert batches_of(one, 1) == batches_of(one, 1) != batches_of(one, 2)


def test_the_rate_warms_up_and_falls_to_nothing():
    one, rates = run(steps=1), []
    for number in range(101):
        one._set_rate(number / 100)
        rates.append(one.optimizer.param_groups[0]["lr"])
    peak = rates.index(max(rates))
    assert 3 <= peak <= 6
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert max(rates) <= one.config.train.learning_rate
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("chance", "least", "most"), [(0.0, 0, 0), (0.5, 330, 470), (0.99, 700, 800)])
def test_modality_dropout_hides_one_of_two_as_often_as_asked(chance: float, least: int, most: int):
    one = run(steps=1, head=HeadConfig(joint_dim=16, fusion_hidden=32, modality_dropout=chance))
    batch = one.model.encoder.collate(one.prepared)
    hidden = Counter()
    for seed in range(50):
        present = one.model.encoder.presence(one._drop_modalities(batch, generator_for(seed)))
        assert bool(torch.stack(list(present.values())).any(dim=0).all()), "a sample lost both"
        hidden.update({name: int((~here).sum()) for name, here in present.items()})
    assert least <= hidden.total() <= most
    if chance:
        assert min(hidden.values()) > 0.35 * hidden.total()


def test_a_checkpoint_holds_everything_that_the_next_epoch_needs():
    whole, cut = run(), run()
    for _ in range(3):
        whole.train_epoch()
    cut.train_epoch()
    state = {name: value.clone() for name, value in cut.state_dict().items()}
    again = run()
    again.load_state_dict(state)
    assert again.epoch == 1
    for _ in range(2):
        again.train_epoch()
    found, expected = again.state_dict(), whole.state_dict()
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("field", ["align_weight", "distill_weight", "preserve_weight"])
def test_a_weight_of_zero_removes_its_loss(field: str):
    names = {"align_weight": "alignment", "distill_weight": "distillation", "preserve_weight": "preservation"}
    one = run(loss=MethodConfig().loss.model_copy(update={field: 0.0}))
    losses = one.train_epoch()
    assert set(losses) == {"classification", "votes", "total", *names.values()} - {names[field]}
    assert losses["total"] == pytest.approx(sum(losses.values()) - losses["total"], rel=1e-5)


def test_a_first_experience_has_no_teacher():
    assert set(run(steps=1).train_epoch()) == {"classification", "votes", "alignment", "total"}


def test_the_gradient_is_clipped():
    one = run(steps=1, train=TrainConfig(epochs=1, batch_size=8, learning_rate=1e-2, gradient_clip=1e-6))
    one.train_epoch()
    squares = [p.grad.square().sum() for p in one.model.parameters() if p.grad is not None]
    assert float(torch.stack(squares).sum().sqrt()) <= 1.1e-6


def test_generators_depend_on_the_seed_and_every_name():
    def draw(*names: object) -> float:
        return float(torch.rand((), generator=generator_for(*names)))

    values = [draw(0, "a"), draw(1, "a"), draw(0, "b"), draw(0, "a", 0), draw(0, "a", 1)]
    assert len(set(values)) == len(values)
    assert draw(0, "a") == values[0]
