"""An int8 bundle on disk: the float bundle's files with other forward graphs."""

from __future__ import annotations

import shutil
from pathlib import Path

from mmcl_edge.bundle import MANIFEST_NAME, Bundle, BundleManifest, FileEntry, RangesRecord
from mmcl_edge.calibration.graphs import Overlay, forward_graphs, with_files
from mmcl_edge.export.parity import rounded_up
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
    files = {ref.path: ref.file for ref in forward_graphs(bundle.manifest)}
    with atomic_folder(out) as folder:
        for path in _paths(bundle):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(overlay.file(files[path]) if path in files else bundle.path / path, target)
        new = {path: FileEntry.of(folder, path) for path in overlay.paths}
        errors = {one.graph: rounded_up(10 ** (-one.snr_db / 20)) for one in record.graphs if one.snr_db is not None}
        backbones = with_files(bundle.manifest, new, errors)
        update = {"backbones": backbones, "quantized_from": bundle.digest, "ranges": record}
        if "predict" in BundleManifest.model_fields:
            update["predict"] = ()
        manifest = bundle.manifest.model_copy(update=update)
        write_atomic(folder / MANIFEST_NAME, pretty_json(manifest.model_dump(mode="json")))
    return Bundle.open(out)


def _paths(bundle: Bundle) -> list[str]:
    """The files of all backbones; graphs made of float segments are left out."""
    return list(dict.fromkeys(file.path for entry in bundle.manifest.backbones for file in entry.files()))
