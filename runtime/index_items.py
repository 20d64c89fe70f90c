"""What an index holds and answers: items, where they came from, hits."""

from __future__ import annotations

from dataclasses import dataclass

from mmcl_edge.errors import VectorIndexError


@dataclass(frozen=True, slots=True)
class Origin:
    """What embedded the items of an index.

    Attributes:
        space: digest of the shared space: packs that differ in their classes alone have the same.
        stages: how many it had learned.
        bundle: the bundle's family.
    """

    space: str
    stages: int
    bundle: str

    def check(self, in_use: Origin, where: str) -> None:
        """Rule 1.

        Raises:
            VectorIndexError: another bundle, a newer space, or another one is in use.
        """
        again = "run 'mmcl-edge index build' on the same files to embed them anew"
        if self.bundle != in_use.bundle:
            raise VectorIndexError(
                f"{where} was made with the bundle {self.bundle[:16]}, but {in_use.bundle[:16]} is in use; {again}."
            )
        if self.space == in_use.space:
            return
        if self.stages < in_use.stages:
            raise VectorIndexError(
                f"{where} is older than the pack in use: its shared space had learned {self.stages} stages "
                f"({self.space[:16]}), that of the pack {in_use.stages} ({in_use.space[:16]}); {again}."
            )
        raise VectorIndexError(
            f"{where} was made with the shared space {self.space[:16]} ({self.stages} stages), but {in_use.space[:16]} "
            f"({in_use.stages} stages) is in use; {again}, or go back with 'mmcl-edge pack use'."
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """One item: a file, as one modality.

    Attributes:
        source: its path relative to the index's root, with ``/`` between the parts.
        modality: what it is there as; a sound file may be a sound and speech.
        size_bytes: of the file when it was embedded.
        mtime_ns: its time of change then.
        sha256: of its content then.
    """

    source: str
    modality: str
    size_bytes: int = 0
    mtime_ns: int = 0
    sha256: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What no two items of an index share."""
        return self.modality, self.source


@dataclass(frozen=True, slots=True)
class Hit:
    """An answer of a search.

    Attributes:
        source: as in the index.
        modality: of the item.
        score: the cosine: 1 for the same direction, 0 for no relation.
        path: of the file, where the search was in an index on disk.
    """

    source: str
    modality: str
    score: float
    path: str = ""
