"""The pseudo-prototypical proxy loss of CoPE (De Lange and Tuytelaars, ICCV 2021, equations 5 to 9)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

FAR = -1e4
"""Stands for minus infinity: the logarithm of nothing, with a gradient."""


def pseudo_prototypical_proxy(z: Tensor, labels: Tensor, prototypes: Tensor, *, temperature: float) -> Tensor:
    r"""Attract each sample to its class's proxies, repel it from other classes' ones.

    .. math::
        P_c(z_i; q) = \frac{e^{q z_i / T}}{e^{q z_i / T} + \sum_{k \ne c} e^{p_k z_i / T}}, \quad
        L = -\frac1B \sum_i \Bigl[ \log \operatorname{mean}_{q} P_{y_i}(z_i; q)
            + \sum_{j: y_j \ne y_i} \log\bigl(1 - \tfrac12 (P_{y_j}(z_i; z_j) + P_{y_j}(z_i; p_{y_j}))\bigr) \Bigr]

    where q runs over the prototype of the class and the batch's other samples of it. Proxies are constants.

    Args:
        z: ``(B, J)``, each of length 1.
        labels: ``(B,)`` int64, rows of ``prototypes``.
        prototypes: ``(C, J)``, each of length 1.
        temperature: T.
    """
    to_class = z @ prototypes.detach().T / temperature  # (B, C)
    to_sample = z @ z.detach().T / temperature  # (B, B), row: the sample, column: the proxy
    others = _log_sum_of_others(to_class)
    class_odds = to_class - others  # (B, C)
    sample_odds = to_sample - others[:, labels]  # (B, B)
    same = labels[:, None] == labels[None, :]
    return -(
        _attractor(class_odds, sample_odds, labels, same) + _repellor(class_odds, sample_odds, labels, same)
    ) / len(z)


def _log_sum_of_others(to_class: Tensor) -> Tensor:
    """Log of the sum over all classes but c, for every sample and c: ``(B, C)``."""
    own = torch.eye(to_class.shape[1], dtype=torch.bool)
    return to_class[:, None, :].masked_fill(own, FAR).logsumexp(dim=2)


def _attractor(class_odds: Tensor, sample_odds: Tensor, labels: Tensor, same: Tensor) -> Tensor:
    proxies = same & ~torch.eye(len(same), dtype=torch.bool)
    by_sample = functional.logsigmoid(sample_odds).masked_fill(~proxies, FAR)
    by_class = functional.logsigmoid(class_odds.gather(1, labels[:, None]))  # (B, 1)
    total = torch.cat([by_class, by_sample], dim=1).logsumexp(dim=1)
    return (total - (1 + proxies.sum(dim=1)).to(total.dtype).log()).sum()


def _repellor(class_odds: Tensor, sample_odds: Tensor, labels: Tensor, same: Tensor) -> Tensor:
    """``1 - P`` is a sigmoid itself, so that its logarithm stays exact where P is nearly 1."""
    by_sample, by_class = functional.logsigmoid(-sample_odds), functional.logsigmoid(-class_odds[:, labels])
    return (torch.logaddexp(by_sample, by_class) - math.log(2)).masked_fill(same, 0.0).sum()
