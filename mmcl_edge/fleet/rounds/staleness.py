"""How much an answer counts that comes late, or was learned on top of an old pack."""

from __future__ import annotations

from collections.abc import Sequence

EXPONENT = 0.5
"""a: with 0 age does not matter; 0.5 is what FedAsync's authors use for a polynomial decay."""


def staleness_weight(age: int, exponent: float = EXPONENT) -> float:
    r"""Polynomial staleness of FedAsync (Xie et al., 2019, section 5.2): :math:`s(t) = (1 + t)^{-a}`.

    Args:
        age: t, rounds between the order and the merge; 0 is in time.
        exponent: a, 0 or more.
    """
    return float((1 + age) ** -exponent)


def shares(samples: Sequence[int], ages: Sequence[int], exponent: float = EXPONENT) -> tuple[list[float], float]:
    r"""The share of each answer in the merged pack, and that of the fleet's pack before.

    .. math:: x \leftarrow \frac{1}{\sum_i n_i} \sum_i n_i \left[ s(t_i)\, x_i + (1 - s(t_i))\, x \right]

    Each answer counts by its samples n; what its age t takes from it goes to the pack that the fleet has. In time, all
    of them, this is federated averaging (McMahan et al., 2017); one late answer on its own moves the fleet's pack by
    s(t), not by all.

    Args:
        samples: n of each answer; where all are 0, each counts 1.
        ages: t of each answer, rounds.
        exponent: a.
    """
    counts = list(samples) if sum(samples) else [1] * len(samples)
    total = sum(counts)
    own = [n * staleness_weight(age, exponent) / total for n, age in zip(counts, ages, strict=True)]
    return own, max(0.0, 1.0 - sum(own)) if any(ages) else 0.0
