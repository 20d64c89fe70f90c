"""One segment: its forward, its VJP and, if activations are saved, the forward that saves them; written and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, fx, nn

from mmcl_edge.bundle import FileEntry, Parity
from mmcl_edge.export.onnx_graph import explained, write_onnx
from mmcl_edge.export.parity import Checker, Session
from mmcl_edge.export.partition import Split, split
from mmcl_edge.export.simplify import simplified
from mmcl_edge.export.source import traceable
from mmcl_edge.export.vjp import DynamicAxes, only_outputs, trace_joint
from mmcl_edge.export.weights import WeightsFile

VjpMode = Literal["recompute", "save"]


@dataclass(frozen=True, eq=False)
class SegmentGraphs:
    """The files of one segment, and the traced graphs they are checked against.

    Attributes:
        forward: ``x -> y``.
        vjp: ``x, g -> gx``, or ``s0..sn, g -> gx``.
        save: ``x -> y, s0..sn``, or ``None``.
        saved: names of the saved activations in the traced graph.
        reference: ``x, g -> gx`` in torch, just as traced.
        split: the two halves in torch, if activations are saved.
    """

    forward: FileEntry
    vjp: FileEntry
    save: FileEntry | None
    saved: tuple[str, ...]
    reference: fx.GraphModule
    split: Split | None


class SegmentWriter:
    """Writes segments into ``folder``.

    Args:
        folder: the bundle being filled.
        axes: dynamic axes of features.
        vjp: whether VJPs compute the forward pass again or take saved activations.
    """

    def __init__(self, folder: Path, axes: DynamicAxes, vjp: VjpMode, weights: WeightsFile) -> None:
        self.folder, self.axes, self.vjp, self.weights = folder, axes, vjp, weights

    def write(self, path: str, module: nn.Module, x: Tensor) -> SegmentGraphs:
        """Export ``module`` as ``path.onnx`` and its companions; ``x`` is an example of its input.

        Raises:
            ExportError: it holds an operation that has no exported form.
        """
        with explained(path):
            return self._write(path, traceable(module), x)

    def _write(self, path: str, module: nn.Module, x: Tensor) -> SegmentGraphs:
        with torch.no_grad():
            g = torch.zeros_like(module(x))
        forward = self._file(module, [x], f"{path}.onnx", ["x"], ["y"])
        joint = trace_joint(module, x, self.axes)
        reference, compact = only_outputs(joint, [1]), simplified(joint)
        if self.vjp == "recompute":
            vjp = self._file(only_outputs(compact, [1]), [x, g], f"{path}.vjp.onnx", ["x", "g"], ["gx"])
            return SegmentGraphs(forward, vjp, None, (), reference, None)
        halves = split(compact, x, g, self.axes)
        save, vjp = self._halves(path, halves, x, g)
        return SegmentGraphs(forward, vjp, save, halves.saved, reference, halves)

    def _halves(self, path: str, halves: Split, x: Tensor, g: Tensor) -> tuple[FileEntry, FileEntry]:
        names = [f"s{i}" for i in range(len(halves.saved))]
        _, *activations = halves.forward(x)
        save = self._file(halves.forward, [x], f"{path}.save.onnx", ["x"], ["y", *names])
        vjp = self._file(halves.backward, [*activations, g], f"{path}.vjp.onnx", [*names, "g"], ["gx"], halves.axes)
        return save, vjp

    def _file(
        self,
        module: nn.Module,
        inputs: Sequence[Tensor],
        path: str,
        input_names: Sequence[str],
        output_names: Sequence[str],
        axes: Sequence[DynamicAxes] | None = None,
    ) -> FileEntry:
        return write_onnx(
            module,
            inputs,
            folder=self.folder,
            path=path,
            weights=self.weights,
            input_names=input_names,
            output_names=output_names,
            axes=axes if axes is not None else [self.axes] * len(inputs),
        )


class SegmentCheck:
    """Compares a segment's files with torch, input by input.

    Raises:
        ExportError: (from ``feed``) a relative error is too large.
    """

    def __init__(self, folder: Path, module: nn.Module, graphs: SegmentGraphs, generator: torch.Generator) -> None:
        self.module, self.graphs, self.generator = module, graphs, generator
        self.forward = Session(folder / graphs.forward.path)
        self.vjp = Session(folder / graphs.vjp.path, with_conditions=True)
        self.save = None if graphs.save is None else Session(folder / graphs.save.path)
        self.forward_check = Checker(f"forward graph {graphs.forward.path}")
        self.vjp_check = Checker(f"VJP graph {graphs.vjp.path}")
        self.batch_sizes: set[int] = set()

    def feed(self, x: Tensor) -> None:
        """Measure all graphs on one input ``(B, ...)`` and a random ``g``."""
        y, g, gx = torch_vjp(self.module, x, self.generator)
        self.batch_sizes.add(x.shape[0])
        self.forward_check.compare(self.forward(x), [y])
        given = [x] if self.save is None else self._saved(x, y)
        self.vjp_check.compare_vjp(self.vjp, [*given, g], self.graphs.reference, [x, g], gx)

    def _saved(self, x: Tensor, y: Tensor) -> list[Tensor]:
        assert self.save is not None
        assert self.graphs.split is not None
        found = self.save(x)
        self.forward_check.compare(found[:1], [y])
        self.forward_check.compare(found, self.graphs.split.forward(x))
        return found[1:]

    @property
    def parity(self) -> Parity:
        """The largest errors so far."""
        sizes = tuple(sorted(self.batch_sizes))
        return Parity(forward=self.forward_check.bound, vjp=self.vjp_check.bound, batch_sizes=sizes)


def torch_vjp(module: nn.Module, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """``y = module(x)``, a random ``g`` of its shape, and ``gx = g^T dy/dx`` from autograd."""
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        y = module(x)
    g = torch.randn(y.shape, generator=generator)
    (gx,) = torch.autograd.grad(y, x, g)
    return y.detach(), g, gx
