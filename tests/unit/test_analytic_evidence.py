"""The closed-form head against plain Bayesian linear regression, and the learner's promises of exactness."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from mmcl_edge.adapters.inputs import collate
from mmcl_edge.data.streams import Experience
from mmcl_edge.learners.analytic.evidence import LEAST_VARIANCE, RIDGE, Evidence, with_constant
from mmcl_edge.learners.analytic.learner import AnalyticLearner
from mmcl_edge.learners.analytic.moments import MomentEncoder
from mmcl_edge.learners.analytic.projection import SubspaceProjection
from mmcl_edge.learners.analytic.statistics import RidgeStatistics
from mmcl_edge.types import Sample
from tests.fakes import preprocess
from tests.learning import BACKBONES, CLASSES, config, experience, host, samples

FEATURES, NUMBER = 12, 30


def data(count: int = NUMBER, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % classes
    x = torch.randn(count, FEATURES, generator=generator) + 2.0 * torch.nn.functional.one_hot(labels, FEATURES)
    return x + 5.0, torch.nn.functional.one_hot(labels, classes).float()


def evidence(x: Tensor, y: Tensor) -> Evidence:
    return Evidence(RidgeStatistics.empty(x.shape[1] + 1, y.shape[1]).add(with_constant(x), y))


def plain(x: Tensor, y: Tensor, query: Tensor) -> np.ndarray:
    """The equations of ``Evidence`` from the samples themselves."""
    x, y, query = x.double().numpy(), y.double().numpy(), query.double().numpy()
    mean, base = x.mean(axis=0), y.mean(axis=0)
    a, b = x - mean, y - base
    ridge = RIDGE * np.square(a).sum() / len(x)
    inverse = np.linalg.inv(a.T @ a + ridge * np.eye(a.shape[1]))
    weights = inverse @ a.T @ b
    freedom = len(x) - np.trace(a.T @ a @ inverse)
    variance = np.square(b - a @ weights).sum() / (y.shape[1] * freedom)
    scores = base + (query - mean) @ weights
    distance = np.einsum("ni,ij,nj->n", query - mean, inverse, query - mean)
    return scores / (variance * np.sqrt(1 + distance))[:, None]


@pytest.mark.parametrize("count", [9, NUMBER])
def test_it_is_bayesian_linear_regression(count: int):
    x, y = data(count)
    query = data(7)[0]
    np.testing.assert_allclose(evidence(x, y)(query).numpy(), plain(x, y, query), rtol=1e-6)


def test_it_speaks_softly_of_what_it_has_never_seen():
    x, y = data()
    head = evidence(x, y)
    near, far = x[:1], x[:1] + 40 * torch.randn(1, FEATURES, generator=torch.Generator().manual_seed(3))
    loud = {}
    for name, x in (("near", near), ("far", far)):
        centred = x.double() - head.mean
        plain_scores = (head.base + centred @ head.weights) / head.variance
        loud[name] = float((head(x) / plain_scores).mean())
    assert 0 < loud["far"] < 0.5 * loud["near"] <= 0.5


def test_a_class_never_seen_in_this_modality_gets_no_evidence_either_way():
    x, y = data()
    wide = torch.cat([y, torch.zeros(len(y), 1)], dim=1)
    found = evidence(x, wide)(x)
    torch.testing.assert_close(found[:, 3], found[:, :3].mean(dim=1))
    torch.testing.assert_close(found[:, :3], evidence(x, y)(x))


def test_one_sample_and_one_class_are_finite():
    x, y = data()
    for count, classes in ((1, 1), (1, 3), (4, 1)):
        head = evidence(x[:count], y[:count, :classes] if classes > 1 else torch.ones(count, 1))
        assert head.variance >= LEAST_VARIANCE
        assert bool(head(x).isfinite().all())


def test_moments_see_valid_positions_alone():
    encoder = MomentEncoder(BACKBONES)
    one = samples("ant", 2, seed=1)
    alone = [encoder.prepare([preprocess(sample)])[0] for sample in one]
    together = encoder._moments(collate([preprocess(sample) for sample in one]))
    for row, kept in enumerate(alone):
        for name, value in together.items():
            torch.testing.assert_close(value[row], kept[f"{name}.moments"], rtol=1e-4, atol=1e-4)
    assert {name: value.shape[1] for name, value in together.items()} == encoder.pooled_dims


def test_a_subspace_is_orthonormal_and_the_same_everywhere():
    one, other = (SubspaceProjection(50, 20, name="audio") for _ in range(2))
    torch.testing.assert_close(one.weight.T @ one.weight, torch.eye(20), rtol=0, atol=1e-5)
    assert torch.equal(one.weight, other.weight)
    assert not torch.equal(one.weight, SubspaceProjection(50, 20, name="frames").weight)
    small = SubspaceProjection(10, 20, name="audio")
    assert small.weight is None
    assert small.features == 10


def learned(parts: Sequence[Sequence[str]], seed: int = 0) -> AnalyticLearner:
    learner = AnalyticLearner(host(config(1).model_copy(update={"replay": ROOMY}), seed))
    for part in parts:
        learner.observe(experience(*part))
    return learner


ROOMY = config(1).replay.model_copy(update={"budget_bytes": 1 << 20})


def test_order_and_grouping_change_nothing():
    tested = experience(*CLASSES).test
    whole = learned([CLASSES])
    for parts in ([CLASSES[:2], CLASSES[2:]], [[name] for name in reversed(CLASSES)]):
        other = learned(parts)
        columns = [other.labels.index(name) for name in whole.labels]
        torch.testing.assert_close(other.predict(tested)[:, columns], whole.predict(tested), rtol=1e-4, atol=1e-3)


def test_devices_merged_are_one_that_saw_everything():
    one, other, whole = learned([CLASSES[:2]]), learned([CLASSES[2:]]), learned([CLASSES])
    for name, sums in one.sums.items():
        both = sums.placed(range(2), 4).merged(other.sums[name].placed(range(2, 4), 4))
        torch.testing.assert_close(both.gram, whole.sums[name].gram, rtol=1e-5, atol=1e-4 * float(both.gram.max()))
        found, wanted = Evidence(both).weights, Evidence(whole.sums[name]).weights
        assert float((found - wanted).norm() / wanted.norm()) < 1e-5


def test_a_missing_modality_is_not_heard():
    learner = learned([CLASSES])
    pair = experience(*CLASSES).test[0]
    sound, picture = Sample(pair.audio, None), Sample(None, pair.frames)
    together = learner.predict([sound]) + learner.predict([picture])
    torch.testing.assert_close(learner.predict([pair]), together, rtol=1e-4, atol=1e-3)


def test_what_it_keeps_grows_with_samples_not_with_features():
    small = AnalyticLearner(host(config(1).model_copy(update={"replay": ROOMY})))
    small.observe(Experience("few", samples("ant", 2, seed=1) + samples("bee", 2, seed=1), [], CLASSES[:2]))
    assert all(len(sums.root) == 4 for sums in small.sums.values())
    assert small.memory_bytes < learned([CLASSES]).memory_bytes
