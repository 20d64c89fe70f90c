"""Which branches of a modality are in the merged space, and in which shares.

Rules, for each modality:

1. A *mediator* stays bit for bit where more than half of the weight has the same; else it is the mean of all. One that
   points elsewhere is refused: what was told by it would meet nothing.
2. Branches that lead into the space alike, bit for bit, are one. Of others than mediators, one that is still the
   base's is no news where another differs.
3. A single one is taken whole.
4. Several are combined as affine maps (``spaces_maps``), in shares of the pairs that each saw beyond the base times its
   weight. ``median`` and ``krum`` ask nobody for pairs: they leave out those that point elsewhere than the others
   (``outliers``), and choose the shares of the rest by weights and distances. ``union`` takes the largest share whole.
   Claims of pairs, and lengths of maps, count within bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mmcl_edge.errors import MergeError
from mmcl_edge.fleet.merge import arithmetic
from mmcl_edge.fleet.merge.arithmetic import Floats
from mmcl_edge.fleet.merge.methods import ROBUST
from mmcl_edge.fleet.merge.outliers import astray
from mmcl_edge.fleet.merge.spaces_held import HeldSpace, bounded, shares
from mmcl_edge.fleet.merge.spaces_maps import Affine, combine, mean_of, sketch

ALIGNED = 0.9
"""Least cosine of two mediators' maps that can be averaged: those that begin at one rotation are above 0.99."""
LONGEST = 2.0
"""A map counts up to so many times the middle length: those of few samples are shorter, none is much longer."""
LIARS = 0.2
"""Share of branches that Krum allows to be poisoned."""
Look = Callable[[str, Sequence[str], Floats], None]
"""Hears of a part, digests of the packs that hold it, and the scalar products ``(m, m)`` of what they hold."""


@dataclass(frozen=True)
class Branch:
    """A branch of the result.

    Attributes:
        tensors: of it.
        holders: numbers of the spaces that are in it.
        shares: of each, where it is a mean; empty where all of them hold the same.
        pairs: training pairs in it.
    """

    tensors: Mapping[str, Tensor]
    holders: tuple[int, ...]
    shares: tuple[float, ...]
    pairs: int


