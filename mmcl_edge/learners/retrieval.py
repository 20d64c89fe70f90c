"""Retrieval across modalities: recall, ranks and chance, from two matrices of embeddings and groups of right answers.

``queries`` is ``(N, D)``, ``gallery`` ``(M, D)``; the score of a pair is the dot product of its rows, so unit length
makes it the cosine. A query and an item of the gallery with the same group are each other's right answers: in sets of
captions, every row of the same lower-cased caption. The *rank* of a query counts from 1 and is that of its best right
answer among the wrong ones::

    rank = 1 + |{wrong j : score_j >= max over right i of score_i}|

Ties count against the query, so that equal embeddings get no recall for nothing. A query without a right answer in the
gallery has rank 0: it is left out of every mean, and counted.

Scores are made for a few queries at a time; 10,000 by 10,000 need some tens of megabytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmcl_edge.errors import InputError

KS = (1, 5, 10)
CHUNK = 256
"""Queries whose scores are in memory at once."""

Groups = Sequence[object]
Ranks = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Retrieval:
    """How well queries of one modality find their right answers in another.

    Attributes:
        recall: K to the share of queries with a right answer among the first K.
        median_rank: of the queries' best right answers.
        mrr: mean of one over the rank.
        queries: how many counted.
        gallery: how many items were searched.
        left_out: queries without a right answer in the gallery.
    """

    recall: Mapping[int, float]
    median_rank: float
    mrr: float
    queries: int
    gallery: int
    left_out: int = 0

    def figures(self) -> dict[str, float]:
        """Name to figure: ``R@K``, ``median_rank``, ``mrr``."""
        return {f"R@{k}": share for k, share in self.recall.items()} | {
            "median_rank": self.median_rank,
            "mrr": self.mrr,
        }


@dataclass(frozen=True, slots=True)
class Spread:
    """What random order gives, by repeating it: the mean and the middle 95 % of each figure."""

    mean: Mapping[str, float]
    low: Mapping[str, float]
    high: Mapping[str, float]
    repeats: int


def retrieval(
    queries: ArrayLike,
    gallery: ArrayLike,
    query_groups: Groups,
    gallery_groups: Groups,
    *,
    ks: Sequence[int] = KS,
    chunk: int = CHUNK,
) -> Retrieval:
    """Search the gallery with every query.

    Args:
        queries: ``(N, D)``.
        gallery: ``(M, D)``.
        query_groups: N names of groups, of any hashable kind.
        gallery_groups: M of them.
        ks: which recalls to give.
        chunk: queries whose scores are in memory at once.

    Raises:
        InputError: shapes or counts do not fit, a value is not finite, or no query has a right answer.
    """
    found = ranks(queries, gallery, query_groups, gallery_groups, chunk=chunk)
    return summarised(found, len(gallery_groups), ks=ks)


def both_ways(
    one: ArrayLike, other: ArrayLike, one_groups: Groups, other_groups: Groups, *, ks: Sequence[int] = KS
) -> tuple[Retrieval, Retrieval]:
    """``retrieval`` of ``other`` by ``one``, and of ``one`` by ``other``."""
    forth = retrieval(one, other, one_groups, other_groups, ks=ks)
    return forth, retrieval(other, one, other_groups, one_groups, ks=ks)


def ranks(
    queries: ArrayLike, gallery: ArrayLike, query_groups: Groups, gallery_groups: Groups, *, chunk: int = CHUNK
) -> Ranks:
    """``(N,)`` ranks from 1; 0 for a query without a right answer in the gallery.

    Raises:
        InputError: shapes or counts do not fit, or a value is not finite.
    """
    left, right = _checked(queries, gallery, query_groups, gallery_groups)
    numbers: dict[object, int] = {}
    ours, theirs = _numbered(query_groups, numbers), _numbered(gallery_groups, numbers)
    first: Ranks = _ranks(left, right, ours, theirs[None], chunk)[0]
    return first


def summarised(found: ArrayLike, gallery: int, *, ks: Sequence[int] = KS) -> Retrieval:
    """The figures of ranks.

    Args:
        found: ``(N,)`` ranks from 1, 0 where there is no right answer.
        gallery: how many items were searched.
        ks: which recalls to give.

    Raises:
        InputError: no query has a right answer.
    """
    every = np.asarray(found, np.int64)
    counted = every[every > 0]
    if not len(counted):
        raise InputError(
            f"Expected queries with a right answer in the gallery, but none of {len(every)} has one; "
            "compare rows that share captions."
        )
    recall = {k: float((counted <= k).mean()) for k in ks}
    median, mrr = float(np.median(counted)), float((1.0 / counted).mean())
    return Retrieval(recall, median, mrr, len(counted), gallery, len(every) - len(counted))


def chance(query_groups: Groups, gallery_groups: Groups, *, ks: Sequence[int] = KS) -> Retrieval:
    """What a gallery in random order gives on average, by formula.

    With r right answers among M items, the first of them is at rank k with probability
    ``p_1 = r / M, p_{k+1} = p_k (M - k - r + 1) / (M - k)``, and is among the first K with
    ``1 - C(M - r, K) / C(M, K)``. The median rank is the first at which half of the queries are expected to be done.

    Raises:
        InputError: no query has a right answer.
    """
    size, right = len(gallery_groups), Counter(gallery_groups)
    rights = Counter(right[group] for group in query_groups)
    left_out = rights.pop(0, 0)
    queries = sum(rights.values())
    if not queries:
        return summarised(np.zeros(left_out), size, ks=ks)
    at = sum((count / queries * _first_right(size, r) for r, count in rights.items()), np.zeros(size))
    within = at.cumsum()
    recall = {k: float(within[min(k, size) - 1]) for k in ks}
    median = float(np.searchsorted(within, 0.5 - 1e-12) + 1)
    return Retrieval(recall, median, float((at / np.arange(1, size + 1)).sum()), queries, size, left_out)


def permuted(
    queries: ArrayLike,
    gallery: ArrayLike,
    query_groups: Groups,
    gallery_groups: Groups,
    *,
    rng: np.random.Generator,
    repeats: int = 200,
    ks: Sequence[int] = KS,
    chunk: int = CHUNK,
) -> Spread:
    """Chance by permutation: the same scores, with the gallery's groups dealt anew each time.

    Unlike ``chance`` it keeps what the embeddings do whatever the answer is (items that everything finds, ties), and
    shows how far luck goes: a figure above ``high`` is above chance with 97.5 % confidence.

    Raises:
        InputError: as ``retrieval``, or fewer than 20 repeats.
    """
    if repeats < 20:
        raise InputError(f"Expected 20 repeats or more to tell the middle 95 %, but found {repeats}; 200 is usual.")
    left, right = _checked(queries, gallery, query_groups, gallery_groups)
    numbers: dict[object, int] = {}
    ours, theirs = _numbered(query_groups, numbers), _numbered(gallery_groups, numbers)
    dealt = np.stack([rng.permutation(theirs) for _ in range(repeats)])
    found = [summarised(one, len(theirs), ks=ks).figures() for one in _ranks(left, right, ours, dealt, chunk)]
    values = {name: np.array([one[name] for one in found]) for name in found[0]}
    return Spread(
        {name: float(value.mean()) for name, value in values.items()},
        {name: float(np.quantile(value, 0.025)) for name, value in values.items()},
        {name: float(np.quantile(value, 0.975)) for name, value in values.items()},
        repeats,
    )


def _first_right(size: int, right: int) -> NDArray[np.float64]:
    """``(size,)`` probability that the first of ``right`` among ``size`` items in random order is at each rank."""
    rank = np.arange(1, size)
    steps = np.maximum(size - rank - right + 1, 0) / (size - rank)
    return right / size * np.concatenate([[1.0], np.cumprod(steps)])


def _checked(
    queries: ArrayLike, gallery: ArrayLike, query_groups: Groups, gallery_groups: Groups
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    left, right = np.asarray(queries, np.float32), np.asarray(gallery, np.float32)
    for name, values, groups in (("queries", left, query_groups), ("gallery", right, gallery_groups)):
        if values.ndim != 2 or not len(values) or len(values) != len(groups):
            raise InputError(
                f"Expected {name} of shape (rows, width) with a group for each row, but found {values.shape} and "
                f"{len(groups)} groups; give one group a row."
            )
        if not np.isfinite(values).all():
            raise InputError(f"Expected finite embeddings, but the {name} hold others; see what made them.")
    if left.shape[1] != right.shape[1]:
        raise InputError(
            f"Expected embeddings of one width, but found {left.shape[1]} and {right.shape[1]}; use one shared space."
        )
    return left, right


def _numbered(groups: Groups, numbers: dict[object, int]) -> NDArray[np.int64]:
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], np.int64)


def _ranks(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    ours: NDArray[np.int64],
    theirs: NDArray[np.int64],
    chunk: int,
) -> Ranks:
    """``(P, N)`` ranks under each of the P assignments ``theirs`` ``(P, M)`` of groups to the gallery."""
    found = np.zeros((len(theirs), len(queries)), np.int64)
    for start in range(0, len(queries), max(1, chunk)):
        rows = slice(start, start + max(1, chunk))
        scores = queries[rows] @ gallery.T  # (chunk, M)
        for number, groups in enumerate(theirs):
            right = ours[rows, None] == groups[None]
            best = np.where(right, scores, -np.inf).max(axis=1)
            ahead = ((scores >= best[:, None]) & ~right).sum(axis=1)
            found[number, rows] = np.where(best > -math.inf, 1 + ahead, 0)
    return found
