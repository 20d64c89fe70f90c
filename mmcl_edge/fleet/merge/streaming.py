"""Reading many packs into few running sums: work of a few packs at a time, on this machine's cores or a cluster's.

Rules:

1. Packs are taken in *shards* of a fixed size, whatever runs them, and what the shards give is added in their order:
   the result does not depend on how many workers there are.
2. A shard reads one pack after the other, a block of values at a time. Its memory is that of its sums.
3. What one pack alone holds is copied, not averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mmcl_edge.errors import PackError
from mmcl_edge.fleet.engines import available_cores, in_order, workers_of
from mmcl_edge.fleet.merge.arithmetic import SignedSums, drop, trim
from mmcl_edge.fleet.merge.plan import Copy, Piece, Plan
from mmcl_edge.fleet.merge.reading import Array, Source, decode, opened, read_bytes
from mmcl_edge.packs.tensors import DTYPES

SHARD = 16
"""Packs that one unit of work reads."""
BLOCK = 1 << 16
"""Values that are read at once."""
LEAST_FISHER = 1e-10
"""Added to all Fisher information: where no pack has any, the mean is left."""

OnPart = Callable[[int, int], None]
"""Called with how many packs are read, and of how many."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one pack gives.

    Attributes:
        source: the pack.
        pieces: its coordinates.
        copies: what it alone gives.
        coefficients: by group.
    """

    source: Source
    pieces: tuple[Piece, ...]
    copies: tuple[Copy, ...]
    coefficients: Array


@dataclass
class Part:
    """What a shard gives: ``sums`` of coordinates, and copied values by ``(tensor, flat place)``."""

    sums: list[Array]
    copied: dict[tuple[str, int], Array] = field(default_factory=dict)
    packs: int = 0


class Fold(Protocol):
    """How packs become running sums; moved to the workers, so plain data."""

    def start(self) -> list[Array]:
        """Sums of no packs."""
        ...

    def origin(self) -> Array | None:
        """What a shard reads once: coordinates of the base, if the method needs them."""
        ...

    def add(self, sums: list[Array], origin: Array | None, job: Job, handle: int) -> None:
        """Add one pack, whose tensors file is ``handle``."""
        ...

    def finish(self, sums: list[Array]) -> Array:
        """The merged coordinates ``(d,)``."""
        ...


@dataclass(frozen=True)
class LinearFold:
    """``sum_i c_ig x_i`` for coordinates of group g."""

    size: int

    def start(self) -> list[Array]:
        """See ``Fold.start``."""
        return [np.zeros(self.size)]

    def origin(self) -> None:
        """See ``Fold.origin``."""
        return

    def add(self, sums: list[Array], origin: Array | None, job: Job, handle: int) -> None:
        """See ``Fold.add``."""
        total, scratch = sums[0], np.empty(BLOCK)
        for piece in job.pieces:
            factor = float(job.coefficients[piece.group])
            if factor == 0.0:
                continue
            for place, values in blocks(job.source, handle, piece):
                room = scratch[: values.size]
                np.multiply(values, factor, out=room)
                total[place : place + values.size] += room

    def finish(self, sums: list[Array]) -> Array:
        """See ``Fold.finish``."""
        return sums[0]


@dataclass(frozen=True)
class DeltaFold:
    """Task vectors, changed one by one: trimmed (TIES) or thinned (DARE). What the base lacks is averaged.

    Attributes:
        base: the base and its pieces.
        size: number of coordinates.
        spans: coordinates of each tensor, ``(begin, end)``: TIES trims each by itself.
        in_base: of each group, whether the base has it.
        density: share of a task vector that TIES keeps; ``None`` is DARE.
        rate: share of a task vector that DARE drops.
        scale: factor of the merged task vector.
        seed: with the pack's digest it decides what DARE drops.
    """

    base: Job
    size: int
    spans: tuple[tuple[int, int], ...]
    in_base: tuple[bool, ...]
    density: float | None = None
    rate: float = 0.0
    scale: float = 1.0
    seed: int = 0

    def start(self) -> list[Array]:
        """See ``Fold.start``: the sums of TIES or of DARE, then those of what is averaged."""
        return [np.zeros((4 if self.density is not None else 1, self.size)), np.zeros(self.size)]

    def origin(self) -> Array:
        """See ``Fold.origin``; zero where the base has nothing."""
        found = np.zeros(self.size, np.float32)
        with opened(self.base.source) as handle:
            for piece in self.base.pieces:
                for place, values in blocks(self.base.source, handle, piece):
                    found[place : place + values.size] = values
        return found

    def add(self, sums: list[Array], origin: Array | None, job: Job, handle: int) -> None:
        """See ``Fold.add``."""
        assert origin is not None
        delta, weights = np.zeros(self.size, np.float32), np.zeros(self.size, np.float32)
        for piece in job.pieces:
            factor = float(job.coefficients[piece.group])
            for place, values in blocks(job.source, handle, piece):
                here = slice(place, place + values.size)
                if self.in_base[piece.group]:
                    np.subtract(values, origin[here], out=delta[here], casting="same_kind")
                    weights[here] = factor
                else:
                    sums[1][here] += factor * values.astype(np.float64)
        if self.density is None:
            generator = np.random.default_rng([self.seed, int(job.source.digest[:16], 16)])
            sums[0][0] += weights * drop(delta, self.rate, generator)
        else:
            self._trim(delta, weights, self.density)
            SignedSums(sums[0]).add(delta, weights)

    def _trim(self, delta: Array, weights: Array, density: float) -> None:
        for begin, end in self.spans:
            held, part = weights[begin:end] > 0, delta[begin:end]
            if held.all():
                part[:] = trim(part, density)
            elif held.any():
                part[held] = trim(part[held], density)

    def finish(self, sums: list[Array]) -> Array:
        """See ``Fold.finish``."""
        delta = sums[0][0] if self.density is None else SignedSums(sums[0]).elected_mean()
        return np.asarray(self.origin() + self.scale * delta + sums[1])


@dataclass(frozen=True)
class FisherFold:
    """``sum_i c_ig F_i x_i / sum_i c_ig F_i``; ``fisher`` gives F of a pack by tensor name, in the tensors' shapes."""

    size: int
    fisher: Callable[[Source], Mapping[str, Array]]

    def start(self) -> list[Array]:
        """See ``Fold.start``: numerator and denominator."""
        return [np.zeros(self.size), np.zeros(self.size)]

    def origin(self) -> None:
        """See ``Fold.origin``."""
        return

    def add(self, sums: list[Array], origin: Array | None, job: Job, handle: int) -> None:
        """See ``Fold.add``."""
        found = self.fisher(job.source)
        for piece in job.pieces:
            here = slice(piece.place, piece.place + piece.length)
            shares = float(job.coefficients[piece.group]) * (_aligned(job.source, found, piece) + LEAST_FISHER)
            sums[0][here] += shares * read_piece(job.source, handle, piece)
            sums[1][here] += shares

    def finish(self, sums: list[Array]) -> Array:
        """See ``Fold.finish``."""
        return np.asarray(np.divide(sums[0], sums[1], out=np.zeros(self.size), where=sums[1] > 0))


