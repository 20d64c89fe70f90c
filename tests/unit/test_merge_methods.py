"""Merging as it streams: every method gives what the stacked mathematics gives, whoever reads the packs."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from mmcl_edge.fleet.merge import MergeOptions, arithmetic, merge_packs, products, streaming
from mmcl_edge.fleet.merge.experts import unite
from mmcl_edge.fleet.merge.labels import reconcile
from mmcl_edge.fleet.merge.plan import Planner
from mmcl_edge.fleet.merge.reading import verify
from mmcl_edge.packs import read_pack
from tests.merging import fleet, stacked, values

COUNT = 6
WEIGHTS = np.array([3.0, 1.0, 1.0, 1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    return fleet(tmp_path_factory.mktemp("fleet"), COUNT)


def options(**changes):
    return MergeOptions(outliers=False, **changes)


def expected(method, devices, base, name, weights):
    """One tensor by the plain function."""
    many, shares = stacked(devices, name), weights / weights.sum()
    start = values(base)[name].ravel().astype(np.float64)
    if method == "mean":
        return arithmetic.mean(many, shares)
    if method == "task-arithmetic":
        return arithmetic.task_arithmetic(many, start, shares, arithmetic.natural_scale(COUNT))
    if method == "ties":
        return arithmetic.ties(many.astype(np.float32), start.astype(np.float32), shares, 0.2)
    if method == "slerp":
        order = np.argsort([device.digest for device in devices])
        return arithmetic.slerp(arithmetic.gram(many[order]), shares[order]) @ many[order]
    return many[int(np.argmax(shares))]


@pytest.mark.parametrize("method", ["mean", "task-arithmetic", "ties", "slerp", "union"])
def test_streams_give_what_stacks_give(six, tmp_path, method):
    base, packs, devices = six
    for device, pack in zip(devices, packs, strict=True):
        device.digest = pack.name
    report = merge_packs(packs, tmp_path, method=method, weights=list(WEIGHTS), base=base, options=options())
    found = values(report.path)
    assert found.keys() == values(base).keys()
    for name in ("fusion.mlp.0.weight", "blocks.1.experts.b1-fresh-0.audio.down", "head.log_scale"):
        wanted = expected(method, devices, base, name, WEIGHTS)
        np.testing.assert_allclose(found[name].ravel(), wanted, rtol=2e-6, atol=2e-6)


def test_dare_drops_by_pack_and_seed(six, tmp_path):
    base, packs, _ = six
    runs = [
        merge_packs(packs, tmp_path, method="dare", base=base, options=options(seed=seed, drop_rate=rate)).digest
        for seed, rate in ((0, 0.5), (0, 0.5), (1, 0.5))
    ]
    assert runs[0] == runs[1] != runs[2]
    nothing = merge_packs(packs, tmp_path, method="dare", base=base, options=options(drop_rate=0.0))
    summed = merge_packs(packs, tmp_path, method="task-arithmetic", base=base, options=options())
    one, other = values(nothing.path), values(summed.path)
    assert all(np.allclose(one[name], other[name], atol=2e-6) for name in one)


@pytest.mark.parametrize("method", ["median", "krum"])
def test_robust_methods_leave_a_poisoned_pack_alone(tmp_path, method):
    rng = np.random.default_rng(1)
    _, packs, devices = fleet(tmp_path / "fleet", 8)
    poisoned = devices[0].other(rng)
    poisoned.shared["fusion.mlp.0.weight"] *= -1
    packs[0] = poisoned.write(tmp_path / "poisoned")
    report = merge_packs(packs, tmp_path / "out", method=method)
    honest = stacked(devices[1:], "fusion.mlp.0.weight").mean(axis=0)
    away = np.linalg.norm(values(report.path)["fusion.mlp.0.weight"].ravel() - honest)
    assert away < 0.1 * np.linalg.norm(2 * honest) / 8  # a tenth of what the mean would be off by
    assert [one.digest for one in report.outliers] == [packs[0].name]
    assert report.outliers[0].far[0].part == "fusion"


@pytest.mark.parametrize("method", ["mean", "ties", "median", "dare"])
def test_neither_order_nor_workers_nor_shards_matter(six, tmp_path, method, monkeypatch):
    base, packs, _ = six
    monkeypatch.setattr(streaming, "SHARD", 2)
    given = {"method": method, "base": base, "options": options()}
    with ThreadPoolExecutor(3) as three, ThreadPoolExecutor(1) as one:
        digests = {
            merge_packs(order, tmp_path, executor=pool, **given).digest
            for order, pool in ((packs, one), (packs[::-1], three), (packs[2:] + packs[:2], None))
        }
    assert len(digests) == 1


def test_a_pool_of_processes_gives_the_same_bytes(six, tmp_path):
    base, packs, _ = six
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        other = merge_packs(packs, tmp_path, method="ties", base=base, executor=pool, options=options())
    assert other.digest == merge_packs(packs, tmp_path, method="ties", base=base, options=options()).digest


def test_small_blocks_and_chunks_change_nothing(six, tmp_path, monkeypatch):
    base, packs, _ = six
    plain = [merge_packs(packs, tmp_path, method=name, base=base, options=options()) for name in ("mean", "median")]
    monkeypatch.setattr(streaming, "BLOCK", 7)
    monkeypatch.setattr(products, "CHUNK_BYTES", 8 * COUNT * 5)
    monkeypatch.setattr(products, "LEAST_CHUNK", 5)
    small = [merge_packs(packs, tmp_path, method=name, base=base, options=options()) for name in ("mean", "median")]
    assert plain[0].digest == small[0].digest
    one, other = values(plain[1].path), values(small[1].path)
    assert all(np.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_fisher_information_weighs_each_value(six, tmp_path):
    _, packs, devices = six
    name = "fusion.mlp.0.bias"
    certain = {packs[0].name: {name: np.full(12, 1e6)}}

    def fisher(folder):
        ones = {key: np.ones(value.shape) for key, value in values(folder).items()}
        return ones | certain.get(folder.name, {})

    report = merge_packs(packs, tmp_path, method="fisher", options=options(fisher=fisher))
    found = values(report.path)
    np.testing.assert_allclose(found[name], devices[0].shared[name], atol=1e-4)
    other = "fusion.mlp.0.weight"
    np.testing.assert_allclose(found[other].ravel(), stacked(devices, other).mean(axis=0), atol=1e-4)


def test_the_manifest_says_where_it_comes_from(six, tmp_path):
    base, packs, _ = six
    report = merge_packs(packs, tmp_path, method="ties", weights=list(WEIGHTS), base=base, options=options())
    manifest = read_pack(report.path).manifest
    recorded = {parent.digest: (parent.weight, parent.method) for parent in manifest.parents}
    assert recorded.pop(base.name) == (0.0, "base")
    assert recorded == {
        pack.name: (pytest.approx(weight / 8), "ties") for pack, weight in zip(packs, WEIGHTS, strict=True)
    }
    assert manifest.version == 3
    assert manifest.experiences == ("first",)
    assert manifest.sample_counts == {"ant": 5, "bee": 5}  # the base's samples count once
    assert manifest.confidence is None
    assert any("not calibrated" in note for note in report.notes)


def test_packs_of_one_kind_share_one_plan(six):
    _, packs, _ = six
    sources = [verify(pack, pack.parent) for pack in packs]
    plan = Planner(sources, reconcile(sources), unite(sources, active=2)).plan()
    assert len({id(pieces) for pieces in plan.pieces}) == 1
    assert {group.holders for group in plan.groups} == {tuple(range(COUNT))}
    assert (
        sum(group.size for group in plan.groups) == plan.size == sum(value.size for value in values(packs[0]).values())
    )
