"""Predict graphs: a whole model in one ONNX graph, from raw input to logits, the pack's weights being inputs.

``Runtime.predict`` at batch 1 would otherwise spend a third of its time between the segments, on some two thousand
small torch operations. One graph holds stem, segments, adapters, fusion and head of one sample; its weights are
those of whatever pack is in use, so the number of experts and of classes is free. Fixed are the settings that
shape the computation (``PredictGraph.serves``): a pack with others is answered by the segments and torch.

The model's own ``forward`` is traced, once for each set of modalities (``subsets``). Its backbones are
stand-ins that leave a node where a segment runs; ``spliced`` puts the exported segments there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path, PurePosixPath

import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from mmcl_edge.adapters.encoder import LadderEncoder
from mmcl_edge.adapters.inputs import ModalityInput
from mmcl_edge.adapters.model import Model, build_model
from mmcl_edge.bundle import BackboneEntry, FramesInput, InputSpec, MotionInput, PredictGraph
from mmcl_edge.config import AdapterConfig, HeadConfig, MethodConfig
from mmcl_edge.export.examples import length_axis, raw_input
from mmcl_edge.export.onnx_graph import clean, explained, name_axes, parse_axis, to_onnx, write_model
from mmcl_edge.export.vjp import DynamicAxes
from mmcl_edge.runtime.predict_graph import weights_of
from mmcl_edge.runtime.segments import output_shape
from mmcl_edge.types import FeatureSpec

_DOMAIN = "mmcl_edge"
_OUTPUTS = ("logits", "joint", "expert_index", "expert_weight")
_VIEWS, _CLASSES, _DURATION_S = 2, 3, 1.0
"""Sizes of the traced example; all of them are free afterwards."""
_EVERY_SET = 3


class StandIn:
    """A ``Backbone`` that leaves one node for each of its graphs, naming the file, and knows the shapes."""

    def __init__(self, entry: BackboneEntry) -> None:
        self.entry = entry
        self.modality = entry.modality
        self.features: tuple[FeatureSpec, ...] = (entry.segments[0].input, *(one.output for one in entry.segments))
        self.output_features = entry.output.output
        self.pool = entry.pool

    @property
    def depth(self) -> int:
        """Number of segments."""
        return len(self.entry.segments)

    def stem(self, x: Tensor) -> Tensor:
        """Raw input to the first features."""
        spec = self.features[0]
        stride = getattr(self.entry.input, "token_stride", None)
        tokens = spec.tokens or (x.shape[1] // stride if stride else 0)
        shape = (x.shape[0], tokens, spec.dim) if spec.kind == "tokens" else output_shape(spec, x)
        return _left(x, self.entry.stem.path, shape)

    def segment(self, index: int, x: Tensor) -> Tensor:
        """Features to features."""
        entry = self.entry.segments[index]
        return _left(x, entry.forward.path, output_shape(entry.output, x))

    def output(self, x: Tensor) -> Tensor:
        """Output norm or final convolution."""
        return _left(x, self.entry.output.forward.path, output_shape(self.output_features, x))


def _left(x: Tensor, path: str, shape: Sequence[int]) -> Tensor:
    node: Tensor = torch.onnx.ops.symbolic(
        f"{_DOMAIN}::Graph", (x,), {"path": path}, dtype=torch.float32, shape=shape, version=1
    )
    return node


class OneSample(nn.Module):
    """A model on one sample that has ``modalities``: plain tensors in, plain tensors out; weights are inputs too."""

    def __init__(self, model: Model, modalities: Sequence[str], masked: Sequence[str]) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.masked = frozenset(masked)
        self.model = model

    def forward(self, values: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """For each modality its values ``(T, ...)`` and, where it has a length, its mask ``(1, N)``; then the weights.

        Returns:
            Logits ``(1, C)``, joint ``(1, J)``, positions and weights of each block's experts ``(blocks, K)``.
        """
        model, rest = self.model, list(values)
        inputs = {}
        for name in self.modalities:
            x = rest.pop(0)
            here = torch.ones(1, x.shape[0], dtype=torch.bool)
            mask = rest.pop(0) if name in self.masked else None
            inputs[name] = ModalityInput(x, here, mask, whole=mask is None)
        encoder = model.encoder
        batch = encoder.extract(inputs) if isinstance(encoder, LadderEncoder) else inputs
        output = torch.func.functional_call(model, dict(zip(weights_of(model), rest, strict=True)), (batch,))
        index, weight = (torch.cat(parts) for parts in zip(*((g.index, g.weights) for g in output.gates), strict=True))
        return output.logits, output.joint, index, weight


def write_predict_graphs(
    folder: Path, backbones: Sequence[BackboneEntry], methods: Sequence[tuple[AdapterConfig, HeadConfig]] | None = None
) -> tuple[PredictGraph, ...]:
    """Write the predict graphs of a bundle whose segments are written.

    Args:
        folder: the bundle.
        backbones: its manifest's entries.
        methods: settings to serve; by default those of ``mmcl-edge adapt`` in either placement.

    Raises:
        ExportError: the adapters cannot be traced.
    """
    if methods is None:
        methods = [(AdapterConfig(placement=placement), MethodConfig().head) for placement in ("inline", "ladder")]
    return tuple(
        _write(folder, backbones, modalities, adapter, head)
        for adapter, head in methods
        for modalities in subsets([entry.modality for entry in backbones])
    )


def subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The sets of modalities that get a predict graph, the fullest first: every set of up to three modalities.

    Of more, where sets grow to be many: all, all but one, and each alone; others are answered by the segments.
    """
    count = len(names)
    sizes = range(count, 0, -1) if count <= _EVERY_SET else (count, count - 1, 1)
    return [chosen for size in sizes for chosen in combinations(names, size)]


