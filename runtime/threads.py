"""One plan for both thread pools.

ONNX Runtime's spinning workers and torch's OpenMP pool starve each other: on two cores they cost a factor of 16 to 60
(measured, see docs/architecture.md). So ONNX Runtime gets the cores, does not spin, and torch, which only runs
small adapters, gets one thread.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from mmcl_edge.errors import InputError


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
