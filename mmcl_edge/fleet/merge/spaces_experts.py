"""Experts of several shared spaces as one set: the union by content, and no more than can serve.

Rules:

1. Frozen experts (with their rows of the gate) that are equal bit for bit are one. So are those that are alike (cosine
   above ``ALIKE`` in each of their tensors), as after rounding: the first stays. Those of the base come first, then as
   the spaces bring them, in the order of their packs' digests.
2. More than ``MOST``: of those that not every space has, the two most alike (cosine over all their numbers) become
   their mean, until there are no more. Of very many, some hundreds at a time.
3. Experts that still learn are averaged place by place; every space has as many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mmcl_edge.adapters.cmoe import PARTS
from mmcl_edge.errors import MergeError
from mmcl_edge.fleet.merge.experts import ALIKE
from mmcl_edge.fleet.merge.spaces_held import HeldSpace, content_of, shares

MOST = 64
"""Most frozen experts: each is worked out for each sample."""
AT_ONCE = 512
"""Experts that are compared with each other."""
Expert = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class MergedExperts:
    """The result: tensors by name as in a space, how many are frozen, how many were folded into others."""

    tensors: dict[str, Tensor]
    frozen: int
    folded: int


def merge_experts(spaces: Sequence[HeldSpace], base: HeldSpace | None) -> MergedExperts:
    """Merge the experts of spaces (the rules stand in the module docstring).

    Raises:
        MergeError: spaces have different numbers of experts that still learn.
    """
    known: dict[str, Expert] = {}
    holders: dict[str, set[str]] = {}
    for space in [*([base] if base else []), *spaces]:
        for name, expert in named(space, known).items():
            known.setdefault(name, expert)
            holders.setdefault(name, set()).update(set() if space is base else {space.digest})
    held = {name: expert for name, expert in known.items() if holders[name]}
    fixed = [expert for name, expert in held.items() if len(holders[name]) == len(spaces)]
    loose = [expert for name, expert in held.items() if len(holders[name]) < len(spaces)]
    kept, room = loose, max(1, MOST - len(fixed))
    while len(kept) > AT_ONCE:
        kept = _folded(kept[:AT_ONCE], room) + kept[AT_ONCE:]
    kept = _folded(kept, room)
    folded = len(loose) - len(kept)
    every = [*fixed, *kept] if folded else list(held.values())
    tensors = {f"frozen_{part}": _stacked([one[part] for one in every], spaces[0], part) for part in PARTS}
    tensors |= _learning(spaces)
    return MergedExperts({f"cmoe.{name}": value for name, value in tensors.items()}, len(every), folded)


def _frozen(space: HeldSpace) -> list[Expert]:
    parts = space.part("cmoe.frozen_")
    return [{part: parts[part][row].clone() for part in PARTS} for row in range(len(parts["route"]))]


def named(space: HeldSpace, known: Mapping[str, Expert]) -> dict[str, Expert]:
    """The frozen experts of a space by content; those alike to a ``known`` one by the content of that."""
    own = {content_of(expert): expert for expert in _frozen(space)}
    fresh = [name for name in own if name not in known]
    if not known or not fresh:
        return own
    best = _cosines([own[name] for name in fresh], list(known.values())).max(dim=1)
    names = list(known)
    alias = {
        name: names[at]
        for name, cosine, at in zip(fresh, best.values.tolist(), best.indices.tolist(), strict=True)
        if cosine > ALIKE
    }
    return {alias.get(name, name): expert for name, expert in own.items()}


def _rows(experts: Sequence[Expert]) -> Tensor:
    return torch.stack([torch.cat([one[part].flatten() for part in PARTS]).double() for one in experts])


def _cosines(some: Sequence[Expert], others: Sequence[Expert]) -> Tensor:
    """``(n, m)``: the least over all parts; parts that are zero in both are alike."""
    found = torch.ones(len(some), len(others), dtype=torch.float64)
    for part in PARTS:
        a, b = (torch.stack([one[part].flatten().double() for one in experts]) for experts in (some, others))
        none = (a.norm(dim=1) == 0)[:, None] & (b.norm(dim=1) == 0)
        cosine = functional.normalize(a, dim=1) @ functional.normalize(b, dim=1).T
        found = torch.minimum(found, torch.where(none, 1.0, cosine))
    return found


def _stacked(values: list[Tensor], like: HeldSpace, part: str) -> Tensor:
    return torch.stack(values) if values else like.stored.tensors[f"cmoe.frozen_{part}"][:0].clone()


def _learning(spaces: Sequence[HeldSpace]) -> Expert:
    """Rule 3."""
    found: dict[str, Tensor] = {}
    every = [{part: space.stored.tensors[f"cmoe.{part}"] for part in PARTS} for space in spaces]
    if len({len(one["route"]) for one in every}) > 1:
        raise MergeError(
            "Expected shared spaces with as many experts that still learn, but found "
            f"{', '.join(str(len(one['route'])) for one in every)}; merge packs that were adapted alike."
        )
    for part in PARTS:
        values, weights = [one[part] for one in every], shares([space.weight for space in spaces])
        equal = all(torch.equal(value, values[0]) for value in values)
        mean = sum((w * v.double() for w, v in zip(weights, values, strict=True)), torch.zeros(()).double())
        found[part] = values[0] if equal else mean.float()
    return found


def _folded(experts: list[Expert], most: int) -> list[Expert]:
    """Rule 2: at most ``most``, each the mean of those that it stands for, in the order of their first."""
    if len(experts) <= most:
        return experts
    rows = _rows(experts)
    sizes, alive = torch.ones(len(rows), dtype=torch.float64), torch.ones(len(rows), dtype=torch.bool)
    unit = functional.normalize(rows, dim=1)
    near = (unit @ unit.T).fill_diagonal_(-2)
    while int(alive.sum()) > most:
        one, other = sorted(divmod(int(near.argmax()), len(rows)))
        rows[one] = (sizes[one] * rows[one] + sizes[other] * rows[other]) / (sizes[one] + sizes[other])
        sizes[one] += sizes[other]
        alive[other] = False
        near[other], near[:, other] = -2, -2
        cosines = functional.normalize(rows, dim=1) @ functional.normalize(rows[one], dim=0)
        cosines[~alive], cosines[one] = -2, -2
        near[one], near[:, one] = cosines, cosines
    lengths = [experts[0][part].numel() for part in PARTS]
    return [
        {part: piece.float().view_as(experts[0][part]) for part, piece in zip(PARTS, row.split(lengths), strict=True)}
        if size > 1
        else own
        for row, size, lives, own in zip(rows, sizes.tolist(), alive.tolist(), experts, strict=True)
        if lives
    ]
