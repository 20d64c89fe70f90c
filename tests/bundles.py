"""Tiny bundles with random weights: for every test that needs a bundle but no accuracy.

An export takes some ten seconds, so it is done once and kept in ``.pytest_cache/bundles`` under a key made of the
exporter's source and the versions of what it uses; every call gets its own copy, verified on opening.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from mmcl_edge.bundle import AudioInput, Bundle, WeightsOrigin
from mmcl_edge.config import AdapterConfig, HeadConfig
from mmcl_edge.errors import StorageError
from mmcl_edge.export.exporter import export_sources
from mmcl_edge.export.rocket import SCALES, rocket
from mmcl_edge.export.source import SourceBackbone
from mmcl_edge.export.timm_models import load_timm
from mmcl_edge.export.whisper import TOKEN_STRIDE, WhisperLayer, WhisperStem
from mmcl_edge.types import AUDIO, FRAMES, PoolSpec
from tests.texts import tiny_bert

Pair = Literal["cnn", "vit", "trio", "captioned"]
VjpMode = Literal["recompute", "save"]
RANDOM = WeightsOrigin(source="random weights", licence="none", trained=False)
ROOT = Path(__file__).resolve().parents[1]
_UNTRACED = ("codebook", "cmoe")
"""Adapters that no predict graph holds."""


def tiny_bundle(folder: Path, *, vjp: VjpMode = "recompute", pair: Pair = "cnn", blocks: int = 2) -> Bundle:
    """Put a tiny bundle into ``folder`` (which must not exist); the same bytes on every call.

    Args:
        folder: the bundle's folder.
        vjp: as ``export_bundle`` takes it.
        pair: ``cnn``: a sound encoder of Whisper's make (tokens follow the clip's length) and an EfficientNet
            (maps), like the default pair. ``vit``: two ViTs with prefix tokens, the sound one of fixed length.
            ``trio``: the first pair and random kernels for motion. ``captioned``: the first pair and a BERT for text.
        blocks: B, 1 or 2.
    """
    shutil.copytree(_kept(vjp, pair, blocks), folder)
    return Bundle.open(folder)


def tiny_sources(pair: Pair = "cnn") -> tuple[SourceBackbone, ...]:
    """The torch backbones behind ``tiny_bundle``: weights are the same on every call."""
    if pair == "vit":
        return tiny_vit(AUDIO), tiny_vit(FRAMES)
    third = {"trio": (tiny_rocket(),), "captioned": (tiny_bert(),)}.get(pair, ())
    return tiny_whisper(), load_timm(FRAMES, "test_efficientnet", untrained=True, image_size=64), *third


def tiny_rocket() -> SourceBackbone:
    """Random kernels for six channels, two seconds, width 16."""
    return rocket(SCALES["g_dps"], name="tiny-rocket", window_s=2.0, kernels=2, depth=2)


def tiny_vit(modality: str) -> SourceBackbone:
    """The first two layers of timm's test ViT, 64 x 64 pixels."""
    source = load_timm(modality, "test_vit", untrained=True, image_size=64)
    return dataclasses.replace(source, layers=source.layers[:2])


def tiny_whisper(width: int = 32, depth: int = 2, heads: int = 2) -> SourceBackbone:
    """A random encoder of Whisper's make; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        stem = WhisperStem(width)
        stem.positions.normal_(std=0.1)
        layers = tuple((f"blocks.{i}", WhisperLayer(width, heads)) for i in range(depth))
    spec = AudioInput(max_duration_s=30.0, token_stride=TOKEN_STRIDE)
    norm = nn.LayerNorm(width)
    return SourceBackbone(AUDIO, "tiny-whisper", spec, stem, layers, norm, PoolSpec(), RANDOM, stem.log_mel)


def _kept(vjp: VjpMode, pair: Pair, blocks: int) -> Path:
    """The kept copy of a tiny bundle, exported if there is none for this source and these versions."""
    kept = ROOT / ".pytest_cache" / "bundles" / _key() / f"{pair}-{vjp}-{blocks}"
    if not kept.is_dir():
        try:
            export_sources(kept, tiny_sources(pair), blocks=blocks, vjp=vjp)
        except (StorageError, OSError):
            if not kept.is_dir():  # else another process was faster
                raise
    return kept


def _key() -> str:
    folders = (ROOT / "export", ROOT / "mmcl_edge" / "adapters")  # predict graphs are traced from the adapters
    sources = [path for folder in folders for path in sorted(folder.glob("*.py")) if path.stem not in _UNTRACED]
    sources += [ROOT / "mmcl_edge" / f"{name}.py" for name in ("bundle", "types")]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources))
    for path in (Path(__file__), ROOT / "tests" / "texts.py"):
        digest.update(path.read_bytes())
    digest.update("".join(inspect.getsource(one) for one in (AdapterConfig, HeadConfig)).encode())
    digest.update(repr([(name, version(name)) for name in ("torch", "onnx", "onnxscript", "timm")]).encode())
    return digest.hexdigest()[:16]
