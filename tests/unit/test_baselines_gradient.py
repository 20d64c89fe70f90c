"""The arithmetic of each gradient baseline, and what each does in its loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from mmcl_edge.config import MethodConfig, ReplayConfig
from mmcl_edge.learners.baselines.a_gem import AGemLearner, project
from mmcl_edge.learners.baselines.cope import CopeLearner
from mmcl_edge.learners.baselines.der import DerLearner, DerPlusPlusLearner, stored_logit_error
from mmcl_edge.learners.baselines.draws import parts
from mmcl_edge.learners.baselines.er import ErLearner
from mmcl_edge.learners.baselines.ewc import EwcLearner, elastic_penalty
from mmcl_edge.learners.baselines.expert_rows import apart, expert_rows, together
from mmcl_edge.learners.baselines.fine_tune import FineTuneLearner
from mmcl_edge.learners.baselines.icarl import IcarlLearner, nearest_mean, sigmoid_targets
from mmcl_edge.learners.baselines.joint import JointLearner
from mmcl_edge.learners.baselines.lwf import LwfLearner
from mmcl_edge.learners.catalogue import on_host
from mmcl_edge.learners.experience_run import ExperienceRun
from mmcl_edge.learners.randomness import generator_for
from mmcl_edge.learners.trained import TrainedLearner
from tests.learning import CLASSES, config, equal, experience, host, part


def learner(kind: type[TrainedLearner], shape: MethodConfig | None = None, **settings: object) -> TrainedLearner:
    return on_host(kind, host(shape or config(2)), **settings)


def second_run(one: TrainedLearner) -> ExperienceRun:
    """The run of the second experience, just begun."""
    one.observe(part(0))
    return one.begin(part(1))


def batch(run: ExperienceRun) -> tuple[torch.Tensor, object]:
    """The first batch's index and output, without training noise."""
    index = run._batches(generator_for(0))[0]
    return index, run.model(run.model.encoder.collate([run.prepared[int(i)] for i in index]))


# What a batch is made of


@pytest.mark.parametrize(("kind", "draws"), [(FineTuneLearner, 0), (ErLearner, 1), (DerPlusPlusLearner, 2)])
def test_parts_are_the_current_samples_and_then_each_draw(kind, draws: int):
    run = second_run(learner(kind))
    index, _ = batch(run)
    own, *drawn = parts(run, index)
    assert len(drawn) == draws
    assert bool((index[own] < run.current).all())
    for one in drawn:
        assert len(set(index[one].tolist())) == 6, "as many different exemplars as there are"
        assert bool((index[one] >= run.current).all())
    assert sum(len(index[one]) for one in (own, *drawn)) == len(index)


# EWC


def test_the_gradient_of_the_penalty_is_twice_f_times_the_way_from_the_anchor():
    theta = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    fisher, anchor = torch.tensor([[0.5, 0.0, 2.0], [1.0, 1.0, 0.0]]), torch.tensor([[0.0, 9.0, 1.0], [3.0, 1.0, 5.0]])
    elastic_penalty(theta, fisher, anchor).backward()
    torch.testing.assert_close(theta.grad, (2 * fisher * (theta.detach() - anchor)).sum(dim=0))


def test_fisher_is_the_mean_of_squared_gradients_of_single_samples():
    one = learner(EwcLearner)
    run = one.begin(experience("ant", count=3))
    run.train_epoch()
    found = one.fisher(run)["head.weight"]
    squares = []
    for number in range(3):
        one.model.zero_grad()
        logits = one.model(one.model.encoder.collate([run.prepared[number]])).logits
        functional.cross_entropy(logits, run.labels[number : number + 1]).backward()
        squares.append(one.model.head.weight.grad.square())
    torch.testing.assert_close(found, torch.stack(squares).mean(dim=0))


