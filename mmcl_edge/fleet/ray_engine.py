"""Ray behind ``concurrent.futures.Executor``: the engine for a cluster (extra ``cluster``)."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, wait
from typing import Any, ParamSpec, TypeVar

from mmcl_edge.errors import MissingExtraError, WorkerError
from mmcl_edge.fleet.engines import in_order

P = ParamSpec("P")
Result = TypeVar("Result")
OBJECT_STORE_BYTES = 256 << 20
"""Memory of a local Ray for arguments and results, which are small: bulk goes through files."""
PATIENCE_S = 10.0
"""How long a cluster may take to answer at all."""
RETRIES = 1
"""How often a unit whose worker was ended begins again elsewhere: machines of a cluster come and go."""


class RayExecutor(Executor):
    """Each unit of work is one Ray task with one core.

    Connects to the cluster at ``address`` (or RAY_ADDRESS), or starts a local one with ``workers`` cores, without
    dashboard and usage statistics, that ends with ``shutdown`` and takes work from nobody else. Where this process is
    connected already, that connection is used and kept.

    Raises:
        MissingExtraError: Ray is not installed.
        WorkerError: there is no cluster at the address, or none could be started.
    """

    def __init__(self, *, workers: int, address: str | None = None) -> None:
        address = address or os.environ.get("RAY_ADDRESS")
        self._ray = _import_ray(guarded=not address)
        self._owner = not self._ray.is_initialized()
        if self._owner:
            self._connect(workers, address)
        self._max_workers = int(self._ray.cluster_resources().get("CPU", workers))
        self._task = self._ray.remote(num_cpus=1, max_retries=RETRIES)(_call)
        self._pending: set[Future[Any]] = set()
        self._closed = False

    def _connect(self, workers: int, address: str | None) -> None:
        quiet = {"logging_level": "ERROR", "log_to_driver": False}
        local = {
            "num_cpus": workers,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
        try:
            if address:
                _knock(address)
            self._ray.init(address=address or "local", **quiet, **({} if address else local))
        except (OSError, RuntimeError, ValueError) as error:
            where = f"a Ray cluster at {address}" if address else "a local Ray to start"
            raise WorkerError(
                f"Expected {where}, but found none ({_first_line(error)}); check the address, that the cluster "
                "runs the same Ray and Python, or use --engine process."
            ) from error

    def submit(self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Future[Result]:
        """See ``Executor.submit``. A unit whose worker is ended twice is a ``WorkerError``."""
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        reference = self._task.remote(fn, args, kwargs)
        future: Future[Result] = Future()  # cancelling drops the result: Ray itself can crash where a task is cancelled
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        reference.future().add_done_callback(lambda source: self._hand_over(source, future))
        return future

    def _hand_over(self, source: Future[Result], future: Future[Result]) -> None:
        """What Ray found becomes what the caller's future holds."""
        error = source.exception()
        if not future.set_running_or_notify_cancel():
            return
        if error is None:
            future.set_result(source.result())
        elif isinstance(error, self._ray.exceptions.RayTaskError):
            future.set_exception(error.cause if isinstance(error.cause, BaseException) else error)
        elif isinstance(error, self._ray.exceptions.RayError):
            future.set_exception(_worker_error(error))
        else:
            future.set_exception(error)

    def map(
        self, fn: Callable[..., Result], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[Result]:
        """See ``Executor.map``; but jobs are taken as there is room once the first result is asked for, one a task."""
        return in_order(self, _Spread(fn), zip(*iterables, strict=False), timeout_s=timeout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See ``Executor.shutdown``. A cluster that was started here ends; another is left as it is.

        ``cancel_futures`` drops results; what runs goes on until its cluster, or this program, ends.
        """
        if self._closed:
            return
        self._closed = True
        pending = list(self._pending)
        if cancel_futures:
            for future in pending:
                future.cancel()
        elif wait or self._owner:
            _wait(pending)
        if self._owner:
            self._ray.shutdown()


class _Spread:
    """``fn`` of a tuple of arguments."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn

    def __call__(self, arguments: tuple[Any, ...]) -> Any:
        return self.fn(*arguments)


def _call(fn: Callable[..., Result], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Result:
    """The one remote function: what it calls comes with each task."""
    return fn(*args, **kwargs)


def _knock(address: str) -> None:
    """Ray would try for minutes to reach a machine that is not there.

    Raises:
        OSError: nobody listens at ``[ray://]HOST:PORT``.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=PATIENCE_S).close()


def _wait(pending: list[Future[Any]]) -> None:
    wait(pending)


def _import_ray(*, guarded: bool) -> Any:
    """Ray, told not to report usage. A local one listens on the network, so ``guarded`` gives it a token of its own.

    Ray reads this when it is imported: a process that imported it before keeps the settings it had.
    """
    if "ray" not in sys.modules:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if guarded and "RAY_AUTH_MODE" not in os.environ:
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise MissingExtraError(
            "The engine 'ray' needs the extra 'cluster', which is not installed; "
            "run: pip install 'mmcl-edge[cluster]', or use --engine process."
        ) from error
    return ray


def _worker_error(error: BaseException) -> WorkerError:
    return WorkerError(
        f"Expected every worker of the cluster to finish its work, but one did not ({_first_line(error)}). "
        "Run the same command again; look at the machines' memory if it happens again."
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
