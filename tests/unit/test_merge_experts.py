"""Experts by union, classes by id: what is carried, what is folded, what is refused to be told apart."""

import numpy as np
import pytest

from mmcl_edge.fleet.merge import MergeOptions, merge_packs
from mmcl_edge.packs import read_pack
from tests.merging import Device, content_id, values


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def experts(pack, block):
    return [one for one in read_pack(pack).manifest.experts if one.block == block]


def row_of(pack, block, expert):
    position = [one.id for one in experts(pack, block)].index(expert)
    return values(pack)[f"blocks.{block}.router"][position]


def test_frozen_experts_are_carried_with_id_owner_and_row(tmp_path, rng):
    start = Device(rng)
    one, two = start.other(rng), start.other(rng)
    mine = one.freeze(0, "b0-fresh-1", "pets")
    yours = two.freeze(0, "b0-fresh-2", "birds")
    packs = [device.write(tmp_path) for device in (one, two)]
    merged = merge_packs(packs, tmp_path, method="mean").path
    found = {expert.id: expert for expert in experts(merged, 0)}
    assert (found[mine].owner, found[yours].owner) == ("pets", "birds")
    frozen = [expert.frozen for expert in experts(merged, 0)]
    assert frozen == sorted(frozen, reverse=True)
    assert set(found) == {mine, yours, "b0-fresh-0", "b0-fresh-1", "b0-fresh-2"}
    for device, name in ((one, mine), (two, yours)):
        for part, value in device.bodies[0, name].items():
            np.testing.assert_array_equal(values(merged)[f"blocks.0.experts.{name}.{part}"], value)
        np.testing.assert_array_equal(row_of(merged, 0, name), device.rows[0, name])
    assert content_id(0, {part: values(merged)[f"blocks.0.experts.{mine}.{part}"] for part in one.bodies[0, mine]})


def test_an_expert_of_both_is_one_and_its_rows_are_merged(tmp_path, rng):
    start = Device(rng)
    shared = start.freeze(1, "b1-fresh-0", "pets")
    one, two = start.other(rng), start.other(rng)
    merged = merge_packs([one.write(tmp_path), two.write(tmp_path)], tmp_path, method="mean").path
    assert [expert.id for expert in experts(merged, 1)].count(shared) == 1
    expected = (one.rows[1, shared].astype(np.float64) + two.rows[1, shared]) / 2
    np.testing.assert_allclose(row_of(merged, 1, shared), expected, rtol=1e-6)


def test_trainable_experts_of_both_are_merged_and_of_one_are_carried(tmp_path, rng):
    start = Device(rng)
    one, two = start.other(rng), start.other(rng)
    one.add_expert(rng, 0, "b0-fresh-3")
    merged = merge_packs([one.write(tmp_path), two.write(tmp_path)], tmp_path, method="mean").path
    name = "blocks.0.experts.b0-fresh-0.audio.up"
    both = (one.bodies[0, "b0-fresh-0"]["audio.up"].astype(np.float64) + two.bodies[0, "b0-fresh-0"]["audio.up"]) / 2
    np.testing.assert_allclose(values(merged)[name], both, rtol=1e-5, atol=1e-7)
    alone = values(merged)["blocks.0.experts.b0-fresh-3.audio.up"]
    np.testing.assert_array_equal(alone, one.bodies[0, "b0-fresh-3"]["audio.up"])


def twins(rng, likeness):
    """Two devices, each with a frozen expert of its own; the second's is the first's and a little noise."""
    start = Device(rng)
    one, two = start.other(rng), start.other(rng)
    source = one.bodies[0, "b0-fresh-0"]
    two.bodies[0, "b0-fresh-0"] = {
        name: np.asarray(value + likeness * rng.normal(size=value.shape), np.float32) for name, value in source.items()
    }
    return one, two, one.freeze(0, "b0-fresh-0", "one"), two.freeze(0, "b0-fresh-0", "two")


def test_experts_that_are_alike_are_folded_and_said(tmp_path, rng):
    one, two, mine, yours = twins(rng, 0.001)
    report = merge_packs([one.write(tmp_path), two.write(tmp_path)], tmp_path, method="mean")
    (folded,) = report.folded
    assert {folded.kept, folded.dropped} == {mine, yours}
    assert folded.similarity > 0.999
    kept = one if folded.kept == mine else two
    found = [expert.id for expert in experts(report.path, 0)]
    assert folded.kept in found
    assert folded.dropped not in found
    body = values(report.path)[f"blocks.0.experts.{folded.kept}.frames.down"]
    np.testing.assert_array_equal(body, kept.bodies[0, folded.kept]["frames.down"])
    rows = (one.rows[0, mine].astype(np.float64) + two.rows[0, yours]) / 2
    np.testing.assert_allclose(row_of(report.path, 0, folded.kept), rows, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("likeness", "alike"), [(0.5, 0.999), (0.001, 2.0)])
def test_experts_that_differ_stay_apart(tmp_path, rng, likeness, alike):
    one, two, mine, yours = twins(rng, likeness)
    packs = [one.write(tmp_path), two.write(tmp_path)]
    report = merge_packs(packs, tmp_path, method="mean", options=MergeOptions(alike=alike))
    assert report.folded == ()
    assert {mine, yours} <= {expert.id for expert in experts(report.path, 0)}


