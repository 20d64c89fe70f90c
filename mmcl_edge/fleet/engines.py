"""Engines: where the work of a fleet runs. One seam, ``concurrent.futures.Executor``, and three things behind it.

``process`` (the default) is a pool of fresh processes on this machine, ``thread`` a pool of threads, ``ray`` a cluster,
or a local Ray where no address is given. Whatever takes an ``Executor`` runs on all three.

Rules:

1. Nobody has to know which engine it is: what a unit of work raises arrives as it was raised; a worker that was ended
   from outside is a ``WorkerError``.
2. Work goes to a cluster as Python objects, so a cluster is trusted as this machine is. Units of work should be
   functions of modules, with paths and small values as arguments, and every machine must see those paths.
3. A worker uses one core: there are as many workers as cores.
4. No more than a window of units is on its way at once, so a list of a million costs what a list of ten costs.
5. Leaving the engine, for whatever reason, drops what has not begun; a worker whose parent was killed ends itself.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from typing import Literal, TypeVar

from mmcl_edge.errors import InputError, WorkerError

EngineName = Literal["process", "thread", "ray"]
ENGINES: tuple[EngineName, ...] = ("process", "thread", "ray")
PATIENCE_S = 2.0
"""How often a worker looks whether its parent lives."""
AHEAD = 4
"""Units of work on their way, for each worker: enough that none waits for the next."""

Job = TypeVar("Job")
Result = TypeVar("Result")


@contextmanager
def open_engine(
    name: EngineName = "process", *, workers: int | None = None, address: str | None = None
) -> Iterator[Executor]:
    """An engine for the time of a ``with`` block.

    Args:
        name: which.
        workers: how many work side by side; ``None`` is one for each core this process may use. On a cluster that is
            running already, the cluster decides.
        address: of a Ray cluster (``auto``, ``HOST:6379`` or ``ray://HOST:10001``); ``None`` is the one that
            RAY_ADDRESS names, or one that starts here.

    Raises:
        InputError: no such engine, fewer than one worker, or an address for an engine that has none.
        MissingExtraError: Ray is not installed.
        WorkerError: a worker was ended from outside, or the cluster is not there.
    """
    executor = _make(name, workers=workers, address=address)
    try:
        yield executor
    except BrokenExecutor as error:
        raise WorkerError(
            "Expected every worker to finish its work, but one was ended from outside, perhaps for want of memory. "
            "Run the same command again, with fewer --workers."
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _make(name: EngineName, *, workers: int | None, address: str | None) -> Executor:
    if name not in ENGINES:
        raise InputError(f"Expected an engine among {', '.join(ENGINES)}, but found {name!r}; choose one of them.")
    if workers is not None and workers < 1:
        raise InputError(f"Expected at least one worker, but {workers} were asked for; leave the option out.")
    if address is not None and name != "ray":
        raise InputError(f"Expected an address for the engine 'ray' alone, but the engine is {name!r}; leave it out.")
    count = workers or available_cores()
    if name == "thread":
        return ThreadPoolExecutor(count, thread_name_prefix="fleet")
    if name == "process":
        return ProcessPoolExecutor(
            count, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(os.getpid(),)
        )
    from mmcl_edge.fleet.ray_engine import RayExecutor

    return RayExecutor(workers=count, address=address)


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_of(executor: Executor) -> int:
    """How many units an executor works on side by side, as far as it says; else one for each core here."""
    found = getattr(executor, "_max_workers", None)
    return found if isinstance(found, int) else available_cores()


def in_order(
    executor: Executor | None,
    work: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    window: int | None = None,
    timeout_s: float | None = None,
) -> Iterator[Result]:
    """``work`` of each job, in the order of the jobs, at most ``window`` of them on their way.

    Args:
        executor: where; ``None`` is here, one after the other.
        work: a function of a module, for engines that move it to another process.
        jobs: taken one by one, as there is room.
        window: ``None`` is a few for each worker.
        timeout_s: of all results together; ``None`` waits.

    Raises:
        Exception: what ``work`` raised for a job, when its turn comes; what has not begun is dropped.
        TimeoutError: the time is over (``concurrent.futures.TimeoutError`` before Python 3.11).
    """
    if executor is None:
        yield from map(work, jobs)
        return
    end = None if timeout_s is None else time.monotonic() + timeout_s
    room = window or AHEAD * workers_of(executor)
    waiting, pending = iter(jobs), deque[Future[Result]]()
    try:
        while True:
            pending.extend(executor.submit(work, job) for job in islice(waiting, room - len(pending)))
            if not pending:
                return
            yield pending.popleft().result(None if end is None else max(0.0, end - time.monotonic()))
    finally:
        for future in pending:
            future.cancel()


def as_finished(
    executor: Executor | None, work: Callable[[Job], Result], jobs: Iterable[Job], *, window: int | None = None
) -> Iterator[tuple[Job, Result]]:
    """Each job with what ``work`` made of it, in the order they finish; otherwise as ``in_order``."""
    if executor is None:
        yield from ((job, work(job)) for job in jobs)
        return
    room = window or AHEAD * workers_of(executor)
    waiting, pending = iter(jobs), dict[Future[Result], Job]()
    try:
        while True:
            for job in islice(waiting, room - len(pending)):
                pending[executor.submit(work, job)] = job
            if not pending:
                return
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield pending.pop(future), future.result()
    finally:
        for future in pending:
            future.cancel()


def in_chunks(items: Sequence[Job], size: int) -> Iterator[Sequence[Job]]:
    """``items`` in pieces of ``size``: units of work large enough to be worth sending."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _start_worker(parent: int) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """A worker whose parent was killed would go on with what is queued, for nobody."""
    while os.getppid() == parent:
        time.sleep(PATIENCE_S)
    os._exit(1)
