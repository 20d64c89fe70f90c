"""Writing packs: a folder appears whole under its digest, or not at all."""

from __future__ import annotations

from pathlib import Path

from mmcl_edge.bundle import FileEntry
from mmcl_edge.errors import PackError
from mmcl_edge.fileio import atomic_folder, canonical_json, pretty_json, sha256_bytes
from mmcl_edge.packs.card import model_card
from mmcl_edge.packs.contents import PackContents
from mmcl_edge.packs.manifest import CARD_NAME, CONFIG_NAME, EVAL_NAME, MANIFEST_NAME, TENSORS_NAME, validation_sentence
from mmcl_edge.packs.reader import holds_pack, read_pack
from mmcl_edge.packs.tensors import serialise


def write_pack(folder: Path, contents: PackContents) -> str:
    """Write a pack as ``folder/<digest>``, whole or not at all, and return its digest.

    Nothing is written that ``read_pack`` would refuse. Equal contents give equal bytes: writing them again
    changes nothing, or repairs a damaged folder of that digest.

    Raises:
        PackError: the contents break a rule (a value that is not finite, labels that clash, ...).
        StorageError: no space, read-only, no permission.
    """
    files = _files(contents)
    digest = sha256_bytes(files[MANIFEST_NAME])
    target = folder / digest
    if not holds_pack(target, digest):
        with atomic_folder(target, replace=True) as staging:
            for name, data in files.items():
                (staging / name).write_bytes(data)
            read_pack(staging, expected_digest=digest)
    return digest


def _files(contents: PackContents) -> dict[str, bytes]:
    config = {"method": contents.config.model_dump(mode="json"), "module": dict(contents.module)}
    try:
        files = {
            TENSORS_NAME: serialise(contents.tensors),
            CONFIG_NAME: pretty_json(config),
            EVAL_NAME: pretty_json(dict(contents.evaluation)),
            CARD_NAME: model_card(contents).encode("utf-8"),
        }
        entries = (
            FileEntry(path=name, sha256=sha256_bytes(data), size_bytes=len(data))
            for name, data in sorted(files.items())
        )
        manifest = contents.manifest(tuple(entries))
    except (TypeError, ValueError) as error:
        raise PackError(
            f"A pack of these contents would be invalid: {validation_sentence(error)}; correct them."
        ) from error
    return {**files, MANIFEST_NAME: canonical_json(manifest.model_dump(mode="json"))}
