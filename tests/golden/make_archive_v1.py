"""Makes what every later release must open: a signed pack, its fp16 and int8 versions, an archive and a delta.

In ``tests/golden``: ``pack_v1_signed``, ``pack_v1_fp16``, ``pack_v1_int8``, ``archive_v1.mmclpack`` (the signed pack),
``delta_v1.mmclpack`` and ``delta_v1_int4.mmclpack`` (a child of it, in int8 and in int4, against it) and
``key_v1.pub.json`` (of the key that signed).

Run ``python -m tests.golden.make_archive_v1 --update`` to make them again; see ``make_pack_v1`` for when.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import shutil
import tempfile
from pathlib import Path

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from mmcl_edge.fileio import atomic_folder, pretty_json
from mmcl_edge.packs import PackContents, read_pack, write_pack
from mmcl_edge.packs.archive import write_archive
from mmcl_edge.packs.keys import PublicKey
from mmcl_edge.packs.precision import Reduction, write_reduced
from mmcl_edge.packs.signing import sign_pack
from tests.golden.make_pack_v1_confidence import calibrated_contents

HERE = Path(__file__).parent
SIGNED, FP16, INT8 = (HERE / f"pack_v1_{name}" for name in ("signed", "fp16", "int8"))
ARCHIVE, DELTA, DELTA_INT4 = (HERE / f"{name}.mmclpack" for name in ("archive_v1", "delta_v1", "delta_v1_int4"))
DELTAS: dict[Path, Reduction] = {DELTA: "int8", DELTA_INT4: "int4"}
KEY = HERE / "key_v1.pub.json"


def golden_signer() -> CryptoSigner:
    """A key that everybody can make, and so nobody may trust."""
    seed = hashlib.sha256(b"mmcl-edge golden key v1").digest()
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(seed))


def signed_contents() -> PackContents:
    """A calibrated pack with weights that int8 and fp16 change."""
    weights = torch.arange(96, dtype=torch.float32).reshape(4, 24) / 7 - 5
    contents = calibrated_contents()
    return dataclasses.replace(contents, tensors={**contents.tensors, "fusion.weight": weights})


def child_contents(parent: Path) -> PackContents:
    """A child of the pack in ``parent`` that differs in one tensor and has one more."""
    pack, contents = read_pack(parent), signed_contents()
    tensors = {**contents.tensors, "fusion.weight": contents.tensors["fusion.weight"].roll(1, dims=1)}
    tensors["blocks.0.experts.e1.audio.down"] = torch.arange(64, dtype=torch.float32).reshape(2, 32) / 64
    return dataclasses.replace(contents, tensors=tensors, parents=(pack.as_parent(),), version=8)


def make(folder: Path) -> dict[Path, Path]:
    """Make everything below ``folder``; returns what belongs where."""
    signed = folder / write_pack(folder, signed_contents())
    sign_pack(signed, golden_signer())
    pack = read_pack(signed)
    made = {SIGNED: signed, ARCHIVE: folder / "archive", KEY: folder / "key"}
    made |= {FP16: folder / write_reduced(pack, "fp16", folder), INT8: folder / write_reduced(pack, "int8", folder)}
    child = read_pack(folder / write_pack(folder, child_contents(signed)))
    write_archive(signed, folder / "archive")
    for target, precision in DELTAS.items():
        made[target] = folder / target.name
        write_archive(folder / write_reduced(child, precision, folder, keep_to=pack), made[target], parent=signed)
    key = golden_signer().public_key
    public = PublicKey(name="golden", keyid=key.keyid, public=key.keyval["public"], made="2026-11-22T00:00:00Z")
    (folder / "key").write_bytes(pretty_json(public.model_dump(mode="json")))
    return made


def main() -> None:
    """Replace the golden files, if ``--update`` says so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", required=True)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for target, source in make(Path(scratch)).items():
            if source.is_file():
                target.write_bytes(source.read_bytes())
                continue
            with atomic_folder(target, replace=True) as staging:
                for file in source.iterdir():
                    shutil.copyfile(file, staging / file.name)


if __name__ == "__main__":
    main()
