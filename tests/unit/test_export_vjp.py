"""Traced gradients against autograd, before ONNX is involved: plain, simplified, and split in two halves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmcl_edge.export.kinks import MAX_FLIPPED_SHARE, OnGivenSide
from mmcl_edge.export.parity import relative_error
from mmcl_edge.export.partition import split
from mmcl_edge.export.simplify import simplified
from mmcl_edge.export.source import traceable
from mmcl_edge.export.vjp import DynamicAxes, only_outputs, trace_joint
from mmcl_edge.export.whisper import WhisperLayer

BATCH: DynamicAxes = {0: "batch"}
TOKENS: DynamicAxes = {0: "batch", 1: "tokens"}
TOLERANCE = 1e-5


class Cut(nn.Module):
    """Slicing, selecting and matrix products as an output layer has them."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 1:] * x[:, 0].unsqueeze(1) + x[:, -1:]


def timm_part(name: str, part: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        model = timm.create_model(name, pretrained=False).eval().requires_grad_(False)
    return model.get_submodule(part)


def conv(**options: object) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        norm = nn.BatchNorm2d(8)
        norm.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
        norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        return nn.Sequential(nn.Conv2d(4, 8, **options), norm, nn.SiLU())  # type: ignore[arg-type]


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], DynamicAxes]] = {
    "whisper layer": (lambda: WhisperLayer(16, 2), (3, 7, 16), TOKENS),
    "vit block": (lambda: timm_part("test_vit", "blocks.0"), (3, 7, 64), BATCH),
    "two vit blocks": (lambda: timm_part("test_vit", "blocks")[:2], (3, 7, 64), BATCH),  # type: ignore[index]
    "layer norm": (lambda: nn.LayerNorm(16), (3, 7, 16), TOKENS),
    "slices": (Cut, (3, 7, 16), BATCH),
    "nothing at all": (nn.Sequential, (3, 7, 16), BATCH),
    "efficientnet stage, swish and squeeze": (
        lambda: timm_part("test_efficientnet", "blocks.3"),
        (3, 32, 10, 10),
        BATCH,
    ),
    "lite stage, relu6 and same padding": (
        lambda: timm_part("tf_efficientnet_lite0", "blocks.1"),
        (3, 16, 12, 12),
        BATCH,
    ),
    "mobilenet stage, hard swish": (lambda: timm_part("mobilenetv3_small_050", "blocks.2"), (3, 16, 8, 8), BATCH),
    "resnet stage, relu": (lambda: timm_part("test_resnet", "layer2"), (3, 32, 8, 8), BATCH),
    "average pooling": (lambda: nn.AvgPool2d(3, stride=2, padding=1), (3, 4, 9, 8), BATCH),
    "average pooling that leaves a rest": (lambda: nn.AvgPool2d(2), (3, 4, 9, 8), BATCH),
    "convolution, stride 2": (lambda: conv(kernel_size=3, stride=2, padding=1), (3, 4, 9, 8), BATCH),
    "convolution, dilated and grouped": (
        lambda: conv(kernel_size=3, dilation=2, padding=1, groups=2),
        (3, 4, 9, 8),
        BATCH,
    ),
    "convolution, padded beyond its reach": (lambda: conv(kernel_size=1, padding=1), (3, 4, 5, 5), BATCH),
}
BY_NAME = pytest.mark.parametrize("make, shape, axes", CASES.values(), ids=CASES)


def example(shape: tuple[int, ...], axes: DynamicAxes) -> Tensor:
    """Another batch (and token count) than the one traced."""
    sizes = [5 if axes.get(i) == "batch" else 11 if axes.get(i) == "tokens" else n for i, n in enumerate(shape)]
    return torch.randn(sizes, generator=torch.Generator().manual_seed(3))


def autograd(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = x.clone().requires_grad_(True)
    y = module(x)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(4))
    return y.detach(), g, torch.autograd.grad(y, x, g)[0]


