"""CMoE-Adapter: fresh experts change nothing, frozen ones keep their bits, gates are sparse and sum to one."""

from __future__ import annotations

import pytest
import torch

from mmcl_edge.adapters.cmoe import PARTS, CMoEAdapter


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def adapter(experts: int = 2, *, taught: bool = True, noise: float = 0.0) -> CMoEAdapter:
    made = CMoEAdapter(4, rank=3, active=2, noise=noise)
    made.grow(experts, generator())
    if taught:
        with torch.no_grad():
            for seed, part in enumerate(("up", "bias", "route")):
                weight = made.get_parameter(part)
                weight.copy_(torch.randn(weight.shape, generator=generator(seed + 1)))
    return made


Z = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("experts", [0, 1, 3])
def test_fresh_experts_change_nothing(experts: int):
    assert torch.equal(adapter(experts, taught=False)(Z), Z)


def test_it_is_the_sum_over_chosen_experts():
    made = adapter(3)
    gate = made.gate(Z)
    expected = Z.clone()
    for row in range(len(Z)):
        for expert in range(3):
            inside = Z[row] @ made.stack("down")[expert] + made.stack("bias")[expert]
            expected[row] += gate[row, expert] * torch.nn.functional.gelu(inside) @ made.stack("up")[expert]
    torch.testing.assert_close(made(Z), expected)


def test_gates_choose_two_and_sum_to_one():
    gate = adapter(4).gate(Z)
    torch.testing.assert_close(gate.sum(dim=1), torch.ones(5))
    assert (gate > 0).sum(dim=1).tolist() == [2] * 5


def test_the_order_of_experts_does_not_matter():
    made, other = adapter(3), adapter(3)
    other.put({part: made.stack(part)[[2, 0, 1]] for part in PARTS}, frozen=0)
    torch.testing.assert_close(other(Z), made(Z))


def test_frozen_experts_keep_their_bits_while_new_ones_learn():
    made = adapter()
    made.freeze()
    made.grow(2, generator(5))
    before = {part: made.stack(part)[:2].clone() for part in PARTS}
    assert (made.frozen, made.experts) == (2, 4)
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        made(Z, generator()).square().sum().backward()
        optimizer.step()
    assert all(torch.equal(made.stack(part)[:2], before[part]) for part in PARTS)
    assert not torch.equal(made.stack("up")[2:], torch.zeros(2, 3, 4))


def test_noise_is_for_training_only_and_follows_from_the_generator():
    made = adapter(4, noise=5.0)
    assert torch.equal(made(Z), made(Z))
    assert torch.equal(made(Z, generator(1)), made(Z, generator(1)))
    assert not torch.equal(made(Z, generator(1)), made(Z, generator(2)))
