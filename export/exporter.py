"""Writes a bundle: backbones cut into blocks, each graph exported, checked against torch, recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from mmcl_edge.bundle import MANIFEST_NAME, Bundle, BundleManifest
from mmcl_edge.errors import StorageError
from mmcl_edge.export.graphs import BackboneExporter
from mmcl_edge.export.onnx_graph import OPSET
from mmcl_edge.export.plan import block_count
from mmcl_edge.export.predict_graph import write_predict_graphs
from mmcl_edge.export.source import SourceBackbone
from mmcl_edge.export.sources import load_sources
from mmcl_edge.fileio import atomic_folder, pretty_json, write_atomic

logger = logging.getLogger(__name__)
Progress = Callable[[str, int, int], None]
VjpMode = Literal["recompute", "save"]
_RECORDED_VERSIONS = ("mmcl-edge", "torch", "onnx", "onnxscript", "onnxruntime", "timm", "torchaudio")


def export_bundle(
    out: Path,
    *,
    audio: str = "default",
    frames: str = "default",
    motion: str = "none",
    text: str = "none",
    blocks: int | None = None,
    vjp: VjpMode = "recompute",
    untrained: bool = False,
    progress: Progress | None = None,
    force: bool = False,
) -> Bundle:
    """Export a sound and a picture backbone, and if wanted one of motion and one of text, into the folder ``out``.

    Args:
        out: the bundle's folder; it appears whole or not at all.
        audio: ``default``, ``none``, a timm name, ``hf_hub:ID``, ``local-dir:PATH`` or ``NAME@CHECKPOINT``.
        frames: likewise.
        motion: ``none``, ``rocket`` (random kernels; ``rocket:SCALE`` for readings in another unit than g and deg/s).
        text: ``none`` or ``minilm``.
        blocks: B; the depth of the shallowest backbone if ``None``.
        vjp: whether the VJP computes the forward pass again or takes saved activations.
        untrained: use random weights where a name stands alone, and say so in the manifest.
        progress: called with what is done next, how many steps are done, and how many there are.
        force: replace a folder that exists.

    Returns:
        The new bundle, opened and verified.

    Raises:
        ExportError: a backbone cannot be had or cut, or a graph disagrees with torch.
        MissingExtraError: a package for the backbone is missing.
        StorageError: ``out`` exists (without ``force``) or cannot be written.
    """
    _refuse_taken_folder(out, force=force)
    if progress is not None:
        progress("loading backbones", 0, 1)
    sources = load_sources(audio=audio, frames=frames, motion=motion, text=text, untrained=untrained)
    return export_sources(out, sources, blocks=blocks, vjp=vjp, progress=progress, force=force)


def export_sources(
    out: Path,
    sources: tuple[SourceBackbone, ...],
    *,
    blocks: int | None = None,
    vjp: VjpMode = "recompute",
    progress: Progress | None = None,
    force: bool = False,
) -> Bundle:
    """Export backbones that are loaded already (``export_bundle`` says what the arguments mean)."""
    _refuse_taken_folder(out, force=force)
    count = block_count((source.depth for source in sources), blocks)
    steps = _Steps(progress, total=len(sources) * (count + 2) + 1)
    with atomic_folder(out, replace=force) as folder:
        entries = tuple(BackboneExporter(source, folder, vjp).export(count, steps) for source in sources)
        steps("predict graphs")
        predict = write_predict_graphs(folder, entries)
        manifest = BundleManifest(
            blocks=count,
            vjp_mode=vjp,
            opset=OPSET,
            versions={name: version(name) for name in _RECORDED_VERSIONS},
            backbones=entries,
            predict=predict,
        )
        write_atomic(folder / MANIFEST_NAME, pretty_json(manifest.model_dump(mode="json")))
    return Bundle.open(out)


def _refuse_taken_folder(out: Path, *, force: bool) -> None:
    """Before minutes of work. ``force`` replaces bundles and empty folders, never somebody's other files."""
    if out.exists() and not force:
        raise StorageError(f"{out} exists already; choose another folder, or replace the bundle with --force.")
    if out.exists() and not (out / MANIFEST_NAME).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise StorageError(
            f"--force replaces a bundle, but {out} holds other files and no {MANIFEST_NAME}; choose another folder."
        )


class _Steps:
    """Counts steps and tells the caller."""

    def __init__(self, progress: Progress | None, *, total: int) -> None:
        self.progress, self.done, self.total = progress, 0, total

    def __call__(self, what: str) -> None:
        logger.info("%s (%d of %d)", what, self.done + 1, self.total)
        if self.progress is not None:
            self.progress(what, self.done, self.total)
        self.done += 1
