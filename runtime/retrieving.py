"""Finding files of an index by a query of any modality: what ``Runtime.retrieve`` does.

Rules, in this order:
1. A ``str`` is words, a ``Path`` a file, taken as what its kind says unless ``read_as`` says otherwise.
2. The index was made in the shared space in use; it is read once, and again when its file changes.
3. The query is embedded, and the nearest items are given, best first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from mmcl_edge.data.crossmodal import carrier_of, says_something
from mmcl_edge.data.pair_folder import decode_file
from mmcl_edge.errors import InputError, VectorIndexError
from mmcl_edge.runtime.index import VectorIndex
from mmcl_edge.runtime.index_build import Embedder
from mmcl_edge.runtime.index_files import INDEX_NAME, read_document, read_index, root_of
from mmcl_edge.runtime.index_items import Hit, Origin
from mmcl_edge.runtime.index_sources import fits, modality_of
from mmcl_edge.types import TEXT, Sample

Stamp = tuple[int, int, int]


class Space(Embedder, Protocol):
    """What embeds queries, and tells what an unnamed sample can only be."""

    def modality_of(self, sample: Sample) -> str:
        """The one modality that ``sample`` can be taken as."""
        ...


@dataclass(frozen=True, slots=True)
class OpenIndex:
    """An index in memory, and what it was read from.

    Attributes:
        folder: of the index.
        origin: what embeds queries.
        stamp: of its document when it was read.
        index: the items.
        root: where their sources start.
    """

    folder: Path
    origin: Origin
    stamp: Stamp
    index: VectorIndex
    root: Path

    @classmethod
    def read(cls, folder: Path, origin: Origin, known: OpenIndex | None) -> OpenIndex:
        """The index in ``folder``; ``known`` again, if it is the same.

        Where ``mmcl-edge index build`` writes it anew meanwhile, so that its files are gone, it is read again.

        Raises:
            VectorIndexError: there is none, it is broken, or another space made it.
        """
        while True:
            stamp = _stamp(folder)
            if known is not None and (known.folder, known.origin, known.stamp) == (folder, origin, stamp):
                return known
            try:
                document = read_document(folder)
                index = read_index(folder, origin, document=document)
            except VectorIndexError:
                if _stamp(folder) == stamp:
                    raise
            else:
                return cls(folder, origin, stamp, index, root_of(folder, document))


def _stamp(folder: Path) -> Stamp:
    try:
        status = (folder / INDEX_NAME).stat()
    except OSError:
        return (0, 0, 0)
    return status.st_ino, status.st_size, status.st_mtime_ns


def read_query(query: str | Path, read_as: str | None) -> tuple[Sample, str]:
    """Words or a file as a sample, and its modality (rule 1).

    Raises:
        InputError: the words are empty, or the file is not there or of another kind.
        MediaError: the file is corrupt.
    """
    if isinstance(query, Path):
        if not query.is_file():
            raise InputError(f"Expected a file at {query}, but there is none; check the path.")
        modality = read_as or modality_of(query)
        if modality is None or not fits(query, modality):
            raise InputError(
                f"Expected a file of {read_as or 'text, image, video or sound'} to search with, but {query} is not "
                "one; name another, or say what it is (read_as, --as)."
            )
        return decode_file(query, modality), modality
    if read_as not in (None, TEXT):
        raise InputError(f"Expected {read_as} to search with, but found words; pass a file or a sample.")
    if not says_something(query):
        raise InputError("Expected a file or words to search with, but the query is empty; say what to look for.")
    return Sample(None, None, source="the query", text=query.strip()), TEXT


def retrieve(
    space: Space,
    found: OpenIndex,
    query: str | Path | Sample,
    k: int,
    *,
    modality: str | None,
    read_as: str | None,
) -> list[Hit]:
    """The items nearest to ``query``, best first, each with its path: see ``Runtime.retrieve``."""
    if modality is not None:
        carrier_of(modality)
    if isinstance(query, Sample):
        sample, asked_as = query, read_as or space.modality_of(query)
    else:
        sample, asked_as = read_query(query, read_as)
    hits = found.index.search(space.embed([sample], asked_as)[0], k, modality=modality)
    return [replace(hit, path=str(found.root / hit.source)) for hit in hits]
