"""What experts cost in training, by how many of them are frozen: bytes counted, not estimated."""

from __future__ import annotations

import pytest
import torch

from mmcl_edge.adapters.adapter import CrossModalityAdapter
from mmcl_edge.adapters.presence import Presence

EXPERTS, ACTIVE = 8, 2
DIMS = {"audio": (24, 24), "frames": (16, 20)}


def adapter(frozen: int) -> CrossModalityAdapter:
    """Eight experts, the first ``frozen`` of them frozen; the same weights whatever ``frozen`` is."""
    block = CrossModalityAdapter(
        DIMS, block=0, rank=4, active=ACTIVE, attention="latents", latents=2, scale=1.0, noise=0.0
    )
    block.grow(EXPERTS, torch.Generator().manual_seed(0), zero_gate=False)
    for name in block.modalities:
        block.bank.stack_of(name).get_parameter("up").data.normal_(generator=torch.Generator().manual_seed(1))
    block.bank.freeze(range(frozen), "before")
    return block


def forward(block: CrossModalityAdapter) -> torch.Tensor:
    draw = torch.Generator().manual_seed(2)
    tokens = {name: torch.randn(6, 10, d_in, generator=draw) for name, (d_in, _) in DIMS.items()}
    presence = Presence(tuple(tokens), {name: torch.ones(6, dtype=torch.bool) for name in tokens})
    for name in tokens:
        presence.add_mask(name, 10, None)
    return torch.stack([delta.square().sum() for delta in block(tokens, presence).deltas.values()]).sum()


def cost(frozen: int) -> tuple[int, int, int]:
    """Bytes of gradients, of optimizer state, and saved for backward, of the experts' part of one step."""
    block, saved = adapter(frozen), {}
    block.router.weight.requires_grad_(False)

    def count(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = forward(block)
    parameters = [value for value in block.bank.parameters() if value.numel()]
    if not parameters:
        assert not loss.requires_grad
        return 0, 0, sum(saved.values())
    optimizer = torch.optim.AdamW(parameters)
    loss.backward()
    optimizer.step()
    gradients = sum(value.grad.nbytes for value in parameters if value.grad is not None)
    state = sum(v.nbytes for one in optimizer.state.values() for k, v in one.items() if k != "step")
    return gradients, state, sum(saved.values())


def test_gradients_and_optimizer_state_fall_with_every_frozen_expert():
    whole = cost(0)
    for frozen in range(EXPERTS + 1):
        gradients, state, _ = cost(frozen)
        assert gradients == whole[0] * (EXPERTS - frozen) // EXPERTS
        assert state == 2 * gradients


def test_nothing_is_saved_for_backward_where_every_expert_is_frozen():
    assert cost(EXPERTS) == (0, 0, 0)
    assert cost(0)[2] > 0


def test_a_batch_that_only_frozen_experts_serve_saves_nothing_though_others_could_learn():
    """The router sends every sample to the first two; with those frozen, the rest costs no activation."""
    block = adapter(ACTIVE)
    block.router.weight.data.zero_()
    block.router.weight.data[:ACTIVE] = 1.0
    block.router.weight.data[:, : sum(d for d, _ in DIMS.values())] = 0.0
    block.router.weight.requires_grad_(False)
    assert not forward(block).requires_grad


@pytest.mark.parametrize("frozen", [0, 1, 3, 6, 7])
def test_freezing_changes_no_value_and_no_other_gradient(frozen: int):
    plain, half = adapter(0), adapter(frozen)
    losses = [forward(one) for one in (plain, half)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    for name in DIMS:
        for part in ("down", "bias", "up", "latents"):
            whole = plain.bank.stack_of(name).get_parameter(part).grad
            kept = half.bank.stack_of(name).get_parameter(part).grad
            expected = torch.zeros_like(whole[frozen:]) if kept is None else kept
            torch.testing.assert_close(whole[frozen:], expected)