def test_no_block_is_folded_below_what_serves_a_sample(tmp_path, rng):
    start = Device(rng)
    for name in ("b0-fresh-1", "b0-fresh-2"):
        start.experts[0] = [one for one in start.experts[0] if one.id != name]
    one, two = start.other(rng, 0.0), start.other(rng, 0.0)
    two.bodies[0, "b0-fresh-0"] = {
        name: value * np.float32(1.001) for name, value in two.bodies[0, "b0-fresh-0"].items()
    }
    one.freeze(0, "b0-fresh-0", "one")
    two.freeze(0, "b0-fresh-0", "two")
    report = merge_packs([one.write(tmp_path), two.write(tmp_path)], tmp_path, method="mean")
    assert len(experts(report.path, 0)) == 2  # alike, but two serve a sample
    assert report.folded == ()


def test_an_impostor_of_a_frozen_expert_is_not_believed(tmp_path, rng):
    start = Device(rng)
    name = start.freeze(0, "b0-fresh-0", "pets")
    liars = [start.other(rng) for _ in range(3)]
    for liar in liars:
        liar.bodies[0, name] = {part: value + np.float32(1) for part, value in liar.bodies[0, name].items()}
    honest = start.other(rng).write(tmp_path)
    packs = [liar.write(tmp_path) for liar in liars]
    report = merge_packs([*packs, honest], tmp_path, method="mean")
    body = values(report.path)[f"blocks.0.experts.{name}.audio.down"]
    np.testing.assert_array_equal(body, start.bodies[0, name]["audio.down"])
    before = [pack.name for pack in sorted(packs) if pack.name < honest.name]
    assert [digest for digest, _ in report.impostors] == before


def test_rows_of_the_head_follow_the_class(tmp_path, rng):
    start = Device(rng, labels=("ant", "bee"))
    one, two = start.other(rng), start.other(rng)
    one.add_label(rng, "cow")
    two.labels.reverse()
    two.add_label(rng, "dog")
    report = merge_packs([one.write(tmp_path), two.write(tmp_path)], tmp_path, method="mean")
    assert sorted(report.labels) == ["ant", "bee", "cow", "dog"]
    head = dict(zip(report.labels, values(report.path)["head.weight"], strict=True))
    np.testing.assert_array_equal(head["cow"], one.head["cow"])
    np.testing.assert_array_equal(head["dog"], two.head["dog"])
    for label in ("ant", "bee"):
        both = (one.head[label].astype(np.float64) + two.head[label]) / 2
        np.testing.assert_allclose(head[label], both, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["ties", "task-arithmetic", "dare"])
def test_classes_that_the_base_lacks_are_carried_or_averaged(tmp_path, rng, method):
    start = Device(rng)
    base = start.write(tmp_path)
    one, two = start.other(rng), start.other(rng)
    for device in (one, two):
        device.add_label(rng, "cow")
    one.add_label(rng, "dog")
    packs = [device.write(tmp_path, base.name) for device in (one, two)]
    report = merge_packs([*packs, base], tmp_path, method=method)
    assert report.base == base.name
    assert report.labels[:2] == ("ant", "bee")  # the base's come first
    head = dict(zip(report.labels, values(report.path)["head.weight"], strict=True))
    np.testing.assert_array_equal(head["dog"], one.head["dog"])
    np.testing.assert_allclose(head["cow"], (one.head["cow"].astype(np.float64) + two.head["cow"]) / 2, rtol=1e-5)


def test_names_in_another_case_are_one_class_and_said(tmp_path, rng):
    start = Device(rng, labels=("ant",))
    one, two = start.other(rng), start.other(rng)
    one.add_label(rng, "Bee")
    two.add_label(rng, "bee")
    counts = {"ant": 5, "bee": 50}
    packs = [one.write(tmp_path), two.write(tmp_path, sample_counts=counts)]
    report = merge_packs(packs, tmp_path, method="mean")
    assert sorted(report.labels) == ["ant", "bee"]
    assert [(clash.kept, clash.others) for clash in report.clashes] == [("bee", ("Bee",))]
    assert read_pack(report.path).manifest.sample_counts == {"ant": 10, "bee": 55}


def test_confidence_is_left_behind(tmp_path, rng):
    start = Device(rng)
    one, two = start.other(rng), start.other(rng)
    one.shared["confidence.means"] = np.ones((2, 4), np.float32)
    report = merge_packs([one.write(tmp_path), two.write(tmp_path)], tmp_path, method="mean")
    assert not any(name.startswith("confidence.") for name in values(report.path))


def test_what_is_no_real_number_is_copied(tmp_path, rng):
    start = Device(rng)
    one, two = start.other(rng), start.other(rng)
    for device in (one, two):
        device.shared["head.seen"] = np.array([True, False])
        device.shared["fusion.steps"] = np.array([7, 8], np.int64)
    found = values(merge_packs([one.write(tmp_path), two.write(tmp_path)], tmp_path, method="mean").path)
    np.testing.assert_array_equal(found["head.seen"], [True, False])
    np.testing.assert_array_equal(found["fusion.steps"], [7, 8])
