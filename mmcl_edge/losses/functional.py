"""The four losses of paper 1 (METHODS 1.5) and their control arms, as pure functions.

All take a batch and return a scalar. ``present`` masks leave out samples that lack a modality.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

ABSENT = math.log(1e-8)
"""Log-prior of a class that does not occur in the training batches."""


def classification(
    logits: Tensor, labels: Tensor, *, log_prior: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy over all classes seen.

    Args:
        logits: ``(B, C)``.
        labels: ``(B,)`` int64.
        log_prior: ``(C,)``, log of each class's share of the training batches: balanced softmax (Ren et al. 2020,
            equation 3). ``None`` is the plain cross-entropy.
        label_smoothing: share of the target spread evenly over the classes that occur: one that does not (its prior
            is ``ABSENT``) must not be pulled up, for its logit would have to outweigh its prior.
    """
    if log_prior is None:
        return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    occurs = (log_prior > ABSENT).to(logits.dtype)
    target = functional.one_hot(labels, logits.shape[1]) * (1 - label_smoothing)
    target = target + label_smoothing * occurs / occurs.sum()
    return -(target * (logits + log_prior).log_softmax(dim=-1)).sum(dim=-1).mean()


def distillation(logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """KL from the teacher's to the student's old-class distribution, times T squared (LwF, AV-CIL).

    Args:
        logits: ``(B, C)``; only the first ``C_old`` columns are compared.
        teacher_logits: ``(B, C_old)``.
        temperature: T.
    """
    student = (logits[:, : teacher_logits.shape[1]] / temperature).log_softmax(dim=-1)
    teacher = (teacher_logits / temperature).log_softmax(dim=-1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def distillation_scale(step: int, kind: str) -> float:
    """Factor of the distillation loss at step t (from 1): ``sqrt(t)`` [B], or 1."""
    return math.sqrt(step) if kind == "sqrt_step" else 1.0


def contrast(anchor: Tensor, positive: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE with cosine similarity: row i of ``anchor`` ``(B, J)`` against all rows of ``positive`` ``(B, J)``."""
    similarity = functional.normalize(anchor, dim=-1) @ functional.normalize(positive, dim=-1).T
    return functional.cross_entropy(similarity / temperature, torch.arange(len(anchor)))


def alignment(z: Mapping[str, Tensor], joint: Tensor, present: Mapping[str, Tensor], *, temperature: float) -> Tensor:
    """Pull every modality's representation to the joint one (METHODS 1.5, L_align); mean over modalities.

    Args:
        z: modality to ``(B, J)``.
        joint: ``(B, J)``.
        present: modality to ``(B,)`` bool; only samples with the modality count.
        temperature: tau.
    """
    terms = [contrast(z[m][present[m]], joint[present[m]], temperature=temperature) for m in z if present[m].any()]
    return _mean(terms, joint)


def direct_alignment(z: Mapping[str, Tensor], present: Mapping[str, Tensor], *, temperature: float) -> Tensor:
    """Control arm L_contrast: InfoNCE between every two modalities, without the joint representation."""
    names = list(z)
    terms = []
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            both = present[one] & present[other]
            if both.any():
                terms.append(contrast(z[one][both], z[other][both], temperature=temperature))
    return _mean(terms, z[names[0]])


def preservation(u: Tensor, teacher: Tensor, *, temperature: float, teacher_temperature: float) -> Tensor:
    """Cross-entropy between the teacher's and the student's relations (Co2L's instance-relation distillation).

    ``R_ij = softmax over j != i of cos(u_i, u_j) / kappa``. At equal temperatures the gradient vanishes where
    ``u`` equals ``teacher``. Fewer than three rows carry no relation: the loss is 0.

    Args:
        u: ``(B, J)``.
        teacher: ``(B, J)``, detached.
        temperature: kappa.
        teacher_temperature: kappa*.
    """
    if len(u) < 3:
        return u.sum() * 0.0
    target = _relations(teacher, teacher_temperature).exp()
    return -(target * _relations(u, temperature)).sum(dim=-1).mean()


def _relations(u: Tensor, temperature: float) -> Tensor:
    unit = functional.normalize(u, dim=-1)
    n = len(unit)
    others = (unit @ unit.T)[~torch.eye(n, dtype=torch.bool)].view(n, n - 1)
    return (others / temperature).log_softmax(dim=-1)


def _mean(terms: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.stack(list(terms)).mean() if terms else like.sum() * 0.0
