"""SimpleCIL and RanPAC against plain loops and a ridge solver, on the same features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmcl_edge.errors import InputError
from mmcl_edge.learners.baselines.ranpac import CLASSES_IN_BUDGET, MOST_FEATURES, RanPacLearner
from mmcl_edge.learners.baselines.simple_cil import SimpleCilLearner
from tests.baselines import small_host
from tests.learning import CLASSES, accuracy, experience, samples

FIRST, SECOND = experience(*CLASSES[:2]), experience(*CLASSES[2:])
TESTED = experience(*CLASSES).test


def simple_cil(*experiences) -> SimpleCilLearner:
    learner = SimpleCilLearner(small_host())
    for one in experiences:
        learner.observe(one)
    return learner


def ranpac(*experiences, tune: bool = False, **settings) -> RanPacLearner:
    learner = RanPacLearner(small_host(**settings), tune=tune)
    for one in experiences:
        learner.observe(one)
    return learner


def test_features_are_a_unit_vector_a_modality_and_zero_where_it_is_absent():
    learner = simple_cil()
    sizes = list(learner.encoder.pooled_dims.values())
    both, sound = (
        learner.embed(samples("ant", 3, seed=1, kind=kind)).split(sizes, dim=1) for kind in ("pair", "sound")
    )
    for part in both:
        torch.testing.assert_close(part.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(sound[0], both[0])
    assert not bool(sound[1].any())


def test_features_of_all_blocks_lie_beside_the_output():
    narrow = SimpleCilLearner(small_host(features="last")).encoder.pooled_dims
    assert narrow == {"audio": 12, "frames": 10}
    assert simple_cil().encoder.pooled_dims == {"audio": 12 + 3 * 12, "frames": 10 + 4 + 6 + 8}


def test_simple_cil_is_the_nearest_class_mean_by_cosine():
    learner = simple_cil(FIRST, SECOND)
    h = learner.embed([*FIRST.train, *SECOND.train]).numpy()
    labels = np.array([sample.label for sample in [*FIRST.train, *SECOND.train]])
    means = np.stack([h[labels == label].mean(axis=0) for label in CLASSES])
    tested = learner.embed(TESTED).numpy()
    wanted = [[x @ m / np.linalg.norm(x) / np.linalg.norm(m) for m in means] for x in tested]
    torch.testing.assert_close(learner.predict(TESTED), torch.tensor(16 * np.array(wanted)), rtol=1e-5, atol=1e-5)
    assert accuracy(learner, TESTED) == 1.0


def test_a_class_mean_does_not_depend_on_when_its_samples_came():
    parts = [experience("ant", "bee", count=count) for count in (3, 8)]
    again = simple_cil(*parts)
    both = samples("ant", 3, seed=1) + samples("ant", 8, seed=1)
    torch.testing.assert_close(again.means[0], again.embed(both).mean(dim=0))
    assert again.labels == ("ant", "bee")
    assert again.counts.tolist() == [[11, 11], [11, 11]]


def test_a_lacking_modality_leaves_the_mean_of_the_other_alone():
    learner = simple_cil(FIRST)
    before = learner.means.clone()
    learner.observe(experience(*CLASSES[:2], kind="sound"))
    audio = learner.encoder.pooled_dims["audio"]
    assert torch.equal(learner.means[:, audio:], before[:, audio:])
    assert learner.counts.tolist() == [[16, 8], [16, 8]]
    assert accuracy(learner, experience(*CLASSES[:2], kind="picture").test) == 1.0


def test_ranpac_is_ridge_regression_on_everything_seen():
    solvers = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    learner = ranpac(FIRST, SECOND)
    everything = [*FIRST.train, *SECOND.train]
    phi = learner.project(learner.embed(everything)).double().numpy()
    known = solvers.Ridge(alpha=learner.ridge, fit_intercept=False, solver="svd").fit(
        phi, learner.targets(everything).numpy()
    )
    wanted = known.predict(learner.project(learner.embed(TESTED)).double().numpy())
    torch.testing.assert_close(learner.predict(TESTED).double(), torch.from_numpy(wanted), rtol=1e-4, atol=1e-5)
    assert accuracy(learner, TESTED) == 1.0


def test_ranpac_sums_do_not_depend_on_the_order_of_experiences():
    one, other = ranpac(FIRST, SECOND), ranpac(SECOND, FIRST)
    swapped = other.sums.placed([2, 3, 0, 1], 4)
    torch.testing.assert_close(one.sums.gram, swapped.gram, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one.sums.cross, swapped.cross, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one.sums.solve(1.0), swapped.solve(1.0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("budget", [12_000, 1 << 20, 64 << 20])
def test_ranpac_takes_the_features_that_its_budget_holds(budget: int):
    learner = ranpac(budget_bytes=budget)
    features = learner.sums.features
    assert features == MOST_FEATURES or learner.sums.size_bytes(features + 1, CLASSES_IN_BUDGET) > budget
    assert learner.sums.size_bytes(features, CLASSES_IN_BUDGET) <= budget


def test_ranpac_says_that_its_budget_is_too_small():
    with pytest.raises(InputError, match="one random feature"):
        ranpac(budget_bytes=100)
    learner = ranpac(FIRST, budget_bytes=700)
    learner.config = small_host(budget_bytes=learner.memory_bytes).config
    with pytest.raises(InputError, match="before the first experience"):
        learner.observe(SECOND)


def test_ranpac_counts_its_sums_as_memory():
    learner = ranpac(FIRST, SECOND)
    assert 0 < learner.memory_bytes <= learner.sums.size_bytes(learner.sums.features, 4) <= 1 << 20
    assert learner.trainable_parameters == learner.sums.features * 4


def test_ranpac_chooses_its_ridge_on_its_own_samples_alone():
    learner = ranpac(FIRST)
    held = learner._held_out(SECOND.train)
    assert held.tolist().count(True) == 4, "a fifth of 8 samples of each of two classes"
    assert not bool(learner._held_out(experience("cow", count=1).train).any())
    learner.observe(experience("cow", count=1))
    assert learner.ridge == 1.0, "nothing to choose it on"


@pytest.mark.parametrize("placement", ["inline", "ladder"])
def test_ranpac_tunes_adapters_on_the_first_experience_alone(placement: str):
    learner = ranpac(placement=placement, tune=True)
    fresh = learner.tuner.state_dict()
    learner.observe(FIRST)
    tuned = learner.tuner.state_dict()
    learner.observe(SECOND)
    after = learner.tuner.state_dict()
    experts = [name for name in fresh if "experts" in name and name.endswith("up")]
    assert any(not torch.equal(fresh[name], tuned[name]) for name in experts)
    assert all(torch.equal(tuned[name], after[name]) for name in tuned)
    assert learner.tuner.labels == CLASSES[:2]
    assert accuracy(learner, TESTED) >= 0.75


@pytest.mark.parametrize("make", [simple_cil, ranpac, lambda *one: ranpac(*one, tune=True)])
def test_another_one_goes_on_from_the_state(make):
    learner, again = make(FIRST), make()
    again.load_state(learner.state())
    for one in (learner, again):
        one.observe(SECOND)
    assert again.labels == CLASSES
    found, wanted = again.state_dict(), learner.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
