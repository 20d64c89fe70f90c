"""An int8 bundle on disk: the float bundle's files with other forward graphs.

Where the float bundle keeps large arrays in one file for each backbone, the int8 arrays are added to that file: what
the float graphs refer to stays where it was, so gradients keep their bytes. Predict graphs are composed anew.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx

from mmcl_edge.bundle import MANIFEST_NAME, BackboneEntry, Bundle, BundleManifest, FileEntry, RangesRecord
from mmcl_edge.calibration.graphs import Overlay, forward_graphs, with_files
from mmcl_edge.export.onnx_graph import write_model
from mmcl_edge.export.parity import rounded_up
from mmcl_edge.export.predict_graph import write_predict_graphs
from mmcl_edge.export.weights import WeightsFile
from mmcl_edge.fileio import atomic_folder, pretty_json, write_atomic


def write_int8_bundle(bundle: Bundle, overlay: Overlay, record: RangesRecord, out: Path) -> Bundle:
    """Write the int8 version of ``bundle``; the folder appears whole or not at all.

    Args:
        bundle: the float bundle.
        overlay: the same with its int8 graphs laid over it.
        record: what the manifest says about them.
        out: the new folder.

    Raises:
        StorageError: ``out`` exists, or the system refuses to write.
    """
    errors = {one.graph: rounded_up(10 ** (-one.snr_db / 20)) for one in record.graphs if one.snr_db is not None}
    with atomic_folder(out) as folder:
        _copy(bundle, overlay, folder)
        backbones = tuple(_moved_weights(folder, entry, overlay) for entry in bundle.manifest.backbones)
        new = {path: FileEntry.of(folder, path) for path in overlay.paths}
        manifest = bundle.manifest.model_copy(
            update={
                "backbones": with_files(backbones, new, errors),
                "predict": (),
                "quantized_from": bundle.digest,
                "ranges": record,
            }
        )
        manifest = _with_predict_graphs(folder, manifest, bundle)
        write_atomic(folder / MANIFEST_NAME, pretty_json(manifest.model_dump(mode="json")))
    return Bundle.open(out)


def _copy(bundle: Bundle, overlay: Overlay, folder: Path) -> None:
    """All files of the backbones, the int8 graphs in place of the float ones."""
    files = {ref.path: ref.file for ref in forward_graphs(bundle.manifest)}
    for path in dict.fromkeys(file.path for entry in bundle.manifest.backbones for file in entry.files()):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(overlay.file(files[path]) if path in files else bundle.path / path, target)


def _moved_weights(folder: Path, entry: BackboneEntry, overlay: Overlay) -> BackboneEntry:
    """Move the arrays of a backbone's int8 graphs to its weights file, if it has one."""
    if entry.weights is None:
        return entry
    weights = WeightsFile(folder, entry.modality, grow=True)
    for path in sorted(path for path in overlay.paths if path in {file.path for file in entry.files()}):
        model = onnx.load(folder / path)
        weights.take(model)
        write_model(model, folder=folder, path=path)
    return entry.model_copy(update={"weights": weights.entry()})


def _with_predict_graphs(folder: Path, manifest: BundleManifest, bundle: Bundle) -> BundleManifest:
    methods = [(one.adapter, one.head) for one in bundle.manifest.predict]
    distinct = [method for i, method in enumerate(methods) if method not in methods[:i]]
    predict = write_predict_graphs(folder, manifest.backbones, distinct)
    return manifest.model_copy(update={"predict": predict})
