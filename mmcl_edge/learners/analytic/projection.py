"""Random features: a fixed projection that makes classes easier to part by a linear rule."""

from __future__ import annotations

import torch
from torch import Tensor


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
