"""Motion made up for tests: swings of six channels, and tables of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

CHANNELS = ("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z")


def swing(duration_s: float, *, hz: float = 2.0, rate_hz: int = 50, seed: int | None = None) -> np.ndarray:
    """``(samples, 6)`` float32: every channel swings at ``hz`` in its own phase; with a seed, under sensor noise."""
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    motion = 0.8 * np.sin(2 * np.pi * (hz * time_s[:, None] + np.arange(6) / 6))
    if seed is not None:
        motion = motion + np.random.default_rng(seed).normal(0, 0.05, motion.shape)
    return motion.astype(np.float32)


def write_motion(path: Path, motion: np.ndarray, *, rate_hz: int = 50, start_s: float = 0.0) -> Path:
    lines = [",".join(("time_s", *CHANNELS[: motion.shape[1]]))]
    lines += [f"{start_s + i / rate_hz:.5f}," + ",".join(f"{x:.6f}" for x in row) for i, row in enumerate(motion)]
    path.write_text("\n".join(lines) + "\n")
    return path
