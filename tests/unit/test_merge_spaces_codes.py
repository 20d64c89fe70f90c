"""Codebooks matched, experts united: the rules one by one, on numbers that can be followed by hand."""

from __future__ import annotations

import pytest
import torch

from mmcl_edge.fleet.merge import spaces_experts
from mmcl_edge.fleet.merge.spaces_codes import Book, merge_books, pairs_of
from mmcl_edge.fleet.merge.spaces_experts import merge_experts
from mmcl_edge.fleet.merge.spaces_maps import Affine, combine, mean_of
from tests.spaces import EVERY, changed, held

EAST, NORTH, WEST = (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)


def book(*codes, counts):
    return Book(torch.tensor(codes), torch.tensor(counts))


def merged(*books, base=None, weights=None, cosine=0.98, cap=100, length=2.0):
    return merge_books(books, weights or [1.0] * len(books), base=base, cosine=cosine, cap=cap, length=length)


def test_matched_codes_are_the_mean_by_usage_and_others_are_appended():
    found = merged(book(EAST, NORTH, counts=[3.0, 1.0]), book((1.0, 0.1), WEST, counts=[1.0, 2.0]))
    assert [one.tolist() for one in found.where] == [[0, 1], [0, 2]]
    torch.testing.assert_close(found.book.codes, torch.tensor([[1.0, 0.025], NORTH, WEST]))
    assert found.book.counts.tolist() == [4, 1, 2]
    assert (found.matched, found.joined) == (1, 0)


def test_what_was_inherited_counts_once():
    base = book(EAST, counts=[6.0])
    found = merged(book(EAST, counts=[6.0]), book((1.0, 0.1), counts=[8.0]), base=base)
    assert found.book.counts.tolist() == [8], "six of the base, and two that the second saw beside"
    torch.testing.assert_close(found.book.codes, torch.tensor([[1.0, 0.1 * 8 / 8]]))
    unknown = merged(book(EAST, counts=[6.0]), book((1.0, 0.1), counts=[8.0]))
    assert unknown.book.counts.tolist() == [14]


def test_codes_that_nobody_changed_keep_their_bits():
    odd = (0.1 + 0.2, 1 / 3)
    found = merged(
        book(odd, EAST, counts=[1 / 7, 2.0]), book(odd, WEST, counts=[5 / 9, 1.0]), base=book(odd, counts=[0.1])
    )
    assert torch.equal(found.book.codes[0], torch.tensor(odd))


def test_a_code_of_the_base_that_every_device_joined_to_another_is_gone():
    base = book(EAST, NORTH, counts=[1.0, 1.0])
    found = merged(book(NORTH, counts=[2.0]), book(NORTH, WEST, counts=[2.0, 1.0]), base=base)
    assert found.book.codes.tolist() == [list(NORTH), list(WEST)]
    assert [one.tolist() for one in found.where] == [[0], [0, 1]]


def test_pairs_are_one_to_one_and_the_nearest_first():
    leaders = torch.tensor([EAST, (1.0, 0.02)])
    codes = torch.tensor([(1.0, 0.03), (1.0, 0.02), NORTH])
    assert pairs_of(codes, leaders, 0.98).tolist() == [0, 1, -1]


def test_over_the_cap_the_least_used_join_their_nearest_those_of_the_base_last():
    base = book(EAST, counts=[0.1])
    found = merged(
        book(EAST, (0.9, 0.6), counts=[0.1, 1.0]), book(EAST, WEST, NORTH, counts=[0.1, 5.0, 4.0]), base=base, cap=3
    )
    assert found.joined == 1
    assert [one.tolist() for one in found.where] == [[0, 0], [0, 1, 2]]
    torch.testing.assert_close(found.book.codes[0], (0.1 * torch.tensor(EAST) + torch.tensor([0.9, 0.6])) / 1.1)


def test_huge_usage_and_huge_codes_are_bounded():
    found = merged(book(EAST, counts=[1.0]), book((1e5, 1e4), counts=[1e6]))
    assert float(found.book.counts[0]) == pytest.approx(11.0)
    assert float(found.book.codes.norm(dim=1).max()) <= 2.0


def test_weights_count():
    found = merged(book(EAST, counts=[1.0]), book((1.0, 0.1), counts=[1.0]), weights=[0.5, 1.5])
    torch.testing.assert_close(found.book.codes, torch.tensor([[1.0, 0.075]]))


DEVICES = [
    held(name, ("image", EVERY), (modality, EVERY)) for name, modality in zip("ab", ("speech", "sound"), strict=True)
]
BASE = held("0", ("image", EVERY))


def test_experts_are_one_where_their_bits_are():
    found = merge_experts(DEVICES, BASE)
    assert (found.frozen, found.folded) == (6, 0)
    route = found.tensors["cmoe.frozen_route"]
    assert torch.equal(route[:4], DEVICES[0].stored.tensors["cmoe.frozen_route"])
    assert torch.equal(route[4:], DEVICES[1].stored.tensors["cmoe.frozen_route"][2:])


