"""Vectors of one modality in memory: put, taken away, and searched exactly. numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class Candidates(Protocol):
    """Something that knows where to look, such as a graph."""

    def __call__(self, query: Vectors, count: int) -> NDArray[np.int64]:
        """Ids of about ``count`` vectors near ``query`` ``(D,)``."""
        ...


class Shelf:
    """Unit vectors of width ``dim`` by whole-number ids. Room doubles when it is used up; holes are filled at once."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._matrix: Vectors = np.empty((0, dim), np.float32)
        self._ids: NDArray[np.int64] = np.empty(0, np.int64)
        self._row: dict[int, int] = {}
        self.version = 0
        """Grows with every change."""

    def __len__(self) -> int:
        return len(self._row)

    @property
    def ids(self) -> NDArray[np.int64]:
        """``(n,)`` ids in the order of the rows, which is no order to rely on."""
        return self._ids[: len(self)]

    def vectors(self, ids: Sequence[int]) -> Vectors:
        """``(len(ids), D)``, a copy."""
        return self._matrix[[self._row[one] for one in ids]]

    def put(self, ids: Sequence[int], vectors: Vectors) -> None:
        """Add vectors ``(n, D)`` under ids that are not here yet."""
        self.version += 1
        start, end = len(self), len(self) + len(ids)
        if end > len(self._matrix):
            room = max(64, 2 * len(self._matrix), end)
            self._matrix = np.concatenate([self._matrix[:start], np.empty((room - start, self.dim), np.float32)])
            self._ids = np.concatenate([self._ids[:start], np.empty(room - start, np.int64)])
        self._matrix[start:end], self._ids[start:end] = vectors, ids
        self._row.update(zip(ids, range(start, end), strict=True))

    def remove(self, one: int) -> None:
        """Take a vector away; the last row takes its place."""
        self.version += 1
        row = self._row.pop(one)
        last = len(self._row)
        if row != last:
            moved = int(self._ids[last])
            self._matrix[row], self._ids[row] = self._matrix[last], moved
            self._row[moved] = row

    def nearest(self, query: Vectors, k: int, candidates: Candidates | None = None) -> list[tuple[float, int]]:
        """The ``k`` largest dot products with ``query`` ``(D,)`` and their ids, best first; of equal ones the older id.

        Args:
            query: of unit length.
            k: how many, at most.
            candidates: where to look; what it names is scored exactly. ``None`` looks everywhere.
        """
        if candidates is None:
            rows, scores = None, _scores(self._matrix[: len(self)], query)
        else:
            named = (self._row.get(int(one)) for one in candidates(query, k))
            rows = np.array([row for row in named if row is not None], np.int64)
            scores = _scores(self._matrix[rows], query)
        if len(scores) > k:
            least = np.partition(scores, len(scores) - k)[len(scores) - k]
            chosen = np.flatnonzero(scores >= least)
        else:
            chosen = np.arange(len(scores))
        found = [(float(scores[i]), int(self._ids[i if rows is None else rows[i]])) for i in chosen]
        return sorted(found, key=lambda one: (-one[0], one[1]))[:k]


def _scores(rows: Vectors, query: Vectors) -> Vectors:
    """Dot products of rows ``(n, D)`` with ``query`` ``(D,)``: equal rows get equal scores, wherever they stand.

    One thread, and not BLAS: where other programs keep the cores busy, its threads wait for each other, and 10,000 rows
    took 19 ms in the median that take a quarter of a millisecond so.
    """
    scores: Vectors = np.einsum("nd,d->n", rows, query)
    return scores
