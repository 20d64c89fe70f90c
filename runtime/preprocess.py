"""Decoded samples to the tensors a bundle's stems take: sound and motion padded, pictures resized, texts as ids."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mmcl_edge.adapters.inputs import Item, ItemInput
from mmcl_edge.bundle import AudioInput, Bundle, FramesInput, InputSpec, MotionInput, TextInput
from mmcl_edge.data.arrays import as_frames, as_waveform
from mmcl_edge.data.motion import as_motion, resample_motion
from mmcl_edge.data.texts import as_text
from mmcl_edge.data.wordpiece import WordPiece
from mmcl_edge.errors import BundleError, InputError
from mmcl_edge.types import MOTION_RATE_HZ, SAMPLE_RATE_HZ, Sample


class Preprocessor:
    """Turns arrays and text into a ``Sample`` and a ``Sample`` into an ``Item``, for backbones that take ``inputs``.

    Args:
        inputs: what the stem of each modality takes.
        folder: where a text backbone's vocabulary lies (the bundle's folder); only for such a backbone.

    Raises:
        BundleError: the vocabulary is missing or is none.
        IntegrityError: its bytes were changed.
    """

    def __init__(self, inputs: Mapping[str, InputSpec], folder: Path | None = None) -> None:
        self.inputs = dict(inputs)
        self._tokenizers = {
            modality: _tokenizer(spec, folder) for modality, spec in inputs.items() if isinstance(spec, TextInput)
        }

    @classmethod
    def of(cls, bundle: Bundle) -> Preprocessor:
        """That of a bundle."""
        return cls(bundle.manifest.inputs, bundle.path)

    def sample(
        self,
        audio: NDArray[Any] | None,
        frames: NDArray[Any] | None,
        *,
        sample_rate_hz: int = SAMPLE_RATE_HZ,
        motion: NDArray[Any] | None = None,
        motion_rate_hz: float = MOTION_RATE_HZ,
        text: str | None = None,
    ) -> Sample:
        """Checked and converted input (``Runtime.predict`` says what the arguments are).

        Raises:
            InputError: the arrays or the text are not of that kind, or all are ``None``.
        """
        if audio is None and frames is None and motion is None and text is None:
            raise InputError("Expected sound, frames, motion or text, but all are None; give at least one of them.")
        wave = pictures = readings = words = None
        for spec in self.inputs.values():
            if isinstance(spec, AudioInput) and audio is not None:
                shortest, longest = spec.min_duration_s, spec.max_duration_s
                wave = as_waveform(audio, sample_rate_hz, min_duration_s=shortest, max_duration_s=longest)
            elif isinstance(spec, FramesInput) and frames is not None:
                pictures = as_frames(frames)
            elif isinstance(spec, MotionInput) and motion is not None:
                readings = as_motion(motion, motion_rate_hz)
            elif isinstance(spec, TextInput) and text is not None:
                words = as_text(text)
        return Sample(wave, pictures, motion=readings, text=words)

    def __call__(self, sample: Sample) -> Item:
        """Tensors by modality.

        Raises:
            InputError: the sample has nothing that the bundle takes, or the sound's length is out of range.
        """
        item: Item = {}
        for modality, spec in self.inputs.items():
            if isinstance(spec, AudioInput) and sample.audio is not None:
                item[modality] = prepare_audio(sample.audio, spec)
            elif isinstance(spec, FramesInput) and sample.frames is not None:
                item[modality] = ItemInput(prepare_frames(sample.frames, spec))
            elif isinstance(spec, MotionInput) and sample.motion is not None:
                item[modality] = prepare_motion(sample.motion, spec)
            elif isinstance(spec, TextInput) and sample.text is not None:
                item[modality] = prepare_text(sample.text, spec, self._tokenizers[modality])
        if not item:
            raise InputError(
                f"Expected a sample with {' or '.join(self.inputs)}, but {sample.source or 'the input'} has none; "
                "give at least one modality that the bundle takes."
            )
        return item


def prepare_audio(audio: NDArray[np.float32], spec: AudioInput) -> ItemInput:
    """Waveform ``(samples,)`` to ``(1, padded)``, with silence at the end, and its token counts.

    Raises:
        InputError: shorter or longer than the bundle takes.
    """
    duration_s = len(audio) / spec.sample_rate_hz
    if not spec.min_duration_s <= duration_s <= spec.max_duration_s:
        raise InputError(
            f"Expected sound of {spec.min_duration_s:g} to {spec.max_duration_s:g} s, but it lasts {duration_s:.3f} s; "
            "cut it into windows (mmcl-edge predict does so with long files)."
        )
    length = spec.fixed_samples or _padded_length(len(audio), spec)
    values = torch.zeros(1, length)
    values[0, : len(audio)] = torch.from_numpy(np.ascontiguousarray(audio))[:length]
    if spec.token_stride is None:
        return ItemInput(values)
    return ItemInput(values, tokens=math.ceil(len(audio) / spec.token_stride), total_tokens=length // spec.token_stride)


def _padded_length(samples: int, spec: AudioInput) -> int:
    multiple = round(spec.pad_multiple_s * spec.sample_rate_hz)
    return math.ceil(samples / multiple) * multiple


def prepare_frames(frames: NDArray[np.uint8], spec: FramesInput) -> Tensor:
    """Pictures ``(T, H, W, 3)`` uint8 to ``(T, 3, height, width)`` in 0-255: antialiased resize, centre crop."""
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()  # (T, 3, H, W)
    target = _resized(pixels.shape[2], pixels.shape[3], spec)
    if tuple(pixels.shape[2:]) != target:
        pixels = functional.interpolate(pixels, size=target, mode=spec.interpolation, antialias=True).clamp_(0, 255)
    top, left = (target[0] - spec.height) // 2, (target[1] - spec.width) // 2
    return pixels[:, :, top : top + spec.height, left : left + spec.width].contiguous()


def _resized(height: int, width: int, spec: FramesInput) -> tuple[int, int]:
    if not spec.keep_aspect:
        return spec.height, spec.width
    factor = max(spec.height / height, spec.width / width) / spec.crop_fraction
    return max(spec.height, round(height * factor)), max(spec.width, round(width * factor))


def prepare_motion(motion: NDArray[np.float32], spec: MotionInput) -> ItemInput:
    """Readings ``(samples, channels)`` at 50 Hz to ``(1, channels, window)`` at the spec's rate, and token counts.

    Raises:
        InputError: another number of channels than the bundle takes, or values that are not finite.
    """
    if motion.shape[1] != spec.channels:
        raise InputError(
            f"Expected motion of {spec.channels} channels, but it has {motion.shape[1]}; "
            "give the channels that the bundle's backbone was made for, in its order."
        )
    if not np.isfinite(motion).all():
        raise InputError("Expected motion of finite values, but it contains NaN or infinity; leave those rows out.")
    readings = resample_motion(motion, MOTION_RATE_HZ, spec.rate_hz)
    start = max(0, (len(readings) - spec.window_samples) // 2)
    kept = torch.from_numpy(readings[start : start + spec.window_samples]).T  # (channels, samples)
    values = torch.tensor(spec.mean)[:, None].repeat(1, spec.window_samples)
    values[:, : kept.shape[1]] = kept
    tokens = math.ceil(kept.shape[1] / spec.samples_per_token)
    return ItemInput(values[None], tokens, total_tokens=spec.window_samples // spec.samples_per_token)


def prepare_text(text: str, spec: TextInput, tokenizer: WordPiece) -> ItemInput:
    """A text to its token ids ``(1, N)`` int64, cut to the length that the spec allows."""
    ids = torch.from_numpy(tokenizer.encode(text, max_tokens=spec.max_tokens))
    return ItemInput(ids[None], tokens=len(ids), total_tokens=len(ids))


def _tokenizer(spec: TextInput, folder: Path | None) -> WordPiece:
    """The tokenizer for a vocabulary of ``folder``."""
    if folder is None:
        raise BundleError(f"Expected the folder that holds {spec.vocabulary.path}, but none was given; pass it.")
    path = spec.vocabulary.verify(folder)
    tokenizer = WordPiece.of_bytes(path.read_bytes(), lowercase=spec.lowercase, name=str(path))
    if len(tokenizer) != spec.vocabulary_size:
        raise BundleError(
            f"{path} should hold {spec.vocabulary_size:,} pieces, but holds {len(tokenizer):,}; "
            "export the bundle again."
        )
    return tokenizer
