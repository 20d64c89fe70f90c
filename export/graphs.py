"""Exports one backbone, graph by graph, and checks each graph as soon as it is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, fx, nn

from mmcl_edge.bundle import BackboneEntry, FileEntry, Parity, SegmentEntry
from mmcl_edge.export.examples import BATCH_SIZES, TRACE_BATCH, TRACE_DURATION_S, parity_inputs, raw_input
from mmcl_edge.export.onnx_graph import write_onnx
from mmcl_edge.export.parity import Checker, Session
from mmcl_edge.export.source import SourceBackbone, traceable
from mmcl_edge.export.vjp import DynamicAxes, only_outputs, trace_joint


class BackboneExporter:
    """Writes the files of ``source`` into ``folder`` and builds its manifest entry.

    The features of a tracing input and of the parity inputs travel through the network beside the export,
    so that every segment is checked on what it really sees, and on noise of the same scale.
    """

    def __init__(self, source: SourceBackbone, folder: Path, vjp: Literal["recompute", "save"]) -> None:
        self.source, self.folder, self.vjp = source, folder, vjp
        self.generator = torch.Generator().manual_seed(0)

    def export(self, blocks: int, step: Callable[[str], None]) -> BackboneEntry:
        """Export stem, ``blocks`` segments and output.

        Raises:
            ExportError: a graph disagrees with torch.
        """
        source, modality = self.source, self.source.modality
        step(f"{modality}: stem")
        stem, parity, front_end, trace, checks = self._stem()
        segments = []
        for index, (names, module) in enumerate(source.segments(blocks)):
            step(f"{modality}: block {index + 1} of {blocks} ({', '.join(names)})")
            entry, trace, checks = self._segment(f"segment_{index:02d}", names, module, trace, checks)
            segments.append(entry)
        step(f"{modality}: output")
        output, _, _ = self._segment("output", ("output",), source.output, trace, checks)
        return BackboneEntry(
            modality=modality,
            name=source.name,
            input=source.input,
            stem=stem,
            stem_parity=parity,
            front_end_parity=front_end,
            segments=tuple(segments),
            output=output,
            pool=source.pool,
            origin=source.origin,
        )

    def _stem(self) -> tuple[FileEntry, Parity, float | None, Tensor, list[Tensor]]:
        source, what = self.source, f"{self.source.modality} stem"
        raw = raw_input(source.input, batch=TRACE_BATCH, duration_s=TRACE_DURATION_S, generator=self.generator)
        axes: DynamicAxes = {0: "batch", 1: "tokens"} if source.token_axis_is_dynamic else {0: "batch"}
        stride = getattr(source.input, "token_stride", None)
        entry = write_onnx(
            traceable(source.stem),
            (raw,),
            folder=self.folder,
            path=f"{source.modality}/stem.onnx",
            input_names=("x",),
            output_names=("y",),
            axes=(axes,),
            axis_steps={"tokens": stride} if stride else None,
        )
        inputs = parity_inputs(source.input, self.generator)
        session, check = Session(self.folder / entry.path), Checker(what)
        features = [source.stem(x) for x in inputs]
        for x, y in zip(inputs, features, strict=True):
            check.compare(session(x), [y])
        parity = Parity(forward=check.worst, batch_sizes=BATCH_SIZES)
        return entry, parity, self._front_end(inputs), source.stem(raw), features

    def _front_end(self, inputs: list[Tensor]) -> float | None:
        if self.source.front_end is None:
            return None
        check = Checker(f"{self.source.modality} front end")
        for x in inputs:
            check.compare([self.source.front_end(x)], [self.source.front_end.reference(x)])
        return check.worst

    def _segment(
        self, stem: str, names: tuple[str, ...], module: nn.Module, trace: Tensor, checks: list[Tensor]
    ) -> tuple[SegmentEntry, Tensor, list[Tensor]]:
        """Export one segment; returns its entry and what the segment makes of both kinds of features."""
        path = f"{self.source.modality}/{stem}"
        files, vjp = self._write(path, traceable(module), trace)
        outputs, parity = self._check(files, module, vjp, checks)
        result = module(trace)
        entry = SegmentEntry(
            layers=names,
            input=self.source.feature_spec(trace),
            output=self.source.feature_spec(result),
            forward=files["forward"],
            vjp=files["vjp"],
            parity=parity,
        )
        return entry, result, outputs

    def _write(self, path: str, module: nn.Module, x: Tensor) -> tuple[dict[str, FileEntry], fx.GraphModule]:
        axes: DynamicAxes = {0: "batch", 1: "tokens"} if self.source.token_axis_is_dynamic else {0: "batch"}
        joint = trace_joint(module, x, axes)
        with torch.no_grad():
            g = torch.zeros_like(module(x))
        forward = write_onnx(
            module,
            (x,),
            folder=self.folder,
            path=f"{path}.onnx",
            input_names=("x",),
            output_names=("y",),
            axes=(axes,),
        )
        graph = only_outputs(joint, [1])
        vjp = write_onnx(
            graph,
            (x, g),
            folder=self.folder,
            path=f"{path}.vjp.onnx",
            input_names=("x", "g"),
            output_names=("gx",),
            axes=(axes, axes),
        )
        return {"forward": forward, "vjp": vjp}, graph

    def _check(
        self, files: dict[str, FileEntry], module: nn.Module, graph: fx.GraphModule, checks: list[Tensor]
    ) -> tuple[list[Tensor], Parity]:
        forward = Session(self.folder / files["forward"].path)
        vjp = Session(self.folder / files["vjp"].path, with_conditions=True)
        name = files["forward"].path
        forward_check, vjp_check = Checker(f"forward graph {name}"), Checker(f"VJP graph {files['vjp'].path}")
        for x in (*checks, *(self._noise_like(x) for x in checks)):
            y, g, gx = torch_vjp(module, x, self.generator)
            forward_check.compare(forward(x), [y])
            vjp_check.compare_vjp(vjp, graph, (x, g), gx)
        parity = Parity(forward=forward_check.worst, vjp=vjp_check.worst, batch_sizes=BATCH_SIZES)
        return [module(x) for x in checks], parity

    def _noise_like(self, x: Tensor) -> Tensor:
        return x.mean() + x.std() * torch.randn(x.shape, generator=self.generator)


def torch_vjp(module: nn.Module, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """``y = module(x)``, a random ``g`` of its shape, and ``gx = g^T dy/dx`` from autograd."""
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        y = module(x)
    g = torch.randn(y.shape, generator=generator)
    (gx,) = torch.autograd.grad(y, x, g)
    return y.detach(), g, gx
