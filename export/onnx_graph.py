"""torch modules to ONNX files that hold nothing but the computation.

A file is the same on every export of the same weights with the same package versions: no doc strings,
no metadata, no traces of source code, a fixed producer, deterministic bytes.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from mmcl_edge.bundle import FileEntry
from mmcl_edge.errors import ExportError
from mmcl_edge.export.vjp import DynamicAxes
from mmcl_edge.export.weights import WeightsFile

OPSET = 20
_MAX_SIZES = {"batch": 4096, "tokens": 1500, "text_tokens": 512, "views": 4096}
_CHATTY = (
    "torch",
    "torch.onnx",
    "torch.export",
    "torch.fx",
    "torch._dynamo",
    "onnxscript",
    "onnx_ir",
    "timm",
    "huggingface_hub",
)


def write_onnx(
    module: nn.Module,
    inputs: Sequence[Tensor],
    *,
    folder: Path,
    path: str,
    weights: WeightsFile,
    input_names: Sequence[str],
    output_names: Sequence[str],
    axes: Sequence[DynamicAxes],
) -> FileEntry:
    """Export ``module(*inputs)`` to ``folder/path``.

    Args:
        module: frozen.
        inputs: examples; sizes of dynamic axes must be at least 2.
        folder: the bundle being filled.
        path: file name inside it.
        weights: takes the large arrays.
        input_names: of the graph, as ``bundle.py`` fixes them.
        output_names: likewise.
        axes: dynamic axes of each input.

    Returns:
        The manifest's entry for the file.
    """
    model = clean(
        to_onnx(module, inputs, input_names=input_names, output_names=output_names, axes=axes),
        name=Path(path).name.removesuffix(".onnx"),
    )
    name_axes(model, axes)
    weights.take(model)
    return write_model(model, folder=folder, path=path)


def to_onnx(
    module: nn.Module,
    inputs: Sequence[Tensor],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    axes: Sequence[DynamicAxes],
    as_list: bool = False,
) -> onnx.ModelProto:
    """Trace and convert (arguments as in ``write_onnx``); ``as_list``: ``module`` takes one list of all inputs."""
    shapes = _dynamic(axes)
    with quiet():
        program = torch.export.export(
            module,
            (list(inputs),) if as_list else tuple(inputs),
            dynamic_shapes=(list(shapes),) if as_list else shapes,
        )
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(input_names),
            output_names=list(output_names),
            verbose=False,
        )
        assert exported is not None
        return exported.model_proto


def write_model(model: onnx.ModelProto, *, folder: Path, path: str) -> FileEntry:
    """Write a finished graph to ``folder/path`` and check it; equal graphs give equal bytes."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(target))
    return FileEntry.of(folder, path)


def clean(model: onnx.ModelProto, *, name: str) -> onnx.ModelProto:
    """Strip everything but the computation, in place."""
    model.producer_name, model.producer_version, model.doc_string, model.domain = "mmcl-edge", "", "", ""
    model.graph.name, model.graph.doc_string = name, ""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    values = (*model.graph.input, *model.graph.output, *model.graph.initializer)
    for item in (*values, *model.graph.node):
        item.doc_string = ""
        del item.metadata_props[:]
    return model


def name_axes(model: onnx.ModelProto, axes: Sequence[DynamicAxes]) -> None:
    """Give symbolic sizes their names ("batch", "tokens") in place of the tracer's numbered symbols."""
    renamed: dict[str, str] = {}
    for value, names in zip(model.graph.input, axes, strict=True):
        for axis, text in names.items():
            symbol = value.type.tensor_type.shape.dim[axis].dim_param
            renamed[symbol.rpartition("*")[2]] = parse_axis(text)[1]
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_param = re.sub(r"[A-Za-z_]\w*", lambda m: renamed.get(m[0], m[0]), dim.dim_param)


def _dynamic(axes: Sequence[DynamicAxes]) -> tuple[dict[int, object], ...]:
    dims: dict[str, Any] = {}
    for name in {parse_axis(text)[1]: None for each in axes for text in each.values()}:
        dims[name] = torch.export.Dim(name, min=1, max=_MAX_SIZES[name])
    return tuple({axis: _multiple(dims, text) for axis, text in each.items()} for each in axes)


def _multiple(dims: dict[str, Any], text: str) -> object:
    factor, name = parse_axis(text)
    return dims[name] if factor == 1 else factor * dims[name]


def parse_axis(text: str) -> tuple[int, str]:
    """``320*tokens`` as 320 and ``tokens``; a bare name has the factor 1."""
    factor, _, name = text.rpartition("*")
    return int(factor or 1), name


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the tracers' failures into one sentence.

    Raises:
        ExportError: tracing or conversion of ``what`` failed.
    """
    try:
        yield
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
        reason = lines[0][:200] if lines else type(error).__name__
        raise ExportError(
            f"{what} uses an operation that cannot be exported with its gradient ({reason}); choose another backbone."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' warnings and log lines from the user; errors still come as exceptions."""
    levels = {name: logging.getLogger(name).level for name in _CHATTY}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