def test_experts_that_were_rounded_are_the_same_experts():
    rounded = changed(DEVICES[0], lambda name, value: value.half().float())
    found = merge_experts([rounded, DEVICES[1]], BASE)
    assert found.frozen == 6
    assert torch.equal(found.tensors["cmoe.frozen_up"][:2], BASE.stored.tensors["cmoe.frozen_up"])


def test_too_many_experts_are_folded_but_those_of_the_release(monkeypatch):
    monkeypatch.setattr(spaces_experts, "MOST", 3)
    found = merge_experts(DEVICES, BASE)
    assert (found.frozen, found.folded) == (3, 3)
    assert torch.equal(found.tensors["cmoe.frozen_up"][:2], BASE.stored.tensors["cmoe.frozen_up"])
    loose = torch.cat([one.stored.tensors["cmoe.frozen_up"][2:] for one in DEVICES])
    torch.testing.assert_close(found.tensors["cmoe.frozen_up"][2], loose.mean(dim=0))


def test_of_very_many_experts_some_are_folded_at_a_time(monkeypatch):
    monkeypatch.setattr(spaces_experts, "MOST", 4)
    monkeypatch.setattr(spaces_experts, "AT_ONCE", 3)
    assert merge_experts(DEVICES, BASE).frozen == 4


def test_experts_that_still_learn_are_averaged():
    config = DEVICES[0].stored.config.model_copy(update={"freeze_experts": False})
    one, two = (held(name, (m, EVERY), config=config) for name, m in (("a", "image"), ("b", "speech")))
    found = merge_experts([one, two], None)
    wanted = (one.stored.tensors["cmoe.up"] + two.stored.tensors["cmoe.up"]) / 2
    torch.testing.assert_close(found.tensors["cmoe.up"], wanted)
    assert found.frozen == 0


@pytest.mark.parametrize("width", [12, 3])
def test_combined_maps_are_the_mean_map_of_the_best_rank(width):
    one, two = (held(n, ("image", EVERY[s::2])).branch("image") for n, s in (("a", 0), ("b", 1)))
    total = mean_of([(0.25, 1.0, one), (0.75, 1.0, two)])
    found = combine(total, two, width)
    assert set(found) == set(two)
    assert found["basis"].shape[1] <= max(width, two["basis"].shape[1])
    left, values, right = torch.linalg.svd(total.matrix, full_matrices=False)
    best = left[:, :width] * values[:width] @ right[:width]
    got = Affine.of(found)
    torch.testing.assert_close(got.matrix, best, rtol=1e-3, atol=1e-4 * float(values[0]))
    middle = found["mean"].double()
    torch.testing.assert_close(
        middle @ got.matrix + got.offset, middle @ total.matrix + total.offset, rtol=1e-3, atol=1e-3
    )


def test_a_mean_has_the_length_of_its_parts_and_the_answer_to_the_middle():
    one, two = (held(n, ("image", EVERY[s::2])).branch("image") for n, s in (("a", 0), ("b", 1)))
    parts = [(0.25, 1.0, one), (0.75, 2.0, two)]
    plain, found = mean_of(parts, stretched=False), mean_of(parts)
    a, b = Affine.of(one), Affine.of(two)
    torch.testing.assert_close(plain.matrix, 0.25 * a.matrix + 1.5 * b.matrix)
    torch.testing.assert_close(plain.offset, 0.25 * a.offset + 1.5 * b.offset)
    length = (0.25 * a.matrix.square().sum() + 3 * b.matrix.square().sum()).sqrt()
    torch.testing.assert_close(found.matrix.norm(), length)
    torch.testing.assert_close(found.matrix / found.matrix.norm(), plain.matrix / plain.matrix.norm())
    middle = 0.25 * one["mean"].double() + 0.75 * two["mean"].double()
    torch.testing.assert_close(middle @ found.matrix + found.offset, middle @ plain.matrix + plain.offset)
    same = mean_of([(0.5, 1.0, one), (0.5, 1.0, one)])
    torch.testing.assert_close(same.matrix, a.matrix)


def test_a_front_that_can_carry_the_mean_stays_with_all_that_reads_it():
    one = held("a", ("image", EVERY)).branch("image")
    moved = dict(one) | {"project.weight": one["project.weight"] + 0.1}
    found = combine(mean_of([(0.5, 1.0, one), (0.5, 1.0, moved)], stretched=False), moved, 4)
    for name in ("mean", "basis", "specific.weight", "decoder.2.weight"):
        assert torch.equal(found[name], one[name]), name
    torch.testing.assert_close(found["project.weight"], one["project.weight"] + 0.05, rtol=1e-4, atol=1e-5)


def test_what_reads_the_front_is_led_through_a_new_one():
    one, two = (held(n, ("image", EVERY[s::2])).branch("image") for n, s in (("a", 0), ("b", 1)))
    found = combine(mean_of([(0.5, 1.0, one), (0.5, 1.0, two)]), two, 200)
    h = two["mean"] + torch.randn(5, 3) @ torch.linalg.pinv(found["basis"])[:3]
    new = (h - found["mean"]) @ found["basis"] @ found["specific.weight"].T
    old = (h - two["mean"]) @ two["basis"] @ two["specific.weight"].T
    torch.testing.assert_close(new, old, rtol=1e-2, atol=1e-2 * float(old.abs().max()))
