"""Ridge statistics against a solver on all samples at once, in every order and split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mmcl_edge.errors import InputError
from mmcl_edge.learners.analytic.projection import RandomProjection
from mmcl_edge.learners.analytic.statistics import Inverse, RidgeStatistics, largest_features

SAMPLES, FEATURES, CLASSES = 90, 40, 5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(scale: float = 30.0) -> tuple[Tensor, Tensor]:
    """Random features of badly scaled inputs, and one-hot targets."""
    h = torch.randn(SAMPLES, 12, generator=seeded()) * torch.logspace(-2, 1, 12) * scale
    labels = torch.randint(CLASSES, (SAMPLES,), generator=seeded(1))
    return RandomProjection(12, FEATURES, generator=seeded(2))(h), functional.one_hot(labels, CLASSES)


def batch_ridge(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    """Ridge regression on all samples at once, by least squares on the stacked system: no Gram matrix is formed."""
    stacked = np.concatenate([x.double().numpy(), ridge**0.5 * np.eye(x.shape[1])])
    targets = np.concatenate([y.double().numpy(), np.zeros((x.shape[1], y.shape[1]))])
    return torch.from_numpy(np.linalg.lstsq(stacked, targets, rcond=None)[0])


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("ridge", [1e-2, 1.0, 1e4])
@pytest.mark.parametrize("step", [1, 7, SAMPLES])
def test_learning_in_steps_is_ridge_on_everything(ridge: float, step: int):
    x, y = data()
    sums = RidgeStatistics.empty(FEATURES, CLASSES)
    for one, other in zip(x.split(step), y.split(step), strict=True):
        sums = sums.add(one, other)
    assert relative(sums.solve(ridge), batch_ridge(x, y, ridge)) < 1e-5
    assert torch.equal(sums.counts, y.double().sum(dim=0))


def test_the_order_of_samples_does_not_matter():
    x, y = data()
    sums = RidgeStatistics.empty(FEATURES, CLASSES)
    found = [
        sums.add(x[order], y[order]).solve(1.0)
        for order in (torch.arange(SAMPLES), torch.randperm(SAMPLES, generator=seeded(4)))
    ]
    assert relative(found[1], found[0]) < 1e-9


def test_merging_is_learning_everything():
    x, y = data()
    empty = RidgeStatistics.empty(FEATURES, CLASSES)
    one, other = empty.add(x[:30], y[:30]), empty.add(x[30:], y[30:])
    whole = empty.add(x, y)
    for merged in (one.merged(other), other.merged(one)):
        torch.testing.assert_close(merged.gram, whole.gram, rtol=1e-12, atol=1e-9 * float(whole.gram.max()))
        torch.testing.assert_close(merged.cross, whole.cross, rtol=1e-12, atol=1e-9)
        assert torch.equal(merged.counts, whole.counts)
        assert relative(merged.solve(1.0), batch_ridge(x, y, 1.0)) < 1e-5


def test_classes_that_come_later_change_nothing_for_others():
    x, y = data()
    order = y.argmax(dim=1).argsort()
    x, y = x[order], y[order]
    first = int((y.argmax(dim=1) < 3).sum())
    sums = RidgeStatistics.empty(FEATURES, 3).add(x[:first], y[:first, :3]).placed(range(3), CLASSES)
    torch.testing.assert_close(sums.add(x[first:], y[first:]).solve(1.0), batch_ridge(x, y, 1.0), rtol=1e-5, atol=1e-9)


def test_devices_with_other_orders_of_classes_merge_after_placing():
    x, y = data()
    swapped = RidgeStatistics.empty(FEATURES, CLASSES).add(x[:30], y[:30, [4, 3, 2, 1, 0]])
    merged = swapped.placed([4, 3, 2, 1, 0], CLASSES).merged(
        RidgeStatistics.empty(FEATURES, CLASSES).add(x[30:], y[30:])
    )
    assert relative(merged.solve(1.0), batch_ridge(x, y, 1.0)) < 1e-5


def test_what_persists_is_exact_and_as_large_as_it_says():
    sums = RidgeStatistics.empty(FEATURES, CLASSES).add(*data())
    tensors = sums.tensors()
    again = RidgeStatistics.from_tensors({name: value.clone() for name, value in tensors.items()})
    assert torch.equal(again.gram, sums.gram)
    assert torch.equal(again.cross, sums.cross)
    assert torch.equal(again.counts, sums.counts)
    assert sum(value.nbytes for value in tensors.values()) == RidgeStatistics.size_bytes(FEATURES, CLASSES)


@pytest.mark.parametrize("samples", [0, 1, 7, FEATURES, SAMPLES])
def test_few_samples_take_few_bytes_and_give_the_same_answer(samples: int):
    x, y = (value[:samples] for value in data())
    sums = RidgeStatistics.empty(FEATURES, CLASSES).add(x, y)
    rows = min(samples, FEATURES)
    assert sums.root.shape == (rows, FEATURES)
    assert len(sums.tensors()["root"]) == rows * FEATURES - rows * (rows - 1) // 2
    again = RidgeStatistics.from_tensors(sums.tensors())
    assert torch.equal(again.root, sums.root)
    torch.testing.assert_close(again.solve(1.0), batch_ridge(x, y, 1.0), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("samples", [7, SAMPLES])
def test_distance_and_degrees_of_freedom_are_those_of_the_inverse(samples: int):
    x, y = (value[:samples] for value in data())
    sums = RidgeStatistics.empty(FEATURES, CLASSES).add(x, y)
    inverse = torch.linalg.inv(sums.gram + 5.0 * torch.eye(FEATURES, dtype=torch.float64))
    found, probe = Inverse(sums.root, 5.0), torch.randn(6, FEATURES, generator=seeded(9), dtype=torch.float64)
    torch.testing.assert_close(found.form(probe), (probe @ inverse * probe).sum(dim=1), rtol=1e-6, atol=1e-9)
    assert found.degrees_of_freedom() == pytest.approx(float((sums.gram @ inverse).trace()), rel=1e-6)


def test_kept_in_single_precision_it_still_agrees():
    x, y = data()
    sums = RidgeStatistics.empty(FEATURES, CLASSES, dtype=torch.float32)
    for one, other in zip(x.split(9), y.split(9), strict=True):
        sums = sums.add(one, other)
    assert {value.dtype for value in sums.tensors().values()} == {torch.float32}
    ridge = 0.1 * float(sums.gram.trace()) / SAMPLES
    assert relative(sums.solve(ridge), batch_ridge(x, y, ridge)) < 1e-5


@pytest.mark.parametrize("budget", [0, 7, 1000, 123_456, 1 << 30])
def test_the_largest_number_of_features_fits_and_one_more_does_not(budget: int):
    count = largest_features(budget, classes=CLASSES, cap=2000)
    assert count == 0 or RidgeStatistics.size_bytes(count, CLASSES) <= budget
    assert count == 2000 or RidgeStatistics.size_bytes(count + 1, CLASSES) > budget


def test_adding_leaves_the_old_statistics_alone():
    sums = RidgeStatistics.empty(FEATURES, CLASSES)
    sums.add(*data())
    assert not bool(sums.gram.any())


def test_what_cannot_be_added_merged_or_solved_is_said():
    x, y = data()
    sums = RidgeStatistics.empty(FEATURES, CLASSES)
    with pytest.raises(InputError, match="widen the statistics"):
        sums.add(x, y[:, :3])
    with pytest.raises(InputError, match="finite"):
        sums.add(x / 0, y)
    with pytest.raises(InputError, match="one projection"):
        sums.merged(RidgeStatistics.empty(FEATURES, CLASSES + 1))
    with pytest.raises(InputError, match="enlarge it"):
        sums.solve(0.0)


def test_the_projection_follows_from_its_generator():
    one, other = (RandomProjection(12, 64, generator=seeded(3)) for _ in range(2))
    h = torch.randn(5, 12, generator=seeded())
    assert torch.equal(one(h), other(h))
    assert bool((one(h) >= 0).all())
    assert bool((one(h) == 0).any())
    torch.testing.assert_close(one(h), (h @ one.weight).clamp_min(0))
