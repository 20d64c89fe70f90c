"""The forward graphs of a bundle: listed, recorded, and put back with others in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmcl_edge.bundle import BackboneEntry, Bundle, BundleManifest, FileEntry, SegmentEntry
from mmcl_edge.runtime.segments import OnnxBackbone

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class GraphRef:
    """One graph that predicting runs, ``x -> y``."""

    modality: str
    file: FileEntry

    @property
    def path(self) -> str:
        """In the bundle; the graph's name everywhere."""
        return self.file.path


def forward_graphs(manifest: BundleManifest) -> list[GraphRef]:
    """Stem, segments and output of every backbone, in the order in which they run."""
    return [
        GraphRef(entry.modality, file)
        for entry in manifest.backbones
        for file in (entry.stem, *(one.forward for one in entry.segments), entry.output.forward)
    ]


class RecordingBackbone:
    """A backbone that remembers what each of its graphs was given (implements ``mmcl_edge.types.Backbone``)."""

    def __init__(self, inner: OnnxBackbone, remember: Callable[[str, Tensor], None]) -> None:
        self.inner, self.remember = inner, remember
        self.modality, self.features, self.pool = inner.modality, inner.features, inner.pool
        self.output_features = inner.output_features
        self.entry = inner.entry

    @property
    def depth(self) -> int:
        """Number of segments."""
        return self.inner.depth

    def stem(self, x: Tensor) -> Tensor:
        """Remember and run."""
        self.remember(self.entry.stem.path, x)
        return self.inner.stem(x)

    def segment(self, index: int, x: Tensor) -> Tensor:
        """Remember and run."""
        self.remember(self.entry.segments[index].forward.path, x)
        return self.inner.segment(index, x)

    def output(self, x: Tensor) -> Tensor:
        """Remember and run."""
        self.remember(self.entry.output.forward.path, x)
        return self.inner.output(x)


def record_inputs(
    backbones: Mapping[str, OnnxBackbone], run: Callable[[Mapping[str, Any], Any], object], items: Iterable[Any]
) -> dict[str, list[Array]]:
    """What every graph is given while ``run(backbones, item)`` goes through the items, by the graph's path."""
    seen: dict[str, list[Array]] = {}

    def remember(path: str, x: Tensor) -> None:
        seen.setdefault(path, []).append(x.detach().numpy().copy())

    recorders = {name: RecordingBackbone(one, remember) for name, one in backbones.items()}
    with torch.inference_mode():
        for item in items:
            run(recorders, item)
    return seen


class Overlay(Bundle):
    """A bundle some of whose files are taken from another folder, to try them without writing a bundle."""

    def __init__(self, base: Bundle, folder: Path, paths: Iterable[str]) -> None:
        super().__init__(base.path, base.manifest, digest=base.digest)
        self.folder, self.paths = folder, frozenset(paths)

    def file(self, entry: FileEntry) -> Path:
        """From the folder if it is one of those laid over, else the bundle's own."""
        return self.folder / entry.path if entry.path in self.paths else super().file(entry)


def with_files(
    backbones: Iterable[BackboneEntry], files: Mapping[str, FileEntry], errors: Mapping[str, float]
) -> tuple[BackboneEntry, ...]:
    """Backbones with other forward graphs.

    Args:
        backbones: of the float bundle.
        files: new entry by path; what is not named stays.
        errors: relative error of each new graph against its float graph, for the manifest's parity.
    """

    def segment(one: SegmentEntry) -> SegmentEntry:
        path = one.forward.path
        if path not in files:
            return one
        parity = one.parity.model_copy(update={"forward": errors[path]})
        return one.model_copy(update={"forward": files[path], "parity": parity})

    def backbone(entry: BackboneEntry) -> BackboneEntry:
        update: dict[str, Any] = {
            "segments": tuple(segment(one) for one in entry.segments),
            "output": segment(entry.output),
        }
        if entry.stem.path in files:
            update["stem"] = files[entry.stem.path]
            update["stem_parity"] = entry.stem_parity.model_copy(update={"forward": errors[entry.stem.path]})
        return entry.model_copy(update=update)

    return tuple(backbone(entry) for entry in backbones)


def signal_to_noise_db(clean: Sequence[Array], noisy: Sequence[Array]) -> float:
    """``10 log10(sum y^2 / sum (y - q)^2)`` over all arrays; infinite where they are equal."""
    signal = sum(float(np.square(y, dtype=np.float64).sum()) for y in clean)
    noise = sum(float(np.square(y - q, dtype=np.float64).sum()) for y, q in zip(clean, noisy, strict=True))
    return float("inf") if noise == 0 else 10 * float(np.log10(signal / noise)) if signal else float("-inf")
