"""Random features: a fixed projection that makes classes easier to part by a linear rule."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from mmcl_edge.learners.randomness import generator_for


class RandomProjection:
    r"""Random features of RanPAC (McDonnell et al., NeurIPS 2023, equation 2): :math:`\phi(h) = ReLU(h W)`.

    ``W`` ``(D, M)`` is i.i.d. N(0, 1), drawn from ``generator`` and never trained, so only the generator's seed needs
    to be kept, and devices with one seed have statistics that can be merged.
    """

    def __init__(self, dim: int, features: int, *, generator: torch.Generator) -> None:
        self.weight = torch.randn(dim, features, generator=generator)

    def __call__(self, h: Tensor) -> Tensor:
        """Features ``(n, D)`` to random features ``(n, M)``, float32."""
        return torch.relu(h.float() @ self.weight)


class SubspaceProjection:
    """Coordinates in a random subspace: ``W`` ``(D, M)`` orthonormal, or nothing to do where D is M or less.

    Keeps a share M / D of every direction, so distances shrink evenly. Drawn from a seed that is the same everywhere.

    Args:
        dim: D.
        most: M at most.
        name: of what is projected; different names have different subspaces.
    """

    def __init__(self, dim: int, most: int, *, name: str) -> None:
        self.features = min(dim, most)
        self.weight: Tensor | None = None
        if dim > most:
            self.weight = _orthonormal(dim, most, name)

    def __call__(self, h: Tensor) -> Tensor:
        """Features ``(n, D)`` to ``(n, M)``, float32."""
        return h.float() if self.weight is None else h.float() @ self.weight


@lru_cache(maxsize=4)
def _orthonormal(dim: int, most: int, name: str) -> Tensor:
    """``W`` of a subspace; a process that makes many learners decomposes once (seconds where D is some thousands)."""
    drawn = torch.randn(dim, most, generator=generator_for(0, "subspace", name), dtype=torch.float64)
    basis, triangle = torch.linalg.qr(drawn)
    weight: Tensor = (basis * triangle.diagonal().sign()).float()  # the same signs whatever library decomposes
    return weight
