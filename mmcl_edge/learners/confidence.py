"""Confidence calibration: how probable, how familiar, how certain; fitted on held-out samples.

1. *Temperature* (Guo et al., On Calibration of Modern Neural Networks, 2017): one number that logits are divided by,
   at the least negative log-likelihood of the held-out labels, with a weak prior that keeps a few samples, all of them
   right, from making it 0.
2. *Unknown score*: the greatest logit against the distance to the nearest class (``familiarity``), each in units of
   its spread over the held-out samples. The threshold is the conformal quantile of the false-alarm rate.
3. *Conformal scores* (``Prediction.label_set``): one minus the probability of the right class.

All of it is deterministic: the same samples give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mmcl_edge.errors import CalibrationError
from mmcl_edge.learners.familiarity import Familiarity, Meter
from mmcl_edge.packs.confidence import Confidence, UnknownRule
from mmcl_edge.types import Sample, conformal_rank

MIN_SAMPLES = 10
"""Fewer held-out samples than this say nothing about confidence."""
BINS = 15
"""Of the expected calibration error, equally wide [S in Guo et al.]."""
FOLDS = 5
PRIOR_TEMPERATURE = 0.5
"""Label smoothing makes models too modest; on validation folds 0.2 to 0.6 is right."""
PRIOR_WEIGHT = 2.0
"""Of ``log(T / PRIOR_TEMPERATURE) ** 2``, in nats of the summed likelihood."""
LEAST, GREATEST = 0.05, 20.0
TIE = 1e-4
"""Scores are computed in float32: one so little below the threshold is not below it."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model says about labelled samples.

    Attributes:
        logits: ``(n, C)``.
        joint: ``(n, J)``.
        target: the right class of each, ``(n,)``; -1 where the model does not know it.
    """

    logits: Tensor
    joint: Tensor
    target: Tensor


class Answerer(Protocol):
    """A model that answers labelled samples of its classes."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits' columns."""
        ...

    def answers(self, samples: Sequence[Sample]) -> Answers:
        """What it says about them."""
        ...


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The outcome: what the manifest says, and the tensors beside it (see ``Familiarity``)."""

    confidence: Confidence
    familiarity: Familiarity | None

    def tensors(self) -> dict[str, Tensor]:
        """To store in the pack."""
        return {} if self.familiarity is None else self.familiarity.tensors()


def calibrate(held: Answers, familiarity: Familiarity | None, *, false_alarm_rate: float) -> Calibrated:
    """Fit everything on held-out samples.

    Args:
        held: samples that the model was not trained on.
        familiarity: of the samples that it was trained on; ``None`` goes without the distance.
        false_alarm_rate: share of known samples that may be called unknown, above 0 and below 1.

    Raises:
        CalibrationError: too few samples, for anything or for this rate, or a single class.
    """
    check_enough(len(held.target), held.logits.shape[1], false_alarm_rate)
    temperature = fit_temperature(held.logits, held.target)
    probabilities = (held.logits / temperature).softmax(dim=1)
    right = probabilities.gather(1, held.target[:, None])[:, 0].double()
    confidence = Confidence(
        temperature=temperature,
        unknown=_unknown_rule(held, familiarity, false_alarm_rate),
        scores=tuple(sorted(round(value, 6) for value in (1 - right).clamp(0, 1).tolist())),
        classes=len(held.target.unique()),
        ece_before=round(calibration_error(held.logits.softmax(dim=1), held.target), 6),
        ece_after=round(calibration_error(_cross_validated(held), held.target), 6),
    )
    return Calibrated(confidence, familiarity)


def calibrate_on(
    answerer: Answerer,
    *,
    train: Sequence[Sample],
    holdout: Sequence[Sample],
    false_alarm_rate: float,
    familiarity: Familiarity | None = None,
) -> Calibrated:
    """``calibrate`` with what ``answerer`` says about samples it was trained on (``train``) and not (``holdout``).

    Where some class has fewer than two samples in ``train``, ``familiarity`` is taken as it is.

    Raises:
        CalibrationError: see ``calibrate``.
    """
    classes = len(answerer.labels)
    check_enough(len(holdout), classes, false_alarm_rate)
    if train:
        remembered = answerer.answers(train)
        familiarity = Familiarity.fit(remembered.joint, remembered.target, classes) or familiarity
    return calibrate(answerer.answers(holdout), familiarity, false_alarm_rate=false_alarm_rate)


def check_enough(samples: int, classes: int, false_alarm_rate: float) -> None:
    """Refuse what cannot be calibrated.

    Raises:
        CalibrationError: see ``calibrate``.
    """
    if not 0 < false_alarm_rate < 1:
        raise CalibrationError(
            f"Expected a false-alarm rate above 0 and below 1, but it is {false_alarm_rate!r}; 0.1 is usual."
        )
    if classes < 2:
        raise CalibrationError(
            f"Confidence needs two classes or more, but the pack knows {classes}; teach it another one first."
        )
    needed = max(MIN_SAMPLES, math.ceil(1 / false_alarm_rate - 1e-9) - 1)
    if samples < needed:
        raise CalibrationError(
            f"Confidence at a false-alarm rate of {false_alarm_rate:g} needs {needed} held-out samples or more, but "
            f"there are {samples}; give more samples a class, or name labelled files with --data."
        )


def fit_temperature(logits: Tensor, target: Tensor) -> float:
    """The temperature of ``(n, C)`` logits with right classes ``(n,)``, by golden section over its logarithm."""
    values = logits.double()

    def loss(log_temperature: float) -> float:
        likelihood = functional.cross_entropy(values / math.exp(log_temperature), target, reduction="sum")
        return float(likelihood) + PRIOR_WEIGHT * (log_temperature - math.log(PRIOR_TEMPERATURE)) ** 2

    low, high, golden = math.log(LEAST), math.log(GREATEST), (math.sqrt(5) - 1) / 2
    while high - low > 1e-5:
        first, second = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, second) if loss(first) < loss(second) else (first, high)
    return float(f"{math.exp((low + high) / 2):.6g}")


def reliability(probabilities: Tensor, target: Tensor) -> list[tuple[int, float, float]]:
    """For each of ``BINS`` equally wide bins of confidence: samples, mean confidence, accuracy (0 in empty bins)."""
    confidence, answer = probabilities.double().max(dim=1)
    place = (confidence * BINS).long().clamp_max(BINS - 1)
    rows = []
    for number in range(BINS):
        inside = place == number
        count = int(inside.sum())
        right = (answer[inside] == target[inside]).double()
        rows.append((count, float(confidence[inside].sum()) / max(1, count), float(right.sum()) / max(1, count)))
    return rows


def calibration_error(probabilities: Tensor, target: Tensor) -> float:
    """Expected calibration error: mean over samples of ``|confidence - accuracy|`` of their bin (``reliability``)."""
    rows = reliability(probabilities, target)
    return sum(count * abs(confidence - accuracy) for count, confidence, accuracy in rows) / max(1, len(target))


def unknown_score(logits: Tensor, joint: Tensor, rule: UnknownRule, meter: Meter | None) -> NDArray[np.float32]:
    """The score ``(n,)`` that ``rule`` sets of ``(n, C)`` logits and ``(n, J)`` joint representations."""
    score: NDArray[np.float32] = rule.logit_weight * logits.numpy().max(axis=1) - rule.offset
    return score if meter is None else score - rule.distance_weight * meter(joint.numpy())


def auroc(known: Tensor, strangers: Tensor) -> float:
    """Probability that a known sample's score ``(n,)`` exceeds a stranger's ``(m,)``; ties count half."""
    difference = known.double()[:, None] - strangers.double()[None, :]
    return float((difference > 0).double().mean() + 0.5 * (difference == 0).double().mean())


def _cross_validated(held: Answers) -> Tensor:
    """Probabilities of every sample at a temperature fitted on the other folds."""
    fold = torch.arange(len(held.target)) % FOLDS
    rows = torch.zeros_like(held.logits)
    for number in range(FOLDS):
        inside = fold == number
        temperature = fit_temperature(held.logits[~inside], held.target[~inside])
        rows[inside] = (held.logits[inside] / temperature).softmax(dim=1)
    return rows


def _unknown_rule(held: Answers, familiarity: Familiarity | None, rate: float) -> UnknownRule:
    meter = None if familiarity is None else familiarity.meter()
    rule = UnknownRule(
        kind="logit" if meter is None else "distance-and-logit",
        logit_weight=_weight(held.logits.numpy().max(axis=1)),
        distance_weight=0.0 if meter is None else _weight(meter(held.joint.numpy())),
        offset=0.0,
        threshold=0.0,
        false_alarm_rate=rate,
    )
    raw = unknown_score(held.logits, held.joint, rule, meter)
    centred = rule.model_copy(update={"offset": float(f"{raw.mean():.9g}")})
    strangeness = np.sort(-unknown_score(held.logits, held.joint, centred, meter))
    bound = float(strangeness[conformal_rank(len(strangeness), 1 - rate) - 1])
    return centred.model_copy(update={"threshold": float(f"{-bound - TIE:.6g}")})


def _weight(values: NDArray[np.float32]) -> float:
    """One over the spread, so that scores of different units can be added."""
    spread = max(float(values.std()), 1e-3 * float(np.abs(values).mean()), 1e-6)
    return float(f"{1 / spread:.6g}")
