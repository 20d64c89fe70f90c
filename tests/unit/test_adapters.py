"""The trainable part against METHODS part 7, items 1 to 4, on real arithmetic with small backbones."""

from __future__ import annotations

import pytest
import torch

from mmcl_edge.adapters.adapter import CrossModalityAdapter
from mmcl_edge.adapters.encoder import InlineEncoder, pool_output
from mmcl_edge.adapters.features import resample_tokens
from mmcl_edge.adapters.inputs import ItemInput, collate
from mmcl_edge.adapters.model import build_model, load_tensors, model_tensors
from mmcl_edge.adapters.presence import Presence
from mmcl_edge.config import AdapterConfig, HeadConfig
from mmcl_edge.errors import PackError
from tests.fakes import backbones

PLACEMENTS = ("inline", "ladder")
ATTENTION = ("latents", "tokens", "none")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def config(**changes: object) -> AdapterConfig:
    return AdapterConfig(**{"experts": 4, "rank": 4, "ladder_dim": 8, "ladder_tokens": 4, "map_grid": 4} | changes)


def model_of(**changes: object):
    model = build_model(
        config(**changes), HeadConfig(joint_dim=16, fusion_hidden=32), backbones(), generator=generator()
    )
    model.head.grow(3, generator(1))
    return model


def wake(model) -> None:
    """Give every expert an ``up`` that does something, as training would."""
    for block in model.blocks:
        for name in block.modalities:
            parameter = block.bank.stack_of(name).get_parameter("up")
            parameter.data.normal_(generator=generator(3))


