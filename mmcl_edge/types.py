"""Vocabulary of shapes and the protocols that stages meet at.

Shape letters used in every docstring: ``B`` batch, ``T`` frames of one sample (views), ``N`` tokens,
``D`` feature width, ``C H W`` channels, height, width of a map, ``M`` modalities, ``E`` experts,
``K`` active experts, ``R`` adapter rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from mmcl_edge.errors import InputError

if TYPE_CHECKING:
    import torch

AUDIO = "audio"
FRAMES = "frames"
MOTION = "motion"
TEXT = "text"
SAMPLE_RATE_HZ = 16_000
"""The rate at which every stage after decoding sees sound."""
MOTION_RATE_HZ = 50
"""The rate at which every stage after decoding sees motion (accelerometer, gyroscope)."""


class FrozenModel(BaseModel):
    """Base of every configuration and manifest: immutable, and unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FeatureSpec(FrozenModel):
    """Shape of a feature tensor without its batch axis.

    ``tokens``: ``(B, tokens, dim)``; ``tokens`` is ``None`` where it varies with clip length.
    ``map``: ``(B, dim, height, width)``.
    """

    kind: Literal["tokens", "map"]
    dim: int = Field(gt=0)
    tokens: int | None = None
    height: int | None = None
    width: int | None = None


class PoolSpec(FrozenModel):
    """How output features become one vector: mean over all positions, or over the first ``prefix_tokens``."""

    kind: Literal["mean", "prefix"] = "mean"
    prefix_tokens: int = Field(default=0, ge=0)


@runtime_checkable
class Backbone(Protocol):
    """A frozen backbone cut into stem, segments and output; every call is differentiable in ``x``.

    ``features[b]`` describes the input of segment ``b`` and ``features[depth]`` the output of the last one.
    """

    modality: str
    features: tuple[FeatureSpec, ...]
    output_features: FeatureSpec
    pool: PoolSpec

    @property
    def depth(self) -> int:
        """Number of segments (the encoder's number of blocks)."""
        ...

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        """Raw input to the first features.

        Audio: waveform ``(B, samples)``; frames: pixels 0-255 ``(B, 3, H, W)``; motion: ``(B, channels, samples)``;
        text: token ids ``(B, N)`` int64.
        """
        ...

    def segment(self, index: int, x: torch.Tensor) -> torch.Tensor:
        """Run segment ``index`` (0-based): ``features[index]`` to ``features[index + 1]``."""
        ...

    def output(self, x: torch.Tensor) -> torch.Tensor:
        """Output norm (or final convolution) without pooling: ``features[depth]`` to ``output_features``."""
        ...


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
    """One decoded example: a sound, a picture or short video, motion of a body, a text, or several of them.

    Attributes:
        audio: mono waveform ``(samples,)`` float32 in [-1, 1] at 16 kHz, or ``None``.
        frames: ``(T, H, W, 3)`` uint8 RGB, or ``None``.
        label: class name, or ``None`` when unknown.
        source: where it came from, for messages (a file name, never an absolute path in packs).
        motion: sensor readings ``(samples, channels)`` float32 at 50 Hz, or ``None``.
        text: what is said or written, or ``None``.
    """

    audio: NDArray[np.float32] | None
    frames: NDArray[np.uint8] | None
    label: str | None = None
    source: str = ""
    motion: NDArray[np.float32] | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What ``Runtime.predict`` answers.

    Attributes:
        label: the most probable class.
        probabilities: class name to probability; sums to 1.
        expert_load: expert id to the mean gate weight it received over the encoder's blocks; sums to 1.
        latency_ms: stage name to milliseconds: ``preprocess``, ``encode`` (backbones, adapters and head), ``total``.
        pack_digest: the pack that answered (sha256, hex).
        unknown: whether the sample resembles no class of the pack; ``None`` where the pack is not calibrated.
        unknown_score: what that follows from: the lower, the stranger; 0 is usual for known samples.
        conformal_scores: of the pack's held-out samples, ascending; ``label_set`` needs them.
    """

    label: str
    probabilities: Mapping[str, float]
    expert_load: Mapping[str, float]
    latency_ms: Mapping[str, float]
    pack_digest: str
    unknown: bool | None = None
    unknown_score: float | None = None
    conformal_scores: Sequence[float] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("probabilities", "expert_load", "latency_ms"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def top_k(self, k: int) -> tuple[tuple[str, float], ...]:
        """The ``k`` most probable classes with their probabilities, best first (ties by name)."""
        ranked = sorted(self.probabilities.items(), key=lambda item: (-item[1], item[0]))
        return tuple(ranked[:k])

    def label_set(self, coverage: float = 0.9) -> tuple[str, ...]:
        """The classes that hold the right one with probability ``coverage``, best first (split conformal prediction).

        That holds on average over samples like the held-out ones. An empty set means: no class is likely enough.

        Args:
            coverage: above 0 and below 1.

        Raises:
            InputError: the pack is not calibrated, the coverage is out of range, or it needs more held-out samples
                than the pack was calibrated on.
        """
        if self.conformal_scores is None:
            raise InputError(
                "Expected a calibrated pack to make a set of labels, but this one is not; "
                "run 'mmcl-edge calibrate confidence'."
            )
        rank = conformal_rank(len(self.conformal_scores), coverage)
        least = 1.0 - self.conformal_scores[rank - 1] - _ROUNDING
        return tuple(name for name, probability in self.top_k(len(self.probabilities)) if probability >= least)


_ROUNDING = 1e-6
"""Conformal scores are kept to six digits."""


def conformal_rank(samples: int, coverage: float) -> int:
    """Which of ``samples`` ascending scores (from 1) bounds a new one with probability ``coverage`` or more.

    ``ceil((n + 1) * coverage)``: Vovk et al., Algorithmic Learning in a Random World, 2005.

    Raises:
        InputError: the coverage is not above 0 and below 1, or too high for so few samples.
    """
    if not 0 < coverage < 1:
        raise InputError(f"Expected a coverage above 0 and below 1, but it is {coverage!r}; 0.9 is usual.")
    rank = max(1, math.ceil((samples + 1) * coverage - 1e-9))
    if rank > samples:
        needed = math.ceil(1 / (1 - coverage) - 1e-9) - 1
        raise InputError(
            f"A coverage of {coverage:g} needs {needed} held-out samples, but there are {samples}; "
            f"ask for {math.floor(1e3 * samples / (samples + 1)) / 1e3:g} or less, or teach with more samples."
        )
    return rank
