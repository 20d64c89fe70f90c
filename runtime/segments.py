"""A backbone whose segments are ONNX graphs and whose gradients are ONNX graphs too (docs/decisions/0002).

Every segment is exported twice: its forward, and its vector-Jacobian product. ``OnnxBackbone`` runs the first in
``forward`` and the second in ``backward`` of a ``torch.autograd.Function``, so adapters train through a backbone that
torch never loads. Where no gradient is wanted, only forwards run; the first segment's product never runs at all,
since nothing trainable stands before it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmcl_edge.bundle import BackboneEntry, Bundle, FileEntry, SegmentEntry
from mmcl_edge.runtime.profiles import feature_profile, stem_profile
from mmcl_edge.runtime.providers import Profile
from mmcl_edge.runtime.rows import Rows
from mmcl_edge.runtime.sessions import Graph, SessionFactory
from mmcl_edge.types import FeatureSpec


class OnnxSegment:
    """One segment: ``forward``, and what ``backward`` needs in either VJP mode; a batch is run row by row."""

    def __init__(
        self, bundle: Bundle, entry: SegmentEntry, sessions: SessionFactory, rows: Rows, profile: Profile
    ) -> None:
        self.entry = entry
        self.rows = rows
        self.forward_graph = sessions.graph(bundle.file(entry.forward), profile=profile)
        self.vjp_graph = _training_graph(bundle, entry.vjp, sessions)
        self.save_graph = _training_graph(bundle, entry.save, sessions)

    def __call__(self, x: Tensor) -> Tensor:
        """Features in, features out; differentiable where ``x`` wants a gradient."""
        if torch.is_grad_enabled() and x.requires_grad:
            result: Tensor = _Segment.apply(x, self)
            return result
        return self.forward(x)

    def forward(self, x: Tensor) -> Tensor:
        """Forward only."""
        return self.rows.run(self.forward_graph, self.rows.cut(x=x), ("y", output_shape(self.entry.output, x)))[0]

    def forward_saving(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Forward, and the tensors that ``vjp`` wants back: the input, or what every row saved, one after the other."""
        if self.save_graph is None:
            return self.forward(x), (x.detach(),)
        y, saved = self.rows.run(
            self.save_graph, self.rows.cut(x=x), ("y", output_shape(self.entry.output, x)), self.entry.saved
        )
        return y, tuple(tensor for row in saved for tensor in row)

    def vjp(self, saved: tuple[Tensor, ...], g: Tensor, shape: torch.Size) -> Tensor:
        """Gradient with respect to the segment's input, of ``shape``, from the gradient ``g`` of its output."""
        assert self.vjp_graph is not None, "the bundle was exported without gradients"
        if self.save_graph is None:
            inputs = self.rows.cut(x=saved[0], g=g)
        else:
            names = self.entry.saved
            kept = (saved[i : i + len(names)] for i in range(0, len(saved), len(names)))
            inputs = [
                row | dict(zip(names, own, strict=True)) for row, own in zip(self.rows.cut(g=g), kept, strict=True)
            ]
        return self.rows.run(self.vjp_graph, inputs, ("gx", shape))[0]


class _Segment(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, segment: OnnxSegment) -> Tensor:
        y, saved = segment.forward_saving(x)
        ctx.save_for_backward(*saved)
        ctx.segment, ctx.shape = segment, x.shape
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.segment.vjp(ctx.saved_tensors, grads[0], ctx.shape), None


class OnnxBackbone:
    """A frozen backbone of a bundle (implements ``mmcl_edge.types.Backbone``)."""

    def __init__(self, bundle: Bundle, entry: BackboneEntry, sessions: SessionFactory) -> None:
        self.modality = entry.modality
        self.entry = entry
        self.features: tuple[FeatureSpec, ...] = (entry.segments[0].input, *(one.output for one in entry.segments))
        self.output_features = entry.output.output
        self.pool = entry.pool
        self._stem = sessions.graph(bundle.file(entry.stem), profile=stem_profile(entry))
        rows = Rows(sessions.plan.onnx, whole=sessions.on_gpu)
        profiles = [feature_profile(one, entry.input) for one in self.features]
        self._segments = [
            OnnxSegment(bundle, one, sessions, rows, profile)
            for one, profile in zip(entry.segments, profiles, strict=False)
        ]
        self._output = OnnxSegment(bundle, entry.output, sessions, rows, profiles[-1])

    @property
    def depth(self) -> int:
        """Number of segments."""
        return len(self._segments)

    def stem(self, x: Tensor) -> Tensor:
        """Raw input to the first features; never differentiated, since nothing trainable stands before it."""
        spec = self.features[0]
        stride = getattr(self.entry.input, "token_stride", None)
        tokens = spec.tokens if spec.tokens is not None else x.shape[1] // stride if stride else None
        if spec.kind == "tokens" and tokens is None:
            return self._stem.run_any_shape({"x": x}, ["y"])[0]
        shape = (x.shape[0], tokens, spec.dim) if spec.kind == "tokens" else output_shape(spec, x)
        return self._stem({"x": x}, {"y": shape})[0]  # type: ignore[dict-item]

    def segment(self, index: int, x: Tensor) -> Tensor:
        """Run segment ``index``."""
        return self._segments[index](x)

    def output(self, x: Tensor) -> Tensor:
        """Output norm or final convolution."""
        return self._output(x)

    def graphs(self, *, training: bool) -> list[Graph]:
        """The graphs that predicting (or training) runs, in order."""
        segments = [*self._segments, self._output]
        graphs = [self._stem, *(one.forward_graph for one in segments)]
        if training:
            graphs += [graph for one in segments[1:] for graph in (one.save_graph, one.vjp_graph) if graph]
        return graphs


def open_backbones(bundle: Bundle, sessions: SessionFactory) -> dict[str, OnnxBackbone]:
    """Every backbone of a bundle by modality; files are loaded when first run."""
    return {entry.modality: OnnxBackbone(bundle, entry, sessions) for entry in bundle.manifest.backbones}


def output_shape(spec: FeatureSpec, x: Tensor) -> tuple[int, ...]:
    """Shape of features of ``spec`` that come from ``x``: same batch, and for tokens the same token count."""
    if spec.kind == "map":
        assert spec.height is not None
        assert spec.width is not None
        return (x.shape[0], spec.dim, spec.height, spec.width)
    return (x.shape[0], spec.tokens or x.shape[1], spec.dim)


def _training_graph(bundle: Bundle, entry: FileEntry | None, sessions: SessionFactory) -> Graph | None:
    return None if entry is None else sessions.graph(bundle.file(entry), frugal=True)