def _aligned(source: Source, found: Mapping[str, Array], piece: Piece) -> Array:
    """Values of named arrays in the order of a piece, ``(length,)``; zero for tensors that have none."""
    width = DTYPES[piece.dtype].itemsize
    end, result = piece.begin + piece.length * width, np.zeros(piece.length)
    for name, entry in source.layout:
        low, high = max(entry.begin, piece.begin), min(entry.end, end)
        if low < high and name in found:
            values = found[name].reshape(-1)[(low - entry.begin) // width : (high - entry.begin) // width]
            result[(low - piece.begin) // width : (high - piece.begin) // width] = values
    return result


def blocks(source: Source, handle: int, piece: Piece) -> Iterator[tuple[int, Array]]:
    """``(coordinate, values)`` of a piece, at most ``BLOCK`` values at a time."""
    width = DTYPES[piece.dtype].itemsize
    for start in range(0, piece.length, BLOCK):
        count = min(BLOCK, piece.length - start)
        data = read_bytes(handle, source.begin + piece.begin + start * width, count * width)
        yield piece.place + start, decode(data, piece.dtype)


def read_piece(source: Source, handle: int, piece: Piece | Copy) -> Array:
    """All values of a piece, ``(length,)``."""
    width = DTYPES[piece.dtype].itemsize
    return decode(read_bytes(handle, source.begin + piece.begin, piece.length * width), piece.dtype)


def _shard(work: tuple[Fold, Sequence[Job]]) -> Part:
    fold, jobs = work
    part, origin = Part(fold.start(), packs=len(jobs)), fold.origin()
    for job in jobs:
        with opened(job.source) as handle:
            fold.add(part.sums, origin, job, handle)
            for copy in job.copies:
                part.copied[copy.name, copy.place] = read_piece(job.source, handle, copy)
    return part


def stream(
    plan: Plan, fold: Fold, jobs: Sequence[Job], *, executor: Executor | None = None, on_part: OnPart | None = None
) -> dict[str, Array]:
    """The tensors of the merged pack, by name.

    Args:
        plan: where every value goes.
        fold: how packs become sums.
        jobs: what each pack gives; a base that is averaged too is one of them.
        executor: where shards run; ``None`` is a thread for each core.
        on_part: hears of progress.

    Raises:
        PackError: a file changed since it was verified.
    """
    result, sums, done = plan.empty(), fold.start(), 0
    shards = ((fold, jobs[start : start + SHARD]) for start in range(0, len(jobs), SHARD))
    with engine(executor) as pool:
        here = None if isinstance(fold, FisherFold) else pool  # what works out Fisher information is not moved
        for part in in_order(here, _shard, shards, window=workers_of(pool) + 1):
            for total, more in zip(sums, part.sums, strict=True):
                total += more
            for (name, place), values in part.copied.items():
                result[name][place : place + values.size] = values
            done += part.packs
            if on_part:
                on_part(done, len(jobs))
    merged = fold.finish(sums)
    for name, place, coordinate, count in plan.runs:
        result[name][place : place + count] = merged[coordinate : coordinate + count]
    return {name: values.reshape(plan.slots[name].shape) for name, values in result.items()}


@contextmanager
def engine(executor: Executor | None) -> Iterator[Executor]:
    """``executor``, or threads of this process, one for each core."""
    if executor is not None:
        yield executor
        return
    with ThreadPoolExecutor(available_cores(), thread_name_prefix="merge") as pool:
        yield pool


def as_jobs(plan: Plan, sources: Sequence[Source], coefficients: Array) -> list[Job]:
    """A job for each source, with row i of ``coefficients`` ``(n, groups)``."""
    return [
        Job(source, plan.pieces[number], plan.copies[number], coefficients[number])
        for number, source in enumerate(sources)
    ]


def refuse_infinite(tensors: Mapping[str, Array]) -> None:
    """Raise ``PackError`` where a value of the result is not finite (an overflow of float32)."""
    for name, values in tensors.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise PackError(
                f"The merged tensor {name} should be finite, but overflows float32: some pack holds huge values. "
                "See its distance among the outliers, and leave it out."
            )
