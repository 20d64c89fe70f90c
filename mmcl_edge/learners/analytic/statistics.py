"""The sums that ridge regression needs: they add up over samples, experiences and devices, in any order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from mmcl_edge.errors import InputError

ROWS_AT_ONCE = 3
"""Rows, in multiples of M, that are stacked before they are decomposed."""


class RidgeStatistics:
    r"""Sufficient statistics of a ridge regression (RanPAC, McDonnell et al., NeurIPS 2023, equations 3 and 4).

    .. math:: G = \sum_n \phi_n \phi_n^T = R^T R, \quad Q = \sum_n \phi_n y_n^T, \quad W = (G + \lambda I)^{-1} Q

    G is kept as its triangular square root R, from the QR decomposition of all rows seen (square-root information
    form, Golub and Van Loan, section 5.3): with n samples R has min(n, M) rows, so few samples take few bytes, no
    precision is lost by squaring, and merging is the decomposition of both roots on top of each other. Computed in
    float64 and kept in the dtype of ``root``: sums over any order of the samples agree to its rounding. An instance
    never changes.

    Attributes:
        root: R ``(r, M)``, upper triangular (trapezoidal), r = min(samples, M).
        cross: Q ``(M, C)``.
        counts: ``(C,)``, sum of the targets of each column: the samples of each class where targets are one-hot.
    """

    def __init__(self, root: Tensor, cross: Tensor, counts: Tensor) -> None:
        self.root, self.cross, self.counts = root, cross, counts

    @classmethod
    def empty(cls, features: int, classes: int = 0, *, dtype: torch.dtype = torch.float64) -> RidgeStatistics:
        """Statistics of no samples, for ``features`` (M) features and ``classes`` (C) targets, kept as ``dtype``."""
        zeros = torch.zeros(features, classes, dtype=dtype)
        return cls(zeros.new_zeros(0, features), zeros, zeros.new_zeros(classes))

    @property
    def gram(self) -> Tensor:
        """G ``(M, M)`` float64."""
        return self.root.double().T @ self.root.double()

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
        own = RidgeStatistics(torch.linalg.qr(x, mode="r").R, x.T @ y, y.sum(dim=0))
        return self.merged(own)

    def merged(self, other: RidgeStatistics) -> RidgeStatistics:
        """Statistics of the samples of both; columns of the same number must mean the same class (see ``placed``).

        Raises:
            InputError: the sizes differ.
        """
        return RidgeStatistics.total([other], self)

    @classmethod
    def total(cls, parts: Iterable[RidgeStatistics], start: RidgeStatistics) -> RidgeStatistics:
        """Statistics of the samples of ``start`` and all ``parts``, whose columns mean the same.

        As ``merged`` one by one, but roots are stacked until they have several times M rows before they are
        decomposed, so the memory is bounded and thousands of small parts cost little more than their rows.

        Raises:
            InputError: the sizes differ.
        """
        cross, counts, roots = start.cross.double(), start.counts.double(), [start.root.double()]
        for part in parts:
            start._check_like(part)
            cross, counts = cross + part.cross.double(), counts + part.counts.double()
            roots.append(part.root.double())
            if sum(map(len, roots)) >= ROWS_AT_ONCE * start.features:
                roots = [_triangle(roots)]
        return start._kept(_triangle(roots), cross, counts)

    def _check_like(self, other: RidgeStatistics) -> None:
        if (self.features, self.classes) != (other.features, other.classes):
            raise InputError(
                f"Expected statistics of {self.features} features and {self.classes} classes to merge with, but "
                f"found {other.features} and {other.classes}; use one projection and place the columns alike."
            )

    def _kept(self, root: Tensor, cross: Tensor, counts: Tensor) -> RidgeStatistics:
        """Sums in the dtype of these."""
        dtype = self.root.dtype
        return RidgeStatistics(root.to(dtype).contiguous(), cross.to(dtype), counts.to(dtype))

    def placed(self, columns: Sequence[int], classes: int) -> RidgeStatistics:
        """The same sums with column ``i`` at ``columns[i]`` of ``classes`` columns; the others are zero.

        For new classes ``placed(range(old), new)``; to merge devices with their own orders of classes, both placed.
        """
        cross = self.cross.new_zeros(self.features, classes)
        counts = self.counts.new_zeros(classes)
        cross[:, list(columns)], counts[list(columns)] = self.cross, self.counts
        return RidgeStatistics(self.root, cross, counts)

    def solve(self, ridge: float) -> Tensor:
        """Weights W ``(M, C)`` float64: ``phi @ W`` are the scores. ``ridge`` is lambda, above 0.

        Raises:
            InputError: the ridge is too small for features this dependent.
        """
        if ridge <= 0:
            raise InputError(
                f"Expected a ridge large enough to solve for {self.features} features, but it is {ridge:g}; enlarge it."
            )
        return Inverse(self.root.double(), ridge).solve(self.cross.double())

    def tensors(self) -> dict[str, Tensor]:
        """What persists: ``root`` as its triangle, row by row, ``cross``, ``counts``."""
        rows, columns = torch.triu_indices(*self.root.shape)
        return {"root": self.root[rows, columns], "cross": self.cross.clone(), "counts": self.counts.clone()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> RidgeStatistics:
        """What ``tensors`` gave, bit for bit."""
        cross, packed = tensors["cross"].clone(), tensors["root"]
        root = cross.new_zeros(_rows_of(len(packed), len(cross)), len(cross))
        rows, columns = torch.triu_indices(*root.shape)
        root[rows, columns] = packed
        return cls(root, cross, tensors["counts"].clone())

    @staticmethod
    def is_triangle(packed: int, features: int) -> bool:
        """Whether ``packed`` numbers can be a root of ``features`` columns."""
        if not 0 <= packed <= features * (features + 1) // 2:
            return False
        rows = _rows_of(packed, features)
        return packed == rows * features - rows * (rows - 1) // 2

    @staticmethod
    def size_bytes(features: int, classes: int, *, dtype: torch.dtype = torch.float64) -> int:
        """Most bytes that ``tensors`` can take for M features and C classes (with M samples or more)."""
        return dtype.itemsize * (features * (features + 1) // 2 + features * classes + classes)


class Inverse:
    r""":math:`(R^T R + \lambda I)^{-1}` for R ``(r, M)``, through r x r matrices where R has fewer rows than columns.

    With the QR decomposition :math:`R^T = P T`, P ``(M, r)`` orthonormal, it is
    :math:`P (T T^T + \lambda I)^{-1} P^T + (I - P P^T) / \lambda`: nothing cancels, however small lambda is.

    Raises:
        InputError: lambda is too small for features this dependent.
    """

    def __init__(self, root: Tensor, ridge: float) -> None:
        rows, features = root.shape
        self.ridge = ridge
        self.features = features
        self.basis: Tensor | None = None
        core = root.T @ root if rows >= features else self._reduced(root)
        core.diagonal().add_(ridge)
        self.factor, failed = torch.linalg.cholesky_ex(core)
        if int(failed) != 0:
            raise InputError(
                f"Expected a ridge large enough to solve for {features} features, but it is {ridge:g}; enlarge it."
            )

    def _reduced(self, root: Tensor) -> Tensor:
        self.basis, triangle = torch.linalg.qr(root.T, mode="reduced")
        core: Tensor = triangle @ triangle.T
        return core

    def solve(self, cross: Tensor) -> Tensor:
        """The inverse times ``cross`` ``(M, C)``, whose columns lie in the span of R's rows."""
        if self.basis is None:
            full: Tensor = torch.cholesky_solve(cross, self.factor)
            return full
        inside: Tensor = torch.cholesky_solve(self.basis.T @ cross, self.factor)
        return self.basis @ inside

    def form(self, x: Tensor) -> Tensor:
        r""":math:`x^T (R^T R + \lambda I)^{-1} x` of each row of x ``(n, M)``: ``(n,)``, its distance to R's rows."""
        inside = x if self.basis is None else x @ self.basis
        form: Tensor = torch.linalg.solve_triangular(self.factor, inside.T, upper=False).square().sum(dim=0)
        if self.basis is None:
            return form
        return form + (x.square().sum(dim=1) - inside.square().sum(dim=1)).clamp_min(0) / self.ridge

    def degrees_of_freedom(self) -> float:
        r""":math:`tr(G (G + \lambda I)^{-1})`: how many numbers the regression effectively fits."""
        identity = torch.eye(len(self.factor), dtype=self.factor.dtype)
        trace = torch.linalg.solve_triangular(self.factor, identity, upper=False).square().sum()
        return len(self.factor) - self.ridge * float(trace)


def largest_features(budget_bytes: int, *, classes: int, cap: int, dtype: torch.dtype = torch.float64) -> int:
    """The largest M, at most ``cap``, whose statistics fit into ``budget_bytes`` with C ``classes``; 0 if none does."""
    low, high = 0, cap
    while low < high:
        middle = (low + high + 1) // 2
        fits = RidgeStatistics.size_bytes(middle, classes, dtype=dtype) <= budget_bytes
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _triangle(roots: Sequence[Tensor]) -> Tensor:
    """The root of the sum of what the roots are of: decomposed on top of each other. One alone stays as it is."""
    some = [root for root in roots if len(root)]
    if len(some) <= 1:
        return some[0] if some else roots[0]
    root: Tensor = torch.linalg.qr(torch.cat(some), mode="r").R
    return root


def _rows_of(packed: int, features: int) -> int:
    """Rows r of a trapezoid of ``features`` columns that holds ``packed`` numbers: r M - r (r - 1) / 2 of them."""
    rows, left = 0, packed
    while left > 0:
        left -= features - rows
        rows += 1
    return rows
