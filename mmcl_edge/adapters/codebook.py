r"""The shared codebook: vectors that samples of every modality are told by (METHODS 2.2, 2.5).

What happens to it, in the order of a stage:

1. ``initialise``: k-means centres of the first stage's vectors, with counts and sums that fit them.
2. ``update``, once a step: every modality's vectors vote for the code they chose, half with themselves and half with
   the vector of the other modality at the same place, so that a code stands for what both have in common
   (multi-modal EMA). Counts are Laplace-smoothed. Settled rows move more slowly, by ``settled_decay``.
3. ``reset_dead``, once a step: a code that nobody chose for long becomes a vector of the batch. Its count and its sum
   are set too: otherwise the next update would undo the reset.
4. ``expand``: rows for what the codes tell worst (k-means of the vectors with the largest residual), under a cap.
5. ``settle``, after a stage: codes that are nearly equal become one, and all rows are old from now on.

Nothing here has a gradient, and asking (``forward``) changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-5
"""Of the Laplace smoothing of counts [S]."""
COUNT_FLOOR = 1.0
"""Count of a code that is new or was reset: it stands for one vector."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """Vectors told by codes: the chosen rows ``codes (..., D)``, their ``index (...)``, ``probabilities (..., L)``."""

    codes: Tensor
    index: Tensor
    probabilities: Tensor


@dataclass(frozen=True, slots=True)
class CodeUsage:
    """How well the codes are used.

    Attributes:
        codes: L.
        perplexity: of the distribution of codes over all vectors: L at best, 1 where one code tells everything.
        shared: share of the codes in use that two or more modalities use.
        residual: modality to ``mean |z - e|^2 / mean |z|^2``.
    """

    codes: int
    perplexity: float
    shared: float
    residual: dict[str, float]


class Codebook(nn.Module):
    r"""L codes of width D, kept as counts N and sums o: :math:`e_i = o_i / N_i`.

    .. math:: N_i \leftarrow \gamma N_i + (1-\gamma) n_i, \quad
              o_i \leftarrow \gamma o_i + (1-\gamma) \sum_{j \to i} \tfrac12 (z_j + r_j)

    Args:
        dim: D.
        decay: gamma of rows that are not settled.
        settled_decay: gamma of settled rows; 1 freezes them.
        temperature: of the distribution over codes, softmax of minus the squared distance by it.
    """

    codes: Tensor
    counts: Tensor
    sums: Tensor
    idle: Tensor

    def __init__(self, dim: int, *, decay: float, settled_decay: float, temperature: float) -> None:
        super().__init__()
        self.dim, self.decay, self.settled_decay, self.temperature = dim, decay, settled_decay, temperature
        self.settled = 0
        self.put(torch.zeros(0, dim), torch.zeros(0), torch.zeros(0, dim), settled=0)

    def __len__(self) -> int:
        return len(self.codes)

    def put(self, codes: Tensor, counts: Tensor, sums: Tensor, *, settled: int) -> None:
        """Replace all rows, the first ``settled`` of them old: codes, sums ``(L, D)``, counts ``(L,)``."""
        self.register_buffer("codes", codes.detach().clone())
        self.register_buffer("counts", counts.detach().clone())
        self.register_buffer("sums", sums.detach().clone())
        self.register_buffer("idle", torch.zeros(len(codes), dtype=torch.int64))
        self.settled = settled

    def initialise(self, vectors: Tensor, size: int, generator: torch.Generator) -> None:
        """``size`` codes (fewer where there are fewer vectors): k-means centres of ``vectors (n, D)``."""
        centres = kmeans(vectors.detach(), size, generator=generator)
        self.put(centres, *_fitting(centres, vectors.detach()), settled=0)

    def forward(self, z: Tensor) -> Quantized:
        """Tell vectors ``(..., D)`` by codes."""
        away = squared_distances(z, self.codes)  # (..., L)
        index = away.argmin(dim=-1)
        return Quantized(self.codes[index], index, (-away / self.temperature).softmax(dim=-1))

    @torch.no_grad()
    def update(self, views: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """One step of the multi-modal EMA.

        Args:
            views: one a modality: its vectors ``(n, D)``, and the other modality's at the same places (the modality's
                own again where there is no other).

        Returns:
            How many vectors chose each code, ``(L,)``.
        """
        chosen = [self(z).index for z, _ in views]
        hits = self.counts.new_zeros(len(self))
        sums = torch.zeros_like(self.sums)
        for index, (own, other) in zip(chosen, views, strict=True):
            hits.index_add_(0, index, torch.ones(len(index)))
            sums.index_add_(0, index, (own + other) / 2)
        gamma = self._decays()
        self.counts = gamma * self.counts + (1 - gamma) * hits
        self.sums = gamma[:, None] * self.sums + (1 - gamma)[:, None] * sums
        moving = gamma < 1
        self.codes = torch.where(moving[:, None], self.sums / self._smoothed()[:, None], self.codes)
        self.idle = torch.where(hits > 0, 0, self.idle + 1)
        return hits

    def _decays(self) -> Tensor:
        old = torch.arange(len(self)) < self.settled
        return torch.where(old, self.settled_decay, self.decay)

    def _smoothed(self) -> Tensor:
        total = self.counts.sum()
        return (self.counts + EPSILON) / (total + len(self) * EPSILON) * total

    @torch.no_grad()
    def reset_dead(self, vectors: Tensor, *, patience: int, generator: torch.Generator) -> int:
        """Give each code that was idle for ``patience`` updates a random one of ``vectors (n, D)``; returns how many.

        Settled rows are never reset: what they tell may just not occur in this stage.
        """
        dead = ((self.idle >= patience) & (torch.arange(len(self)) >= self.settled)).nonzero()[:, 0]
        if len(dead) and len(vectors):
            self.codes[dead] = vectors[torch.randint(len(vectors), (len(dead),), generator=generator)].detach()
            self.counts[dead], self.idle[dead] = COUNT_FLOOR, 0
            self.sums[dead] = self.codes[dead] * self._smoothed()[dead, None]
        return len(dead)

    @torch.no_grad()
    def expand(self, vectors: Tensor, count: int, *, cap: int, generator: torch.Generator) -> int:
        """Add up to ``count`` rows, L at most ``cap``; returns how many.

        The new rows are k-means centres of the half of ``vectors (n, D)`` that the codes tell worst.
        """
        count = min(count, cap - len(self), len(vectors))
        if count <= 0:
            return 0
        away = squared_distances(vectors, self.codes).min(dim=-1).values
        worst = vectors[away.argsort(descending=True)[: max(count, len(vectors) // 2)]]
        centres = kmeans(worst, count, generator=generator)
        counts, sums = _fitting(centres, worst)
        self.put(
            torch.cat([self.codes, centres]),
            torch.cat([self.counts, counts]),
            torch.cat([self.sums, sums]),
            settled=self.settled,
        )
        return len(centres)

    @torch.no_grad()
    def settle(self, *, merge_cosine: float) -> Tensor:
        """Join rows whose cosine is above ``merge_cosine``, weighed by their counts; all that is left is old now.

        Returns:
            Where each row went, ``(L before,)`` int64.
        """
        unit = functional.normalize(self.codes, dim=1)
        close = unit @ unit.T > merge_cosine
        target = torch.arange(len(self))
        for row in range(len(self)):  # a row joins the first representative that is close to it
            earlier = (close[row, :row] & (target[:row] == torch.arange(row))).nonzero()[:, 0]
            if len(earlier):
                target[row] = earlier[0]
        kept, inverse = target.unique(return_inverse=True)
        where: Tensor = inverse
        counts = torch.zeros(len(kept)).index_add_(0, where, self.counts)
        weight = self.counts.clamp_min(EPSILON)
        codes = torch.zeros(len(kept), self.dim).index_add_(0, where, self.codes * weight[:, None])
        codes = codes / torch.zeros(len(kept)).index_add_(0, where, weight)[:, None]
        alone = where.bincount(minlength=len(kept)) == 1
        codes = torch.where(alone[:, None], self.codes[kept], codes)  # a row that stayed alone keeps its bits
        self.put(codes, counts, codes * counts[:, None], settled=len(codes))
        return where

    @torch.no_grad()
    def residual(self, z: Tensor) -> float:
        """Share of the vectors ``(n, D)`` that codes do not tell: ``mean |z - e|^2 / mean |z|^2``."""
        away = squared_distances(z, self.codes).min(dim=-1).values
        return float(away.mean() / z.square().sum(dim=-1).mean().clamp_min(EPSILON))

    @torch.no_grad()
    def usage(self, vectors: dict[str, Tensor]) -> CodeUsage:
        """How ``vectors``, modality to ``(n, D)``, use the codes."""
        hits = {name: self(z).index.bincount(minlength=len(self)) for name, z in vectors.items()}
        total = torch.stack(list(hits.values())).sum(dim=0)
        share = total[total > 0] / total.sum()
        users = torch.stack([one > 0 for one in hits.values()]).sum(dim=0)
        return CodeUsage(
            codes=len(self),
            perplexity=float((-(share * share.log()).sum()).exp()),
            shared=float((users >= 2).sum() / (users >= 1).sum()),
            residual={name: self.residual(z) for name, z in vectors.items()},
        )


def squared_distances(z: Tensor, codes: Tensor) -> Tensor:
    """``|z - e|^2`` of vectors ``(..., D)`` to codes ``(L, D)``: ``(..., L)``, never below 0."""
    away = z.square().sum(dim=-1, keepdim=True) - 2 * z @ codes.T + codes.square().sum(dim=-1)
    clamped: Tensor = away.clamp_min(0)
    return clamped


def kmeans(vectors: Tensor, count: int, *, generator: torch.Generator, steps: int = 10) -> Tensor:
    """Centres ``(min(count, n), D)`` of ``vectors (n, D)``: Lloyd's steps from vectors drawn without repetition.

    A centre that loses all its vectors stays where it was.
    """
    start = torch.randperm(len(vectors), generator=generator)[:count]
    centres = vectors[start].clone()
    for _ in range(steps):
        index = squared_distances(vectors, centres).argmin(dim=1)
        hits = index.bincount(minlength=len(centres))
        means = torch.zeros_like(centres).index_add_(0, index, vectors) / hits.clamp_min(1)[:, None]
        centres = torch.where((hits > 0)[:, None], means, centres)
    return centres


def _fitting(centres: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Counts and sums with which the next update finds the centres where they are."""
    counts = squared_distances(vectors, centres).argmin(dim=1).bincount(minlength=len(centres)).float()
    counts = counts.clamp_min(COUNT_FLOOR)
    return counts, centres * counts[:, None]
