"""The methods by name, and what each makes of a plan: coefficients for every pack and group, or sums of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmcl_edge.errors import MergeError
from mmcl_edge.fleet.merge import arithmetic
from mmcl_edge.fleet.merge.arithmetic import Floats
from mmcl_edge.fleet.merge.experts import ALIKE
from mmcl_edge.fleet.merge.plan import Group, Grouping, Plan
from mmcl_edge.fleet.merge.reading import Array, Source
from mmcl_edge.fleet.merge.streaming import DeltaFold, FisherFold, Fold, Job, LinearFold, as_jobs

AUTO = "auto"
METHODS: dict[str, str] = {
    "union": "What several packs have is taken from the one of most weight; nothing is averaged.",
    "mean": "The weighted mean (model soups).",
    "task-arithmetic": "The base plus a multiple of the sum of task vectors (Ilharco et al.).",
    "ties": "Task vectors trimmed, signs elected, the mean of those that agree (Yadav et al.).",
    "dare": "Entries of task vectors dropped at random, the rest rescaled, then added (Yu et al.).",
    "slerp": "Interpolation on the sphere, tensor by tensor; more than two one after the other (Shoemake).",
    "fisher": "The mean weighted by each pack's Fisher information on evaluation data (Matena and Raffel).",
    "median": "The geometric median of each part of the model: robust (Pillutla et al.).",
    "krum": "The mean of the packs whose neighbours are closest, part by part: robust (Blanchard et al.).",
}
"""Name to what it does."""
NEEDS_BASE = frozenset({"task-arithmetic", "ties", "dare"})
ROBUST = frozenset({"median", "krum"})
MOST_COMPARED = 4096
"""Most packs whose scalar products are formed: 128 MiB of them."""


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """What a merge may be told beside its method.

    Attributes:
        density: share of each task vector that TIES keeps (the paper's 20 %).
        drop_rate: share of each task vector that DARE drops.
        scale: factor of the merged task vector; ``None`` is ``natural_scale`` for sums, 1 for TIES.
        seed: of what DARE drops.
        alike: cosine above which two experts are folded into one; above 1 none is.
        liars: share of packs that Krum allows to be poisoned.
        keep: packs that Krum averages; ``None`` is all but the liars, 1 is Krum proper.
        outliers: name packs that lie far from the others; ``None`` does so for robust methods, and for up to 64 packs.
        skip_broken: leave out packs that cannot be read; ``None`` does so for robust methods.
        find: digest to the folder of a pack, or ``None``: looks for a common parent.
        fisher: folder of a pack to its diagonal Fisher information by tensor name, for ``fisher``.
        most_evaluated: packs that are evaluated one by one before the merge, those of most weight first.
    """

    density: float = 0.2
    drop_rate: float = 0.5
    scale: float | None = None
    seed: int = 0
    alike: float = ALIKE
    liars: float = 0.2
    keep: int | None = None
    outliers: bool | None = None
    skip_broken: bool | None = None
    find: Callable[[str], Path | None] | None = None
    fisher: Callable[[Path], Mapping[str, Any]] | None = None
    most_evaluated: int = 32


def check_method(method: str, options: MergeOptions) -> None:
    """Refuse a method that is not known, or options that no method could follow.

    Raises:
        MergeError: the message names what is wrong.
    """
    if method not in METHODS and method != AUTO:
        raise MergeError(f"Expected a method among auto, {', '.join(METHODS)}, but found {method!r}; choose one.")
    for name, value, low in (("density", options.density, 0.0), ("drop rate", 1 - options.drop_rate, 0.0)):
        if not low < value <= 1:
            raise MergeError(f"Expected a {name} between 0 and 1, but it lies outside; choose another.")
    if not 0 <= options.liars < 0.5:
        raise MergeError(f"Expected less than half of the packs to be poisoned, but the share is {options.liars:g}.")


def grouping_of(method: str) -> Grouping:
    """SLERP interpolates tensor by tensor, as it is usually done; the others treat a part of the model alike."""
    return "tensor" if method == "slerp" else "part"


def prepare(
    method: str,
    plan: Plan,
    sources: Sequence[Source],
    weights: Array,
    *,
    base: Source | None,
    options: MergeOptions,
    products: Callable[[int], Floats],
) -> tuple[Fold, list[Job]]:
    """How packs become sums, and what each of them gives.

    Args:
        method: a key of ``METHODS``.
        plan: where every value goes.
        sources: the packs, in the plan's order.
        weights: of each, ``(n,)``.
        base: the pack that all come from, for methods that need it.
        options: see there.
        products: scalar products of a group's holders, by its number.

    Raises:
        MergeError: the method needs what is not there.
    """
    shares = np.zeros((len(sources), len(plan.groups)))
    for number, group in enumerate(plan.groups):
        shares[list(group.holders), number] = _combination(method, group, weights, options, partial(products, number))
    if method == "fisher":
        fisher = options.fisher
        if fisher is None:
            raise MergeError("Expected evaluation data for the method 'fisher', but there is none; pass --eval DATA.")
        return FisherFold(plan.size, lambda source: fisher(source.path)), as_jobs(plan, sources, shares)
    if method not in NEEDS_BASE:
        return LinearFold(plan.size), as_jobs(plan, sources, shares)
    assert base is not None
    jobs, origin = as_jobs(plan, sources, shares), _origin(plan, base, options)
    if method == "task-arithmetic":
        return LinearFold(plan.size), [*jobs, origin]
    in_base = tuple(group.has_base for group in plan.groups)
    if method == "ties":
        scale = 1.0 if options.scale is None else options.scale
        fold = DeltaFold(origin, plan.size, _spans(plan), in_base, density=options.density, scale=scale)
        return fold, jobs
    return DeltaFold(origin, plan.size, (), in_base, rate=options.drop_rate, seed=options.seed), jobs


def _combination(
    method: str, group: Group, weights: Array, options: MergeOptions, products: Callable[[], Floats]
) -> Array:
    """Coefficients ``(m,)`` of a group's holders."""
    own = weights[list(group.holders)].astype(np.float64)
    own = own / own.sum() if own.sum() > 0 else np.full(len(own), 1 / len(own))
    if method == "union":
        return np.asarray(np.arange(len(own)) == own.argmax(), np.float64)
    if method == "slerp":
        return arithmetic.slerp(products(), own)
    if method == "median":
        return arithmetic.weiszfeld(products(), own) if len(own) > 2 else own
    if method == "krum":
        return arithmetic.krum(products(), own, arithmetic.most_liars(len(own), options.liars), options.keep)
    if method in ("task-arithmetic", "dare") and group.has_base:
        return np.asarray(_scale(group, options) * own)
    return own


def _scale(group: Group, options: MergeOptions) -> float:
    """What the mean of a group's task vectors is multiplied by: lambda n."""
    count = len(group.holders)
    return count * (arithmetic.natural_scale(count) if options.scale is None else options.scale)


def _origin(plan: Plan, base: Source, options: MergeOptions) -> Job:
    """The base as a pack that is averaged: its coefficient is one minus those of the packs."""
    left = [1.0 - _scale(group, options) if group.has_base else 0.0 for group in plan.groups]
    return Job(base, plan.base, (), np.array(left))


def _spans(plan: Plan) -> tuple[tuple[int, int], ...]:
    """Coordinates of each tensor that has any, ``(begin, end)``: its rows lie side by side."""
    found: dict[str, tuple[int, int]] = {}
    for name, _, coordinate, count in plan.runs:
        begin, _ = found.get(name, (coordinate, coordinate))
        found[name] = (begin, coordinate + count)
    return tuple(found.values())
