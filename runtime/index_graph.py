"""A graph of neighbours (HNSW) over one modality's vectors, for corpora where looking everywhere takes too long.

It only names candidates: ``Shelf.nearest`` scores them exactly. The library is usearch, in the extra ``index``; without
it every search is exact, and slower. ``docs/guides/index.md`` says how it was chosen and what was measured.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcl_edge.runtime.index_shelf import Shelf, Vectors

APPROXIMATE_FROM = 100_000
"""Vectors of one modality from which a graph is kept; below, an exact search takes some milliseconds."""
CONNECTIVITY, EXPANSION_ADD, EXPANSION_SEARCH = 16, 128, 128
OVERSAMPLE = 4
"""Candidates named for each answer wanted."""


def library() -> ModuleType | None:
    """usearch, or ``None`` where the extra is not installed."""
    try:
        import usearch.index as found
    except ImportError:
        return None
    return found


class Graph:
    """Ids and vectors of a shelf in a graph. Use ``Graph.of`` or ``Graph.load``."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self.version = -1
        """The shelf's version that it holds."""

    @classmethod
    def of(cls, shelf: Shelf, earlier: Graph | None = None) -> Graph | None:
        """The graph of a shelf, from an earlier one of it where there is one; ``None`` without the library.

        An id stands for one vector for ever, so only what came or went since is changed.
        """
        found = library()
        if found is None:
            return None
        graph = earlier or cls(
            found.Index(
                ndim=shelf.dim,
                metric="ip",
                dtype="f32",
                connectivity=CONNECTIVITY,
                expansion_add=EXPANSION_ADD,
                expansion_search=EXPANSION_SEARCH,
            )
        )
        graph._follow(shelf)
        return graph

    @classmethod
    def load(cls, data: bytes, shelf: Shelf) -> Graph | None:
        """A saved graph of a shelf; ``None`` without the library, or where it is of another width or of other ids."""
        found = library()
        if found is None:
            return None
        try:
            index = found.Index.restore(data)
        except (RuntimeError, ValueError, TypeError):
            return None
        if index is None or index.ndim != shelf.dim:
            return None
        graph = cls(index)
        graph.version = shelf.version
        return graph if np.array_equal(np.sort(graph.ids), np.sort(shelf.ids)) else None

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids in it."""
        return np.asarray(self._index.keys, np.uint64).astype(np.int64)

    def __call__(self, query: Vectors, count: int) -> NDArray[np.int64]:
        """See ``Candidates``."""
        matches = self._index.search(query, count * OVERSAMPLE, threads=1)
        return np.asarray(matches.keys, np.uint64).astype(np.int64)

    def save(self) -> bytes:
        """The graph as bytes that ``load`` takes."""
        return bytes(self._index.save())

    def _follow(self, shelf: Shelf) -> None:
        have, want = self.ids, shelf.ids
        gone, come = np.setdiff1d(have, want), np.setdiff1d(want, have)
        if len(gone):
            self._index.remove(gone.astype(np.uint64))
        if len(come):
            self._index.add(come.astype(np.uint64), shelf.vectors(come.tolist()))
        self.version = shelf.version