def test_the_p_factor_weighs_each_sample_by_its_probability():
    plain, weighed = learner(EwcLearner), learner(EwcLearner, p_factor=True)
    runs = [one.begin(experience("ant", "bee", count=1)) for one in (plain, weighed)]
    a, b = plain.fisher(runs[0])["head.weight"], weighed.fisher(runs[1])["head.weight"]
    assert bool((b <= a).all())
    assert float(b.sum()) < float(a.sum())


@pytest.mark.parametrize(("online", "pairs"), [(False, 2), (True, 1)])
def test_pairs_persist_one_an_experience_or_one_in_all(online: bool, pairs: int):
    one = learner(EwcLearner, online=online)
    for step in range(2):
        one.observe(part(step))
    assert len(one.pairs) == pairs
    values = sum(p.numel() for p in one.model.parameters())
    grown = 2 * one.model.head.weight.shape[1]
    assert one.memory_bytes == 4 * 2 * (pairs * values - (pairs - 1) * grown)
    assert not one.buffer.exemplars


def test_online_importance_decays_and_adds_up():
    one = learner(EwcLearner, online=True, decay=0.5)
    one.observe(part(0))
    old = together(one.model, one.pairs[0]["fisher"])
    run = one.begin(part(1))
    run.train_epoch()
    new = one.fisher(run)
    one.finish(run)
    found = one.pairs[0]["fisher"]["fusion.mlp.0.weight"]
    torch.testing.assert_close(found, 0.5 * old["fusion.mlp.0.weight"] + new["fusion.mlp.0.weight"])


def test_nothing_pulls_where_training_begins_and_new_rows_are_free():
    one = learner(EwcLearner, weight=1e3)
    run = second_run(one)
    index, output = batch(run)

    def penalty() -> float:
        return float(one.losses(run, output, index)["elastic"].detach())

    assert penalty() == 0.0
    with torch.no_grad():
        one.model.head.weight[2:] += 1.0
    assert penalty() == 0.0, "rows of new classes have F = 0"
    with torch.no_grad():
        one.model.head.weight[:2] += 1.0
    assert penalty() > 0.0


def test_a_heavy_hold_keeps_weights_nearer():
    moved = []
    for weight in (0.0, 1e4):
        one = learner(EwcLearner, config(5), weight=weight)
        one.observe(part(0))
        before = one.model.head.weight.detach().clone()
        one.observe(part(1))
        moved.append(float((one.model.head.weight.detach()[:2] - before).norm()))
    assert moved[1] < 0.7 * moved[0]


def test_rows_of_experts_are_found_again_after_some_froze_and_others_came():
    model = host(config(1)).model()
    model.head.grow(2, generator_for(0))
    named = apart(model, dict(model.named_parameters()))
    block = model.blocks[0]
    kept = [info.id for info in block.bank.infos]
    block.usage = torch.tensor([0.0, 5.0, 0.0])
    block.router.active = 1
    block.freeze_used("one")
    block.grow(2, generator_for(1), zero_gate=True)
    model.head.grow(3, generator_for(2))
    assert expert_rows(model)["encoder.adapters.0.bank.stacks.audio.down"][2] == kept[1], "the name is given again"
    values = together(model, {name: value for name, value in named.items() if not name.endswith(f"@{kept[1]}")})
    parameters = {name: value for name, value in model.named_parameters() if value.numel()}
    assert {name: value.shape for name, value in values.items()} == {n: p.shape for n, p in parameters.items()}
    down = "encoder.adapters.0.bank.stacks.audio.down"
    assert expert_rows(model)[down][:2] == [kept[0], kept[2]]
    assert torch.equal(values[down][:2], parameters[down][:2])
    assert float(values[down][2:].abs().sum()) == 0.0, "fresh experts"
    assert torch.equal(values["head.weight"][:2], parameters["head.weight"][:2])
    assert float(values["head.weight"][2:].abs().sum()) == 0.0, "new classes"


# LwF


