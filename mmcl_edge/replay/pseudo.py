r"""Pseudo-modality replay: what an earlier modality would have said of the current texts (METHODS 2.5, PMR).

A stage holds pairs of the mediator and one new modality, and no data of earlier ones. The current texts choose codes;
an earlier modality's vectors for these codes are made up, in one of two ways:

- ``CodeGaussians`` (light): a code's vectors of a modality are one Gaussian with a diagonal variance. Memory:
  ``4 L (2 D + 1)`` bytes a modality.
- ``Generator`` (generative): the modality's decoder turns codes and a drawn specific vector into features, and its
  projection turns them into vectors. Memory: the decoder, and mean and deviation of the specific vectors.

Neither keeps a sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_DEVIATION = 1e-4


@dataclass(frozen=True, slots=True)
class CodeGaussians:
    """One modality's vectors by the code that tells them.

    Attributes:
        counts: ``(L,)``, how many vectors.
        means: ``(L, D)``; of all vectors together where a code has none.
        variances: ``(L, D)``, likewise.
    """

    counts: Tensor
    means: Tensor
    variances: Tensor

    @classmethod
    def fitted(cls, vectors: Tensor, index: Tensor, codes: int) -> CodeGaussians:
        """Of ``vectors (n, D)`` told by the codes ``index (n,)`` among ``codes``.

        A code with a single vector has the pooled variance within codes: its own would be zero.
        """
        counts = torch.zeros(codes).index_add_(0, index, torch.ones(len(index)))
        some = counts.clamp_min(1)[:, None]
        means = torch.zeros(codes, vectors.shape[1]).index_add_(0, index, vectors) / some
        squares = (vectors - means[index]).square()
        variances = torch.zeros_like(means).index_add_(0, index, squares) / some
        within = squares.mean(dim=0)
        variances = torch.where(counts[:, None] > 1, variances, within)
        none = counts[:, None] == 0
        means = torch.where(none, vectors.mean(dim=0), means)
        return cls(counts, means, torch.where(none, vectors.var(dim=0, correction=0), variances))

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Vectors ``(..., D)`` for codes ``index (...)``; codes that came later than these are told by the pool."""
        mean, variance = self._pool()
        known = index.clamp_max(len(self.counts))  # the row after the last is the pool
        deviation = torch.cat([self.variances, variance[None]]).sqrt().clamp_min(LEAST_DEVIATION)[known]
        drawn: Tensor = torch.cat([self.means, mean[None]])[known]
        return drawn + deviation * torch.randn(deviation.shape, generator=generator)

    def _pool(self) -> tuple[Tensor, Tensor]:
        """Mean and variance ``(D,)`` of all vectors together."""
        share = (self.counts / self.counts.sum().clamp_min(1))[:, None]
        mean = (self.means * share).sum(dim=0)
        second = ((self.variances + self.means.square()) * share).sum(dim=0)
        return mean, (second - mean.square()).clamp_min(0)

    def moved(self, where: Tensor, codes: int) -> CodeGaussians:
        """The same after codes were joined: row i is now ``where[i]`` of ``codes``.

        Mixtures become one Gaussian; codes that no row goes to are told by the pool.
        """
        where = where[: len(self.counts)]
        counts = torch.zeros(codes).index_add_(0, where, self.counts)
        weight = self.counts.clamp_min(torch.finfo(torch.float32).eps)
        total = torch.zeros(codes).index_add_(0, where, weight).clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        zeros = torch.zeros(codes, self.means.shape[1])
        means = zeros.index_add(0, where, self.means * weight[:, None]) / total
        second = zeros.index_add(0, where, (self.variances + self.means.square()) * weight[:, None]) / total
        variances = (second - means.square()).clamp_min(0)
        mean, variance = self._pool()
        came = (where.bincount(minlength=codes) > 0)[:, None]
        return CodeGaussians(counts, torch.where(came, means, mean), torch.where(came, variances, variance))

    def tensors(self) -> dict[str, Tensor]:
        """What persists."""
        return {"counts": self.counts, "means": self.means, "variances": self.variances}

    @property
    def size_bytes(self) -> int:
        """Bytes of what persists."""
        return sum(value.nbytes for value in self.tensors().values())


@dataclass(frozen=True, slots=True)
class Generator:
    """One modality's features made from codes.

    Attributes:
        decode: codes' vectors ``(B, T, D)`` and specific vectors ``(B, S)`` to features ``(B, P)``.
        project: features ``(B, P)`` to vectors of the shared space ``(B, T, D)``.
        codes: ``(L, D)``, the codebook that the decoder was trained with.
        mean: ``(S,)``, of the modality's specific vectors.
        deviation: ``(S,)``.
    """

    decode: Callable[[Tensor, Tensor], Tensor]
    project: Callable[[Tensor], Tensor]
    codes: Tensor
    mean: Tensor
    deviation: Tensor

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Vectors ``(B, T, D)`` for codes ``index (B, T)``."""
        noise = torch.randn(len(index), len(self.mean), generator=generator)
        with torch.no_grad():
            return self.project(self.decode(self.codes[index], self.mean + self.deviation * noise))
