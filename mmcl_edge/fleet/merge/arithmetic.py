r"""The mathematics of merging, as plain functions over stacked arrays that read like the papers.

``values`` ``(n, d)`` are one tensor of n packs, flattened; ``weights`` ``(n,)`` sum to 1; ``base`` ``(d,)`` is the same
tensor of the pack that all were trained from, and :math:`\tau_i = x_i - x_{base}` a *task vector*.

Two ideas keep memory small where there are many packs. TIES needs no more than four running sums (``SignedSums``), for
the elected sign is that of the sum of both. SLERP, the geometric median and Krum give combinations
:math:`\sum_i c_i x_i` whose coefficients follow from the scalar products :math:`G_{ij} = x_i \cdot x_j` alone, which
add up over chunks of coordinates.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Array = NDArray[Any]
ROUNDS = 500
PRECISION = 1e-9
PARALLEL = 0.9995
"""Cosine above which SLERP is linear interpolation (as in mergekit)."""


def mean(values: Array, weights: Array) -> Array:
    r"""Weighted mean (Wortsman et al., *Model soups*, ICML 2022): :math:`\sum_i w_i x_i`. ``(d,)``."""
    return np.asarray(np.asarray(weights, np.float64) @ values.astype(np.float64))


def task_arithmetic(values: Array, base: Array, weights: Array, scale: float) -> Array:
    r"""Task arithmetic (Ilharco et al., ICLR 2023, section 2): :math:`x_{base} + \lambda n \sum_i w_i \tau_i`.

    Their weights are all one, so n w_i is one where weights are equal.
    """
    return base + scale * len(values) * (mean(values, weights) - base)


def natural_scale(count: int) -> float:
    r"""Default :math:`\lambda` of a sum of ``count`` task vectors: :math:`1 / \sqrt n`.

    Orthogonal task vectors of one length then add up to that length. Close to the 0.3 to 0.4 that Ilharco et al. and
    Yadav et al. tuned for eight tasks.
    """
    return 1.0 / math.sqrt(count)


def trim(delta: Array, density: float) -> Array:
    """TIES, step 1 (Yadav et al., NeurIPS 2023): keep the ``density`` of largest magnitude of ``delta`` ``(d,)``."""
    keep = max(1, int(density * delta.size))
    if density >= 1 or keep >= delta.size:
        return delta
    magnitude = np.abs(delta)
    least = np.partition(magnitude, delta.size - keep)[delta.size - keep]
    return np.asarray(np.where(magnitude >= least, delta, np.zeros((), delta.dtype)))


class SignedSums:
    r"""TIES, steps 2 and 3, over task vectors that come one by one, in memory for four.

    Step 2 elects :math:`\gamma = sgn(\sum_i w_i \hat\tau_i)`, step 3 is the mean of those that agree,
    :math:`\tau = \sum_{i \in A} w_i \hat\tau_i / \sum_{i \in A} w_i` with
    :math:`A = \{i : sgn(\hat\tau_i) = \gamma\}`. The sums over positive and over negative entries hold both:
    their sum decides the sign, the one of that sign is the numerator.
    """

    def __init__(self, sums: Floats) -> None:
        self.sums = sums

    @classmethod
    def empty(cls, size: int) -> SignedSums:
        """Sums of no task vectors: rows of ``sums`` ``(4, d)`` are both sums, then the weights in each."""
        return cls(np.zeros((4, size)))

    def add(self, delta: Array, weight: Array | float) -> None:
        """Add one trimmed task vector ``(d,)`` at a weight, which may differ from entry to entry."""
        for row, part in enumerate((np.maximum(delta, 0), np.minimum(delta, 0))):
            self.sums[row] += part * weight
            self.sums[row + 2] += (part != 0) * weight

    def elected_mean(self) -> Floats:
        """The merged task vector ``(d,)``; a tie elects the positive sign, as in mergekit."""
        positive = self.sums[0] + self.sums[1] >= 0
        total = np.where(positive, self.sums[0], self.sums[1])
        weight = np.where(positive, self.sums[2], self.sums[3])
        return np.asarray(np.divide(total, weight, out=np.zeros_like(total), where=weight > 0))


def ties(values: Array, base: Array, weights: Array, density: float, scale: float = 1.0) -> Array:
    r"""TIES: trim, elect sign, disjoint mean: :math:`x_{base} + \lambda \tau`. ``(d,)``.

    ``density`` is of each tensor (as in mergekit and PEFT), not of the whole model.
    """
    sums = SignedSums.empty(base.size)
    for row, weight in zip(values, weights, strict=True):
        sums.add(trim(row - base, density), float(weight))
    return np.asarray(base + scale * sums.elected_mean())


def drop(delta: Array, rate: float, generator: np.random.Generator) -> Array:
    r"""DARE (Yu et al., ICML 2024, equation 3): entries are dropped with probability p, the rest times 1 / (1 - p)."""
    kept = generator.random(delta.size, dtype=np.float32) >= rate
    return np.where(kept, delta / (1.0 - rate), 0.0)


def fisher_mean(values: Array, weights: Array, fishers: Array) -> Array:
    r"""Fisher-weighted mean (Matena and Raffel, NeurIPS 2022, eq. 3): :math:`\sum w_i F_i x_i / \sum w_i F_i`.

    ``fishers`` ``(n, d)``, above zero, are the diagonals of the Fisher matrices.
    """
    shares = np.asarray(weights, np.float64)[:, None] * fishers
    return np.asarray((shares * values).sum(axis=0) / shares.sum(axis=0))


def gram(values: Array) -> Floats:
    """Scalar products ``(n, n)`` of rows ``(n, d)``."""
    rows = values.astype(np.float64)
    return np.asarray(rows @ rows.T)


def distances(products: Floats, coefficients: Array) -> Floats:
    r"""Distance ``(n,)`` of each row to :math:`\sum_j c_j x_j`, from the scalar products ``(n, n)``."""
    inner = products @ coefficients
    squares = np.diag(products) - 2 * inner + coefficients @ inner
    return np.sqrt(np.maximum(squares, 0.0))


def weiszfeld(products: Floats, weights: Array) -> Floats:
    r"""Coefficients ``(n,)`` of the geometric median :math:`argmin_y \sum_i w_i \|y - x_i\|`.

    Smoothed Weiszfeld steps (Pillutla et al., *RFA*, IEEE TSP 2022, algorithm 2):
    :math:`c_i \propto w_i / \max(\nu, \|y - x_i\|)`, :math:`y = \sum_i c_i x_i`. The median lies in the convex hull of
    the rows, so the scalar products ``(n, n)`` are all that it needs.
    """
    weights = np.asarray(weights, np.float64)
    found = weights / weights.sum()
    floor = 1e-7 * float(np.sqrt(np.median(np.diag(products)))) or 1e-30
    for _ in range(ROUNDS):
        steps = weights / np.maximum(distances(products, found), floor)
        new = steps / steps.sum()
        moved = float(np.abs(new - found).sum())
        found = new
        if moved < PRECISION:
            break
    return np.asarray(found)


def geometric_median(values: Array, weights: Array) -> Array:
    """The point of least weighted distance to all rows ``(n, d)``. ``(d,)``."""
    return mean(values, weiszfeld(gram(values), weights))


def most_liars(count: int, share: float) -> int:
    """How many of ``count`` packs Krum allows to be poisoned: the share, but so few that n >= 2 f + 3."""
    return max(0, min(math.ceil(share * count), (count - 3) // 2))


def krum(products: Floats, weights: Array, liars: int, keep: int | None = None) -> Floats:
    r"""Coefficients ``(n,)`` of (multi-)Krum (Blanchard et al., NeurIPS 2017, section 4).

    Each row's score is the sum of squared distances to its n - f - 2 nearest; the ``keep`` rows of least score are
    averaged by weight. ``keep`` 1 is Krum; the default n - f is multi-Krum.

    Args:
        products: scalar products ``(n, n)``.
        weights: ``(n,)``.
        liars: f.
        keep: rows kept.
    """
    count, squares = len(products), np.diag(products)
    between = np.maximum(squares[:, None] + squares[None] - 2 * products, 0.0)
    np.fill_diagonal(between, np.inf)
    nearest = np.sort(between, axis=1)[:, : max(1, count - liars - 2)]
    order = np.argsort(nearest.sum(axis=1), kind="stable")
    chosen = order[: count - liars if keep is None else min(keep, count)]
    found = np.zeros(count)
    found[chosen] = np.asarray(weights, np.float64)[chosen]
    if found.sum() <= 0:
        found[chosen] = 1.0
    return np.asarray(found / found.sum())


def slerp(products: Floats, weights: Array) -> Floats:
    r"""Coefficients ``(n,)`` of spherical interpolation (Shoemake, SIGGRAPH 1985):

    .. math:: slerp(a, b; t) = \frac{\sin((1-t)\theta)}{\sin\theta} a + \frac{\sin(t\theta)}{\sin\theta} b

    with the angle theta between a and b. Two rows meet at t = w_2 / (w_1 + w_2). More are taken in one after the
    other, each at its share of the weight so far: the result depends on their order.
    """  # noqa: D415
    found = np.zeros(len(products))
    found[0], total = 1.0, float(weights[0])
    for row in range(1, len(products)):
        total += float(weights[row])
        t = float(weights[row]) / total if total > 0 else 0.5
        mine, other = _slerp_pair(
            float(found @ products @ found), float(found @ products[row]), float(products[row, row]), t
        )
        found *= mine
        found[row] = other
    return found


def _slerp_pair(aa: float, ab: float, bb: float, t: float) -> tuple[float, float]:
    cosine = ab / math.sqrt(aa * bb) if aa > 0 and bb > 0 else 1.0
    if abs(cosine) > PARALLEL:
        return 1.0 - t, t
    theta = math.acos(cosine)
    return math.sin((1 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta)
