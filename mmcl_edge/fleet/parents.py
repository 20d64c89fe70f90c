"""Parents of deltas that an admin has not at hand: fetched from the fleet's own archives, each once."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

from mmcl_edge.fleet.layout import archive_target
from mmcl_edge.fleet.view import View
from mmcl_edge.packs.archive import open_archive


class FleetParents:
    """Packs that were released, brought to ``folder`` when they are asked for; several threads may ask.

    Args:
        view: of the fleet, verified.
        folder: for the packs, by digest.
    """

    def __init__(self, view: View, folder: Path) -> None:
        self._view, self._folder = view, folder
        self._lock = Lock()

    def __call__(self, digest: str) -> Path | None:
        """Folder of the pack ``digest``; ``None`` where the fleet never released it.

        Raises:
            TrustError: its archive is not what was signed.
            PackError: its archive is broken.
            StoreError: the store cannot be read.
        """
        with self._lock:
            if not (self._folder / digest).is_dir():
                info = self._view.archive(archive_target(digest))
                if info is None:
                    return None
                file = self._folder / f"{digest}.archive"
                file.write_bytes(self._view.fetch(info.path, info))
                open_archive(file, self._folder, expected_digest=digest)
                file.unlink()
            return self._folder / digest
