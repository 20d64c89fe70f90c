"""A local index of embeddings: what lies where on this device, findable by any modality.

Rules:
1. Everything in an index was embedded in one shared space (``Origin``); with another in use, it is refused.
2. A vector is finite and not zero, and kept at unit length: a score is a cosine.
3. An item is a file as one modality; putting it again takes the place of the earlier one.
4. A search is exact, or, where a modality has so many items that a graph is kept, exact among the graph's candidates.
5. Equal scores come in the order in which items were put.

Example::

    index = VectorIndex(origin, dim=256)
    index.put([Entry("cat.jpg", "image")], vectors)
    best = index.search(query, k=3, modality="image")[0]
    print(best.source, best.score)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from heapq import nsmallest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcl_edge.errors import InputError
from mmcl_edge.runtime.index_graph import APPROXIMATE_FROM, Graph
from mmcl_edge.runtime.index_items import Entry, Hit, Origin
from mmcl_edge.runtime.index_shelf import Shelf, Vectors
from mmcl_edge.runtime.index_sources import led

MIN_LENGTH = 1e-6
"""A shorter vector has no direction."""


class VectorIndex:
    """An index in memory; ``mmcl_edge.runtime.index_files`` reads and writes it (the rules stand above)."""

    def __init__(self, origin: Origin, dim: int = 0) -> None:
        """An empty index.

        Args:
            origin: what embeds its items.
            dim: their width; 0 takes that of the first vectors put.
        """
        self.origin = origin
        self.dim = dim
        self._entries: dict[int, Entry] = {}
        self._id: dict[tuple[str, str], int] = {}
        self._shelves: dict[str, Shelf] = {}
        self._graphs: dict[str, Graph] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every item, by modality and source."""
        return tuple(sorted(self._entries.values(), key=lambda entry: entry.key))

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that have items, sorted."""
        return tuple(sorted(name for name, shelf in self._shelves.items() if len(shelf)))

    def get(self, modality: str, source: str) -> Entry | None:
        """The item of that key, or ``None``."""
        found = self._id.get((modality, source))
        return None if found is None else self._entries[found]

    def vector(self, modality: str, source: str) -> Vectors:
        """``(D,)`` of an item that is there."""
        found: Vectors = self._shelves[modality].vectors([self._id[modality, source]])[0]
        return found

    def put(self, entries: Sequence[Entry], vectors: NDArray[Any]) -> None:
        """Add items, or replace those of the same key.

        Args:
            entries: no two of one key.
            vectors: ``(len(entries), D)``, of any length but zero.

        Raises:
            InputError: shapes do not fit, a vector is not finite or is zero, or a key comes twice; nothing is put.
        """
        unit = self._unit(vectors, [entry.source for entry in entries])
        self.dim = unit.shape[1]
        if len({entry.key for entry in entries}) != len(entries):
            raise InputError("Expected each item once, but one comes twice; put the later one alone.")
        for entry in entries:
            if entry.key in self._id:
                self._take(entry.key)
        by_modality: dict[str, list[tuple[int, int]]] = {}
        for number, entry in enumerate(entries):
            self._entries[self._next], self._id[entry.key] = entry, self._next
            by_modality.setdefault(entry.modality, []).append((self._next, number))
            self._next += 1
        for modality, members in by_modality.items():
            shelf = self._shelves.setdefault(modality, Shelf(self.dim))
            shelf.put([one for one, _ in members], unit[[number for _, number in members]])

    def touch(self, entry: Entry) -> None:
        """Replace what is known of an item's file, and keep its vector."""
        self._entries[self._id[entry.key]] = entry

    def lead(self, prefix: str) -> None:
        """Name every item from a root that lies ``prefix`` above (``.``: the same root); vectors stay."""
        self._entries = {one: replace(entry, source=led(prefix, entry.source)) for one, entry in self._entries.items()}
        self._id = {entry.key: one for one, entry in self._entries.items()}

    def remove(self, keys: Iterable[tuple[str, str]]) -> int:
        """Take items away by (modality, source); those that are not there are passed over. Returns how many went."""
        found = dict.fromkeys(key for key in keys if key in self._id)
        for key in found:
            self._take(key)
        return len(found)

    def search(
        self,
        query: NDArray[Any],
        k: int = 10,
        *,
        modality: str | None = None,
        accept: Callable[[Entry], bool] | None = None,
    ) -> list[Hit]:
        """The items nearest to ``query``, best first.

        Args:
            query: ``(D,)``.
            k: how many, at most.
            modality: of the items; ``None`` takes all.
            accept: which items count; looks everywhere, without a graph.

        Raises:
            InputError: the query is of another width, not finite or zero, or ``k`` is below 1.
        """
        if k < 1:
            raise InputError(f"Expected to look for 1 item or more, but k is {k}; ask for at least one.")
        if not len(self):
            return []
        unit = self._unit(np.asarray(query)[None], ["the query"])[0]
        found: list[tuple[float, int]] = []
        for name in self.modalities if modality is None else (modality,):
            shelf = self._shelves.get(name)
            if shelf is None or not len(shelf):
                continue
            if accept is None:
                found += shelf.nearest(unit, k, self._fresh_graph(name))
            else:
                every = shelf.nearest(unit, len(shelf))
                found += [one for one in every if accept(self._entries[one[1]])][:k]
        best = nsmallest(k, found, key=lambda one: (-one[0], one[1]))
        return [Hit(self._entries[one].source, self._entries[one].modality, score) for score, one in best]

    def build_graphs(self, *, from_count: int = APPROXIMATE_FROM) -> tuple[str, ...]:
        """Bring the graphs of large modalities up to date, and drop the others; returns which have one."""
        built = {}
        for name in self.modalities:
            if len(self._shelves[name]) >= from_count:
                graph = Graph.of(self._shelves[name], self._graphs.get(name))
                if graph is not None:
                    built[name] = graph
        self._graphs = built
        return tuple(built)

    @property
    def graphs(self) -> dict[str, Graph]:
        """Graphs that are up to date, by modality."""
        return {name: graph for name in self._graphs if (graph := self._fresh_graph(name)) is not None}

    def take_graph(self, modality: str, data: bytes) -> bool:
        """Use a saved graph of a modality; False where it does not fit the items, or the library is not there."""
        shelf = self._shelves.get(modality)
        graph = None if shelf is None else Graph.load(data, shelf)
        if graph is None:
            return False
        self._graphs[modality] = graph
        return True

    def rows(self, modality: str) -> tuple[tuple[Entry, ...], NDArray[np.int64], Vectors]:
        """Items of a modality by source, their ids ``(n,)`` and vectors ``(n, D)``."""
        ids = sorted(
            (self._id[entry.key] for entry in self._entries.values() if entry.modality == modality), key=self._source
        )
        vectors = self._shelves[modality].vectors(ids)
        return tuple(self._entries[one] for one in ids), np.array(ids, np.int64), vectors

    def restore(self, entries: Sequence[Entry], ids: Sequence[int], vectors: Vectors) -> None:
        """Put items of one modality back under the ids they had (``index_files``); their vectors are unit vectors."""
        for entry, one in zip(entries, ids, strict=True):
            self._entries[one], self._id[entry.key] = entry, one
        if entries:
            self._shelves.setdefault(entries[0].modality, Shelf(self.dim)).put(list(ids), vectors)
            self._next = max(self._next, max(ids) + 1)

    def _source(self, one: int) -> str:
        return self._entries[one].source

    def _take(self, key: tuple[str, str]) -> None:
        one = self._id.pop(key)
        del self._entries[one]
        self._shelves[key[0]].remove(one)

    def _fresh_graph(self, modality: str) -> Graph | None:
        """The graph of a modality, if it holds exactly the modality's items."""
        graph, shelf = self._graphs.get(modality), self._shelves[modality]
        return graph if graph is not None and graph.version == shelf.version else None

    def _unit(self, vectors: NDArray[Any], names: Sequence[str]) -> Vectors:
        values = np.asarray(vectors, np.float32)
        dim = self.dim or (values.shape[1] if values.ndim == 2 else 0)
        if not dim or values.shape != (len(names), dim):
            raise InputError(
                f"Expected embeddings of shape ({len(names)}, {dim or 'width'}), but found {values.shape}; "
                "embed with the pack that made the index."
            )
        length = np.linalg.norm(values.astype(np.float64), axis=1)
        for name, one in zip(names, length, strict=True):
            if not np.isfinite(one) or one < MIN_LENGTH:
                raise InputError(
                    f"{name}: expected an embedding with a direction, but its length is {one}; leave it out."
                )
        unit: Vectors = (values / length[:, None]).astype(np.float32)
        return unit
