"""What founding, publishing and renewing cost in a fleet with many archives: seconds, objects written, bytes fetched.

    python benchmarks/bench_fleet_publish.py --archives 1000

The store is a folder; packs have random weights of 64 by 64.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from securesystemslib.signer import CryptoSigner

from mmcl_edge.config import MethodConfig
from mmcl_edge.fleet.layout import Settings, metadata_path
from mmcl_edge.fleet.repository import Repository, utc_now
from mmcl_edge.fleet.roles import Ceremony, first_root
from mmcl_edge.fleet.signers import HeldSigners, sign
from mmcl_edge.fleet.status import status
from mmcl_edge.fleet.store import Store, Version
from mmcl_edge.fleet.store_backends import open_backend
from mmcl_edge.fleet.upkeep import refresh
from mmcl_edge.packs import PackContents, write_pack


class CountingStore(Store):
    """Counts what is written."""

    writes = 0

    def put(self, path: str, data: bytes | Path) -> None:
        """Write, and count."""
        self.writes += 1
        super().put(path, data)

    def create(self, path: str, data: bytes) -> bool:
        """Write where nothing is, and count."""
        self.writes += 1
        return super().create(path, data)

    def replace(self, path: str, data: bytes, seen: Version) -> bool:
        """Write over what was read, and count."""
        self.writes += 1
        return super().replace(path, data, seen)


def make_pack(folder: Path, number: int, version: int = 1) -> Path:
    generator = torch.Generator().manual_seed(number)
    tensors = {"head.weight": torch.randn(64, 64, generator=generator)}
    contents = PackContents(tensors=tensors, config=MethodConfig(), bundle_digest="a" * 64, version=version)
    return folder / write_pack(folder, contents)


def found(store: Store, bins: int) -> Repository:
    keys = [CryptoSigner.generate_ed25519() for _ in range(3)]
    root, release, online = ((key.public_key,) for key in keys)
    settings, signers = Settings(bins=bins), HeldSigners(keys)
    metadata = first_root(Ceremony(root, 1, release, online), utc_now(), settings.lifetimes)
    sign(metadata, root, signers)
    return Repository.create(store, signers, metadata, settings=settings)


def measured(store: CountingStore, call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    before, start = store.writes, time.perf_counter()
    result = call()
    return result, {"seconds": round(time.perf_counter() - start, 3), "objects_written": store.writes - before}


def run(archives: int, bins: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        store = CountingStore(open_backend(str(place / "store"), create=True))
        fleet, founding = measured(store, lambda: found(store, bins))
        folders = [make_pack(place, number) for number in range(archives)]
        _, many = measured(store, lambda: fleet.publish_many(folders))
        first, later = make_pack(place, 0, 2), make_pack(place, 0, 3)
        _, one = measured(store, lambda: fleet.publish(first, "stable"))
        _, second = measured(store, lambda: fleet.publish(later, "stable"))
        _, shown = measured(store, lambda: status(fleet))
        _, renewed = measured(store, lambda: refresh(fleet))
        _, everything = measured(store, lambda: refresh(fleet, everything=True))
        view = fleet.view()
        return {
            "archives": archives,
            "bins": bins,
            "found": founding,
            "publish_many": many,
            "publish": one,
            "publish_again": second,
            "status": shown,
            "refresh": renewed,
            "refresh_all": everything,
            "snapshot_bytes": len(store.get(metadata_path("snapshot", view.snapshot_version), 1 << 24)),
            "largest_bin_bytes": max(len(view.role(bin_name).to_bytes()) for bin_name in view.bins()),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archives", type=int, default=1000)
    parser.add_argument("--bins", type=int, default=256)
    arguments = parser.parse_args()
    print(json.dumps(run(arguments.archives, arguments.bins), indent=2))


if __name__ == "__main__":
    main()
