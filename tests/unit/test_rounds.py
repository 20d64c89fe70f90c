"""The server's rounds and their messages, without Flower and without training: packs are small made-up ones."""

from __future__ import annotations

import json

import pytest
import torch

from mmcl_edge.config import AdaptConfig, MethodConfig
from mmcl_edge.errors import InputError, IntegrityError, MergeError, RejectedError, StorageError
from mmcl_edge.fleet.rounds.messages import Answer, Order, answer_from, order_from, packed, record_of
from mmcl_edge.fleet.rounds.server import JOURNAL_NAME, MOST_MEDIANS, Outcome, Rounds
from mmcl_edge.fleet.rounds.staleness import shares, staleness_weight
from mmcl_edge.packs import next_version, read_pack, write_pack
from tests.builders import OTHER_BUNDLE, on_full_disk, pack_contents, snapshot

BUNDLE = "a" * 64
OTHER_METHOD = MethodConfig.model_validate({"learner": "analytic"})


class Averaging:
    """A merge that averages one tensor and remembers what it was asked."""

    def __init__(self, refuse=()):
        self.calls, self.refuse = [], set(refuse)

    def __call__(self, packs, weights, out, *, before=None):
        self.calls.append({pack.name: weight for pack, weight in zip(packs, weights, strict=True)})
        for pack in packs:
            if value_of(pack) in self.refuse:
                raise MergeError("They do not fit.")
        if len(packs) == 1:
            return Outcome(packs[0].name)
        value = sum(value_of(pack) * weight for pack, weight in zip(packs, weights, strict=True))
        return Outcome(write_pack(out, contents(value, parents=tuple(map(read_pack, packs)), method="mean")))


def contents(value, *, parents=(), method="adapt", **changes):
    fields = {"tensors": {"head.weight": torch.tensor([float(value)])}, "version": next_version(parents)}
    return pack_contents(parents=tuple(one.as_parent(method=method) for one in parents), **fields, **changes)


def value_of(pack):
    return float(read_pack(pack).tensors()["head.weight"][0])


class Device:
    """Learns one number: where it is asked to stand."""

    def __init__(self, folder, value, samples=10, **changes):
        self.folder, self.value, self.samples, self.changes = folder, value, samples, changes
        folder.mkdir()

    def answer(self, order, **forged):
        parents = () if order.pack is None else (read_pack(self.taken(order)),)
        made = self.folder / write_pack(self.folder, contents(self.value, parents=parents, **self.changes))
        parent = parents[0].path if parents else None
        fields = {"round": order.round, "base": order.pack, "pack": made.name, "samples": self.samples}
        return Answer(**{**fields, "archive": packed(made, scratch=self.folder, parent=parent), **forged})

    def taken(self, order):
        from mmcl_edge.packs.archive import open_archive

        (self.folder / "in").write_bytes(order.archive)
        return self.folder / open_archive(self.folder / "in", self.folder, expected_digest=order.pack)


@pytest.fixture
def rounds(tmp_path):
    return server(tmp_path)


def server(tmp_path, merge=None, **changes):
    return Rounds(tmp_path / "server", bundle=BUNDLE, merge=merge or Averaging(), **changes)


# Weights


@pytest.mark.parametrize(("age", "exponent", "weight"), [(0, 0.5, 1.0), (3, 0.5, 0.5), (1, 1.0, 0.5), (9, 0.0, 1.0)])
def test_staleness_weight_is_polynomial(age, exponent, weight):
    assert staleness_weight(age, exponent) == pytest.approx(weight)


def test_answers_in_time_are_averaged_by_their_samples():
    own, kept = shares([30, 10], [0, 0])
    assert own == pytest.approx([0.75, 0.25])
    assert kept == 0


def test_what_age_takes_goes_to_the_fleets_pack():
    own, kept = shares([10, 10], [0, 3], 0.5)
    assert own == pytest.approx([0.5, 0.25])
    assert kept == pytest.approx(0.25)


def test_answers_without_samples_count_alike():
    assert shares([0, 0], [0, 0]) == ([0.5, 0.5], 0.0)


# Messages


def test_orders_and_answers_come_back_from_records(rounds, tmp_path):
    order = rounds.order()
    assert order_from(record_of(order)) == order
    answer = Device(tmp_path / "device", 1).answer(order)
    assert answer_from(record_of(answer)) == answer
    assert all(isinstance(value, str | int | bytes) for value in record_of(answer).values())


