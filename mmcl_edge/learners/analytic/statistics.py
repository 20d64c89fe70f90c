"""The sums that ridge regression needs: they add up over samples, experiences and devices, in any order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmcl_edge.errors import InputError


class RidgeStatistics:
    r"""Sufficient statistics of a ridge regression (RanPAC, McDonnell et al., NeurIPS 2023, equations 3 and 4).

    .. math:: G = \sum_n \phi_n \phi_n^T, \quad Q = \sum_n \phi_n y_n^T, \quad W = (G + \lambda I)^{-1} Q

    All in float64: sums over any order of the samples agree to rounding (relative error about 1e-15 a sample), so
    learning one batch after the other gives the ridge regression on all of them at once. An instance never changes.

    Attributes:
        gram: G ``(M, M)``, symmetric.
        cross: Q ``(M, C)``.
        counts: ``(C,)``, sum of the targets of each column: the samples of each class where targets are one-hot.
    """

    def __init__(self, gram: Tensor, cross: Tensor, counts: Tensor) -> None:
        self.gram, self.cross, self.counts = gram, cross, counts

    @classmethod
    def empty(cls, features: int, classes: int = 0) -> RidgeStatistics:
        """Statistics of no samples, for ``features`` (M) features and ``classes`` (C) targets."""
        double = torch.float64
        return cls(
            torch.zeros(features, features, dtype=double),
            torch.zeros(features, classes, dtype=double),
            torch.zeros(classes, dtype=double),
        )

    @property
    def features(self) -> int:
        """M."""
        return int(self.cross.shape[0])

    @property
    def classes(self) -> int:
        """C."""
        return int(self.cross.shape[1])

    def add(self, features: Tensor, targets: Tensor) -> RidgeStatistics:
        """With the samples of ``features`` ``(n, M)`` and ``targets`` ``(n, C)``, of any real dtype.

        Raises:
            InputError: the sizes do not fit, or a number is not finite.
        """
        x, y = features.double(), targets.double()
        if len(x) != len(y) or x.shape[1:] != (self.features,) or y.shape[1:] != (self.classes,):
            raise InputError(
                f"Expected features (n, {self.features}) and targets (n, {self.classes}), "
                f"but they are {tuple(x.shape)} and {tuple(y.shape)}; widen the statistics for new classes."
            )
        if not (bool(x.isfinite().all()) and bool(y.isfinite().all())):
            raise InputError("Expected finite features and targets, but some are not; leave those samples out.")
        return RidgeStatistics(self.gram + x.T @ x, self.cross + x.T @ y, self.counts + y.sum(dim=0))

    def merged(self, other: RidgeStatistics) -> RidgeStatistics:
        """Statistics of the samples of both; columns of the same number must mean the same class (see ``placed``).

        Raises:
            InputError: the sizes differ.
        """
        if (self.features, self.classes) != (other.features, other.classes):
            raise InputError(
                f"Expected statistics of {self.features} features and {self.classes} classes to merge with, but "
                f"found {other.features} and {other.classes}; use one projection and place the columns alike."
            )
        return RidgeStatistics(self.gram + other.gram, self.cross + other.cross, self.counts + other.counts)

    def placed(self, columns: Sequence[int], classes: int) -> RidgeStatistics:
        """The same sums with column ``i`` at ``columns[i]`` of ``classes`` columns; the others are zero.

        For new classes ``placed(range(old), new)``; to merge devices with their own orders of classes, both placed.
        """
        cross = self.cross.new_zeros(self.features, classes)
        counts = self.counts.new_zeros(classes)
        cross[:, list(columns)], counts[list(columns)] = self.cross, self.counts
        return RidgeStatistics(self.gram, cross, counts)

    def solve(self, ridge: float) -> Tensor:
        """Weights W ``(M, C)`` float64: ``phi @ W`` are the scores. ``ridge`` is lambda, above 0.

        Raises:
            InputError: the ridge is too small for features this dependent.
        """
        matrix = self.gram.clone()
        matrix.diagonal().add_(ridge)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if ridge <= 0 or int(failed) != 0:
            raise InputError(
                f"Expected a ridge large enough to solve for {self.features} features, but it is {ridge:g}; enlarge it."
            )
        return torch.cholesky_solve(self.cross, factor)

    def tensors(self) -> dict[str, Tensor]:
        """What persists: ``gram`` as its upper triangle ``(M (M + 1) / 2,)``, ``cross``, ``counts``; all float64."""
        rows, columns = torch.triu_indices(self.features, self.features)
        return {"gram": self.gram[rows, columns], "cross": self.cross.clone(), "counts": self.counts.clone()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> RidgeStatistics:
        """What ``tensors`` gave, bit for bit."""
        cross = tensors["cross"].clone()
        rows, columns = torch.triu_indices(len(cross), len(cross))
        gram = cross.new_zeros(len(cross), len(cross))
        gram[rows, columns] = tensors["gram"]
        gram[columns, rows] = tensors["gram"]
        return cls(gram, cross, tensors["counts"].clone())

    @staticmethod
    def size_bytes(features: int, classes: int) -> int:
        """Bytes of ``tensors`` for M features and C classes."""
        return 8 * (features * (features + 1) // 2 + features * classes + classes)


def largest_features(budget_bytes: int, *, classes: int, cap: int) -> int:
    """The largest M, at most ``cap``, whose statistics fit into ``budget_bytes`` with C ``classes``; 0 if none does."""
    low, high = 0, cap
    while low < high:
        middle = (low + high + 1) // 2
        fits = RidgeStatistics.size_bytes(middle, classes) <= budget_bytes
        low, high = (middle, high) if fits else (low, middle - 1)
    return low
