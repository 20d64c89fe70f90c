"""Links of a workspace: each names one folder by its digest and is moved by rename."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mmcl_edge.errors import IntegrityError
from mmcl_edge.fileio import point_link, storage_errors

DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class DigestLink:
    """The link ``root/name`` to ``root/folder/<digest>``.

    Attributes:
        root: the workspace's folder.
        name: of the link.
        folder: where its targets lie.
        error: what a damaged link raises.
        repair: the command that repairs a damaged link.
    """

    root: Path
    name: str
    folder: str
    error: type[IntegrityError]
    repair: str

    @property
    def path(self) -> Path:
        """The link itself."""
        return self.root / self.name

    def digest(self) -> str | None:
        """The digest that the link names; ``None`` without a link.

        Raises:
            IntegrityError: (as ``error``) it is no link, points elsewhere, or to nothing.
        """
        if not self.path.is_symlink() and not self.path.exists():
            return None
        digest = self.digest_or_none()
        if digest is None:
            raise self.error(
                f"{self.path} should be a link to a folder in {self.folder}/, but is damaged; repair it: {self.repair}."
            )
        return digest

    def digest_or_none(self) -> str | None:
        """The digest that the link names; ``None`` without a link and with a damaged one."""
        text = os.readlink(self.path) if self.path.is_symlink() else ""
        folder, _, digest = text.rpartition("/")
        whole = folder == self.folder and DIGEST.fullmatch(digest) and (self.root / text).is_dir()
        return digest if whole else None

    def target(self) -> Path | None:
        """The folder that the link names; ``None`` without a link.

        Raises:
            IntegrityError: (as ``error``) the link is damaged.
        """
        digest = self.digest()
        return None if digest is None else self.root / self.folder / digest

    def point(self, digest: str) -> None:
        """Make the link name ``digest``, by rename."""
        point_link(self.path, f"{self.folder}/{digest}")

    def remove(self) -> None:
        """Remove the link, if it is there."""
        with storage_errors(self.path), suppress(FileNotFoundError):
            self.path.unlink()