def items(count: int = 5, views: int = 2, seed: int = 5):
    draw = generator(seed)
    lengths = [400, 600, 200, 800, 600][:count]
    return [
        {
            "audio": ItemInput(torch.randn(1, n, generator=draw), tokens=n // 40 - 1, total_tokens=n // 40),
            "frames": ItemInput(255 * torch.rand(1 + i % views, 3, 16, 16, generator=draw)),
        }
        for i, n in enumerate(lengths)
    ]


def run(model, some):
    with torch.no_grad():
        return model(model.encoder.collate(model.encoder.prepare(some)))


def adapter(attention: str = "tokens", experts: int = 4, noise: float = 0.0) -> CrossModalityAdapter:
    block = CrossModalityAdapter(
        {"audio": (6, 7), "frames": (5, 4)},
        block=0, rank=3, active=2, attention=attention, latents=2, scale=1.0, noise=noise,
    )  # fmt: skip
    block.grow(experts, generator(), zero_gate=False)
    for name in block.modalities:
        block.bank.stack_of(name).get_parameter("up").data.normal_(generator=generator(3))
    return block


def tokens(batch: int = 4):
    draw = generator(7)
    values = {"audio": torch.randn(batch, 9, 6, generator=draw), "frames": torch.randn(batch, 8, 5, generator=draw)}
    masks = {name: torch.ones(value.shape[:2], dtype=torch.bool) for name, value in values.items()}
    return values, masks


def batch_of(masks=None):
    values, full = tokens()
    masks = masks or full
    presence = Presence(tuple(values), {name: mask.any(dim=1) for name, mask in masks.items()})
    for name, mask in masks.items():
        presence.add_mask(name, mask.shape[1], mask)
    return values, presence


@pytest.mark.parametrize("attention", ATTENTION)
def test_a_new_adapter_changes_nothing_in_the_backbones(attention):
    model = model_of(attention=attention, features="last")
    some = collate(items())
    encoding = model.encoder(some)
    plain = InlineEncoder(backbones(), torch.nn.ModuleList(), map_grid=4, input_norm=True, all_blocks=False)
    state = {name: one.stem(some[name].values) for name, one in plain.backbones.items()}
    for block in range(3):
        state = {name: plain.backbones[name].segment(block, x) for name, x in state.items()}
    for name, x in state.items():
        output = pool_output(plain.backbones[name], x, some[name])
        assert torch.equal(encoding.pooled[name], torch.nn.functional.layer_norm(output, output.shape[-1:]))


def test_an_awake_adapter_does_change_them():
    quiet, loud = model_of(), model_of()
    wake(loud)
    assert not torch.allclose(run(quiet, items()).joint, run(loud, items()).joint, atol=1e-3)


@pytest.mark.parametrize("attention", ATTENTION)
def test_the_adapter_follows_its_equation(attention):
    """Against a slow loop over samples, experts and tokens, written from METHODS 1.3 item 4."""
    block = adapter(attention)
    values, masks = tokens()
    masks["audio"][1, 6:] = False
    out = block(*batch_of(masks))
    for m, other in (("audio", "frames"), ("frames", "audio")):
        for i in range(4):
            expected = torch.zeros(out.deltas[m].shape[1:])
            for g, e in zip(out.gate.weights[i], out.gate.index[i], strict=True):
                weights = {n: block.bank.tensors(int(e)) for n in (m,)}[m]
                low = {n: values[n][i] @ weights[f"{n}.down"].T + weights[f"{n}.bias"] for n in values}
                valid = low[other][masks[other][i]]
                read = torch.zeros_like(low[m])
                if attention == "tokens":
                    read = (low[m] @ valid.T / 3**0.5).softmax(-1) @ valid
                if attention == "latents":
                    latents = weights[f"{m}.latents"]
                    latents = latents + (latents @ valid.T / 3**0.5).softmax(-1) @ valid
                    read = (low[m] @ latents.T / 3**0.5).softmax(-1) @ latents
                expected += g * torch.nn.functional.gelu(low[m] + read) @ weights[f"{m}.up"]
            torch.testing.assert_close(out.deltas[m][i], expected, atol=1e-5, rtol=1e-4)


def test_gate_weights_sum_to_one_over_exactly_k_experts():
    gate = adapter(noise=1.0)(*batch_of(), generator(2)).gate
    torch.testing.assert_close(gate.weights.sum(dim=1), torch.ones(4))
    assert ((gate.dense > 0).sum(dim=1) == 2).all()
    torch.testing.assert_close(gate.dense.sum(dim=1), torch.ones(4))


def test_gate_is_softmax_then_top_k_then_renormalised():
    block = adapter()
    values, _ = tokens()
    pooled = torch.cat([values["audio"].mean(1), values["frames"].mean(1), torch.ones(4, 2)], dim=1)
    p = (pooled @ block.router.weight.T).softmax(dim=1)
    top, index = p.topk(2)
    gate = block(*batch_of()).gate
    assert torch.equal(gate.index, index)
    torch.testing.assert_close(gate.weights, top / top.sum(dim=1, keepdim=True))


def test_permuting_experts_with_their_gate_rows_changes_nothing():
    block = adapter()
    before = block(*batch_of())
    order = [2, 0, 3, 1]
    block.bank.load([block.bank.infos[i] for i in order], [block.bank.tensors(i) for i in order])
    block.router.reorder(order)
    after = block(*batch_of())
    for name, delta in before.deltas.items():
        torch.testing.assert_close(after.deltas[name], delta)


def test_freezing_moves_the_most_used_experts_to_the_front_and_changes_nothing():
    block = adapter()
    block.usage = torch.tensor([1.0, 5.0, 0.0, 7.0])
    before = block(*batch_of())
    expected = [block.bank.tensors(i) for i in (1, 3)]
    block.freeze_used("task")
    assert [(info.frozen, info.owner) for info in block.bank.infos] == [(True, "task")] * 2 + [(False, None)] * 2
    for position, values in enumerate(expected):
        assert all(torch.equal(values[k], v) for k, v in block.bank.tensors(position).items())
    for name, delta in block(*batch_of()).deltas.items():
        torch.testing.assert_close(delta, before.deltas[name])


def test_frozen_experts_are_not_parameters_and_stay_bit_identical():
    block = adapter()
    block.usage = torch.tensor([9.0, 8.0, 0.0, 0.0])
    block.freeze_used("task")
    frozen = [block.bank.tensors(i) for i in range(2)]
    optimizer = torch.optim.AdamW(block.parameters(), lr=0.1, weight_decay=0.1)
    for step in range(5):
        out = block(*batch_of(), generator(step))
        optimizer.zero_grad()
        sum(delta.square().sum() for delta in out.deltas.values()).backward()
        optimizer.step()
    for position, values in enumerate(frozen):
        assert all(torch.equal(values[k], v) for k, v in block.bank.tensors(position).items())
    sizes = {p.shape[0] for p in block.bank.parameters()}
    assert sizes == {2}
    assert all(state["exp_avg"].shape == p.shape for p, state in optimizer.state.items())


def test_frozen_ids_are_content_addresses():
    one, other = adapter(), adapter()
    for block in (one, other):
        block.usage = torch.tensor([9.0, 8.0, 0.0, 0.0])
        block.freeze_used("task")
    assert [i.id for i in one.bank.infos] == [i.id for i in other.bank.infos]
    assert len({i.id for i in one.bank.infos}) == 4


def test_usage_counts_assignments_in_training_only():
    block = adapter()
    block(*batch_of())
    assert block.usage.sum() == 0
    block(*batch_of(), generator())
    assert block.usage.sum() == 4 * 2


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("hidden", ["audio", "frames"])
def test_what_a_mask_hides_has_no_influence(placement, hidden):
    model = model_of(placement=placement)
    wake(model)
    clean, dirty = items(), items()
    batch = model.encoder.collate(model.encoder.prepare(clean))
    for item in dirty:
        item[hidden] = ItemInput(item[hidden].values * -3 + 9, item[hidden].tokens, item[hidden].total_tokens)
    other = model.encoder.collate(model.encoder.prepare(dirty))
    gone = {name: torch.full((5,), name == hidden) for name in ("audio", "frames")}
    with torch.no_grad():
        a = model(model.encoder.hide(batch, gone)).logits
        b = model(model.encoder.hide(other, gone)).logits
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_missing_modality_equals_a_hidden_one(placement):
    model = model_of(placement=placement)
    wake(model)
    some = items()
    batch = model.encoder.collate(model.encoder.prepare(some))
    gone = {"audio": torch.ones(5, dtype=torch.bool), "frames": torch.zeros(5, dtype=torch.bool)}
    with torch.no_grad():
        hidden = model(model.encoder.hide(batch, gone)).logits
    missing = run(model, [{"frames": item["frames"]} for item in some]).logits
    torch.testing.assert_close(hidden, missing)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_padding_of_a_batch_mate_has_no_influence(placement):
    """True for token-wise segments such as the fake ones; attention inside a backbone does see silence."""
    model = model_of(placement=placement)
    wake(model)
    together = run(model, items()).logits
    alone = torch.cat([run(model, [item]).logits for item in items()])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_tensors_round_trip(placement):
    model = model_of(placement=placement)
    wake(model)
    for block in model.blocks:
        block.freeze_used("task")
    infos = [block.bank.infos for block in model.blocks]
    other = build_model(
        config(placement=placement), HeadConfig(joint_dim=16, fusion_hidden=32), backbones(), generator=None
    )
    load_tensors(other, model_tensors(model), infos)
    assert torch.equal(run(model, items()).logits, run(other, items()).logits)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("head.weight"), "head.weight"),
        (lambda t: t.pop("blocks.1.router"), "router"),
        (lambda t: t.update(extra=torch.zeros(1)), "does not know"),
        (lambda t: t.update({"fusion.mlp.0.weight": torch.zeros(2, 2)}), "shape"),
    ],
    ids=["no head", "no router", "left over", "wrong shape"],
)
def test_tensors_that_do_not_fit_are_refused(change, sentence):
    model = model_of()
    tensors = model_tensors(model)
    change(tensors)
    other = build_model(config(), HeadConfig(joint_dim=16, fusion_hidden=32), backbones(), generator=None)
    with pytest.raises(PackError, match=sentence):
        load_tensors(other, tensors, [block.bank.infos for block in model.blocks])


def test_gradients_reach_every_trainable_tensor():
    model = model_of()
    wake(model)
    model(model.encoder.collate(model.encoder.prepare(items())), generator()).logits.square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == ["fusion.absent.audio", "fusion.absent.frames"]


def test_resample_tokens_equals_adaptive_average_pooling_of_the_valid_part():
    x = torch.randn(3, 11, 2, generator=generator())
    mask = torch.arange(11)[None] < torch.tensor([11, 7, 2])[:, None]
    out = resample_tokens(x, mask, 4)
    for i, n in enumerate((11, 7, 2)):
        expected = torch.nn.functional.adaptive_avg_pool1d(x[i, :n].T[None], 4)[0].T
        torch.testing.assert_close(out[i], expected)


def test_growing_keeps_old_answers():
    model = model_of()
    before = run(model, items()).logits
    model.head.grow(2, generator(9))
    torch.testing.assert_close(run(model, items()).logits[:, :3], before)
