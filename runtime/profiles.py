"""Shape profiles of a bundle's graphs: the shapes that TensorRT builds its engines for."""

from __future__ import annotations

from mmcl_edge.bundle import AudioInput, BackboneEntry, FramesInput, InputSpec, MotionInput, TextInput
from mmcl_edge.runtime.providers import Profile, Shape
from mmcl_edge.types import FeatureSpec

MAX_BATCH = 64
"""Rows of one call: samples times frames."""
_USUAL_DURATION_S = 5.0
_USUAL_TOKENS = 16
"""Of a text."""


def stem_profile(entry: BackboneEntry) -> Profile:
    """Of a stem: waves ``(B, samples)``, pixels ``(B, 3, H, W)``, motion ``(B, channels, samples)``, ids ``(B, N)``."""
    spec = entry.input
    if isinstance(spec, FramesInput):
        return _batches((3, spec.height, spec.width))
    if isinstance(spec, MotionInput):
        return _batches((spec.channels, spec.window_samples))
    if isinstance(spec, TextInput):
        return _texts(spec, ())
    lengths = [round(duration_s * spec.sample_rate_hz) for duration_s in _durations(spec)]
    lengths = [spec.fixed_samples or length for length in lengths]
    return {"x": ((1, lengths[0]), (1, lengths[1]), (MAX_BATCH, lengths[2]))}


def feature_profile(spec: FeatureSpec, source: InputSpec) -> Profile:
    """Of a segment: features of ``spec`` that come from input of ``source``."""
    if spec.kind == "map":
        return _batches((spec.dim, spec.height or 0, spec.width or 0))
    if isinstance(source, TextInput):
        return _texts(source, (spec.dim,))
    if spec.tokens is not None or not isinstance(source, AudioInput) or source.token_stride is None:
        return _batches((spec.tokens or 0, spec.dim))
    tokens = [round(duration_s * source.sample_rate_hz) // source.token_stride for duration_s in _durations(source)]
    return {"x": ((1, tokens[0], spec.dim), (1, tokens[1], spec.dim), (MAX_BATCH, tokens[2], spec.dim))}


def _durations(spec: AudioInput) -> tuple[float, float, float]:
    """Shortest (after padding), usual and longest sound in seconds."""
    shortest = max(spec.pad_multiple_s, spec.min_duration_s)
    return shortest, min(max(_USUAL_DURATION_S, shortest), spec.max_duration_s), spec.max_duration_s


def _texts(spec: TextInput, rest: Shape) -> Profile:
    """Of ids or tokens: shortest, usual and longest text."""
    usual = min(_USUAL_TOKENS, spec.max_tokens)
    return {"x": ((1, 2, *rest), (1, usual, *rest), (MAX_BATCH, spec.max_tokens, *rest))}


def _batches(shape: Shape) -> Profile:
    return {"x": ((1, *shape), (1, *shape), (MAX_BATCH, *shape))}
