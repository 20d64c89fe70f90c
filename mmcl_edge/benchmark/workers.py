"""Processes that work side by side, a core each."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

from mmcl_edge.errors import WorkerError

Result = TypeVar("Result")
PATIENCE_S = 2.0
"""How often a worker looks whether its parent lives."""
THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
"""Variables that numpy's and torch's libraries read when they are loaded."""


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """A pool of fresh processes with one thread each (a fork would share the parent's thread pools).

    What ``THREADS`` do not say already is set in this process's environment, which the workers inherit: libraries that
    it has loaded keep their threads.
    """
    for name in THREADS:
        os.environ.setdefault(name, "1")
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start)


def finished(
    pool: Executor, work: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], *, workers: int
) -> Iterator[tuple[tuple[Any, ...], Result]]:
    """Each job with its result, in the order they finish; none begins after the caller stops.

    Raises:
        WorkerError: a worker was ended from outside.
    """
    waiting = iter(jobs)
    pending: dict[Future[Result], tuple[Any, ...]] = {}
    try:
        while True:
            for job in islice(waiting, workers - len(pending)):
                pending[pool.submit(work, *job)] = job
            if not pending:
                return
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield pending.pop(future), future.result()
    except BrokenProcessPool as error:
        raise WorkerError(
            "A worker was ended from outside, perhaps for want of memory; what was done is kept. Run the same command "
            "again to go on, with fewer --workers."
        ) from error


def side_by_side(
    work: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], workers: int
) -> Iterator[tuple[tuple[Any, ...], Result]]:
    """Each job with its result, in the order they finish; a single worker is this process.

    Raises:
        WorkerError: a worker was ended from outside.
    """
    if workers == 1:
        for job in jobs:
            yield job, work(*job)
        return
    with worker_pool(workers) as pool:
        yield from finished(pool, work, jobs, workers=workers)


def _start() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """A worker whose parent was killed would go on with what is queued, for nobody."""
    while os.getppid() == parent:
        time.sleep(PATIENCE_S)
    os._exit(1)
