"""Losses against closed forms and slow loops."""

from __future__ import annotations

import math

import pytest
import torch

from mmcl_edge.losses import functional as losses


def rows(n: int = 6, dim: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [2, 5, 16])
def test_alignment_is_log_n_when_all_embeddings_coincide(n):
    same = torch.ones(n, 4)
    present = {"audio": torch.ones(n, dtype=torch.bool), "frames": torch.ones(n, dtype=torch.bool)}
    value = losses.alignment({"audio": same, "frames": same}, same, present, temperature=0.07)
    assert float(value) == pytest.approx(math.log(n), rel=1e-5)


def test_alignment_leaves_out_absent_modalities():
    z, joint = rows(seed=1), rows(seed=2)
    here = torch.tensor([True, True, False, True, False, True])
    value = losses.alignment({"audio": z}, joint, {"audio": here}, temperature=0.1)
    assert float(value) == pytest.approx(float(losses.contrast(z[here], joint[here], temperature=0.1)))


def test_alignment_with_nobody_present_is_zero_with_a_gradient():
    joint = rows().requires_grad_()
    value = losses.alignment({"audio": rows()}, joint, {"audio": torch.zeros(6, dtype=torch.bool)}, temperature=0.1)
    value.backward()
    assert float(value.detach()) == 0
    assert joint.grad is not None


def test_contrast_equals_its_equation():
    a, b, tau = rows(seed=1), rows(seed=2), 0.3
    cos = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1) / tau
    expected = -sum(math.log(math.exp(cos[i, i]) / sum(math.exp(c) for c in cos[i])) for i in range(6)) / 6
    assert float(losses.contrast(a, b, temperature=tau)) == pytest.approx(expected, rel=1e-5)


def test_preservation_has_no_gradient_at_the_teacher():
    u = rows().requires_grad_()
    losses.preservation(u, u.detach().clone(), temperature=0.1, teacher_temperature=0.1).backward()
    assert u.grad.abs().max() < 1e-6


def test_preservation_pulls_back_to_the_teachers_relations():
    teacher = rows()
    u = rows(seed=3).requires_grad_()
    settings = {"temperature": 0.2, "teacher_temperature": 0.2}
    floor = float(losses.preservation(teacher, teacher, **settings))
    start = float(losses.preservation(u.detach(), teacher, **settings))
    optimizer = torch.optim.Adam([u], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        losses.preservation(u, teacher, **settings).backward()
        optimizer.step()
    end = float(losses.preservation(u.detach(), teacher, **settings))
    assert floor <= end + 1e-6
    assert end - floor < 0.1 * (start - floor)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_preservation_of_too_few_rows_is_zero(n):
    assert float(losses.preservation(rows(n), rows(n), temperature=0.1, teacher_temperature=0.1)) == 0


def test_distillation_is_zero_for_equal_logits_and_ignores_new_columns():
    old = rows(dim=3)
    new = torch.cat([old, 100 + rows(dim=2)], dim=1)
    assert float(losses.distillation(new, old, temperature=2.0)) == pytest.approx(0, abs=1e-6)


def test_distillation_equals_its_equation():
    student, teacher, t = rows(dim=4), rows(dim=3, seed=4), 2.0
    p, q = (teacher / t).softmax(1), (student[:, :3] / t).softmax(1)
    expected = float((p * (p / q).log()).sum(1).mean()) * t * t
    assert float(losses.distillation(student, teacher, temperature=t)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("step", "kind", "expected"), [(1, "sqrt_step", 1), (4, "sqrt_step", 2), (9, "none", 1)])
def test_distillation_scale(step, kind, expected):
    assert losses.distillation_scale(step, kind) == pytest.approx(expected)


def test_direct_alignment_uses_only_pairs_that_have_both():
    a, b = rows(seed=1), rows(seed=2)
    present = {"audio": torch.tensor([True] * 5 + [False]), "frames": torch.tensor([False] + [True] * 5)}
    value = losses.direct_alignment({"audio": a, "frames": b}, present, temperature=0.1)
    assert float(value) == pytest.approx(float(losses.contrast(a[1:5], b[1:5], temperature=0.1)))


def test_balanced_softmax_equals_its_equation():
    logits, labels, share = rows(dim=3), torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0.7, 0.2, 0.1])
    weighted = logits.exp() * share
    expected = -(weighted / weighted.sum(1, keepdim=True))[range(6), labels].log().mean()
    value = losses.classification(logits, labels, log_prior=share.log())
    torch.testing.assert_close(value, expected)


def test_an_equal_prior_changes_nothing():
    logits, labels = rows(dim=3), torch.tensor([0, 1, 2, 0, 1, 2])
    equal = torch.full((3,), 1 / 3).log()
    torch.testing.assert_close(
        losses.classification(logits, labels, log_prior=equal), losses.classification(logits, labels)
    )


def test_smoothing_leaves_out_classes_that_do_not_occur():
    """Else a logit would have to outweigh its tiny prior, and unseen old classes would win every vote."""
    logits = torch.zeros(6, 3, requires_grad=True)
    prior = torch.tensor([0.5, 0.5, 0.0]).log().clamp_min(losses.ABSENT)
    losses.classification(logits, torch.tensor([0, 1, 0, 1, 0, 1]), log_prior=prior, label_smoothing=0.1).backward()
    assert logits.grad[:, 2].abs().max() < 1e-6
    assert logits.grad[0, 0] < 0 < logits.grad[0, 1]
