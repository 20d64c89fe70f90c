"""One float graph to its int8 (QDQ) form, with ONNX Runtime's own quantizer.

Activations are unsigned and weights signed 8-bit integers: the pair that MLAS multiplies fastest (measured: signed
activations take twice as long in convolutions). Products by a fixed matrix give floats back, since what follows
them in a transformer block (bias, GELU, softmax, norm) is computed in float; convolutions chain in int8.
What leads to a logarithm - the log-mel front end - stays float. Large tables that are no weights (positions) are
kept as 16-bit floats, which ONNX Runtime makes 32-bit ones when it loads the graph.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    TensorsData,
    create_calibrator,
    quant_pre_process,
)

from mmcl_edge.calibration.graphs import Array
from mmcl_edge.calibration.settings import Method
from mmcl_edge.errors import CalibrationError
from mmcl_edge.export.onnx_graph import clean, quiet
from mmcl_edge.runtime.sessions import ORT_ERRORS

HEAVY = ("Conv", "Gemm", "MatMul")
"""Operators worth int8."""
_ABSORBED = ("Clip", "Relu")
"""Operators that vanish into the range of what they follow."""
_OF_INT8 = ("QuantizeLinear", "DequantizeLinear")
_TABLE_SIZE = 1 << 14
"""Values from which on a constant that is no weight is stored in 16 bits."""
_METHODS = {
    "minmax": (CalibrationMethod.MinMax, {}),
    "entropy": (CalibrationMethod.Entropy, {"symmetric": False}),
    "percentile": (CalibrationMethod.Percentile, {"symmetric": False, "percentile": 99.99}),
}
_OPTIONS = {"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}
_FAILURES = (ValueError, RuntimeError, KeyError, NotImplementedError)


class GraphQuantizer:
    """Int8 forms of one graph; its ranges are taken once, at the first ``quantized``.

    Attributes:
        name: the graph's path in the bundle.
        nodes: names of the nodes that can become int8, in graph order.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        inputs: Sequence[Array],
        *,
        method: Method = "minmax",
        per_channel: bool = True,
        reduce_range: bool = False,
    ) -> None:
        self.name, self.inputs, self.method = name, inputs, method
        self.per_channel, self.reduce_range = per_channel, reduce_range
        source = onnx.load(path)
        self.float_size_bytes = source.ByteSize()
        with self._explained():
            self.model = _prepared(source)
        front_end = _leading_to_logarithms(self.model)
        self._fixed = tuple(node.name for node in self.model.graph.node if node.name in front_end)
        constants = {one.name for one in self.model.graph.initializer}
        self.nodes = tuple(
            node.name
            for node in self.model.graph.node
            if node.op_type in HEAVY and node.input[1] in constants and node.name not in front_end
        )

    def quantized(self, float_nodes: Collection[str] = ()) -> bytes:
        """The graph in int8 but for ``float_nodes``; equal arguments give equal bytes.

        Raises:
            CalibrationError: the quantizer cannot take one of its operators.
        """
        model, excluded = ModelProto(), [*self._fixed, *sorted(float_nodes)]
        model.CopyFrom(self.model)
        with self._explained():
            quantizer = QDQQuantizer(
                model,
                self.per_channel,
                self.reduce_range,
                QuantType.QInt8,
                QuantType.QUInt8,
                self._ranges,
                [],
                excluded,
                [*HEAVY, *_ABSORBED],
                dict(_OPTIONS),
            )
            quantizer.quantize_model()
            result = quantizer.model.model
            _guard(result, float_nodes)
            _halve_tables(result)
            quantizer.model.topological_sort()
            _drop_unused_domains(result)
            onnx.checker.check_model(clean(result, name=Path(self.name).name.removesuffix(".onnx")))
        return bytes(result.SerializeToString(deterministic=True))

    @cached_property
    def _ranges(self) -> TensorsData:
        method, options = _METHODS[self.method]
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch) / "float.onnx"
            onnx.save(self.model, source)
            calibrator = create_calibrator(
                source,
                [*HEAVY, *_ABSORBED],
                augmented_model_path=str(Path(scratch) / "augmented.onnx"),
                calibrate_method=method,
                extra_options=options,
            )
            for x in self.inputs:  # one by one: clips differ in length, and histograms merge
                calibrator.collect_data(_One(x))
            return calibrator.compute_data()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Silence, and one sentence in place of the quantizer's failures."""
        try:
            with quiet(), contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
                yield
        except (*_FAILURES, *ORT_ERRORS, onnx.checker.ValidationError) as error:
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise CalibrationError(
                f"{self.name} should become int8, but holds an operator that ONNX Runtime's quantizer cannot take "
                f"({reason[:200]}); nothing was written. Keep the float bundle, or export another backbone."
            ) from error


class _One(CalibrationDataReader):  # type: ignore[misc]
    """A reader of one input."""

    def __init__(self, x: Array) -> None:
        self._left: list[dict[str, Array]] = [{"x": x}]

    def get_next(self) -> dict[str, Array] | None:
        return self._left.pop() if self._left else None


def _prepared(model: ModelProto) -> ModelProto:
    """Shapes inferred, constants folded; every node with a name of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "float.onnx", Path(scratch) / "prepared.onnx"
        onnx.save(model, source)  # whole: given a model, the pre-processing parts it from its weights
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
        prepared = onnx.load(target)
    for number, node in enumerate(prepared.graph.node):
        node.name = f"{node.op_type}_{number}"
    return prepared


def _leading_to_logarithms(model: ModelProto) -> set[str]:
    producers: dict[str, NodeProto] = {name: node for node in model.graph.node for name in node.output}
    found: set[str] = set()
    left: list[Any] = [node for node in model.graph.node if node.op_type == "Log"]
    while left:
        node = left.pop()
        if node.name not in found:
            found.add(node.name)
            left += [producers[name] for name in node.input if name in producers]
    return found


def _guard(model: ModelProto, float_nodes: Collection[str]) -> None:
    """Keep float convolutions float.

    ONNX Runtime itself quantizes the weights of a float convolution between int8 neighbours when it loads a graph,
    and with one scale for all channels; an operation in between that changes nothing stops it.
    """
    lowest = "lowest_float"
    for node in [one for one in model.graph.node if one.name in float_nodes and one.op_type in ("Conv", "Gemm")]:
        output, node.output[0] = node.output[0], f"{node.output[0]}_float"
        guard = helper.make_node("Max", [node.output[0], lowest], [output], name=f"{node.name}_guard")
        model.graph.node.insert(list(model.graph.node).index(node) + 1, guard)
        if all(one.name != lowest for one in model.graph.initializer):
            model.graph.initializer.append(numpy_helper.from_array(np.array(np.finfo(np.float32).min), lowest))


def _halve_tables(model: ModelProto) -> None:
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    for one in model.graph.initializer:
        size = int(np.prod(one.dims)) if one.data_type == TensorProto.FLOAT else 0
        if size >= _TABLE_SIZE and not readers.get(one.name, set()) & {*HEAVY, *_OF_INT8}:
            name, values = one.name, numpy_helper.to_array(one)
            if np.abs(values).max() > np.finfo(np.float16).max:
                continue
            one.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
            model.graph.node.insert(
                0, helper.make_node("Cast", [one.name], [name], name=f"{name}_cast", to=TensorProto.FLOAT)
            )


def _drop_unused_domains(model: ModelProto) -> None:
    """ONNX Runtime lists every domain it knows in the graphs that it saves."""
    used = {"", *(node.domain for node in model.graph.node)}
    kept = [one for one in model.opset_import if one.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
