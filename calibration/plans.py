"""One graph's way from float to int8: its candidates, their noise and their speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from mmcl_edge.calibration.graphs import Array, GraphRef, signal_to_noise_db
from mmcl_edge.calibration.quantizer import GraphQuantizer
from mmcl_edge.errors import BundleError, CalibrationError
from mmcl_edge.runtime.sessions import SessionFactory

NOISE_INPUTS = 16
"""Recorded inputs that noise is measured on."""
ROUNDS, REPEATS, LEAST_MS = 9, 5, 10.0
"""Turns that each form gets, and the timed calls of a turn: more where one takes a fraction of a millisecond."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Median milliseconds of float and int8, taken in turns, and the median ratio of a round (below 1: faster)."""

    float_ms: float
    int8_ms: float
    ratio: float


class GraphPlan:
    """One graph: what of it is int8, and why the rest is not.

    Attributes:
        ref: the graph.
        reason: why the whole graph stays float; ``None`` while it is int8.
        float_nodes: what stays float inside an int8 graph.
    """

    def __init__(
        self, ref: GraphRef, source: Path, quantizer: GraphQuantizer, scratch: Path, sessions: SessionFactory
    ) -> None:
        self.ref, self.quantizer, self.scratch = ref, quantizer, scratch
        self.reason: str | None = None if quantizer.nodes else "it holds nothing that int8 serves"
        self.float_nodes: frozenset[str] = frozenset()
        self.speed: Speed | None = None
        self._sessions = sessions
        self._inputs = quantizer.inputs[:NOISE_INPUTS]
        self._float = sessions.create(source)
        self._outputs = self._run(self._float)

    @property
    def file(self) -> Path:
        """Where ``write`` puts the int8 graph: the bundle's path below the scratch folder."""
        return self.scratch / self.ref.path

    @property
    def nodes(self) -> tuple[str, ...]:
        """Nodes that are int8 now."""
        found = () if self.reason else self.quantizer.nodes
        return tuple(node for node in found if node not in self.float_nodes)

    def write(self) -> None:
        """Put the int8 graph into the scratch folder."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_bytes(self.quantizer.quantized(self.float_nodes))

    def keep_float(self, nodes: Collection[str]) -> None:
        """Return nodes to float; a graph without any int8 node is float."""
        self.float_nodes |= frozenset(nodes)
        if not self.nodes:
            self.reason = self.reason or "accuracy needs every node of it in float"

    def snr_db(self) -> float:
        """Signal to noise of the written int8 graph's output, on inputs of the float chain."""
        return signal_to_noise_db(self._outputs, self._run(self._session()))

    def gains(self) -> list[tuple[float, str, str]]:
        """``(gain, path, node)``: how much relative noise power the output loses when that node alone is float."""
        noise = 10 ** (-self.snr_db() / 10)
        found, before = [], self.float_nodes
        for node in self.nodes:
            self.float_nodes = before | {node}
            self.write()
            found.append((noise - 10 ** (-self.snr_db() / 10), self.ref.path, node))
        self.float_nodes = before
        self.write()
        return found

    def measure_speed(self) -> Speed:
        """Float and int8 in turns, on the longest recorded input."""
        feed = {"x": max(self._inputs, key=lambda x: x.size)}
        sessions = (self._float, self._session())
        rounds = [tuple(_median_ms(lambda s=one: s.run(["y"], feed)) for one in sessions) for _ in range(ROUNDS)]  # type: ignore[misc]
        slow, fast = ([row[i] for row in rounds] for i in (0, 1))
        ratio = statistics.median(one / other for other, one in rounds)
        self.speed = Speed(statistics.median(slow), statistics.median(fast), ratio)
        return self.speed

    def _session(self) -> ort.InferenceSession:
        try:
            return self._sessions.create(self.file)
        except BundleError as error:
            raise CalibrationError(
                f"{self.ref.path} should run in int8, but ONNX Runtime refuses it ({str(error)[:200]}); nothing was "
                "written. Keep the float bundle, or export another backbone."
            ) from error

    def _run(self, session: ort.InferenceSession) -> list[Array]:
        return [session.run(["y"], {"x": x})[0] for x in self._inputs]


def _median_ms(call: Callable[[], object]) -> float:
    call()
    times: list[float] = []
    while len(times) < REPEATS or (sum(times) < LEAST_MS and len(times) < 10 * REPEATS):
        started = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


def keep_slow_ones_float(plans: Sequence[GraphPlan]) -> None:
    """Measure every int8 graph, and return to float those that int8 does not make faster."""
    for plan in plans:
        if plan.reason is None and (speed := plan.measure_speed()).ratio >= 1:
            plan.reason = f"int8 is no faster here ({speed.ratio:.2f} x the float time)"
