"""Fronts and closed-form starts of comet: principal components, rotations, ridge regression."""

from __future__ import annotations

import pytest
import torch

from mmcl_edge.learners.comet import front as module
from mmcl_edge.learners.comet.front import Front, ridge, rotation


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(n: int, d: int, *, rank: int = 4) -> torch.Tensor:
    return torch.randn(n, rank, generator=generator()) @ torch.randn(rank, d, generator=generator(1)) + 3


@pytest.mark.parametrize(("n", "d"), [(6, 20), (40, 8), (9, 9)])
def test_components_are_those_of_the_svd_and_no_more_than_the_rank(n: int, d: int):
    h = features(n, d)
    front = Front.fitted(h, 100)
    assert front.basis.shape == (d, 4)
    x = front(h)
    assert float(x.square().sum(dim=1).mean()) == pytest.approx(1, rel=1e-4), "nothing was lost"
    u, s, _ = torch.linalg.svd(h - h.mean(dim=0), full_matrices=False)
    torch.testing.assert_close(x.abs() / x.norm(), (u * s)[:, :4].abs() / s.norm(), rtol=1e-3, atol=1e-4)


def test_the_largest_components_are_kept_and_equal_features_give_one():
    h = features(30, 10)
    torch.testing.assert_close(Front.fitted(h, 2)(h), Front.fitted(h, 4)(h)[:, :2])
    assert Front.fitted(torch.ones(5, 3), 8)(torch.ones(2, 3)).tolist() == [[0], [0]]


def test_many_samples_are_told_by_some(monkeypatch: pytest.MonkeyPatch):
    h = features(200, 10)
    whole = Front.fitted(h, 4)(h)
    monkeypatch.setattr(module, "MOST_ROWS", 50)
    some = Front.fitted(h, 4)(h)
    assert some.shape == whole.shape
    spread = torch.linalg.svdvals(some.T @ whole) / (some.norm() * whole.norm())
    assert float(spread.sum()) > 0.9, "they span the same"


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 5), (3, 8), (9, 4)])
def test_rotations_are_orthonormal_and_keep_lengths_where_they_can(inputs: int, outputs: int):
    turn = rotation(inputs, outputs, generator())
    gram = turn @ turn.T if inputs <= outputs else turn.T @ turn
    torch.testing.assert_close(gram, torch.eye(min(inputs, outputs)), rtol=1e-5, atol=1e-5)
    assert torch.equal(turn, rotation(inputs, outputs, generator()))


def test_a_turned_front_keeps_angles_of_what_it_never_saw():
    few, unseen = torch.randn(3, 6, generator=generator()), torch.randn(4, 6, generator=generator(1))
    turned = Front.turned(few, 6, generator(2))(unseen)
    plain = unseen - few.mean(dim=0)
    cosines = [torch.nn.functional.normalize(one, dim=1) for one in (turned, plain)]
    torch.testing.assert_close(cosines[0] @ cosines[0].T, cosines[1] @ cosines[1].T, rtol=1e-4, atol=1e-5)


def test_ridge_is_the_closed_form_with_a_free_offset():
    x, y = torch.randn(30, 4, generator=generator()), torch.randn(30, 2, generator=generator(1)) + 5
    weight, offset = ridge(x, y, 0.7)
    centred = x - x.mean(dim=0)
    expected = torch.linalg.inv(centred.T @ centred + 0.7 * torch.eye(4)) @ centred.T @ (y - y.mean(dim=0))
    torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((x @ weight + offset).mean(dim=0), y.mean(dim=0))
