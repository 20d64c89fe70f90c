"""Does an exported graph agree with torch? Measured as relative error ``||onnx - torch|| / ||torch||``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, fx

from mmcl_edge.errors import ExportError
from mmcl_edge.export.kinks import MAX_FLIPPED_SHARE, OnGivenSide, count_kinks, expose_conditions

MAX_RELATIVE_ERROR = 1e-4


def relative_error(found: Tensor, expected: Tensor) -> float:
    """``||found - expected|| / ||expected||`` in double precision; infinite where shapes differ or a value is NaN."""
    if found.shape != expected.shape:
        return float("inf")
    distance = float(torch.linalg.vector_norm(found.double() - expected.double()))
    size = float(torch.linalg.vector_norm(expected.double()))
    error = distance / size if size > 0 else distance
    return error if error == error else float("inf")


def rounded_up(error: float) -> float:
    """The next of ..., 1e-7, 2e-7, 5e-7, 1e-6, ...

    Manifests hold such bounds: a measurement differs a little from machine to machine, a bundle's digest must not.
    """
    if error == 0:
        return 0.0
    exponent = math.floor(math.log10(error))
    steps = (float(f"{step}e{exponent}") for step in (1, 2, 5, 10))
    return next(step for step in steps if error <= step * (1 + 1e-9))


class Session:
    """An ONNX file on the CPU, called with torch tensors.

    Attributes:
        outputs: number of outputs the file declares.
        conditions: the tensors that its ``Where`` nodes choose by, in order.
    """

    def __init__(self, path: Path, *, with_conditions: bool = False) -> None:
        model = onnx.load(path)
        self.outputs = len(model.graph.output)
        self.conditions = [node.input[0] for node in model.graph.node if node.op_type == "Where"]
        if with_conditions:
            expose_conditions(model)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The file's outputs, in order, for inputs in order."""
        return list(self._run(inputs).values())[: self.outputs]

    def with_conditions(self, *inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs, and the condition of every ``Where`` node."""
        values = self._run(inputs)
        return list(values.values())[: self.outputs], [values[name] for name in self.conditions]

    def _run(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        names = [node.name for node in self._session.get_inputs()]
        feed = {name: np.ascontiguousarray(x.detach().numpy()) for name, x in zip(names, inputs, strict=True)}
        found = self._session.run(None, feed)
        return {node.name: torch.from_numpy(v) for node, v in zip(self._session.get_outputs(), found, strict=True)}


class Checker:
    """Collects the largest error of one graph over all its inputs.

    Attributes:
        what: the graph, for the message.
        worst: largest relative error so far.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.worst = 0.0

    @property
    def bound(self) -> float:
        """What the manifest records: ``worst``, rounded up."""
        return rounded_up(self.worst)

    def compare_vjp(
        self,
        session: Session,
        given: Sequence[Tensor],
        graph: fx.GraphModule,
        inputs: Sequence[Tensor],
        gx: Tensor,
    ) -> None:
        """Measure a VJP against autograd's ``gx``, on the same side of every kink (``kinks.py`` says why).

        Args:
            session: the exported VJP.
            given: its inputs.
            graph: the traced VJP ``(x, g) -> gx``.
            inputs: ``x`` and ``g``.
            gx: autograd's answer.

        Raises:
            ExportError: the traced graph or the exported one is off.
        """
        found, conditions = session.with_conditions(*given)
        if not conditions or len(conditions) != count_kinks(graph):
            return self.compare(found, [gx])
        self.compare([graph(*inputs)], [gx])
        reference = OnGivenSide(graph, conditions)
        self.compare(found, [reference.run(*inputs)])
        if reference.flipped > MAX_FLIPPED_SHARE:
            raise ExportError(
                f"The exported {self.what} should choose like torch at each activation, but {reference.flipped:.2%} "
                "of one layer's choices differ; nothing was written. Use another backbone."
            )

    def compare(self, found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
        """Measure outputs one by one.

        Raises:
            ExportError: an error is above ``MAX_RELATIVE_ERROR``.
        """
        for one, other in zip(found, expected, strict=True):
            self.worst = max(self.worst, relative_error(one, other))
        if self.worst > MAX_RELATIVE_ERROR:
            raise ExportError(
                f"The exported {self.what} should agree with torch to {MAX_RELATIVE_ERROR:g} (relative error), "
                f"but differs by {self.worst:.3g}; nothing was written. Use the package versions of the "
                "'export' extra, or another backbone."
            )
