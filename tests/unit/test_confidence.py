"""Confidence: temperature, calibration error, unknown score and conformal sets, against what is known exactly."""

import numpy as np
import pytest
import torch

from mmcl_edge.errors import CalibrationError, InputError, PackError
from mmcl_edge.learners.confidence import (
    Answers,
    auroc,
    calibrate,
    calibration_error,
    fit_temperature,
    reliability,
    unknown_score,
)
from mmcl_edge.learners.familiarity import SHRINKAGE, Familiarity
from mmcl_edge.types import Prediction, conformal_rank

CLASSES, WIDTH = 4, 12


def drawn(count: int, *, temperature: float = 1.0, seed: int = 0, classes: int = CLASSES) -> tuple:
    """Logits whose labels are drawn from their softmax at ``temperature``: calibrated exactly there."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, classes, generator=generator)
    target = torch.multinomial((logits / temperature).softmax(dim=1), 1, generator=generator)[:, 0]
    return logits, target


def answers(count: int, seed: int = 0, *, shift: float = 0.0, **how) -> Answers:
    """Answers with joint representations in one cloud a class; ``shift`` moves all clouds away."""
    logits, target = drawn(count, seed=seed, **how)
    generator = torch.Generator().manual_seed(seed + 1)
    joint = 0.2 * torch.randn(count, WIDTH, generator=generator)
    joint[torch.arange(count), target] += 1
    joint[:, -1] += shift
    return Answers(logits - shift, joint, target)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_true_temperature_is_found(temperature):
    logits, target = drawn(20_000, temperature=temperature)
    assert fit_temperature(logits, target) == pytest.approx(temperature, rel=0.04)


def test_a_few_right_answers_do_not_make_probabilities_certain():
    logits = torch.eye(3).repeat(4, 1) * 5
    temperature = fit_temperature(logits, torch.arange(3).repeat(4))
    assert 0.15 < temperature < 1


def test_the_temperature_lowers_the_calibration_error():
    logits, target = drawn(5_000, temperature=0.4)
    before = calibration_error(logits.softmax(dim=1), target)
    after = calibration_error((logits / fit_temperature(logits, target)).softmax(dim=1), target)
    assert before > 0.05
    assert after < 0.02


def test_calibration_error_by_hand():
    """Two of three answers at 0.8 right, one of one at 0.55: (3 * |0.8 - 2/3| + 0.45) / 4."""
    probabilities = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.2, 0.8], [0.55, 0.45]])
    target = torch.tensor([0, 1, 1, 0])
    assert calibration_error(probabilities, target) == pytest.approx((3 * (0.8 - 2 / 3) + 0.45) / 4, abs=1e-6)
    rows = reliability(probabilities, target)
    assert [count for count, _, _ in rows if count] == [1, 3]
    assert sum(count for count, _, _ in rows) == 4
    assert calibration_error(torch.tensor([[1.0, 0.0]]), torch.tensor([0])) == 0.0


def test_auroc_counts_pairs():
    assert auroc(torch.tensor([2.0, 3.0]), torch.tensor([1.0])) == 1.0
    assert auroc(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 3.0])) == pytest.approx((0 + 0 + 1 + 0.5) / 4)


def test_distances_are_mahalanobis_s():
    """Where no direction is dropped but one, the low-rank form is exact."""
    held = answers(200)
    x = torch.nn.functional.normalize(held.joint.double(), dim=1)
    means = torch.stack([x[held.target == number].mean(dim=0) for number in range(CLASSES)])
    residuals = x - means[held.target]
    covariance = residuals.T @ residuals / len(x)
    mean_variance = covariance.trace() / WIDTH
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * mean_variance * torch.eye(WIDTH, dtype=torch.float64)
    apart = x[:, None] - means
    expected = torch.einsum("ncj,jk,nck->nc", apart, shrunk.inverse(), apart).min(dim=1).values
    familiarity = Familiarity.fit(held.joint, held.target, CLASSES)
    np.testing.assert_allclose(familiarity.meter()(held.joint.numpy()), expected.numpy(), rtol=1e-3, atol=2e-3)


def test_stored_statistics_give_the_same_distances():
    held = answers(60)
    familiarity = Familiarity.fit(held.joint, held.target, CLASSES)
    again = Familiarity.load(familiarity.tensors(), classes=CLASSES, width=WIDTH)
    assert np.array_equal(familiarity.meter()(held.joint.numpy()), again.meter()(held.joint.numpy()))


@pytest.mark.parametrize("change", ["confidence.means", "confidence.directions", "confidence.precision"])
def test_statistics_of_another_shape_are_refused(change):
    tensors = Familiarity.fit(answers(60).joint, answers(60).target, CLASSES).tensors()
    with pytest.raises(PackError, match="should have the shapes"):
        Familiarity.load({**tensors, change: torch.zeros(3, 3)}, classes=CLASSES, width=WIDTH)
    with pytest.raises(PackError, match="should have the shapes"):
        Familiarity.load({k: v for k, v in tensors.items() if k != change}, classes=CLASSES, width=WIDTH)


def test_a_class_of_one_sample_has_no_spread():
    held = answers(60)
    few = held.target != 2
    few[(held.target == 2).nonzero()[0]] = True
    assert Familiarity.fit(held.joint[few], held.target[few], CLASSES) is None
    assert Familiarity.fit(torch.ones(8, WIDTH), torch.arange(8) % 2, 2) is None


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("with_distance", [True, False])
def test_false_alarms_are_as_rare_as_asked_and_strangers_are_noticed(rate, with_distance):
    train, held, fresh, strangers = answers(200, 1), answers(400, 2), answers(4_000, 3), answers(500, 4, shift=3.0)
    familiarity = Familiarity.fit(train.joint, train.target, CLASSES) if with_distance else None
    rule = calibrate(held, familiarity, false_alarm_rate=rate).confidence.unknown
    assert rule.kind == ("distance-and-logit" if with_distance else "logit")
    meter = familiarity.meter() if familiarity else None
    alarms = {
        name: float((unknown_score(one.logits, one.joint, rule, meter) < rule.threshold).mean())
        for name, one in {"held": held, "fresh": fresh, "strangers": strangers}.items()
    }
    assert alarms["held"] <= rate
    assert alarms["fresh"] == pytest.approx(rate, abs=0.04)
    assert alarms["strangers"] > (0.95 if with_distance else 0.5)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_sets_cover_as_asked(coverage):
    """Over sixty draws of seventy held-out samples each, the mean coverage of new samples is the one asked for."""
    found = []
    for seed in range(60):
        held, fresh = answers(70, 10 * seed, temperature=0.5), answers(200, 10 * seed + 5, temperature=0.5)
        confidence = calibrate(held, None, false_alarm_rate=0.1).confidence
        rows = (fresh.logits / confidence.temperature).softmax(dim=1).tolist()
        sets = [prediction(row, confidence.scores).label_set(coverage) for row in rows]
        found.append(np.mean([str(right) in one for one, right in zip(sets, fresh.target.tolist(), strict=True)]))
    assert np.mean(found) == pytest.approx(coverage, abs=0.03)


def prediction(row, scores):
    probabilities = {str(number): value for number, value in enumerate(row)}
    return Prediction("0", probabilities, {}, {}, "d", conformal_scores=scores)


def test_a_set_is_in_order_and_may_be_empty():
    scores = (0.1, 0.3, 0.5, 0.7)
    assert prediction([0.2, 0.5, 0.3], scores).label_set(0.8) == ("1", "2")
    assert prediction([0.4, 0.3, 0.3], scores).label_set(0.4) == ()


SETS = {
    "not calibrated": (None, 0.9, "mmcl-edge calibrate confidence"),
    "zero": ((0.1,), 0.0, "above 0 and below 1"),
    "one": ((0.1,), 1.0, "above 0 and below 1"),
    "not a number": ((0.1,), float("nan"), "above 0 and below 1"),
    "too few samples": ((0.1,) * 8, 0.9, "needs 9 held-out samples, but there are 8"),
    "far too few": ((0.1,) * 40, 0.99, "needs 99 held-out samples"),
}


@pytest.mark.parametrize(("scores", "coverage", "problem"), SETS.values(), ids=SETS)
def test_sets_that_cannot_be_made(scores, coverage, problem):
    with pytest.raises(InputError, match=problem):
        prediction([0.5, 0.5], scores).label_set(coverage)


@pytest.mark.parametrize(("coverage", "least"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_the_least_number_of_samples_is_enough(coverage, least):
    assert conformal_rank(least, coverage) == least
    if least > 1:
        with pytest.raises(InputError, match=f"needs {least} held-out"):
            conformal_rank(least - 1, coverage)


REFUSED = {
    "few samples": (9, CLASSES, 0.1, "needs 10 held-out samples or more, but there are 9"),
    "few samples for the rate": (30, CLASSES, 0.01, "needs 99 held-out samples or more, but there are 30"),
    "one class": (30, 1, 0.1, "two classes or more, but the pack knows 1"),
    "a rate of zero": (30, CLASSES, 0.0, "above 0 and below 1"),
    "no rate": (30, CLASSES, float("nan"), "above 0 and below 1"),
}


@pytest.mark.parametrize(("count", "classes", "rate", "problem"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_calibrated(count, classes, rate, problem):
    logits, target = drawn(count, classes=classes)
    with pytest.raises(CalibrationError, match=problem):
        calibrate(Answers(logits, torch.ones(count, WIDTH), target), None, false_alarm_rate=rate)


def test_ten_samples_all_alike_are_calibrated():
    held = Answers(torch.tensor([[2.0, 1.0]]).repeat(10, 1), torch.ones(10, WIDTH), torch.zeros(10, dtype=torch.long))
    confidence = calibrate(held, None, false_alarm_rate=0.1).confidence
    assert confidence.classes == 1
    assert confidence.samples == 10


def test_the_same_samples_give_the_same_bits():
    made = [calibrate(answers(50), Familiarity.fit(answers(80, 7).joint, answers(80, 7).target, CLASSES),
                      false_alarm_rate=0.1) for _ in range(2)]  # fmt: skip
    assert made[0].confidence == made[1].confidence
    assert all(torch.equal(one, other) for one, other in zip(*(m.tensors().values() for m in made), strict=True))
