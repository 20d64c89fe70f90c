"""Motion: readings of an accelerometer, a gyroscope and their kin, at 50 Hz, from arrays and from tables.

A motion file is a CSV table: a header, then one row a reading; the first column is the time in seconds, the others are
the sensor's channels in the sensor's own unit (a bundle's ``MotionInput`` says which unit its backbone was made for)::

    time_s,acc_x,acc_y,acc_z,gyro_x,gyro_y,gyro_z
    0.00,0.01,0.42,-0.80,1.2,-0.4,0.0
    0.02,...

Times need not be evenly spaced; they count from the first row.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcl_edge.data.containers import broken, check_file
from mmcl_edge.errors import InputError, MediaError
from mmcl_edge.types import MOTION_RATE_HZ

MAX_CHANNELS = 32
MIN_RATE_HZ, MAX_RATE_HZ = 1.0, 10_000.0
MIN_DURATION_S, MAX_DURATION_S = 0.1, 600.0
MAX_FILE_BYTES = 64 << 20
_LARGEST = float(np.finfo(np.float32).max)


def as_motion(motion: object, rate_hz: float = MOTION_RATE_HZ) -> NDArray[np.float32]:
    """Readings at 50 Hz of any accepted array.

    Args:
        motion: float32, float64 or whole numbers, ``(samples, channels)``, at most 32 channels, 0.1 s to 600 s long.
        rate_hz: of ``motion``, 1 to 10,000.

    Returns:
        ``(round(samples * 50 / rate_hz), channels)`` float32.

    Raises:
        InputError: anything else; the message says what was expected, what was found and what to do.
    """
    _check_rate(rate_hz)
    values = _checked(motion)
    duration_s = len(values) / rate_hz
    if not MIN_DURATION_S <= duration_s <= MAX_DURATION_S:
        raise InputError(
            f"Motion should last {MIN_DURATION_S:g} to {MAX_DURATION_S:g} s, but it lasts {duration_s:.4g} s; "
            "pass a longer recording, or cut it into windows."
        )
    return resample_motion(values, rate_hz, MOTION_RATE_HZ)


def load_motion(path: Path | str) -> NDArray[np.float32]:
    """A motion file as ``(samples, channels)`` float32 at 50 Hz.

    Raises:
        MediaError: no table of that form, times that do not grow, values that are not finite, too short or too long.
    """
    path = Path(path)
    table = _table(path)
    times, values = table[:, 0] - table[0, 0], table[:, 1:]
    steps = np.diff(times)
    if not bool((steps > 0).all()):
        row = int(np.argmin(steps > 0)) + 3
        raise MediaError(f"{path}: expected times in seconds that grow, but they do not at line {row}; sort the rows.")
    step_s = float(np.median(steps))
    duration_s = float(times[-1]) + step_s
    if not MIN_DURATION_S <= duration_s <= MAX_DURATION_S:
        raise MediaError(
            f"{path}: expected motion of {MIN_DURATION_S:g} to {MAX_DURATION_S:g} s, but it lasts {duration_s:.4g} s "
            "(its first column should be seconds); cut it, or correct the times."
        )
    return _at_even_times(times, values, step_s, MOTION_RATE_HZ, count=max(1, round(duration_s * MOTION_RATE_HZ)))


def resample_motion(motion: NDArray[Any], rate_hz: float, to_hz: float) -> NDArray[np.float32]:
    """``(samples, channels)`` at one rate to ``(round(samples * to / rate), channels)`` float32 at another.

    Linear between readings; where the new rate is lower, each new reading is the mean over its own interval, so that
    quick movements do not turn up as slow ones.
    """
    if rate_hz == to_hz:
        return np.ascontiguousarray(motion, dtype=np.float32)
    count = max(1, round(len(motion) * to_hz / rate_hz))
    return _at_even_times(np.arange(len(motion)) / rate_hz, motion, 1.0 / rate_hz, to_hz, count=count)


def _at_even_times(
    times: NDArray[np.float64], values: NDArray[Any], step_s: float, to_hz: float, *, count: int
) -> NDArray[np.float32]:
    wanted = np.arange(count) / to_hz
    columns = np.ascontiguousarray(values.T, dtype=np.float64)
    if to_hz * step_s >= 1.0 - 1e-9:
        result = [np.interp(wanted, times, column) for column in columns]
    else:
        result = [_means(times, column, wanted, 0.5 / to_hz) for column in columns]
    return np.stack(result, axis=1).astype(np.float32)


def _means(
    times: NDArray[np.float64], column: NDArray[np.float64], wanted: NDArray[np.float64], reach_s: float
) -> NDArray[np.float64]:
    """Mean of the readings, joined by lines, over ``wanted - reach`` to ``wanted + reach``, as far as they go."""
    area = np.concatenate([[0.0], np.cumsum(np.diff(times) * (column[1:] + column[:-1]) / 2)])
    first, last = np.clip(wanted - reach_s, 0.0, times[-1]), np.clip(wanted + reach_s, 0.0, times[-1])
    width = last - first
    mean = (np.interp(last, times, area) - np.interp(first, times, area)) / np.where(width > 0, width, 1.0)
    filled: NDArray[np.float64] = np.where(width > 0, mean, column[-1])
    return filled


def _check_rate(rate_hz: object) -> None:
    number = isinstance(rate_hz, (int, float, np.integer, np.floating)) and not isinstance(rate_hz, bool)
    if not number or not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:  # type: ignore[operator]
        raise InputError(
            f"The rate of motion should be {MIN_RATE_HZ:g} to {MAX_RATE_HZ:,.0f} Hz, but it is {rate_hz!r}; "
            "pass the rate the sensor was read at."
        )


def _checked(motion: object) -> NDArray[Any]:
    if not isinstance(motion, np.ndarray) or motion.dtype.kind not in "fiu":
        found = getattr(motion, "dtype", type(motion).__name__)
        raise InputError(f"Motion should be a numpy array of numbers, but it is {found}; convert it with np.asarray.")
    if motion.ndim != 2 or not len(motion) or not 1 <= motion.shape[1] <= MAX_CHANNELS:
        raise InputError(
            f"Motion should have shape (samples, channels) with 1 to {MAX_CHANNELS} channels, but it has "
            f"{motion.shape}; if it is (channels, samples), transpose it with .T."
        )
    if not bool((np.abs(motion) <= _LARGEST).all()):
        raise InputError("Motion should have finite values, but it contains NaN or infinity; leave those rows out.")
    return motion


def _table(path: Path) -> NDArray[np.float64]:
    """All rows below the header, ``(rows, 1 + channels)``."""
    check_file(path)
    if path.stat().st_size > MAX_FILE_BYTES:
        raise broken(path, f"expected a motion file of at most {MAX_FILE_BYTES >> 20} MiB, but it is larger")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if line]
    except (csv.Error, UnicodeDecodeError) as error:
        raise broken(path, f"expected a CSV table in UTF-8, but it does not parse ({error})") from error
    if len(lines) < 3 or not 2 <= len(lines[0]) <= 1 + MAX_CHANNELS or _is_number(lines[0][0]):
        raise MediaError(
            f"{path}: expected motion (a header, a first column of seconds, 1 to {MAX_CHANNELS} channels, 2 rows or "
            f"more), but the table has {len(lines)} lines and begins {','.join(lines[0])[:60] if lines else ''!r}; "
            "give it that form, or remove it."
        )
    return np.array([_numbers(path, number, line, len(lines[0])) for number, line in enumerate(lines[1:], start=2)])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(path: Path, number: int, line: list[str], width: int) -> list[float]:
    """The numbers of one line.

    Raises:
        MediaError: another count than the header has, no number, or one that is not finite.
    """
    try:
        values = [float(cell) for cell in line]
    except ValueError:
        values = []
    if len(values) != width or not all(abs(value) <= _LARGEST for value in values):
        raise MediaError(
            f"{path}, line {number}: expected {width} finite numbers, but it reads {','.join(line)[:60]!r}; "
            "repair or remove the line."
        )
    return values
