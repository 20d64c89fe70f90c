"""The encoder of Whisper tiny.en as torch modules, with weights from a CTranslate2 file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mmcl_edge.bundle import AudioInput, WeightsOrigin
from mmcl_edge.errors import ExportError
from mmcl_edge.export.attention import SelfAttention
from mmcl_edge.export.ctranslate2 import read_weights
from mmcl_edge.export.frontend import HOP_SAMPLES, WhisperLogMel
from mmcl_edge.export.source import SourceBackbone
from mmcl_edge.types import AUDIO, PoolSpec

TOKEN_STRIDE = 2 * HOP_SAMPLES
MAX_DURATION_S = 30.0
Weights = Mapping[str, NDArray[np.generic]]


class WhisperStem(nn.Module):
    """Waveform to the first tokens: log-mel, two convolutions, positions cut to the clip's length.

    ``(B, samples)`` with ``samples`` a multiple of 320 to ``(B, samples/320, D)``.
    """

    positions: Tensor

    def __init__(self, width: int, *, max_tokens: int = 1500, mels: int = 80) -> None:
        super().__init__()
        self.log_mel = WhisperLogMel(mels)
        self.conv1 = nn.Conv1d(mels, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.register_buffer("positions", torch.zeros(max_tokens, width))

    def forward(self, waveform: Tensor) -> Tensor:
        """Tokens ``(B, N, D)``; Whisper's own padding to 30 s is left out."""
        return self.embed(self.log_mel(waveform))

    def embed(self, log_mel: Tensor) -> Tensor:
        """Log-mel ``(B, mels, 2N)`` to tokens ``(B, N, D)``."""
        x = F.gelu(self.conv1(log_mel))  # (B, D, 2N)
        x = F.gelu(self.conv2(x)).transpose(1, 2)  # (B, N, D)
        return x + self.positions[: x.shape[1]]


class WhisperLayer(nn.Module):
    """Pre-norm transformer layer: ``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, D)`` to ``(B, N, D)``."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return out


def whisper_encoder(path: Path, *, origin: WeightsOrigin, name: str = "whisper-tiny.en") -> SourceBackbone:
    """The encoder whose weights stand in the CTranslate2 file ``path``.

    Raises:
        ExportError: the file is malformed or lacks a tensor of the expected shape.
    """
    weights = read_weights(path, spec="WhisperSpec", prefix="encoder/")
    width, depth, heads = _sizes(weights)
    stem = WhisperStem(width, max_tokens=_get(weights, "position_encodings/encodings").shape[0])
    stem.positions.copy_(_tensor(weights, "position_encodings/encodings"))
    for conv in ("conv1", "conv2"):
        _fill(getattr(stem, conv), weights, conv)
    layers = tuple((f"blocks.{i}", _layer(weights, f"layer_{i}", width, heads)) for i in range(depth))
    norm = nn.LayerNorm(width)
    _fill(norm, weights, "layer_norm", ("gamma", "beta"))
    spec = AudioInput(max_duration_s=MAX_DURATION_S, token_stride=TOKEN_STRIDE)
    return SourceBackbone(AUDIO, name, spec, stem, layers, norm, PoolSpec(kind="mean"), origin, stem.log_mel)


def _sizes(weights: Weights) -> tuple[int, int, int]:
    width = _get(weights, "conv1/bias").shape[0]
    depth = 1 + max(
        (int(n.split("/")[0][6:]) for n in weights if n.startswith("layer_") and n[6].isdigit()), default=-1
    )
    return width, depth, int(_get(weights, "num_heads"))


def _layer(weights: Weights, name: str, width: int, heads: int) -> WhisperLayer:
    layer = WhisperLayer(width, heads)
    _fill(layer.norm1, weights, f"{name}/self_attention/layer_norm", ("gamma", "beta"))
    _fill(layer.attn.qkv, weights, f"{name}/self_attention/linear_0")
    _fill(layer.attn.proj, weights, f"{name}/self_attention/linear_1")
    _fill(layer.norm2, weights, f"{name}/ffn/layer_norm", ("gamma", "beta"))
    _fill(layer.fc1, weights, f"{name}/ffn/linear_0")
    _fill(layer.fc2, weights, f"{name}/ffn/linear_1")
    return layer


def _fill(module: nn.Module, weights: Weights, name: str, parts: tuple[str, str] = ("weight", "bias")) -> None:
    for attribute, part in zip(("weight", "bias"), parts, strict=True):
        target = getattr(module, attribute)
        value = _tensor(weights, f"{name}/{part}")
        if value.shape != target.shape:
            raise ExportError(
                f"The Whisper weights should hold {name}/{part} of shape {tuple(target.shape)}, "
                f"but found {tuple(value.shape)}; use the encoder of Whisper tiny.en."
            )
        target.data.copy_(value)


def _tensor(weights: Weights, name: str) -> Tensor:
    return torch.from_numpy(_get(weights, name).astype(np.float32))


def _get(weights: Weights, name: str) -> NDArray[np.generic]:
    if name not in weights:
        raise ExportError(f"The Whisper weights should hold encoder/{name}, but they do not; install them again.")
    return weights[name]