def _write(
    folder: Path,
    backbones: Sequence[BackboneEntry],
    modalities: Sequence[str],
    adapter: AdapterConfig,
    head: HeadConfig,
) -> PredictGraph:
    path = f"predict.{adapter.placement}.{'+'.join(modalities)}.onnx"
    graph = traced(backbones, modalities, adapter, head)
    file = write_model(spliced(graph, folder, name=path), folder=folder, path=path)
    return PredictGraph(file=file, modalities=tuple(modalities), adapter=adapter, head=head)


def traced(
    backbones: Sequence[BackboneEntry], modalities: Sequence[str], adapter: AdapterConfig, head: HeadConfig
) -> onnx.ModelProto:
    """The model's forward pass on one sample, with a node of our own domain where each of the backbones' graphs runs.

    Raises:
        ExportError: it cannot be traced.
    """
    model = _new_model({entry.modality: StandIn(entry) for entry in backbones}, adapter, head)
    weights = weights_of(model)
    values, names, axes = _example([entry for entry in backbones if entry.modality in modalities])
    masked = [name.removesuffix("_mask") for name in names if name.endswith("_mask")]
    names, axes = [*names, *weights], [*axes, *({} for _ in weights)]
    with explained("the predict graph"), torch.no_grad():
        module = OneSample(model, modalities, masked).eval()
        inputs = [*values, *weights.values()]
        graph = to_onnx(module, inputs, input_names=names, output_names=_OUTPUTS, axes=axes, as_list=True)
    name_axes(graph, axes)
    return _with_free_sizes(graph)


def _new_model(stand_ins: Mapping[str, StandIn], adapter: AdapterConfig, head: HeadConfig) -> Model:
    model = build_model(adapter, head, stand_ins, generator=torch.Generator().manual_seed(0))
    model.head.grow(_CLASSES, torch.Generator().manual_seed(1))
    for block in model.blocks:
        block.bank.fix()
    return model


