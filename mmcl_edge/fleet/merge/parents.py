"""What a merge starts from: verified packs that fit, their shares of the weight, and what they have in common.

Rules, performed in this order, each refusing before the next:

1. Packs are gathered and verified (``sources``), and fit together; a method that compares each with each has not too
   many.
2. Their base is found, where it is named or here. It is no parent beside them, and fits them.
3. Weights become shares, classes are reconciled by name, experts united. No value was used so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mmcl_edge.errors import MergeError
from mmcl_edge.fleet.merge.ancestry import find_base
from mmcl_edge.fleet.merge.experts import Union, unite
from mmcl_edge.fleet.merge.labels import Labels, reconcile
from mmcl_edge.fleet.merge.methods import MOST_COMPARED, NEEDS_BASE, ROBUST, MergeOptions
from mmcl_edge.fleet.merge.reading import Array, Source
from mmcl_edge.fleet.merge.sharing import has_space
from mmcl_edge.fleet.merge.sources import Gathered, OnRead, check_fit, gather, lead_of

SAMPLES = "samples"
"""Weights by the packs' own counts of training samples."""


@dataclass(frozen=True)
class Parents:
    """What is merged.

    Attributes:
        gathered: what the caller named.
        sources: the packs, without the base.
        shares: of each, ``(n,)``; they sum to 1.
        base: the pack that all come from, where it is known.
        labels: classes of all.
        union: experts of all.
    """

    gathered: Gathered
    sources: tuple[Source, ...]
    shares: Array
    base: Source | None
    labels: Labels
    union: Union


def parents_of(
    names: Sequence[Path],
    method: str,
    weights: Sequence[float] | Literal["samples"] | None,
    base: Path | None,
    *,
    scratch: Path,
    options: MergeOptions,
    executor: Executor | None,
    on_read: OnRead,
) -> Parents:
    """The parents of a merge (the rules stand in the module docstring); see ``engine.merge_packs``.

    Raises:
        MergeError: the packs cannot be merged as asked.
        PackError: one is broken.
    """
    skip = options.skip_broken
    gathered = gather(
        names,
        scratch=scratch,
        weights=None if isinstance(weights, str) else weights,
        skip_broken=method in ROBUST if skip is None else skip,
        find=options.find,
        executor=executor,
        on_read=on_read,
    )
    check_fit(gathered.sources)
    if method in ROBUST and len(gathered.sources) > MOST_COMPARED:
        raise MergeError(
            f"Expected at most {MOST_COMPARED:,} packs for the method '{method}', which compares each with each, "
            f"but found {len(gathered.sources):,}; merge them in groups, then the results."
        )
    needed = method in NEEDS_BASE
    origin = find_base(gathered.sources, named=base, find=options.find, scratch=scratch, needed=needed, method=method)
    given = dict(zip((one.digest for one in gathered.sources), gathered.weights, strict=False))
    own = tuple(one for one in gathered.sources if origin is None or one.digest != origin.digest)
    if len(own) < 2:
        raise MergeError(
            f"Expected at least two packs beside the one that they come from, but found {len(own)}; use that pack "
            "as it is, or name more."
        )
    check_fit(own, origin)
    shares = _shares(own, given, by_samples=weights == SAMPLES)
    labels = reconcile(own, origin)
    union = unite(own, active=lead_of(own).method.adapter.active_experts, alike=options.alike)
    return Parents(gathered, own, shares, origin, labels, union)


def counted_from(parents: Parents, method: str) -> Source | None:
    """The base, where the result was made with its help: task vectors were counted from it, or a shared space."""
    base = parents.base
    if base is None or method in NEEDS_BASE:
        return base
    return base if has_space(base) and any(map(has_space, parents.sources)) else None


def _shares(sources: Sequence[Source], given: dict[str, float], *, by_samples: bool) -> Array:
    """Weights that sum to 1."""
    if by_samples:
        found = np.array([sum(count for _, count in source.sample_counts) for source in sources], np.float64)
        if found.sum() <= 0:
            raise MergeError("Expected packs that count their training samples, but none does; give weights instead.")
    else:
        found = np.array([given.get(source.digest, 1.0) for source in sources], np.float64)
    if found.sum() <= 0:
        raise MergeError("Expected a weight above 0 for some pack, but found none; correct --weights.")
    return np.asarray(found / found.sum())
