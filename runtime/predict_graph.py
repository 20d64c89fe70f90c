"""One sample through one graph: how ``Runtime.predict`` answers where the bundle has a predict graph for the pack.

The graph (``export/predict_graph.py``) holds stems, segments, adapters, fusion and head; the pack's weights are bound
to its inputs once a thread, so that a call binds the sample alone.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from mmcl_edge.adapters.inputs import Item
from mmcl_edge.adapters.model import Model
from mmcl_edge.bundle import Bundle
from mmcl_edge.config import MethodConfig
from mmcl_edge.learners.analytic.model import AnalyticModel
from mmcl_edge.runtime.answers import RawAnswer
from mmcl_edge.runtime.sessions import Graph, SessionFactory

_ELEMENTS = {torch.float32: np.float32, torch.int64: np.int64, torch.bool: np.bool_}


class PredictGraphs:
    """The predict graphs of a bundle; sessions are made when first needed and serve every pack of their settings."""

    def __init__(self, bundle: Bundle, sessions: SessionFactory) -> None:
        entries = () if sessions.choice.name == "tensorrt" else bundle.manifest.predict  # it wants constant weights
        self._entries = [(entry, sessions.graph(bundle.file(entry.file))) for entry in entries]
        self._sessions = sessions

    def bind(self, model: Model | AnalyticModel, config: MethodConfig) -> BoundModel:
        """Those that serve a pack of ``config``, with the weights of its ``model`` (every expert fixed).

        There is none for closed-form heads: their segments run one by one.
        """
        if isinstance(model, AnalyticModel):
            return BoundModel({}, {}, {})
        served = [(e, graph) for e, graph in self._entries if e.serves(config.adapter, config.head)]
        graphs = {frozenset(entry.modalities): graph for entry, graph in served}
        return BoundModel(graphs, weights_of(model), output_sizes(model), gpu=self._gpu([graph for _, graph in served]))

    def close(self) -> None:
        """Let go of the sessions."""
        self._entries = []

    def _gpu(self, graphs: Sequence[Graph]) -> int | None:
        """Index of the GPU that weights go to; where one was hoped for, a session tells whether it is really used."""
        if graphs and self._sessions.on_gpu:
            _ = graphs[0].session
        return self._sessions.choice.device if self._sessions.on_gpu else None


@dataclass(frozen=True, slots=True)
class _Bound:
    """One thread's binding of one graph, and where its outputs go."""

    binding: ort.IOBinding
    outputs: Mapping[str, Tensor]


class BoundModel:
    """A pack's weights on the graphs that serve it. Safe in many threads; never changed.

    Args:
        graphs: by the modalities that a sample has.
        weights: inputs of every graph by name; a fused graph has none.
        sizes: of the outputs (``output_sizes``).
        gpu: index of the GPU that the weights shall lie on; ``None``: the host.
    """

    def __init__(
        self,
        graphs: Mapping[frozenset[str], Graph],
        weights: Mapping[str, Tensor],
        sizes: Mapping[str, tuple[int, ...]],
        *,
        gpu: int | None = None,
    ) -> None:
        self._graphs = dict(graphs)
        self._weights = {name: _value(tensor, gpu) for name, tensor in weights.items()}
        self._sizes = dict(sizes)
        self._bound = threading.local()

    @property
    def fullest(self) -> Graph | None:
        """The graph for samples that have every modality; ``None`` where the bundle has none for these settings."""
        return self._graphs[max(self._graphs, key=len)] if self._graphs else None

    def takes(self, item: Item) -> bool:
        """Whether there is a graph for the modalities of ``item``."""
        return frozenset(item) in self._graphs

    def __call__(self, item: Item) -> RawAnswer:
        """Answer one sample."""
        graph = self._graphs[frozenset(item)]
        bound = self._of_this_thread(frozenset(item), graph)
        kept = []
        for name, one in item.items():
            kept.append(_put(bound.binding, name, one.values))
            if one.tokens is not None and one.total_tokens is not None:
                mask = torch.arange(one.total_tokens)[None, :] < one.tokens
                kept.append(_put(bound.binding, f"{name}_mask", mask))
        graph.session.run_with_iobinding(bound.binding)
        del kept
        out = {name: value.clone() for name, value in bound.outputs.items()}
        chosen = zip(out["expert_index"].split(1), out["expert_weight"].split(1), strict=True)
        return RawAnswer(out["logits"], out["joint"], tuple(chosen))

    def _of_this_thread(self, key: frozenset[str], graph: Graph) -> _Bound:
        known: dict[frozenset[str], _Bound] = self._bound.__dict__.setdefault("known", {})
        if key not in known:
            known[key] = self._bind(graph)
        return known[key]

    def _bind(self, graph: Graph) -> _Bound:
        binding = graph.session.io_binding()
        for node in graph.session.get_inputs():
            if node.name in self._weights:
                binding.bind_ortvalue_input(node.name, self._weights[node.name])
        outputs = {}
        for name, shape in self._sizes.items():
            kind = torch.int64 if name == "expert_index" else torch.float32
            outputs[name] = torch.empty(shape, dtype=kind)
            binding.bind_output(name, "cpu", 0, _ELEMENTS[kind], shape, outputs[name].data_ptr())
        return _Bound(binding, outputs)


def output_sizes(model: Model) -> dict[str, tuple[int, ...]]:
    """Shapes of a predict graph's outputs."""
    chosen = len(model.blocks), model.blocks[0].router.active
    logits, joint = (1, model.head.classes), (1, model.head.weight.shape[1])
    return {"logits": logits, "joint": joint, "expert_index": chosen, "expert_weight": chosen}


def weights_of(model: Model) -> dict[str, Tensor]:
    """What a predict graph takes of a model whose experts are all fixed, by its names in the model."""
    state = {name: value for name, value in model.state_dict().items() if not name.endswith(".usage")}
    return {name: value.detach().contiguous() for name, value in state.items() if value.numel()}


def _value(tensor: Tensor, gpu: int | None) -> ort.OrtValue:
    """A weight for all threads to bind: the tensor's own memory on the host, a copy on a GPU."""
    where = ("cpu", 0) if gpu is None else ("cuda", gpu)
    return ort.OrtValue.ortvalue_from_numpy(tensor.numpy(), *where)


def _put(binding: ort.IOBinding, name: str, value: Tensor) -> Tensor:
    """Bind a tensor by its address; whoever calls keeps what is returned until the run is over."""
    dense = value.contiguous()
    shape: Sequence[int] = dense.shape
    binding.bind_input(name, "cpu", 0, _ELEMENTS[dense.dtype], shape, dense.data_ptr())
    return dense
