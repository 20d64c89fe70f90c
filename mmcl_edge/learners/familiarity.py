r"""How far a sample lies from every class: the Mahalanobis distance of its joint representation.

With :math:`x = z / \|z\|`, class means :math:`\mu_c` and one covariance for all classes (Lee et al., 2018):

.. math:: d(x) = \min_c (x - \mu_c)^T \Sigma^{-1} (x - \mu_c)

There are fewer exemplars than dimensions, so :math:`\Sigma` is shrunk towards a multiple of the identity, and only its
``k`` greatest variances are kept; the others share their mean :math:`r`. Then :math:`\Sigma^{-1} = I / r - P P^T` with
``P`` of shape ``(J, k)``: some tens of kilobytes instead of ``J * J``, and one small matrix product a sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmcl_edge.errors import PackError
from mmcl_edge.packs.confidence import PREFIX

SHRINKAGE = 0.3
"""Weight of the identity; chosen on validation folds (0.1 to 0.6 differ by less than 0.01 AUROC)."""
MAX_DIRECTIONS = 32
"""k; all directions gain nothing over it."""

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Familiarity:
    """Class means ``(C, J)`` and shared covariance of joint representations, ready to measure distances.

    Attributes:
        means: of unit vectors, so themselves not longer than 1.
        directions: P ``(J, k)``.
        precision: 1 / r.
    """

    means: Tensor
    directions: Tensor
    precision: float

    @classmethod
    def fit(cls, joint: Tensor, target: Tensor, classes: int) -> Familiarity | None:
        """The statistics of joint representations ``(n, J)`` with classes ``target`` ``(n,)``.

        ``None`` where a class has fewer than two of them: then there is no telling how it spreads.
        """
        counts = torch.bincount(target, minlength=classes)
        if classes == 0 or counts.min() < 2:
            return None
        x = torch.nn.functional.normalize(joint.double(), dim=1)
        means = torch.stack([x[target == number].mean(dim=0) for number in range(classes)])
        variances, vectors = _principal(x - means[target])
        kept = min(MAX_DIRECTIONS, len(variances) - 1)
        rest = variances[kept:].mean()
        if rest <= 0:  # all exemplars alike
            return None
        directions = vectors[:, :kept] * (1 / rest - 1 / variances[:kept]).clamp_min(0).sqrt()
        return cls(means.float(), directions.float(), float(1 / rest.float()))

    def tensors(self) -> dict[str, Tensor]:
        """As a pack stores it."""
        named = {"means": self.means, "directions": self.directions, "precision": torch.tensor(self.precision)}
        return {PREFIX + name: value.contiguous() for name, value in named.items()}

    @classmethod
    def load(cls, tensors: Mapping[str, Tensor], *, classes: int, width: int) -> Familiarity:
        """What ``tensors`` gave.

        Raises:
            PackError: a tensor is missing, left over, or of another shape.
        """
        found = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
        shapes = {name: tuple(value.shape) for name, value in found.items()}
        kept = shapes.get("directions", (0, 0))[-1]
        expected = {"means": (classes, width), "directions": (width, kept), "precision": ()}
        if shapes != expected:
            raise PackError(
                f"The pack's confidence tensors should have the shapes {expected}, but have {shapes}; "
                "run 'mmcl-edge calibrate confidence' on a whole pack."
            )
        return cls(found["means"].float(), found["directions"].float(), float(found["precision"]))

    def meter(self) -> Meter:
        """The same, arranged for speed."""
        means, directions = self.means.numpy(), self.directions.numpy()
        solved = self.precision * means - (means @ directions) @ directions.T
        return Meter(
            matrix=np.ascontiguousarray(np.concatenate([directions, 2 * solved.T], axis=1)),
            kept=directions.shape[1],
            bias=(solved * means).sum(axis=1),
            precision=self.precision,
        )


@dataclass(frozen=True, slots=True)
class Meter:
    r"""Measures :math:`d(x) = 1/r - \|P^T x\|^2 - \max_c (2 \mu_c^T \Sigma^{-1} x - \mu_c^T \Sigma^{-1} \mu_c)`.

    Attributes:
        matrix: P and the doubled class vectors side by side, ``(J, k + C)``.
        kept: k.
        bias: ``(C,)``.
        precision: 1 / r.
    """

    matrix: Array
    kept: int
    bias: Array
    precision: float

    def __call__(self, joint: Array) -> Array:
        """Distance of each row of ``(B, J)`` to its nearest class, ``(B,)``."""
        length = np.sqrt(np.einsum("bj,bj->b", joint, joint))[:, None]
        sides = (joint @ self.matrix) / np.maximum(length, 1e-12)
        kept = sides[:, : self.kept]
        distance: Array = (
            self.precision - np.einsum("bk,bk->b", kept, kept) - (sides[:, self.kept :] - self.bias).max(1)
        )
        return distance


def _principal(residuals: Tensor) -> tuple[Tensor, Tensor]:
    """Shrunk variances ``(J,)``, greatest first, and their directions ``(J, J)``."""
    covariance = residuals.T @ residuals / len(residuals)
    variances, vectors = torch.linalg.eigh(covariance)
    variances = variances.flip(0).clamp_min(0)
    return (1 - SHRINKAGE) * variances + SHRINKAGE * variances.mean(), vectors.flip(1)