@dataclass(frozen=True)
class Branches:
    """Chooses and combines (the rules stand in the module docstring).

    Attributes:
        spaces: in order.
        base: what all went on from, where it is known.
        mediators: of the result.
        method: of the merge.
        look: hears of distances.
    """

    spaces: Sequence[HeldSpace]
    base: HeldSpace | None
    mediators: Sequence[str]
    method: str
    look: Look | None = None

    def merged(self, modality: str) -> Branch:
        """The branch of ``modality``, which some space has.

        Raises:
            MergeError: a mediator points elsewhere than another.
        """
        groups = self._groups(modality)
        before = self.base.pairs(modality) if self.base else 0
        claims = [max(max(0, self.spaces[n].pairs(modality) - before) for n in one) for one in groups]
        if len(groups) == 1:
            return Branch(self.spaces[groups[0][0]].branch(modality), tuple(groups[0]), (), before + claims[0])
        limited = bounded([float(max(1, claim)) for claim in claims])
        counted = [1.0] * len(groups) if self.method in ROBUST else limited
        share = shares([c * max(self.spaces[n].weight for n in one) for c, one in zip(counted, groups, strict=True)])
        return self._combined(modality, [one[0] for one in groups], share, before + int(sum(limited)))

    def odd_mediators(self, modality: str) -> list[str]:
        """Digests of packs whose mediator is not the one that is kept."""
        found = list(self._by_content(modality).values())
        kept = self._majority(found)
        return [self.spaces[n].digest for one in found for n in one if kept is not None and one is not kept]

    def _by_content(self, modality: str) -> dict[str, list[int]]:
        """Numbers of the spaces that hold each branch, by the digest of what it answers with."""
        found = dict[str, list[int]]()
        for number, one in enumerate(self.spaces):
            if modality in one.modalities:
                found.setdefault(one.answers(modality), []).append(number)
        return found

    def _majority(self, groups: Sequence[list[int]]) -> list[int] | None:
        weights = [sum(max(self.spaces[n].weight, 1e-9) for n in one) for one in groups]
        return next((one for one, own in zip(groups, weights, strict=True) if 2 * own > sum(weights)), None)

    def _groups(self, modality: str) -> list[list[int]]:
        """Rules 1 and 2: which spaces count, together where their branches are equal."""
        found = self._by_content(modality)
        groups = list(found.values())
        if modality in self.mediators:
            for one in groups[1:]:
                self._check_aligned(modality, groups[0][0], one[0])
            most = self._majority(groups)
            return groups if most is None else [most]
        if self.base is not None and modality in self.base.modalities:
            old = self.base.answers(modality)
            return [one for content, one in found.items() if content != old] or groups
        return groups

    def _check_aligned(self, modality: str, one: int, other: int) -> None:
        a, b = (Affine.of(self.spaces[number].branch(modality)).matrix for number in (one, other))
        cosine = float((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-30))
        if cosine < ALIGNED:
            raise MergeError(
                f"Expected shared spaces whose mediator {modality} points the same way, but those of "
                f"{self.spaces[one].digest[:16]}... and {self.spaces[other].digest[:16]}... do not (cosine "
                f"{cosine:.2f}, least {ALIGNED}); let devices start from one release, or leave one out."
            )

    def _combined(self, modality: str, numbers: Sequence[int], share: Sequence[float], pairs: int) -> Branch:
        """Rule 4; branches are read one at a time."""
        rows = np.stack([sketch(self.spaces[number].branch(modality)).numpy() for number in numbers])
        lengths = [float(length) for length in np.linalg.norm(rows, axis=1)]
        if self.look is not None:
            self.look(f"space.{modality}", [self.spaces[number].digest for number in numbers], rows @ rows.T)
        factors = [limit / max(own, 1e-30) for limit, own in zip(bounded(lengths, LONGEST), lengths, strict=True)]
        rows = rows * np.array(factors)[:, None]
        chosen = chosen_shares(self.method, rows @ rows.T, np.array(share))
        kept = [(n, float(one), f) for n, one, f in zip(numbers, chosen, factors, strict=True) if one > 0]
        largest = self.spaces[max(kept, key=lambda one: one[1])[0]].branch(modality)
        if len(kept) == 1:
            return Branch(largest, (kept[0][0],), (), pairs)
        config = self.spaces[0].stored.config
        mediates = modality in self.mediators
        total = mean_of(((one, f, self.spaces[n].branch(modality)) for n, one, f in kept), stretched=not mediates)
        width = config.slots * config.dim if mediates else config.front_dim
        numbers, parts = [n for n, _, _ in kept], [one for _, one, _ in kept]
        return Branch(combine(total, largest, width), tuple(numbers), tuple(parts), pairs)


def chosen_shares(method: str, products: Floats, share: Floats) -> Floats:
    """Coefficients ``(m,)`` of branches.

    Robust methods leave out those that point elsewhere, and compare the rest at one length: a map that is nearly zero
    would lie in the middle of all.

    Args:
        method: of the merge.
        products: scalar products ``(m, m)`` of maps.
        share: of each.
    """
    if method == "union":
        return np.asarray(np.arange(len(share)) == share.argmax(), np.float64)
    if method not in ROBUST:
        return share
    rows = np.flatnonzero(~astray(products))
    lengths = np.sqrt(np.maximum(np.diag(products)[rows], 1e-300))
    inner, own = products[np.ix_(rows, rows)] / lengths[:, None] / lengths, share[rows]
    own = own / own.sum() if own.sum() > 0 else np.full(len(rows), 1 / len(rows))
    found = np.zeros(len(share))
    if method == "krum":
        found[rows] = arithmetic.krum(inner, own, arithmetic.most_liars(len(rows), LIARS))
    else:
        found[rows] = arithmetic.weiszfeld(inner, own) if len(rows) > 2 else own
    return found
