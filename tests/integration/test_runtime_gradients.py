"""Gradients of the whole encoder through ONNX graphs equal those of the same model in plain torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from mmcl_edge.adapters.model import Model, ModelOutput, build_model
from mmcl_edge.bundle import Bundle
from mmcl_edge.config import AdapterConfig, HeadConfig
from mmcl_edge.errors import MissingExtraError
from mmcl_edge.export.exporter import export_bundle
from mmcl_edge.export.torch_backbone import TorchBackbone, torch_backbones
from mmcl_edge.losses import functional as losses
from mmcl_edge.runtime.preprocess import Preprocessor
from mmcl_edge.runtime.segments import open_backbones
from mmcl_edge.runtime.sessions import SessionFactory
from mmcl_edge.runtime.threads import ThreadPlan
from mmcl_edge.types import Backbone, Sample
from tests import bundles
from tests.conftest import TinyBundle

TOLERANCE = 1e-4
CLASSES = 4
HEAD = HeadConfig(joint_dim=32, fusion_hidden=48)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model_on(backbones: dict[str, Backbone], placement: str, attention: str) -> Model:
    """The same weights whatever the backbones are made of; ``up`` is not zero, so gradients flow everywhere."""
    config = AdapterConfig(placement=placement, attention=attention, experts=4, rank=8, ladder_dim=16, router_noise=0.0)
    model = build_model(config, HEAD, backbones, generator=seeded(1))
    model.head.grow(CLASSES, seeded(2))
    draw = seeded(3)
    for block in model.blocks:
        for name in block.modalities:
            block.bank.stack_of(name).get_parameter("up").data.normal_(std=0.3, generator=draw)
    return model


def samples() -> list[Sample]:
    """Clips of several lengths, one and two pictures; two samples lack a modality."""
    rng = np.random.default_rng(4)
    shapes = [(16_000, 1), (9_000, 2), (40_000, 1), (None, 1), (24_000, None), (16_000, 2)]
    return [
        Sample(
            None if length is None else rng.uniform(-0.5, 0.5, length).astype(np.float32),
            None if views is None else rng.integers(0, 256, (views, 80, 100, 3), dtype=np.uint8),
        )
        for length, views in shapes
    ]


def loss_of(output: ModelOutput) -> torch.Tensor:
    """Terms that reach the head, the joint vector and every modality's own."""
    labels = torch.arange(len(output.logits)) % CLASSES
    classification = losses.classification(output.logits, labels, label_smoothing=0.0)
    return classification + 0.5 * losses.alignment(output.z, output.joint, output.present, temperature=0.5)


def gradients(model: Model, bundle: Bundle) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    prepare = Preprocessor(bundle.manifest)
    output = model(model.encoder.collate(model.encoder.prepare([prepare(sample) for sample in samples()])))
    loss_of(output).backward()
    found = {name: value.grad for name, value in model.named_parameters() if value.numel()}
    return output.logits.detach(), {name: grad for name, grad in found.items() if grad is not None}


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def check(bundle: Bundle, peers: dict[str, TorchBackbone], placement: str, attention: str) -> None:
    sessions = SessionFactory(ThreadPlan(onnx=1), provider="cpu")
    ours = model_on(open_backbones(bundle, sessions), placement, attention)
    theirs = model_on(peers, placement, attention)
    logits, found = gradients(ours, bundle)
    expected_logits, expected = gradients(theirs, bundle)
    assert error(logits, expected_logits) <= TOLERANCE
    assert set(found) == set(expected) == {name for name, value in theirs.named_parameters() if value.numel()}
    assert [name for name, grad in expected.items() if not grad.abs().sum() > 0] == []
    errors = {name: error(found[name], expected[name]) for name in expected}
    assert {name: value for name, value in errors.items() if value > TOLERANCE} == {}
    everything = [torch.cat([grads[name].flatten() for name in expected]) for grads in (found, expected)]
    assert error(everything[0], everything[1]) <= TOLERANCE


def tiny_peers(pair: bundles.Pair) -> dict[str, TorchBackbone]:
    return {source.modality: TorchBackbone(source, 2) for source in bundles.tiny_sources(pair)}


CASES = [
    ("cnn", "recompute", "inline", "latents"),
    ("cnn", "recompute", "inline", "tokens"),
    ("cnn", "recompute", "ladder", "latents"),
    ("cnn", "save", "inline", "latents"),
    ("vit", "recompute", "inline", "latents"),
    ("vit", "recompute", "ladder", "latents"),
]


@pytest.mark.parametrize(("pair", "vjp", "placement", "attention"), CASES, ids=["-".join(case) for case in CASES])
def test_gradients_of_a_tiny_pair_equal_torch(tiny: TinyBundle, pair, vjp, placement, attention):
    check(tiny(pair, vjp), tiny_peers(pair), placement, attention)


@pytest.fixture(scope="module")
def default_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, dict[str, TorchBackbone]]:
    try:
        peers = torch_backbones()
    except MissingExtraError as missing:
        pytest.skip(f"the default backbones' weights are not installed: {missing}")
    return export_bundle(tmp_path_factory.mktemp("default") / "bundle"), peers


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["inline", "ladder"])
def test_gradients_of_the_default_pair_equal_torch(default_pair, placement):
    check(*default_pair, placement, "latents")


def test_a_wrong_vjp_would_be_seen(tiny: TinyBundle, monkeypatch: pytest.MonkeyPatch):
    """The comparison has teeth: a product one part in a thousand off fails it."""
    from mmcl_edge.runtime.segments import OnnxSegment

    exact: Callable[..., torch.Tensor] = OnnxSegment.vjp
    monkeypatch.setattr(OnnxSegment, "vjp", lambda *arguments: 1.001 * exact(*arguments))
    with pytest.raises(AssertionError):
        check(tiny("cnn"), tiny_peers("cnn"), "inline", "latents")
