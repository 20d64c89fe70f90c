"""The pseudo-prototypical proxy loss against the paper's sums, written out one by one."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from mmcl_edge.losses.ppp import pseudo_prototypical_proxy


def unit(*shape: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(drawn, dim=1)


def written_out(z: torch.Tensor, labels: list[int], prototypes: torch.Tensor, temperature: float) -> float:
    def chance(i: int, c: int, proxy: torch.Tensor) -> float:
        own = math.exp(float(proxy @ z[i]) / temperature)
        others = sum(math.exp(float(p @ z[i]) / temperature) for k, p in enumerate(prototypes) if k != c)
        return own / (own + others)

    total = 0.0
    for i, c in enumerate(labels):
        proxies = [z[j] for j, other in enumerate(labels) if other == c and j != i] + [prototypes[c]]
        total += math.log(sum(chance(i, c, proxy) for proxy in proxies) / len(proxies))
        for j, other in enumerate(labels):
            if other != c:
                total += math.log(1 - (chance(i, other, z[j]) + chance(i, other, prototypes[other])) / 2)
    return -total / len(labels)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("labels", [[0, 0, 1, 2], [1, 1, 1, 1], [0, 1, 2, 2, 0, 1]], ids=str)
def test_it_is_the_sum_of_the_paper(labels: list[int], temperature: float):
    z, prototypes = unit(len(labels), 5, seed=1), unit(3, 5, seed=2)
    found = pseudo_prototypical_proxy(z, torch.tensor(labels), prototypes, temperature=temperature)
    assert float(found) == pytest.approx(written_out(z, labels, prototypes, temperature), rel=1e-9)


def test_two_samples_on_two_opposite_prototypes_by_hand():
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    found = pseudo_prototypical_proxy(z, torch.tensor([0, 1]), z.clone(), temperature=1.0)
    wrong = math.exp(-1) / (math.exp(-1) + math.exp(1))
    assert float(found) == pytest.approx(-2 * math.log(1 - wrong), rel=1e-6)


def test_it_pulls_to_the_own_prototype_and_leaves_proxies_alone():
    z = unit(4, 3, seed=3).requires_grad_()
    prototypes = unit(2, 3, seed=4).requires_grad_()
    pseudo_prototypical_proxy(z, torch.tensor([0, 0, 0, 0]), prototypes, temperature=0.5).backward()
    assert prototypes.grad is None
    assert float((z.grad[0] * (prototypes[0] - prototypes[1]).detach()).sum()) < 0


def test_one_class_alone_costs_nothing_and_keeps_gradients_finite():
    z = unit(3, 4, seed=5).requires_grad_()
    loss = pseudo_prototypical_proxy(z, torch.zeros(3, dtype=torch.int64), unit(1, 4, seed=6), temperature=0.1)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-12)
    assert bool(z.grad.isfinite().all())


def test_it_stays_finite_where_samples_of_two_classes_coincide():
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    prototypes = torch.tensor([[0.0, 1.0], [0.0, -1.0]])
    loss = pseudo_prototypical_proxy(z, torch.tensor([0, 1]), prototypes, temperature=0.001)
    loss.backward()
    assert bool(loss.isfinite())
    assert bool(z.grad.isfinite().all())