def _example(entries: Sequence[BackboneEntry]) -> tuple[list[Tensor], list[str], list[DynamicAxes]]:
    """Tensors, names and free axes of the graph's inputs."""
    values: list[Tensor] = []
    names: list[str] = []
    axes: list[DynamicAxes] = []
    generator = torch.Generator().manual_seed(0)
    for entry in entries:
        views = _VIEWS if isinstance(entry.input, FramesInput) else 1
        x = raw_input(entry.input, batch=views, duration_s=_DURATION_S, generator=generator)
        values.append(x)
        names.append(entry.modality)
        axes.append(_free_axes(entry.input))
        tokens = _masked_tokens(entry.input, x)
        if tokens is not None:
            values.append(torch.ones(1, tokens, dtype=torch.bool))
            names.append(f"{entry.modality}_mask")
            axes.append({axis: parse_axis(text)[1] for axis, text in length_axis(entry.input).items()})
    return values, names, axes


def _free_axes(spec: InputSpec) -> DynamicAxes:
    """Axes of a raw input that vary from sample to sample."""
    if isinstance(spec, FramesInput):
        return {0: "views"}
    return length_axis(spec)


def _masked_tokens(spec: InputSpec, x: Tensor) -> int | None:
    """Tokens of the mask that goes with raw input ``x``; ``None`` where every token counts."""
    if isinstance(spec, MotionInput):
        return spec.window_samples // spec.samples_per_token
    stride = getattr(spec, "token_stride", None)
    return x.shape[1] // stride if stride else None


def _with_free_sizes(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Name the sizes that differ from pack to pack, in place."""
    for value in graph.graph.input:
        size = _free_size(value.name)
        if size:
            value.type.tensor_type.shape.dim[0].dim_param = size
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "classes"
    return graph


def _free_size(name: str) -> str | None:
    """What the first axis of a weight counts, where packs differ in it."""
    if ".bank." in name or ".router." in name:
        return f"experts_{name.split('.')[2]}"
    return "classes" if name in ("head.weight", "head.bias") else None


def spliced(graph: onnx.ModelProto, folder: Path, *, name: str) -> onnx.ModelProto:
    """The graph with every stand-in replaced by the nodes of the file it names; weights stay where they are."""
    nodes, arrays = [], list(graph.graph.initializer)
    domains = {one.domain: one.version for one in graph.opset_import if one.domain != _DOMAIN}
    for node in graph.graph.node:
        if node.domain != _DOMAIN:
            nodes.append(node)
            continue
        path = node.attribute[0].s.decode()
        part = onnx.load(folder / path, load_external_data=False)
        domains |= {one.domain: one.version for one in part.opset_import}
        _prefix(part.graph, path, node)
        nodes.extend(part.graph.node)
        arrays.extend(_moved(tensor, path) for tensor in part.graph.initializer)
    del graph.graph.node[:], graph.graph.initializer[:], graph.opset_import[:]
    graph.graph.node.extend(nodes)
    graph.graph.initializer.extend(arrays)
    graph.opset_import.extend(helper.make_opsetid(*one) for one in sorted(domains.items()))
    return clean(graph, name=name)


def _prefix(part: onnx.GraphProto, path: str, place: onnx.NodeProto) -> None:
    """Give every value of ``part`` a name of its own; its input and output are those of the node it replaces."""
    names = {part.input[0].name: place.input[0], part.output[0].name: place.output[0], "": ""}
    for tensor in part.initializer:
        names[tensor.name] = f"{path}:{tensor.name}"
        tensor.name = names[tensor.name]
    for node in part.node:
        node.name = f"{path}:{node.name}"
        node.output[:] = [names.setdefault(one, f"{path}:{one}") for one in node.output]
        node.input[:] = [names[one] for one in node.input]


def _moved(tensor: onnx.TensorProto, path: str) -> onnx.TensorProto:
    """The array as seen from the bundle's folder."""
    for entry in tensor.external_data:
        if entry.key == "location":
            entry.value = str(PurePosixPath(path).parent / entry.value)
    return tensor
