"""The losses of AV-CIL (Pian et al., Audio-visual class-incremental learning, ICCV 2023), as pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def separated_cross_entropy(logits: Tensor, labels: Tensor, *, old: int) -> Tensor:
    """Cross-entropy of samples of new classes over the new columns, of old ones over the old columns.

    Args:
        logits: ``(B, C)``.
        labels: ``(B,)`` int64.
        old: classes known before; columns from there on are new.

    Returns:
        The mean over all samples, so each part counts by its number of samples.
    """
    is_new = labels >= old
    new = functional.cross_entropy(logits[is_new, old:], labels[is_new] - old, reduction="sum")
    known = functional.cross_entropy(logits[~is_new, :old], labels[~is_new], reduction="sum")
    return (new + known) / len(labels)


def distillation_by_task(logits: Tensor, teacher: Tensor, *, sizes: Sequence[int], temperature: float) -> Tensor:
    """Distillation within the classes of each old experience, summed over experiences, times T squared.

    Args:
        logits: ``(B, C)``.
        teacher: ``(B, C_old)``.
        sizes: how many classes each old experience brought; they sum to C_old.
        temperature: T.
    """
    total = logits.new_zeros(())
    for own, soft in zip(logits[:, : sum(sizes)].split(list(sizes), dim=1), teacher.split(list(sizes), 1), strict=True):
        log_own = (own / temperature).log_softmax(dim=1)
        total = total + functional.kl_div(log_own, (soft / temperature).softmax(dim=1), reduction="batchmean")
    return temperature**2 * total


def instance_contrast(sound: Tensor, sight: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE from sound to sight (equation 6): a sample's own pair against all sights of the batch.

    Args:
        sound: ``(n, J)``; lengths do not matter.
        sight: ``(n, J)``, row by row of the same samples.
        temperature: tau.
    """
    return functional.cross_entropy(_similarity(sound, sight) / temperature, torch.arange(len(sound)))


def class_contrast(sound: Tensor, sight: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """The same with every sight of the sample's class as its positive, averaged over them (equation 7).

    Args:
        sound: ``(n, J)``.
        sight: ``(n, J)``.
        labels: ``(n,)`` int64.
        temperature: tau.
    """
    positive = (labels[:, None] == labels[None]).float()
    log_share = (_similarity(sound, sight) / temperature).log_softmax(dim=1)
    return -((log_share * positive).sum(dim=1) / positive.sum(dim=1)).mean()


def attention_distillation(own: Tensor, teacher: Tensor) -> Tensor:
    """KL from the teacher's attention over dimension 2 to the model's, summed over the rest, mean over samples.

    Args:
        own: weights ``(B, X, N, D)`` that sum to 1 over N.
        teacher: the same.
    """
    tiny = torch.finfo(own.dtype).tiny
    return (torch.xlogy(teacher, teacher) - teacher * own.clamp_min(tiny).log()).sum() / len(own)


def _similarity(one: Tensor, other: Tensor) -> Tensor:
    return functional.normalize(one, dim=1) @ functional.normalize(other, dim=1).T
