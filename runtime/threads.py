"""One plan for both thread pools.

ONNX Runtime's spinning workers and torch's OpenMP pool starve each other: on two cores they cost a factor of 16 to 60
(measured, see docs/architecture.md). So ONNX Runtime gets the cores and spins for a few microseconds at most, from
one operation to the next, and torch, which only runs small adapters, gets one thread.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import onnxruntime as ort
import torch

from mmcl_edge.errors import InputError

SPIN_US = 10
"""Microseconds that a worker waits awake for the next operation: a predict graph takes 0.8 to 0.9 of the time it takes
when workers sleep at once, and no more when another process is busy; with 50 it takes half as long again then
(benchmarks/bench_predict.py)."""
_FIRST_WITH_SPIN_DURATION = (1, 31)
"""The first release of ONNX Runtime known to bound spinning; before it, spinning means a millisecond and more."""


@dataclass(frozen=True, slots=True)
class ThreadPlan:
    """Threads of each pool: ``onnx`` for the backbones, ``torch`` for adapters, router, head and optimizer."""

    onnx: int
    torch: int = 1

    @classmethod
    def for_machine(cls, threads: int | None = None) -> ThreadPlan:
        """A plan for this process.

        Args:
            threads: for the backbones; ``None`` takes every core the process may run on.

        Raises:
            InputError: ``threads`` is below 1.
        """
        if threads is not None and threads < 1:
            raise InputError(f"threads should be at least 1, but is {threads}; leave it out to use every core.")
        return cls(onnx=threads or available_cores())

    def apply(self) -> None:
        """Set torch's pool; it belongs to the process, so the last runtime opened decides."""
        torch.set_num_threads(self.torch)


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spinning(release: str = ort.__version__) -> dict[str, str]:
    """Settings of ONNX Runtime's workers, by name after ``session.intra_op.``."""
    known = tuple(int(part) for part in release.split(".")[:2]) >= _FIRST_WITH_SPIN_DURATION
    return {"allow_spinning": "1", "spin_duration_us": str(SPIN_US)} if known else {"allow_spinning": "0"}
