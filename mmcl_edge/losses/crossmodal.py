r"""The losses of the shared discrete space (METHODS 2.2), as pure functions over a batch of pairs.

``a`` and ``b`` are two modalities of the same samples, row by row. ``same`` ``(B, B)`` bool says which rows show the
same thing (equal captions): they are no negatives of each other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def reconstruction(decoded: Tensor, x: Tensor) -> Tensor:
    """Mean squared error of decoded features ``(B, P)``."""
    return functional.mse_loss(decoded, x)


def commitment(z: Tensor, codes: Tensor, other_codes: Tensor, *, weight: float) -> Tensor:
    r"""Pull vectors to their codes, and half as much to the other modality's (the cross term).

    :math:`\beta |z^a - sg[e^a]|^2 + \tfrac{\beta}{2} |z^a - sg[e^b]|^2`, mean over all positions; all ``(B, T, D)``.
    """
    own = functional.mse_loss(z, codes.detach())
    cross = functional.mse_loss(z, other_codes.detach())
    return weight * own + weight / 2 * cross


def info_nce(a: Tensor, b: Tensor, *, temperature: float, same: Tensor | None = None) -> Tensor:
    """Contrast of ``a`` with ``b`` both ways, by cosine: each ``(B, D)``."""
    scores = functional.normalize(a, dim=-1) @ functional.normalize(b, dim=-1).T / temperature
    return _both_ways(scores, same)


def cross_cpc(predicted: Tensor, target: Tensor, *, temperature: float, same: Tensor | None = None) -> Tensor:
    """Contrastive prediction across modalities: what one modality's slots so far say of the other's next.

    InfoNCE over the batch by dot product, mean over the K predicted slots.

    Args:
        predicted: ``(B, K, D)``, from one modality.
        target: ``(B, K, D)``, the other modality's slots.
        temperature: divides the scores.
        same: see the module docstring.
    """
    scores = torch.einsum("ikd,jkd->kij", predicted, target) / temperature
    return torch.stack([_one_way(one, same) for one in scores]).mean()


def code_matching(a: Tensor, b: Tensor, *, same: Tensor | None = None) -> Tensor:
    r"""Cross-modal code matching (Liu et al.): distributions over codes of a pair agree, those of others do not.

    :math:`s_{ij} = p_i^a \cdot \log p_j^b + p_j^b \cdot \log p_i^a`, then InfoNCE by rows.

    Args:
        a: ``(B, T, L)``, each slot's distribution, sums to 1.
        b: ``(B, T, L)``.
        same: see the module docstring.
    """
    return _one_way(code_scores(a, b), same)


def code_scores(a: Tensor, b: Tensor) -> Tensor:
    """How alike distributions over codes are, ``(A, B)``: 0 at most; of ``(A, T, L)`` and ``(B, T, L)``, slot by slot.

    The mean over slots of the scores in ``code_matching``.
    """
    p, q = a.flatten(1), b.flatten(1)
    floor = torch.finfo(p.dtype).tiny
    scores: Tensor = (p @ q.clamp_min(floor).log().T + p.clamp_min(floor).log() @ q.T) / a.shape[1]
    return scores


def gaussian_log_likelihood(mean: Tensor, log_variance: Tensor, y: Tensor) -> Tensor:
    """Mean log-likelihood of ``y (B, D)`` under the Gaussians that ``q`` predicts, up to a constant.

    CLUB's inner step maximises it.
    """
    return (-(y - mean).square() / log_variance.exp() - log_variance).sum(dim=1).mean() / 2


def club(mean: Tensor, log_variance: Tensor, y: Tensor) -> Tensor:
    """CLUB's upper bound on the mutual information of ``y (B, D)`` and what ``mean`` and ``log_variance`` follow from.

    The log-likelihood of each row's own ``y`` less the mean over all rows' (Cheng et al. 2020).
    """
    own = (y - mean).square()  # (B, D)
    every = (y.mean(dim=0) - mean).square() + y.var(dim=0, correction=0)  # the mean over all rows' y, without a loop
    return ((every - own) / log_variance.exp()).sum(dim=1).mean() / 2


def consistency(old: Tensor, new: Tensor) -> Tensor:
    """KL from old to new distributions over the old codes: ``old (..., L)``, of ``new (..., L')`` the first L."""
    floor = torch.finfo(new.dtype).tiny
    kept = new[..., : old.shape[-1]]
    kept = kept / kept.sum(dim=-1, keepdim=True).clamp_min(floor)
    return (old * (old.clamp_min(floor).log() - kept.clamp_min(floor).log())).sum(dim=-1).mean()


def _both_ways(scores: Tensor, same: Tensor | None) -> Tensor:
    return (_one_way(scores, same) + _one_way(scores.T, None if same is None else same.T)) / 2


def _one_way(scores: Tensor, same: Tensor | None) -> Tensor:
    """Row i against all columns; column i is right, other columns of the same thing do not count."""
    if same is not None:
        others = same & ~torch.eye(len(scores), dtype=torch.bool)
        scores = scores.masked_fill(others, -math.inf)
    return functional.cross_entropy(scores, torch.arange(len(scores)))
