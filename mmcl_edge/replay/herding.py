"""Herding: exemplars whose mean is nearest to the mean of all (Rebuffi et al., iCaRL, CVPR 2017, algorithm 4)."""

from __future__ import annotations

import torch
from torch import Tensor


def herding(features: Tensor) -> list[int]:
    r"""All samples of one class, best exemplars first.

    .. math:: p_k = argmin_{x} \lVert \mu - \frac1k (\phi(x) + \sum_{j<k} \phi(p_j)) \rVert

    over the samples not chosen yet: every beginning of the order is a good set of exemplars by itself.

    Args:
        features: ``phi`` ``(n, J)``, of length 1 each.

    Returns:
        A permutation of ``range(n)``.
    """
    mean, chosen = features.mean(dim=0), torch.zeros(len(features), dtype=torch.bool)
    total, order = torch.zeros_like(mean), []
    for count in range(1, len(features) + 1):
        distance = torch.linalg.vector_norm(mean - (total + features) / count, dim=1)
        best = int(distance.masked_fill(chosen, torch.inf).argmin())
        chosen[best], total = True, total + features[best]
        order.append(best)
    return order