def test_distillation_is_zero_at_the_teacher_and_grows_away_from_it():
    one = learner(LwfLearner, alpha=3.0)
    run = second_run(one)
    index, output = batch(run)
    assert len(index) == 8, "no exemplars"
    assert float(one.losses(run, output, index)["distillation"].detach()) == pytest.approx(0.0, abs=1e-3)
    with torch.no_grad():
        output.logits[:, 0] += 2.0
    kept = one.losses(run, output, index)["distillation"]
    p = (run.teacher.rows(index).logits / 2).softmax(dim=1)
    q = (output.logits[:, :2] / 2).log_softmax(dim=1)
    torch.testing.assert_close(kept, 3.0 * 4.0 * (p * (p.log() - q)).sum(dim=1).mean(), rtol=1e-3, atol=1e-5)


def test_own_classes_leave_old_logits_out_of_the_cross_entropy():
    one = learner(LwfLearner, own_classes=True)
    run = second_run(one)
    index, output = batch(run)
    before = one.losses(run, output, index)["classification"]
    wanted = functional.cross_entropy(output.logits[:, 2:], run.labels[index] - 2, label_smoothing=0.1)
    torch.testing.assert_close(before, wanted)
    with torch.no_grad():
        output.logits[:, :2] += 5.0
    torch.testing.assert_close(one.losses(run, output, index)["classification"], before)


# DER


def test_only_columns_that_were_stored_are_compared():
    logits = torch.tensor([[1.0, 2.0, 9.0, 9.0], [1.0, 2.0, 3.0, 9.0]])
    stored, widths = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]]), torch.tensor([2, 3])
    assert float(stored_logit_error(logits, stored, widths)) == pytest.approx((1 + 0 + 0 + 4 + 9) / 5)


def test_logits_are_those_of_the_finished_experience_and_stay():
    one = learner(DerLearner)
    one.observe(part(0))
    torch.testing.assert_close(one.stored, one.predict(one.buffer.exemplars))
    first = {sample.source: row for sample, row in zip(one.buffer.exemplars, one.stored, strict=True)}
    one.observe(part(1))
    assert set(one.widths.tolist()) <= {2, 4}
    for sample, row, width in zip(one.buffer.exemplars, one.stored, one.widths, strict=True):
        if width == 2:
            assert torch.equal(row[:2], first[sample.source])
            assert float(row[2:].abs().sum()) == 0.0
    assert one.seen == 32


def test_der_plus_plus_adds_the_labels_of_another_draw():
    one = learner(DerPlusPlusLearner, alpha=0.3, beta=0.7)
    run = second_run(one)
    index, output = batch(run)
    own, first, second = parts(run, index)
    terms = one.losses(run, output, index)
    assert list(terms) == ["classification", "stored logits", "replay"]
    torch.testing.assert_close(terms["classification"], run.classification(output.logits[own], index[own]))
    rows = index[first] - run.current
    torch.testing.assert_close(
        terms["stored logits"], 0.3 * functional.mse_loss(output.logits[first, :2], one.stored[rows])
    )
    torch.testing.assert_close(terms["replay"], 0.7 * run.classification(output.logits[second], index[second]))


def test_stored_logits_count_among_the_bytes():
    shape = config(1).model_copy(update={"replay": ReplayConfig(exemplars=50, budget_bytes=9_000)})
    er, der = learner(ErLearner, shape), learner(DerLearner, shape)
    for one in (er, der):
        one.observe(part(0))
        assert one.memory_bytes <= 9_000
    assert der.memory_bytes - der.buffer.size_bytes == 8 + len(der.buffer) * (2 * 4 + 8)


# iCaRL


def test_targets_are_one_hot_for_own_classes_and_old_sigmoids_elsewhere():
    old = torch.tensor([[0.0, 3.0], [-1.0, 2.0]])
    target = sigmoid_targets(torch.tensor([2, 0]), 3, old=old, own=torch.tensor([2]))
    torch.testing.assert_close(target[:, :2], old.sigmoid())
    assert target[:, 2].tolist() == [1.0, 0.0]
    again = sigmoid_targets(torch.tensor([0, 1]), 2, old=old, own=torch.tensor([0, 1]))
    assert again.tolist() == [[1.0, 0.0], [0.0, 1.0]], "classes that come again are taught anew"


