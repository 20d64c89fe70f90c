"""Makes ``tests/golden/pack_v1``, which every later release must load.

Run ``python -m tests.golden.make_pack_v1 --update`` to make it again, which is right only before the first release
of a schema: afterwards devices hold packs like it, and the golden stays as it is.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import torch

from mmcl_edge.config import MethodConfig
from mmcl_edge.fileio import atomic_folder
from mmcl_edge.packs import Expert, PackContents, Parent, write_pack

FOLDER = Path(__file__).parent / "pack_v1"


def golden_contents() -> PackContents:
    """A pack that uses every field and every accepted dtype of schema 1."""
    dtypes = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
    return PackContents(
        tensors={
            "blocks.0.experts.e0.audio.down": torch.tensor([[0.5, -1.0], [2.0, 0.25]]),
            "head.empty": torch.zeros(0, 2),
            "head.scale": torch.tensor(16.0),
            **{f"dtypes.{name}": torch.tensor([0, 1], dtype=getattr(torch, name)) for name in dtypes},
        },
        config=MethodConfig(),
        bundle_digest="0123456789abcdef" * 4,
        labels=("dog", "cät", "ドア"),
        experts=(Expert(id="e0", block=0, frozen=True, owner="pets"), Expert(id="e1", block=0)),
        parents=(Parent(digest="fedcba9876543210" * 4, weight=0.5, method="mean"),),
        version=7,
        sample_counts={"dog": 3, "cät": 4},
        experiences=("pets", "doors"),
        privacy={"share_exemplars": False, "noise": 0.0, "clip": 1, "note": "none", "epsilon": None},
        module={"joint_dim": 256},
        evaluation={"accuracy": 0.5, "forgetting": [0.0, 0.125]},
    )


def update(target: Path, contents: PackContents) -> None:
    """Write a golden pack, if ``--update`` says so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", required=True)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        digest = write_pack(Path(folder), contents)
        with atomic_folder(target, replace=True) as staging:
            for name in os.listdir(Path(folder) / digest):
                (staging / name).write_bytes((Path(folder) / digest / name).read_bytes())
    print(digest)  # noqa: T201


if __name__ == "__main__":
    update(FOLDER, golden_contents())
