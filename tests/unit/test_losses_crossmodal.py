"""Losses of the shared discrete space against loops that read like the equations."""

from __future__ import annotations

import math

import pytest
import torch

from mmcl_edge.losses import crossmodal as losses


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_commitment_has_a_cross_term_of_half_the_weight_and_no_gradient_to_codes():
    z, own, other = (randn(2, 3, 4, seed=seed).requires_grad_() for seed in range(3))
    value = losses.commitment(z, own, other, weight=0.25)
    expected = 0.25 * (z - own).square().mean() + 0.125 * (z - other).square().mean()
    torch.testing.assert_close(value, expected)
    value.backward()
    assert own.grad is None
    assert other.grad is None
    assert z.grad is not None


@pytest.mark.parametrize("rows", [2, 7])
def test_contrast_of_equal_vectors_is_the_logarithm_of_the_batch(rows: int):
    same = torch.ones(rows, 4)
    assert float(losses.info_nce(same, same, temperature=0.1)) == pytest.approx(math.log(rows))


def test_contrast_leaves_out_rows_that_show_the_same():
    a, b = randn(3, 4), randn(3, 4, seed=1)
    same = torch.eye(3, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    scores = torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T / 0.1
    rights = [scores[i, i] for i in range(3)]
    rows = [[0, 2], [1, 2], [0, 1, 2]]
    ways = [
        -sum(right - torch.logsumexp(one[keep], 0) for right, one, keep in zip(rights, way, rows, strict=True)) / 3
        for way in (scores, scores.T)
    ]
    assert float(losses.info_nce(a, b, temperature=0.1, same=same)) == pytest.approx(float(sum(ways) / 2), rel=1e-5)


def test_cross_cpc_prefers_the_right_row_at_every_slot():
    target = randn(6, 2, 8)
    right = losses.cross_cpc(target, target, temperature=0.1)
    wrong = losses.cross_cpc(target.roll(1, dims=0), target, temperature=0.1)
    assert float(right) < 0.5 < 5 < float(wrong)
    by_hand = [
        torch.nn.functional.cross_entropy(target[:, k] @ randn(6, 2, 8, seed=3)[:, k].T / 0.5, torch.arange(6))
        for k in range(2)
    ]
    value = losses.cross_cpc(target, randn(6, 2, 8, seed=3), temperature=0.5)
    assert float(value) == pytest.approx(float(sum(by_hand) / 2), rel=1e-5)


def test_code_scores_are_the_equation_slot_by_slot():
    p, q = randn(2, 3, 5).softmax(dim=-1), randn(4, 3, 5, seed=1).softmax(dim=-1)
    expected = torch.tensor(
        [[float((x * y.log() + y * x.log()).sum() / 3) for y in q] for x in p]  # mean over slots of the sum over codes
    )
    torch.testing.assert_close(losses.code_scores(p, q), expected)
    assert float(losses.code_scores(p, q).max()) <= 0


def test_code_matching_of_certain_codes_is_finite_and_tells_pairs_apart():
    p = torch.eye(4)[:, None]  # four samples, one slot, each certain of its own code
    assert float(losses.code_matching(p, p)) == pytest.approx(0, abs=1e-6)
    assert math.isfinite(float(losses.code_matching(p, p.roll(1, dims=0))))


def test_club_is_the_mean_over_all_pairs_less_that_of_own_pairs():
    mean, log_variance, y = randn(5, 3), randn(5, 3, seed=1).tanh(), randn(5, 3, seed=2)

    def likelihood(i: int, j: int) -> float:
        return float((-(y[j] - mean[i]).square() / (2 * log_variance[i].exp())).sum())

    own = sum(likelihood(i, i) for i in range(5)) / 5
    others = sum(likelihood(i, j) for i in range(5) for j in range(5)) / 25
    assert float(losses.club(mean, log_variance, y)) == pytest.approx(own - others, rel=1e-4)
    assert float(losses.club(y.mean(dim=0).expand(5, 3), torch.zeros(5, 3), y)) == pytest.approx(0, abs=1e-5)


def test_the_likelihood_is_that_of_a_normal_distribution():
    mean, log_variance, y = randn(5, 3), randn(5, 3, seed=1).tanh(), randn(5, 3, seed=2)
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp()).log_prob(y).sum(dim=1).mean()
    value = losses.gaussian_log_likelihood(mean, log_variance, y)
    assert float(value) == pytest.approx(float(normal) + 3 * math.log(2 * math.pi) / 2, rel=1e-4)


def test_consistency_reads_the_old_codes_alone_and_has_no_slope_where_nothing_changed():
    logits = randn(2, 3, 4).requires_grad_()
    old = logits.detach().softmax(dim=-1)
    value = losses.consistency(old, logits.softmax(dim=-1))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert float(logits.grad.abs().max()) < 1e-6
    grown = torch.cat([old / 2, torch.full((2, 3, 2), 0.25)], dim=-1)
    assert float(losses.consistency(old, grown)) == pytest.approx(0, abs=1e-6)
    assert float(losses.consistency(old, old.flip(-1))) > 0


def test_reconstruction_is_the_mean_square():
    assert float(losses.reconstruction(torch.zeros(2, 2), torch.full((2, 2), 3.0))) == 9
