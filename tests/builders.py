"""Small bundles and packs for tests, and forged ones: changed, then given digests that fit again."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mmcl_edge.bundle import (
    BackboneEntry,
    Bundle,
    BundleManifest,
    FileEntry,
    FramesInput,
    Parity,
    SegmentEntry,
    WeightsOrigin,
)
from mmcl_edge.config import MethodConfig
from mmcl_edge.errors import StorageError
from mmcl_edge.fileio import canonical_json, sha256_bytes
from mmcl_edge.packs import Expert, PackContents
from mmcl_edge.types import FeatureSpec, PoolSpec

OTHER_BUNDLE = "b" * 64


def pack_contents(**changes: Any) -> PackContents:
    """Contents of a tiny valid pack; ``value`` changes one number in it."""
    value = changes.pop("value", 0.0)
    fields: dict[str, Any] = {
        "tensors": {
            "blocks.0.experts.e0.audio.down": torch.arange(6, dtype=torch.float32).reshape(2, 3) + value,
            "head.weight": torch.ones(2, 2, dtype=torch.bfloat16),
            "head.seen": torch.tensor([True, False]),
        },
        "config": MethodConfig(),
        "bundle_digest": "a" * 64,
        "labels": ("dog", "cät"),
        "experts": (Expert(id="e0", block=0, frozen=True, owner="pets"),),
        "sample_counts": {"dog": 3, "cät": 4},
        "experiences": ("pets",),
        "evaluation": {"accuracy": 0.5},
    }
    return PackContents(**{**fields, **changes})


def write_bundle(folder: Path, seed: int = 0, *, blocks: int = 1) -> Bundle:
    """A bundle whose graphs are placeholders: good for everything that does not run it."""
    (folder / "frames").mkdir(parents=True)
    names = ("stem", *(f"segment_{index:02}" for index in range(blocks)), "output")
    for name in names:
        (folder / "frames" / f"{name}.onnx").write_bytes(f"{name} {seed}".encode() * 50)
    entries = {name: FileEntry.of(folder, f"frames/{name}.onnx") for name in names}
    spec, parity = FeatureSpec(kind="map", dim=2, height=2, width=2), Parity(forward=0.0, batch_sizes=(1,))
    segments = {
        name: SegmentEntry(layers=(name,), input=spec, output=spec, forward=entry, parity=parity)
        for name, entry in entries.items()
    }
    backbone = BackboneEntry(
        modality="frames",
        name="placeholder",
        input=FramesInput(height=8, width=8),
        stem=entries["stem"],
        stem_parity=parity,
        segments=tuple(segments[name] for name in names[1:-1]),
        output=segments["output"],
        pool=PoolSpec(),
        origin=WeightsOrigin(source="none", licence="none", trained=True),
    )
    manifest = BundleManifest(blocks=blocks, opset=20, versions={}, backbones=(backbone,))
    (folder / "bundle.json").write_bytes(canonical_json(manifest.model_dump(mode="json")))
    return Bundle.open(folder)


def int8_version(folder: Path, bundle: Bundle, *, seed: int = 0) -> Bundle:
    """A bundle of the family of ``bundle``, as ``quantized_from`` makes one; only its stem differs."""
    shutil.copytree(bundle.path, folder)
    (folder / "frames" / "stem.onnx").write_bytes(f"int8 {seed}".encode())
    backbone = bundle.manifest.backbones[0].model_copy(update={"stem": FileEntry.of(folder, "frames/stem.onnx")})
    manifest = bundle.manifest.model_copy(update={"backbones": (backbone,), "quantized_from": bundle.digest})
    (folder / "bundle.json").write_bytes(canonical_json(manifest.model_dump(mode="json")))
    return Bundle.open(folder)


def forge_manifest(pack: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change ``pack.json`` as an attacker would: the result is canonical again."""
    manifest = json.loads((pack / "pack.json").read_bytes())
    change(manifest)
    (pack / "pack.json").write_bytes(canonical_json(manifest))


def forge_file(pack: Path, name: str, data: bytes) -> None:
    """Replace a file and make the manifest's digest and size fit it."""
    (pack / name).write_bytes(data)
    entry = {"path": name, "sha256": sha256_bytes(data), "size_bytes": len(data)}

    def change(manifest: dict[str, Any]) -> None:
        manifest["files"] = [entry if file["path"] == name else file for file in manifest["files"]]

    forge_manifest(pack, change)


def snapshot(root: Path) -> dict[str, str]:
    """Every path below ``root`` with its kind and content, for 'nothing changed' assertions (lock files left out)."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if name.startswith(".lock"):
            continue
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        else:
            found[name] = "folder" if path.is_dir() else sha256_bytes(path.read_bytes())
    return found


class _Fault:
    """Lets ``calls - 1`` calls that write pass, and refuses the next as a full disk would."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*args, **kwargs)

        return guarded


_WRITING = (
    (os, "fsync"),
    (os, "replace"),
    (os, "symlink"),
    (tempfile, "mkdtemp"),
    (Path, "write_bytes"),
    (shutil, "copyfile"),
)


def on_full_disk(action: Callable[[], object]) -> Iterator[StorageError | None]:
    """Run ``action`` with the disk full at its first write, its second, ... until it needs no more writes.

    Yields what each run was refused with, for assertions on the state it left; ``None`` after the last.
    """
    for calls in itertools.count(1):
        fault, refused = _Fault(calls), None
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in _WRITING:
                patch.setattr(owner, name, fault(getattr(owner, name)))
            try:
                action()
            except StorageError as error:
                refused = error
        yield refused
        if fault.left > 0:
            return
