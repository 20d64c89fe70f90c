"""Exports one backbone, graph by graph, and checks each graph as soon as it is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mmcl_edge.bundle import BackboneEntry, FileEntry, Parity, SegmentEntry
from mmcl_edge.export.examples import BATCH_SIZES, TRACE_BATCH, TRACE_DURATION_S, length_axis, parity_inputs, raw_input
from mmcl_edge.export.onnx_graph import explained, write_onnx
from mmcl_edge.export.parity import Checker, Session
from mmcl_edge.export.segment import SegmentCheck, SegmentWriter, VjpMode
from mmcl_edge.export.source import SourceBackbone, traceable
from mmcl_edge.export.vjp import DynamicAxes
from mmcl_edge.export.weights import WeightsFile


class BackboneExporter:
    """Writes the files of ``source`` into ``folder`` and builds its manifest entry.

    The features of a tracing input and of the parity inputs travel through the network beside the export,
    so that every segment is checked on what it really sees, and on noise of the same scale.
    """

    def __init__(self, source: SourceBackbone, folder: Path, vjp: VjpMode) -> None:
        self.source, self.folder = source, folder
        self.axes: DynamicAxes = {0: "batch", 1: "tokens"} if source.token_axis_is_dynamic else {0: "batch"}
        self.weights = WeightsFile(folder, source.modality)
        self.writer = SegmentWriter(folder, self.axes, vjp, self.weights)
        self.generator = torch.Generator().manual_seed(0)
        for path, data in source.files.items():
            (folder / path).write_bytes(data)

    @torch.no_grad()
    def export(self, blocks: int, step: Callable[[str], None]) -> BackboneEntry:
        """Export stem, ``blocks`` segments and output.

        Raises:
            ExportError: a graph disagrees with torch.
        """
        source, modality = self.source, self.source.modality
        step(f"{modality}: stem")
        stem, parity, front_end, travel = self._stem()
        segments = []
        for index, (names, module) in enumerate(source.segments(blocks)):
            step(f"{modality}: block {index + 1} of {blocks} ({', '.join(names)})")
            entry, travel = self._segment(f"segment_{index:02d}", names, module, travel)
            segments.append(entry)
        step(f"{modality}: output")
        output, _ = self._segment("output", ("output",), source.output, travel)
        return BackboneEntry(
            modality=modality,
            name=source.name,
            input=source.input,
            stem=stem,
            stem_parity=parity,
            front_end_parity=front_end,
            segments=tuple(segments),
            output=output,
            weights=self.weights.entry(),
            pool=source.pool,
            origin=source.origin,
        )

    def _stem(self) -> tuple[FileEntry, Parity, float | None, list[Tensor]]:
        source = self.source
        trace = raw_input(source.input, batch=TRACE_BATCH, duration_s=TRACE_DURATION_S, generator=self.generator)
        entry = self._write_stem(trace)
        inputs = parity_inputs(source.input, self.generator)
        session, check = Session(self.folder / entry.path), Checker(f"stem {entry.path}")
        features = [source.stem(x) for x in inputs]
        for x, y in zip(inputs, features, strict=True):
            check.compare(session(x), [y])
        parity = Parity(forward=check.bound, batch_sizes=BATCH_SIZES)
        return entry, parity, self._front_end(inputs), [source.stem(trace), *features]

    def _write_stem(self, trace: Tensor) -> FileEntry:
        path = f"{self.source.modality}/stem.onnx"
        with explained(path):
            return write_onnx(
                traceable(self.source.stem),
                (trace,),
                folder=self.folder,
                path=path,
                weights=self.weights,
                input_names=("x",),
                output_names=("y",),
                axes=({0: "batch", **length_axis(self.source.input)},),
            )

    def _front_end(self, inputs: list[Tensor]) -> float | None:
        if self.source.front_end is None:
            return None
        check = Checker(f"{self.source.modality} front end")
        for x in inputs:
            check.compare([self.source.front_end(x)], [self.source.front_end.reference(x)])
        return check.bound

    def _segment(
        self, stem: str, names: tuple[str, ...], module: nn.Module, travel: list[Tensor]
    ) -> tuple[SegmentEntry, list[Tensor]]:
        """Export and check one segment; returns its entry and what it makes of every travelling feature."""
        trace, *checks = travel
        graphs = self.writer.write(f"{self.source.modality}/{stem}", module, trace)
        check = SegmentCheck(self.folder, module, graphs, self.generator)
        for x in (*checks, *(self._noise_like(x) for x in checks)):
            check.feed(x)
        outputs = [module(x) for x in travel]
        entry = SegmentEntry(
            layers=names,
            input=self.source.feature_spec(trace),
            output=self.source.feature_spec(outputs[0]),
            forward=graphs.forward,
            vjp=graphs.vjp,
            save=graphs.save,
            saved=tuple(f"s{i}" for i in range(len(graphs.saved))),
            parity=check.parity,
        )
        return entry, outputs

    def _noise_like(self, x: Tensor) -> Tensor:
        return x.mean() + x.std() * torch.randn(x.shape, generator=self.generator)
