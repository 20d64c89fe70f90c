r"""Branches of one modality from several devices, as one: the mean of the affine maps that they are.

A branch tells features h by a front and a projection, which together are one affine map

.. math:: z = (h - \mu) V W + b = h A + c, \quad A = V W, \; c = b - \mu A

so branches whose fronts differ (each device found its own principal components) are averaged exactly, as A and c.
Parameters are not: columns of fronts found apart have no common meaning. Rules:

1. ``mean_of`` sums :math:`A = \sum_i \alpha_i A_i` and c likewise. What maps of few samples do not agree on cancels out
   and leaves a shorter map, whose answers crowd around their mean; so A is stretched to the length of its parts
   (:math:`\sqrt{\sum_i \alpha_i |A_i|^2}`), and the answer to the mean of the features stays.
2. Where the front of the largest share can carry the sum (its directions span A, as equal fronts and a mediator's do),
   it stays as it is.
3. Else the front becomes the left singular vectors of A of largest singular values, as many as ``width``, in the old
   scale: the map is the best of that rank.
4. What only this modality says, and its decoder, are those of the largest share, led through the new front.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Branch = Mapping[str, Tensor]
"""Tensors of a branch by name."""
CARRIED = 1e-6
"""Share of a map's squares that a front may miss and still carry it."""
LEAST_SCALE = 1e-6
SKETCH = 64
"""Directions of features that maps are compared along."""


@dataclass(frozen=True)
class Affine:
    """``h A + c``: ``matrix (d, K)``, ``offset (K,)``, float64."""

    matrix: Tensor
    offset: Tensor

    @classmethod
    def of(cls, branch: Branch) -> Affine:
        """What a branch tells of features."""
        matrix = branch["basis"].double() @ branch["project.weight"].double().T
        return cls(matrix, branch["project.bias"].double() - branch["mean"].double() @ matrix)

    def plus(self, other: Affine, share: float) -> Affine:
        """The sum with a share of another."""
        return Affine(self.matrix + share * other.matrix, self.offset + share * other.offset)


def scale_of(branch: Branch) -> float:
    """The length of a front's columns: what lengths of features are taken times."""
    return max(float(branch["basis"].double().square().sum(dim=0).mean().sqrt()), LEAST_SCALE)


def sketch(branch: Branch) -> Tensor:
    """A branch's map along random directions of its features, ``(SKETCH K,)``: distances of maps are nearly kept."""
    matrix = Affine.of(branch).matrix
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(SKETCH, len(matrix), generator=generator, dtype=torch.float64) / SKETCH**0.5
    found: Tensor = (directions @ matrix).flatten()
    return found


def combine(total: Affine, largest: Branch, width: int) -> dict[str, Tensor]:
    """The branch whose map is ``total`` (rules 2 to 4).

    Args:
        total: the sum of all maps, each with its share.
        largest: the branch of the largest share.
        width: most directions of a new front.
    """
    basis, mean = largest["basis"].double(), largest["mean"].double()
    told = mean @ total.matrix + total.offset  # of the middle
    weight = torch.linalg.lstsq(basis, total.matrix).solution
    missed = (total.matrix - basis @ weight).square().sum()
    if float(missed) <= CARRIED * float(total.matrix.square().sum()):
        return _branch(largest, basis, weight, told)
    left, values, right = torch.linalg.svd(total.matrix, full_matrices=False)
    kept = min(width, int((values > 1e-9 * values[0]).sum()))
    scale = scale_of(largest)
    front, weight = scale * left[:, :kept], values[:kept, None] * right[:kept] / scale
    signs = weight[torch.arange(kept), weight.abs().argmax(dim=1)].sign()
    front, weight = front * signs, weight * signs[:, None]
    return _branch(largest, front, weight, told) | _led(largest, basis, front)


def _branch(largest: Branch, front: Tensor, weight: Tensor, offset: Tensor) -> dict[str, Tensor]:
    changed = {"basis": front, "project.weight": weight.T, "project.bias": offset}
    return dict(largest) | {name: value.float().contiguous() for name, value in changed.items()}


def _led(largest: Branch, old: Tensor, new: Tensor) -> dict[str, Tensor]:
    """Rule 4: layers that read or write what the old front gives, for the new one; least squares where it says less."""
    there, back = torch.linalg.pinv(new) @ old, torch.linalg.pinv(old) @ new  # (P', P), (P, P')
    last = "decoder.2."
    made = {
        "specific.weight": largest["specific.weight"].double() @ there.T,
        f"{last}weight": back.T @ largest[f"{last}weight"].double(),
        f"{last}bias": largest[f"{last}bias"].double() @ back,
    }
    return {name: value.float().contiguous() for name, value in made.items()}


def mean_of(parts: Iterable[tuple[float, float, Branch]], *, stretched: bool = True) -> Affine:
    """The mean of branches as maps (rule 1), read one at a time.

    Args:
        parts: one or more: the share of a branch, a factor that its map is taken times, and the branch.
        stretched: give the mean the length of its parts; else what they do not agree on leaves it shorter.
    """
    total: Affine | None = None
    middle, square = torch.zeros(()).double(), 0.0
    for share, factor, branch in parts:
        own = Affine.of(branch)
        own = Affine(factor * own.matrix, factor * own.offset)
        total = Affine(share * own.matrix, share * own.offset) if total is None else total.plus(own, share)
        middle = middle + share * branch["mean"].double()
        square += share * float(own.matrix.square().sum())
    assert total is not None
    shorter = float(total.matrix.norm())
    if not stretched or shorter == 0:
        return total
    matrix = max(1.0, square**0.5 / shorter) * total.matrix
    return Affine(matrix, total.offset + middle @ (total.matrix - matrix))