FORGED = {
    "another field": {"extra": 1},
    "another release": {"schema_version": 2},
    "a round before the first": {"round": 0},
    "a digest that is a path": {"pack": "../../etc"},
    "a number as text": {"samples": "10"},
    "an archive that is text": {"archive": "PK"},
    "samples without end": {"samples": 1 << 50},
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
def test_another_record_is_refused(rounds, tmp_path, change):
    record = record_of(Device(tmp_path / "device", 1).answer(rounds.order()))
    with pytest.raises(IntegrityError, match="Expected an answer of federated rounds"):
        answer_from({**record, **change})


def test_an_order_with_another_configuration_is_refused():
    order = Order(round=1, method='{"learner": "magic"}', adapt="{}")
    with pytest.raises(IntegrityError, match="MethodConfig is not valid"):
        order.methods()


# Rounds


def test_a_round_averages_what_came_and_the_next_starts_there(rounds, tmp_path):
    one, two = Device(tmp_path / "one", 2, samples=30), Device(tmp_path / "two", 6, samples=10)
    order = rounds.order()
    assert (order.round, order.pack, order.archive) == (1, None, b"")
    for name, device in (("one", one), ("two", two)):
        assert rounds.receive(device.answer(order), sender=name) is None
    report = rounds.close()
    assert value_of(rounds.pack) == pytest.approx(3.0)
    assert (report.round, report.pack, report.kept) == (1, rounds.pack.name, 0.0)
    assert sorted(report.merged.values()) == [(0.25, 0), (0.75, 0)]
    assert (rounds.number, rounds.order().pack) == (2, rounds.pack.name)


def test_one_answer_in_time_becomes_the_fleets_pack(rounds, tmp_path):
    rounds.receive(Device(tmp_path / "one", 5).answer(rounds.order()), sender="one")
    rounds.close()
    assert value_of(rounds.pack) == 5


def test_a_round_without_answers_changes_nothing(rounds, tmp_path):
    rounds.receive(Device(tmp_path / "one", 5).answer(rounds.order()), sender="one")
    before = rounds.close().pack
    assert rounds.close().pack == before
    assert rounds.number == 3


def test_late_answers_count_with_their_age(tmp_path):
    rounds = server(tmp_path, exponent=1.0)
    quick, slow = Device(tmp_path / "quick", 0), Device(tmp_path / "slow", 8)
    first = rounds.order()
    rounds.receive(quick.answer(first), sender="quick")
    rounds.close()
    assert rounds.receive(slow.answer(first), sender="slow") is None
    report = rounds.close()
    assert list(report.merged.values()) == [(0.5, 1)]
    assert report.kept == pytest.approx(0.5)
    assert value_of(rounds.pack) == pytest.approx(4.0)


def test_age_counts_changes_of_the_pack_not_rounds(tmp_path):
    rounds = server(tmp_path, exponent=1.0)
    rounds.receive(Device(tmp_path / "one", 0).answer(rounds.order()), sender="one")
    rounds.close()
    order = rounds.order()
    rounds.close()
    rounds.close()
    rounds.receive(Device(tmp_path / "two", 8).answer(order), sender="two")
    assert list(rounds.close().merged.values()) == [(1.0, 0)]
    assert value_of(rounds.pack) == 8


def test_nobody_counts_for_more_than_a_few_median_devices(rounds, tmp_path):
    order = rounds.order()
    for value, samples in ((1, 10), (2, 10), (3, 1 << 40)):
        rounds.receive(Device(tmp_path / f"d{value}", value, samples).answer(order), sender=str(value))
    found = sorted(share for share, _ in rounds.close().merged.values())
    assert found == pytest.approx([1 / 6, 1 / 6, 4 / 6])
    assert MOST_MEDIANS == 4


def test_a_pack_of_the_admins_can_be_the_start(tmp_path):
    first = tmp_path / write_pack(tmp_path, contents(7))
    rounds = server(tmp_path, first=first)
    assert rounds.order().pack == first.name
    rounds.receive(Device(tmp_path / "one", 9).answer(rounds.order()), sender="one")
    rounds.close()
    assert value_of(rounds.pack) == 9


def test_a_merge_that_is_worse_leaves_the_fleets_pack(tmp_path):
    def refuse(packs, weights, out, *, before=None):
        raise RejectedError("It is worse.")

    rounds = server(tmp_path, merge=refuse, first=tmp_path / write_pack(tmp_path, contents(7)))
    before, order = rounds.pack, rounds.order()
    for value in (1, 2):
        rounds.receive(Device(tmp_path / f"d{value}", value).answer(order), sender=str(value))
    report = rounds.close()
    assert (report.rejected, report.merged, rounds.pack, rounds.number) == ("It is worse.", {}, before, 2)


def test_a_pack_that_fits_no_other_is_left_out_and_the_rest_is_merged(tmp_path):
    rounds = server(tmp_path, merge=Averaging(refuse=[13.0]))
    order = rounds.order()
    for value in (1, 13, 3):
        rounds.receive(Device(tmp_path / f"d{value}", value).answer(order), sender=f"device {value}")
    report = rounds.close()
    assert value_of(rounds.pack) == pytest.approx(2.0)
    assert report.refused == {"device 13": "it cannot be merged with any other pack of the round"}


REFUSED = {
    "an answer to a round that was never": ({"round": 9}, "this is round 1"),
    "another base": ({"base": "c" * 64}, "not learned on top of the pack"),
    "no pack": ({"pack": None, "archive": b""}, "it holds no pack"),
    "an archive that is none": ({"archive": b"no archive"}, ""),
    "another pack than it says": ({"pack": "d" * 64}, "Expected the pack dddd"),
    "what the device says went wrong": ({"refused": "The disk is full."}, "The disk is full."),
}


@pytest.mark.parametrize(("forged", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_fails_a_check_is_left_out_by_name(rounds, tmp_path, forged, sentence):
    answer = Device(tmp_path / "bad", 1).answer(rounds.order(), **forged)
    before = snapshot(rounds.folder)
    problem = rounds.receive(answer, sender="bad")
    assert problem
    assert sentence in problem
    assert snapshot(rounds.folder) == before
    assert rounds.close().refused == {"bad": problem}


STRANGERS = {
    "for another bundle": ({"bundle_digest": OTHER_BUNDLE}, "made for the bundle"),
    "another learner": ({"config": OTHER_METHOD}, r"another configuration \(learner\)"),
}


@pytest.mark.parametrize(("changes", "sentence"), STRANGERS.values(), ids=STRANGERS)
def test_packs_of_another_kind_are_left_out(rounds, tmp_path, changes, sentence):
    answer = Device(tmp_path / "bad", 1, **changes).answer(rounds.order())
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(rounds.receive(answer, sender="bad"))


def test_the_same_pack_counts_once(rounds, tmp_path):
    answer = Device(tmp_path / "one", 4).answer(rounds.order())
    for sender in ("one", "a copy"):
        assert rounds.receive(answer, sender=sender) is None
    assert rounds.arrived == 1
    rounds.close()
    assert rounds.receive(answer, sender="a replay") == "it was merged before"


def test_a_server_that_was_killed_goes_on_from_its_last_round(rounds, tmp_path):
    order = rounds.order()
    rounds.receive(Device(tmp_path / "one", 4).answer(order), sender="one")
    rounds.close()
    again = server(tmp_path)
    assert (again.number, again.pack) == (2, rounds.pack)
    assert again.receive(Device(tmp_path / "late", 8).answer(order), sender="late") is None


def test_what_was_merged_is_removed_and_the_fleets_packs_stay(rounds, tmp_path):
    for _ in range(2):
        order = rounds.order()
        for value in (1, 2):
            device = Device(tmp_path / f"{rounds.number}-{value}", value)
            rounds.receive(device.answer(order), sender=str(value))
        rounds.close()
    journal = json.loads((rounds.folder / JOURNAL_NAME).read_bytes())
    assert {path.name for path in rounds.packs.iterdir()} == {closed["pack"] for closed in journal["closed"]}


def test_another_bundle_needs_another_folder(rounds, tmp_path):
    rounds.close()
    with pytest.raises(InputError, match="choose another folder"):
        Rounds(tmp_path / "server", bundle=OTHER_BUNDLE, merge=Averaging())


def test_a_damaged_journal_is_told(rounds, tmp_path):
    rounds.close()
    (rounds.folder / JOURNAL_NAME).write_bytes(b"{}")
    with pytest.raises(IntegrityError, match="journal of federated rounds"):
        server(tmp_path)


def test_a_full_disk_leaves_the_round_open(tmp_path):
    rounds = server(tmp_path)
    order = rounds.order()
    answers = [Device(tmp_path / f"d{value}", value).answer(order) for value in (1, 2)]
    for answer in answers:
        assert rounds.receive(answer, sender="device") is None
    for refused in on_full_disk(rounds.close):
        if refused is None:
            break
        assert isinstance(refused, StorageError)
        assert (rounds.number, rounds.arrived) == (1, 2)
        assert server(tmp_path).number == 1
    assert rounds.number == 2


def test_orders_carry_the_configurations(rounds):
    assert rounds.order().methods() == (MethodConfig(), AdaptConfig())
