r"""What the shared space reads of frozen features: their principal components.

.. math:: x = (h - \mu) V / s

V are the first P principal directions of the modality's first stage, s the root of the mean squared length there: the
training samples have a mean squared length of at most 1. Found once, never changed: later stages, and pseudo features
of earlier modalities, live in the same space. The first mediator has a random rotation for V, the same on every device:
components of a few captions would be blind to what later captions say.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON = 1e-6
MOST_ROWS = 2048
"""Samples that directions are found from, evenly spread over all: decomposing more takes minutes and moves little."""


@dataclass(frozen=True, slots=True)
class Front:
    """``mean (d,)``, ``basis (d, P)`` divided by s already."""

    mean: Tensor
    basis: Tensor

    @classmethod
    def fitted(cls, h: Tensor, most: int) -> Front:
        """Of features ``(n, d)``: at most ``most`` directions, none beyond their rank."""
        mean = h.mean(dim=0)
        rows = torch.linspace(0, len(h) - 1, min(len(h), MOST_ROWS)).round().long()
        centred = (h[rows] - mean).double()
        scale = centred.square().sum(dim=1).mean().sqrt().clamp_min(EPSILON)
        wide = len(rows) < h.shape[1]
        values, vectors = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
        kept = [i for i in range(len(values) - 1, -1, -1) if values[i] > EPSILON * values[-1]][:most]
        basis = vectors[:, kept or [-1]]
        if wide:
            basis = centred.T @ basis / values[kept or [-1]].clamp_min(EPSILON).sqrt()
        return cls(mean, _signed(basis / scale).to(h.dtype))

    @classmethod
    def turned(cls, h: Tensor, outputs: int, generator: torch.Generator) -> Front:
        """Features ``(n, d)`` as they are, turned at random: what was never seen keeps its angles, too."""
        mean = h.mean(dim=0)
        scale = (h - mean).square().sum(dim=1).mean().sqrt().clamp_min(EPSILON)
        return cls(mean, rotation(h.shape[1], outputs, generator) / scale)

    def __call__(self, h: Tensor) -> Tensor:
        """Features ``(n, d)`` to ``(n, P)``."""
        return (h - self.mean) @ self.basis


def _signed(basis: Tensor) -> Tensor:
    """Each direction with its largest number positive: eigenvectors come with either sign."""
    largest = basis.abs().argmax(dim=0)
    signed: Tensor = basis * basis[largest, torch.arange(basis.shape[1])].sign()
    return signed


def ridge(x: Tensor, y: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Weight ``(P, K)`` and offset ``(K,)`` with which ``x (n, P)`` tells ``y (n, K)`` best, ``strength`` above 0."""
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    centred = (x - mean_x).double()
    gram = centred.T @ centred
    gram.diagonal().add_(strength)
    weight = torch.linalg.solve(gram, centred.T @ (y - mean_y).double()).to(x.dtype)
    return weight, mean_y - mean_x @ weight


def rotation(inputs: int, outputs: int, generator: torch.Generator) -> Tensor:
    """A random map ``(inputs, outputs)`` with orthonormal rows or columns, whichever are fewer.

    It keeps lengths and angles where there are as many outputs as inputs, and nearly so below.
    """
    most, least = max(inputs, outputs), min(inputs, outputs)
    q, r = torch.linalg.qr(torch.randn(most, least, generator=generator, dtype=torch.float64))
    found: Tensor = (q * r.diagonal().sign()).float()
    return found if inputs >= outputs else found.T.contiguous()
