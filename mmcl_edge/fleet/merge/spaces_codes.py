r"""Codebooks of several devices as one, by usage-weighted matching.

Rules, performed in this order; books come in the order of their packs' digests:

1. Each book counts by its usage: counts of codes, no book's total above ``MOST_TIMES`` the middle total, times its
   weight. No code is longer than any vector that it could tell.
2. A *cluster* begins with every code of the base, if there is one. Each book in turn is matched to the clusters one to
   one, pairs of greatest cosine first, none below ``cosine``; codes without a partner begin clusters of their own.
3. A cluster's code is the usage-weighted mean of its codes, its count their sum. What was inherited of the base, the
   least count that base and devices have, counts once. Where all codes are equal they keep their bits.
4. More clusters than ``cap``: the least used join their nearest, those of the base last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mmcl_edge.fleet.merge.spaces_held import bounded

LEAST_USE = 1e-5
"""Of a code that nobody used."""


@dataclass(frozen=True, slots=True)
class Book:
    """``codes (L, D)`` and how often each was used, ``counts (L,)``."""

    codes: Tensor
    counts: Tensor


@dataclass(frozen=True, slots=True)
class MergedBook:
    """The result.

    Attributes:
        book: its codes and counts.
        where: of each book, the row of the result that each of its codes became, ``(L_i,)`` int64.
        matched: codes that several books, or a book and the base, have.
        joined: clusters that joined others for want of room.
    """

    book: Book
    where: tuple[Tensor, ...]
    matched: int
    joined: int


def merge_books(
    books: Sequence[Book], weights: Sequence[float], *, base: Book | None, cosine: float, cap: int, length: float
) -> MergedBook:
    """Merge codebooks (the rules stand in the module docstring).

    Args:
        books: of the devices.
        weights: of each; 1 is usual.
        base: of the space that all went on from.
        cosine: least of two codes that are one.
        cap: most codes.
        length: no vector is longer.
    """
    totals = [float(one.counts.double().sum()) for one in books]
    factors = [limit / max(total, LEAST_USE) for limit, total in zip(bounded(totals), totals, strict=True)]
    sized = [_sized(one, f * weight, length) for one, f, weight in zip(books, factors, weights, strict=True)]
    start = Book(books[0].codes[:0], books[0].counts[:0]) if base is None else _sized(base, 1.0, length)
    leaders, where = _matched(sized, start.codes, cosine)
    merged, hits = _means(sized, where, leaders, start)
    alive = (hits > 0).nonzero()[:, 0]  # a code of the base that nobody has any more is gone
    row = torch.full((len(leaders),), -1)
    row[alive] = torch.arange(len(alive))
    room, into = _within(Book(merged.codes[alive], merged.counts[alive]), cap, int((alive < len(start.codes)).sum()))
    return MergedBook(room, tuple(into[row[one]] for one in where), int((hits > 1).sum()), len(alive) - len(room.codes))


def _sized(book: Book, factor: float, length: float) -> Book:
    """Rule 1: counts in float64."""
    own = book.codes.norm(dim=1, keepdim=True)
    codes = torch.where(own > length, book.codes * (length / own.clamp_min(LEAST_USE)), book.codes)
    return Book(codes, (factor * book.counts.double()).clamp_min(LEAST_USE))


def _matched(books: Sequence[Book], start: Tensor, cosine: float) -> tuple[Tensor, list[Tensor]]:
    """Rule 2: the first code of every cluster ``(K, D)``, and the cluster of each book's codes."""
    leaders, where = start, list[Tensor]()
    for one in books:
        at = pairs_of(one.codes, leaders, cosine)
        new = (at < 0).nonzero()[:, 0]
        at[new] = len(leaders) + torch.arange(len(new))
        leaders = torch.cat([leaders, one.codes[new]])
        where.append(at)
    return leaders, where


def pairs_of(codes: Tensor, leaders: Tensor, cosine: float) -> Tensor:
    """The row of ``leaders (K, D)`` that each of ``codes (L, D)`` is paired with, one to one; -1 without: ``(L,)``.

    Greedy: the pair of greatest cosine first, of equal ones that of the lower rows.
    """
    found = torch.full((len(codes),), -1)
    near = functional.normalize(codes.double(), dim=1) @ functional.normalize(leaders.double(), dim=1).T
    rows, columns = (near > cosine).nonzero(as_tuple=True)
    order = near[rows, columns].argsort(descending=True, stable=True)
    taken: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if found[row] < 0 and column not in taken:
            found[row] = column
            taken.add(column)
    return found


def _means(books: Sequence[Book], where: Sequence[Tensor], leaders: Tensor, start: Book) -> tuple[Book, Tensor]:
    """Rule 3; also how many books, and the base, have each cluster: 0 where the base alone does."""
    size = len(leaders)
    inherited = torch.cat([start.counts.double(), torch.zeros(size - len(start.counts), dtype=torch.float64)])
    based = torch.arange(size) < len(start.counts)
    for one, at in zip(books, where, strict=True):
        inherited[at] = torch.where(based[at], torch.minimum(inherited[at], one.counts), inherited[at])
    counts, sums = inherited.clone(), inherited[:, None] * leaders.double()
    same, hits = torch.ones(size, dtype=torch.bool), torch.zeros(size, dtype=torch.int64)
    for one, at in zip(books, where, strict=True):
        counts[at] += one.counts - inherited[at]
        sums[at] += one.counts[:, None] * one.codes.double() - inherited[at, None] * leaders[at].double()
        same[at] &= (one.codes == leaders[at]).all(dim=1)
        hits[at] += 1
    codes = (sums / counts.clamp_min(LEAST_USE)[:, None]).float()
    return Book(torch.where(same[:, None], leaders, codes), counts), torch.where(hits > 0, hits + based, 0)


def _within(book: Book, cap: int, based: int) -> tuple[Book, Tensor]:
    """Rule 4: at most ``cap`` codes, the first ``based`` being the base's; and where each code went, ``(K,)``."""
    size = len(book.codes)
    over = max(0, size - max(cap, 1))
    first = torch.where(torch.arange(size) < based, 1.0, 0.0).double() * (book.counts.max() + 1) + book.counts
    order = first.argsort(stable=True)
    leaving, kept = order[:over], order[over:].sort().values
    into = torch.zeros(size, dtype=torch.int64)
    into[kept] = torch.arange(len(kept))
    unit = functional.normalize(book.codes.double(), dim=1)
    into[leaving] = (unit[leaving] @ unit[kept].T).argmax(dim=1) if over else into[leaving]
    counts, sums = book.counts[kept], book.counts[kept, None] * book.codes[kept].double()
    counts = counts.index_add(0, into[leaving], book.counts[leaving])
    sums.index_add_(0, into[leaving], book.counts[leaving, None] * book.codes[leaving].double())
    grown = torch.zeros(len(kept), dtype=torch.bool)
    grown[into[leaving]] = True
    codes = torch.where(grown[:, None], (sums / counts[:, None]).float(), book.codes[kept])
    return Book(codes, counts), into