@BY_NAME
def test_gradient_agrees_with_autograd_for_other_sizes_than_traced(make, shape, axes) -> None:  # type: ignore[no-untyped-def]
    module = make().eval().requires_grad_(False)
    joint = trace_joint(traceable(module), torch.randn(shape), axes)
    x = example(shape, axes)
    y, g, gx = autograd(module, x)
    for graph in (joint, simplified(joint)):
        found = graph(x, g)
        assert relative_error(found[0], y) < TOLERANCE
        assert relative_error(found[1], gx) < TOLERANCE
        assert torch.equal(only_outputs(graph, [1])(x, g), found[1])


@BY_NAME
def test_halves_agree_with_autograd_and_share_only_activations(make, shape, axes) -> None:  # type: ignore[no-untyped-def]
    module = make().eval().requires_grad_(False)
    sample = torch.randn(shape)
    joint = simplified(trace_joint(traceable(module), sample, axes))
    halves = split(joint, sample, module(sample), axes)
    x = example(shape, axes)
    y, g, gx = autograd(module, x)
    found, *saved = halves.forward(x)
    assert relative_error(found, y) < TOLERANCE
    assert relative_error(halves.backward(*saved, g), gx) < TOLERANCE
    assert len(saved) == len(halves.saved) == len(halves.axes) - 1
    assert all(tensor.dtype == torch.float32 for tensor in saved)


def test_the_vjp_of_saved_activations_has_no_product_of_the_forward_pass() -> None:
    module, sample = WhisperLayer(16, 2).eval().requires_grad_(False), torch.randn(3, 7, 16)
    joint = simplified(trace_joint(traceable(module), sample, TOKENS))
    halves = split(joint, sample, sample, TOKENS)

    def products(graph: torch.fx.GraphModule) -> int:
        return sum("matmul" in str(node.target) for node in graph.graph.nodes)

    assert products(halves.forward) == 6  # qkv, scores, values, proj, two of the mlp
    assert products(halves.backward) == 8  # one per linear layer, two per product of two activations
    assert products(only_outputs(joint, [1])) == 8 + 5  # the forward's last product is not needed again


def test_a_weight_used_both_ways_is_held_once() -> None:
    module = WhisperLayer(16, 2).eval().requires_grad_(False)
    vjp = only_outputs(trace_joint(traceable(module), torch.randn(3, 7, 16), TOKENS), [1])
    held = {str(node.target) for node in vjp.graph.nodes if node.op == "get_attr"}
    matrices = [value for name in held if (value := vjp.get_parameter(name)).dim() == 2]
    assert sorted(tuple(value.shape) for value in matrices) == [(16, 16), (16, 64), (48, 16), (64, 16)]


def test_simplifying_leaves_no_norm_and_no_factor_behind_convolutions() -> None:
    module = timm_part("tf_efficientnet_lite0", "blocks.1")
    joint = simplified(trace_joint(traceable(module), torch.randn(3, 16, 12, 12), BATCH))
    names = [str(node.target) for node in joint.graph.nodes]
    assert not [name for name in names if "batch_norm" in name or "mul" in name]


def test_weights_of_the_module_are_left_alone() -> None:
    module = conv(kernel_size=3).eval().requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    simplified(trace_joint(traceable(module), torch.randn(3, 4, 8, 8), BATCH))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class Relu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


def test_given_conditions_decide_the_side_of_a_kink() -> None:
    graph = only_outputs(trace_joint(Relu(), torch.randn(3, 4), BATCH), [1])
    x, g = torch.tensor([[-1.0, 1e-9, -1e-9, 1.0]]), torch.ones(1, 4)
    assert graph(x, g).tolist() == [[0, 1, 0, 1]]
    own = next(node for node in graph.graph.nodes if node.target is torch.ops.aten.where.self)
    given = torch.tensor([[True, True, True, False]])  # x <= 0, as a program that rounds otherwise sees it
    assert str(own.args[0].target).startswith("aten.le")
    assert OnGivenSide(graph, [given]).run(x, g).tolist() == [[0, 0, 0, 1]]


def test_systematically_other_conditions_are_noticed() -> None:
    graph = only_outputs(trace_joint(Relu(), torch.randn(3, 4), BATCH), [1])
    x = torch.randn(5, 400, generator=torch.Generator().manual_seed(0)).reshape(500, 4)
    run = OnGivenSide(graph, [x <= 0.1])
    run.run(x, torch.ones_like(x))
    assert run.flipped > MAX_FLIPPED_SHARE
