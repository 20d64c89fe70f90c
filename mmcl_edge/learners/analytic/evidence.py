"""One modality's closed-form classifier, and how much to believe it, both from the same sums."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl_edge.learners.analytic.statistics import Inverse, RidgeStatistics

RIDGE = 0.1
"""Lambda as a share of the features' mean squared length. Chosen from {0.03, 0.1, 0.3} on validation folds of av21's
train samples at 5, 10 and all pairs a class; the three differ by less than a point."""
LEAST_VARIANCE = 1e-3
"""Of the residuals: a class on its own is fitted exactly, and what follows would be infinite."""


def with_constant(features: Tensor) -> Tensor:
    """Features ``(n, M)`` with a leading column of ones ``(n, M + 1)``: the root's first row then holds their mean."""
    return torch.cat([features.new_ones(len(features), 1), features], dim=1)


class Evidence:
    r"""Bayesian linear regression on one-hot targets (Bishop, PRML, section 3.3), in closed form from sums.

    .. math::
        W = (G_c + \lambda I)^{-1} Q_c, \quad
        \sigma^2 = \frac{RSS}{n - tr(G_c (G_c + \lambda I)^{-1})}, \quad
        v(x) = (x - \mu)^T (G_c + \lambda I)^{-1} (x - \mu)

        e(x) = \frac{\bar y + W^T (x - \mu)}{\sigma^2 \sqrt{1 + v(x)}}

    G_c and Q_c are centred: with a leading constant column, the root's remaining block is the root of G_c. The residual
    variance is that of generalised cross-validation (Craven and Wahba, 1979), so a modality that fits badly, or a
    sample unlike all seen (large v), speaks softly. Everything follows from sums, so it depends neither on the order
    of learning nor on how samples are spread over devices. The square root (one standard deviation where Gaussian
    evidence would divide by the variance) was chosen on validation folds: as good on clean pairs, better under noise.

    A class never seen in this modality gets the mean of the others: no evidence either way.

    Args:
        sums: of features ``with_constant`` and one-hot targets; at least one sample.
    """

    def __init__(self, sums: RidgeStatistics) -> None:
        root, counts = sums.root.double(), sums.counts.double()
        samples = float(counts.sum())
        self.mean = root[0, 1:] / root[0, 0]
        self.base = counts / samples
        cross = sums.cross.double()[1:] - self.mean[:, None] * counts
        rest = root[1:, 1:]
        ridge = max(RIDGE * float(rest.square().sum()) / samples, 1e-8)
        self.inverse = Inverse(rest, ridge)
        self.weights = self.inverse.solve(cross)
        total = float((counts - counts.square() / samples).sum())
        left = total - float((self.weights * cross).sum()) - ridge * float(self.weights.square().sum())
        freedom = samples - self.inverse.degrees_of_freedom()
        seen = counts > 0
        self.variance = max(left / max(int(seen.sum()) * freedom, 1e-9), LEAST_VARIANCE)
        self.seen = seen

    def __call__(self, features: Tensor) -> Tensor:
        """Features ``(n, M)`` (without the constant) to evidence ``(n, C)`` float64."""
        x = features.double() - self.mean
        scores = self.base + x @ self.weights
        neutral = scores[:, self.seen].mean(dim=1, keepdim=True)
        scores = torch.where(self.seen, scores, neutral)
        return scores / (self.variance * (1 + self.inverse.form(x)).sqrt()[:, None])
