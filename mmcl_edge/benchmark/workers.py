"""Processes that work side by side, a core each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """A pool of fresh processes with one thread each (a fork would share the parent's thread pools)."""
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start)


def finished(
    pool: Executor, work: Callable[..., Result], jobs: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[tuple[Any, ...], Result]]:
    """Each job with its result, in the order they finish; those not begun are dropped when the caller stops."""
    pending: dict[Future[Result], tuple[Any, ...]] = {pool.submit(work, *job): job for job in jobs}
    try:
        while pending:
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield pending.pop(future), future.result()
    finally:
        for future in pending:
            future.cancel()


def _start() -> None:
    torch.set_num_threads(1)
