"""Validation of sound and pictures that callers hand over as arrays.

Rules, in this order, each refusing before the next is tried:
1. A numpy array of an accepted dtype and rank.
2. Of an accepted size (samples, channels, frames, pixels).
3. With finite values of a sane magnitude.
Only then is anything converted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcl_edge.data.resample import MAX_RATE_HZ, MIN_RATE_HZ, resample
from mmcl_edge.errors import InputError

MIN_DURATION_S = 0.05
MAX_CHANNELS = 32
MAX_MAGNITUDE = 2.0
"""Decoders overshoot full scale a little; far beyond it, the unit is wrong (integers kept as floats)."""
MIN_SIDE_PX = 8
MAX_SIDE_PX = 8192
INT16_SCALE = 32768.0


def as_waveform(
    audio: object,
    sample_rate_hz: int,
    *,
    min_duration_s: float = MIN_DURATION_S,
    max_duration_s: float | None = None,
) -> NDArray[np.float32]:
    """Mono 16 kHz waveform of any accepted sound.

    Args:
        audio: float32, float64 in [-1, 1] or int16; ``(samples,)`` or ``(channels, samples)``, mixed by their mean.
        sample_rate_hz: rate of ``audio``, 4,000 to 192,000.
        min_duration_s: shorter sound is refused.
        max_duration_s: longer sound is refused; ``None`` sets no limit.

    Returns:
        ``(round(samples * 16000 / sample_rate_hz),)`` float32 in [-1, 1]; overshoot of up to 2 is clipped.

    Raises:
        InputError: anything else; the message says what was expected, what was found and what to do.
    """
    rate_hz = check_rate(sample_rate_hz)
    array = _sound_array(audio)
    _check_duration(array.shape[-1] / rate_hz, min_duration_s, max_duration_s)
    if array.dtype == np.int16:
        array = array.astype(np.float32) / np.float32(INT16_SCALE)
    check_values(array, "The sound")
    return to_16_khz(array if array.ndim == 1 else array.mean(axis=0), rate_hz)


def to_16_khz(waveform: NDArray[np.floating], rate_hz: int) -> NDArray[np.float32]:
    """Checked mono ``(samples,)`` at ``rate_hz`` as float32 in [-1, 1] at 16 kHz."""
    return np.clip(resample(waveform.astype(np.float32, copy=False), rate_hz), -1.0, 1.0)


def check_rate(sample_rate_hz: object) -> int:
    """The rate as an ``int``.

    Raises:
        InputError: not a whole number from 4,000 to 192,000.
    """
    whole = isinstance(sample_rate_hz, (int, np.integer)) and not isinstance(sample_rate_hz, bool)
    if not whole or not MIN_RATE_HZ <= sample_rate_hz <= MAX_RATE_HZ:  # type: ignore[operator]
        raise InputError(
            f"The sample rate should be a whole number from {MIN_RATE_HZ:,} to {MAX_RATE_HZ:,} Hz, "
            f"but it is {sample_rate_hz!r}; pass the rate the sound was recorded at."
        )
    return int(sample_rate_hz)  # type: ignore[call-overload, no-any-return]


def check_values(array: NDArray[np.floating], what: str) -> None:
    """Refuse what is not sound in [-1, 1].

    Raises:
        InputError: NaN, infinite, or beyond a magnitude of 2.
    """
    peak = float(np.max(np.abs(array)))
    if not np.isfinite(peak):
        raise InputError(f"{what} should have finite values, but it contains NaN or infinity; repair or re-record it.")
    if peak > MAX_MAGNITUDE:
        raise InputError(
            f"{what} should have values from -1 to 1, but its peak is {peak:.6g}; "
            "divide it by full scale, or pass 16-bit sound as int16."
        )


def _sound_array(audio: object) -> NDArray[Any]:
    array = _numpy(audio, "The sound", "float32, float64 or int16")
    if array.dtype not in (np.float32, np.float64, np.int16):
        raise InputError(
            f"The sound should be float32, float64 or int16, but it is {array.dtype}; convert it with .astype(...) "
            "after scaling it to that type's range."
        )
    if array.ndim not in (1, 2):
        raise InputError(
            f"The sound should have shape (samples,) or (channels, samples), but it has {array.shape}; "
            "pass one clip at a time."
        )
    if array.size == 0:
        raise InputError(f"The sound should have samples, but it is empty (shape {array.shape}); pass None for none.")
    if array.ndim == 2 and array.shape[0] > MAX_CHANNELS:
        raise InputError(
            f"The sound should have shape (channels, samples) with at most {MAX_CHANNELS} channels, but it has "
            f"{array.shape}; if it is (samples, channels), transpose it with .T."
        )
    return array


def _check_duration(duration_s: float, min_s: float, max_s: float | None) -> None:
    if duration_s < min_s:
        raise InputError(
            f"The sound should last at least {min_s:g} s, but it lasts {duration_s:.4g} s; pass a longer clip."
        )
    if max_s is not None and duration_s > max_s:
        raise InputError(
            f"The sound should last at most {max_s:g} s, but it lasts {duration_s:.4g} s; cut it into windows."
        )


def as_frames(frames: object) -> NDArray[np.uint8]:
    """Pictures ``(T, H, W, 3)`` of any accepted array.

    Args:
        frames: uint8 RGB, ``(T, H, W, 3)`` or one picture ``(H, W, 3)``; sides of 8 to 8,192 px.

    Raises:
        InputError: anything else; the message says what was expected, what was found and what to do.
    """
    array = _numpy(frames, "The picture", "uint8")
    if array.dtype != np.uint8:
        raise InputError(
            f"The picture should be uint8 (0 to 255), but it is {array.dtype}; scale it and convert with "
            ".astype(np.uint8)."
        )
    if array.ndim not in (3, 4) or array.shape[-1] != 3:
        raise InputError(
            f"The picture should have shape (H, W, 3) or (T, H, W, 3) in RGB, but it has {array.shape}; "
            "put the colours last and use three of them."
        )
    batch: NDArray[np.uint8] = array if array.ndim == 4 else array[None]
    _check_size(batch.shape)
    return np.ascontiguousarray(batch)


def _check_size(shape: tuple[int, ...]) -> None:
    if shape[0] == 0:
        raise InputError("Expected at least one frame, but there are none; pass None where there is no picture.")
    height, width = shape[1:3]
    if min(height, width) < MIN_SIDE_PX or max(height, width) > MAX_SIDE_PX:
        raise InputError(
            f"The picture should have sides of {MIN_SIDE_PX} to {MAX_SIDE_PX:,} px, but it is {width} x {height} px "
            "(width x height); resize it."
        )


def _numpy(value: object, what: str, dtypes: str) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    raise InputError(
        f"{what} should be a numpy array of {dtypes}, but it is a {type(value).__name__}; convert it with np.asarray."
    )