def test_the_nearest_mean_is_that_of_numpy():
    rng = np.random.default_rng(0)
    x, means = rng.normal(size=(5, 4)), rng.normal(size=(3, 4))
    unit_x = x / np.linalg.norm(x, axis=1, keepdims=True)
    unit_means = means / np.linalg.norm(means, axis=1, keepdims=True)
    wanted = -np.linalg.norm(unit_x[:, None] - unit_means[None], axis=2)
    np.testing.assert_allclose(nearest_mean(torch.from_numpy(x), torch.from_numpy(means)).numpy(), wanted, rtol=1e-9)


def test_icarl_answers_by_the_means_of_its_exemplars():
    one = learner(IcarlLearner)
    for step in range(2):
        one.observe(part(step))
    for column, name in enumerate(CLASSES):
        kept = one.embed([sample for sample in one.buffer.exemplars if sample.label == name])
        torch.testing.assert_close(one.means[column], functional.normalize(kept.mean(dim=0), dim=0))


# CoPE


def test_prototypes_stay_unit_and_move_by_their_momentum():
    one = learner(CopeLearner, momentum=0.9)
    run = one.begin(part(0))
    before = one.prototypes.clone()
    index, output = batch(run)
    one.losses(run, output, index)
    one.adjust(run)
    z = functional.normalize(output.joint.detach(), dim=1)
    for column in range(2):
        mean = functional.normalize(z[run.labels[index] == column].mean(dim=0), dim=0)
        wanted = functional.normalize(0.9 * before[column] + 0.1 * mean, dim=0)
        torch.testing.assert_close(one.prototypes[column], wanted)


# A-GEM


def test_a_projected_gradient_is_orthogonal_and_a_harmless_one_untouched():
    reference = [torch.tensor([1.0, 0.0]), torch.tensor([2.0])]
    against = project([torch.tensor([-3.0, 5.0]), torch.tensor([1.0])], reference)
    assert sum(float((g * r).sum()) for g, r in zip(against, reference, strict=True)) == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(against[0], torch.tensor([-2.8, 5.0]))
    along = [torch.tensor([3.0, 5.0]), torch.tensor([-1.0])]
    assert all(torch.equal(a, b) for a, b in zip(project(along, reference), along, strict=True))


def test_steps_of_a_gem_never_oppose_the_exemplars():
    one = learner(AGemLearner, config(10))
    run, products = second_run(one), []
    adjust = one.adjust

    def watched(current: ExperienceRun) -> None:
        weights = list(run.parameters().values())
        raw = sum(float((p.grad * r).sum()) for p, r in zip(weights, one._reference, strict=True) if p.grad is not None)
        adjust(current)
        done = sum(float((p.grad * r).sum()) for p, r in zip(weights, one._reference, strict=True))
        products.append((raw, done))

    one.adjust = watched
    for _ in range(run.epochs):
        run.train_epoch()
    assert all(done > -1e-4 for _, done in products)
    assert any(raw < 0 for raw, _ in products), "something was there to project"


# Bounds


def test_joint_training_is_a_new_model_on_everything():
    both = learner_joint()
    for step in range(2):
        both.observe(part(step))
    assert [sample.label for sample in both.buffer.exemplars] == [name for name in CLASSES for _ in range(8)]
    other = learner_joint()
    other.experiences = 1
    other.observe(experience(*CLASSES))
    assert equal(both.state_dict(), other.state_dict())


def learner_joint() -> JointLearner:
    return JointLearner.on(host(config(2)))


def test_fine_tuning_keeps_nothing():
    one = learner(FineTuneLearner)
    one.observe(part(0))
    assert one.memory_bytes == 0
    assert len(one.begin(part(1)).prepared) == 16
