"""Scalar products of many packs, added up over chunks of coordinates: all that SLERP, the median and Krum need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmcl_edge.fleet.merge.arithmetic import Floats
from mmcl_edge.fleet.merge.plan import Piece, Plan
from mmcl_edge.fleet.merge.reading import Source, opened
from mmcl_edge.fleet.merge.streaming import read_piece
from mmcl_edge.packs.tensors import DTYPES

CHUNK_BYTES = 64 << 20
"""Memory of one chunk: values of all packs, in float64."""
LEAST_CHUNK = 1 << 10
KEPT_BYTES = 128 << 20
"""Scalar products that are kept, for whoever asks again."""


class Products:
    """Scalar products of the holders of each group, formed when first asked for.

    Args:
        plan: says where coordinates lie.
        sources: the packs, in the plan's order.
    """

    def __init__(self, plan: Plan, sources: Sequence[Source]) -> None:
        self.plan, self.sources = plan, sources
        self._known: dict[int, Floats] = {}

    def __call__(self, group: int) -> Floats:
        """``(m, m)`` float64 for the m holders of group number ``group``.

        Raises:
            PackError: a file changed since it was verified.
        """
        known = self._known.get(group)
        if known is None:
            known = self._form(group)
            if known.nbytes + sum(other.nbytes for other in self._known.values()) > KEPT_BYTES:
                self._known.clear()
            self._known[group] = known
        return known

    def _form(self, number: int) -> Floats:
        group = self.plan.groups[number]
        found = np.zeros((len(group.holders), len(group.holders)))
        step = max(LEAST_CHUNK, CHUNK_BYTES // (8 * len(group.holders)))
        for low in range(0, group.size, step):
            high = min(low + step, group.size)
            rows = np.empty((len(group.holders), high - low))
            for row, holder in zip(rows, group.holders, strict=True):
                self._read(holder, number, low, row)
            found += rows @ rows.T
        return found

    def _read(self, holder: int, number: int, low: int, row: Floats) -> None:
        """Values ``low`` and following of the group, as the holder has them, into ``row``."""
        high, at = low + row.size, 0
        with opened(self.sources[holder]) as handle:
            for piece in self.plan.pieces[holder]:
                if piece.group != number:
                    continue
                begin, end = max(at, low), min(at + piece.length, high)
                if begin < end:
                    row[begin - low : end - low] = read_piece(
                        self.sources[holder], handle, _cut(piece, begin - at, end - begin)
                    )
                at += piece.length


def _cut(piece: Piece, start: int, count: int) -> Piece:
    width = DTYPES[piece.dtype].itemsize
    return piece._replace(begin=piece.begin + start * width, length=count)
