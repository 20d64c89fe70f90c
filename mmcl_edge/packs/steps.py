"""Changes of weights in four bits: a float32 tensor told by its parent and a few small steps.

The values are taken in groups of 128, in the order of the file. A group has one step, a power of two, and each value is
its parent's plus -7 to 7 times that step, rounded once to float32. A power of two, because then whoever has both
tensors finds the steps again: nothing but the tensors themselves is stored in a pack, and a delta stays exact.

For a group, with ``m`` the largest magnitude of its changes and ``p`` of its parent's values, the step is 2 to the
power ``max(ceil(log2(m / 7)), ceil(log2(p)) - 18)``: the second keeps steps above what float32 can tell apart. The
error of a value is at most half a step, so at most a seventh of the largest change in its group, or 2^-18 of ``p``.

Coded: one signed byte a group (the power), then two values a byte, the first in the low half, as value + 8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUP = 128
LEAST_VALUES = 64
"""Smaller tensors are not worth it."""

MOST = 7
_FINEST = 18
_LEAST_POWER, _LARGEST_POWER = -110, 100
_SLACK = 1 - 2.0**-6
"""Found again, a change of exactly seven steps may be a rounding above: less than this."""

Floats = NDArray[np.float32]


def coded_size(values: int) -> int:
    """Bytes that ``values`` values take when coded."""
    return _groups(values) + (values + 1) // 2


def rounded(child: Floats, parent: Floats) -> Floats:
    """``child`` with its changes against ``parent`` (of the same shape) brought to steps."""
    powers, steps = _steps(child.ravel(), parent.ravel(), slack=1.0)
    return _apply(powers, steps, parent.ravel()).reshape(child.shape)


def encode(child: Floats, parent: Floats) -> bytes | None:
    """``child`` in steps from ``parent`` (of the same shape); ``None`` where that is not exact to the bit."""
    powers, steps = _steps(child.ravel(), parent.ravel(), slack=_SLACK)
    if _apply(powers, steps, parent.ravel()).tobytes() != child.tobytes():
        return None
    halves = (np.append(steps, np.zeros(len(steps) % 2)) + 8).astype(np.uint8)
    return powers.astype(np.int8).tobytes() + (halves[::2] | halves[1::2] << 4).tobytes()


def decode(data: bytes, parent: Floats) -> Floats:
    """The tensor that ``data`` (``coded_size`` bytes) tells from ``parent``; a digest must say if it is right."""
    groups = _groups(parent.size)
    powers = np.frombuffer(data[:groups], dtype=np.int8)
    halves = np.frombuffer(data[groups:], dtype=np.uint8)
    steps = np.stack([halves & 15, halves >> 4], axis=1).ravel()[: parent.size].astype(np.float32) - 8
    return _apply(powers, steps, parent.ravel()).reshape(parent.shape)


def _groups(values: int) -> int:
    return -(-values // GROUP)


def _steps(child: Floats, parent: Floats, *, slack: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Powers, one a group; and steps, one a value, as whole numbers."""
    change = child.astype(np.float64) - parent
    largest = np.log2(np.maximum(_largest(change) * slack / MOST, 2.0**_LEAST_POWER))
    finest = np.log2(np.maximum(_largest(parent), 2.0**_LEAST_POWER)) - _FINEST
    powers = np.clip(np.maximum(np.ceil(largest), np.ceil(finest)), _LEAST_POWER, _LARGEST_POWER)
    steps = np.clip(np.rint(change / np.repeat(2.0**powers, GROUP)[: change.size]), -MOST, MOST) + 0.0  # never -0.0
    return powers, steps


def _largest(values: NDArray[Any]) -> NDArray[np.float64]:
    padded = np.zeros(_groups(values.size) * GROUP)
    padded[: values.size] = np.abs(values)
    largest: NDArray[np.float64] = padded.reshape(-1, GROUP).max(axis=1, initial=0.0)
    return largest


def _apply(powers: NDArray[Any], steps: NDArray[Any], parent: Floats) -> Floats:
    """One product, exact, and one sum, rounded to float32 once: the same bits everywhere."""
    each = np.repeat(powers.astype(np.int32), GROUP)[: parent.size]
    with np.errstate(over="ignore", invalid="ignore"):
        result: Floats = parent + np.ldexp(steps.astype(np.float32), each)
    return result
