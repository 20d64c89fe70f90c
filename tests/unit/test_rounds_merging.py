"""What becomes the fleet's pack in a round: nothing unevaluated, no sums lost, and who is unlike the others."""

from __future__ import annotations

import pytest

from mmcl_edge.fleet.rounds.merging import PackMerge
from mmcl_edge.fleet.rounds.messages import Answer, packed
from mmcl_edge.fleet.rounds.server import Rounds
from mmcl_edge.learners.analytic.addends import addends_of, contributions
from mmcl_edge.packs import read_pack, write_pack
from tests.integration.test_merge_sums import fleet
from tests.unit.test_analytic_addends import LABELS, contribution, written
from tests.unit.test_rounds import contents


def rounds_of(folder, first, merge):
    opened = read_pack(first)
    return Rounds(
        folder / "server", bundle=opened.manifest.bundle_digest, method=opened.config, merge=merge, first=first
    )


def answer(order, pack, scratch):
    return Answer(round=order.round, base=order.pack, pack=pack.name, samples=9, archive=packed(pack, scratch=scratch))


def test_a_pack_that_was_learned_from_scratch_is_not_on_top_of_the_fleets(tmp_path):
    first = tmp_path / write_pack(tmp_path, contents(7))
    rounds = rounds_of(tmp_path, first, PackMerge())
    scratch = tmp_path / write_pack(tmp_path, contents(9))
    problem = rounds.receive(answer(rounds.order(), scratch, tmp_path), sender="bad")
    assert problem is not None
    assert "does not name among its parents" in problem
    assert rounds.close().pack == first.name
    assert {path.name for path in rounds.packs.iterdir()} == {first.name}


@pytest.mark.parametrize(("right", "taken"), [(9, False), (10, True)], ids=["worse", "as good"])
def test_one_answer_is_evaluated_too(tmp_path, right, taken):
    first = tmp_path / write_pack(tmp_path, contents(7))
    alone = tmp_path / write_pack(tmp_path, contents(9, parents=(read_pack(first),)))
    asked = []

    def evaluate(pack):
        asked.append(pack.name)
        return dict.fromkeys(read_pack(first).manifest.label_names, (10 if pack.name == first.name else right, 10))

    rounds = rounds_of(tmp_path, first, PackMerge(evaluate=evaluate))
    assert rounds.receive(answer(rounds.order(), alone, tmp_path), sender="one") is None
    report = rounds.close()
    assert asked == [first.name, alone.name]
    assert report.pack == (alone.name if taken else first.name)
    assert (report.rejected is None) is taken


def test_an_answer_that_leaves_the_fleets_sums_out_loses_none_of_them(tmp_path):
    first = written(tmp_path, [contribution(1, LABELS, 3)])
    for senders in (1, 2):
        rounds = rounds_of(tmp_path / str(senders), first, PackMerge())
        order, new = rounds.order(), set()
        for number in range(senders):
            other = [contribution(10 + number, LABELS, 3)]
            bad = written(tmp_path, other, parents=(read_pack(first).as_parent(),), version=2)
            new |= contributions(read_pack(bad))
            assert rounds.receive(answer(order, bad, tmp_path), sender=f"bad {number}") is None
        report = rounds.close()
        assert report.rejected is None
        pack = read_pack(rounds.pack)
        assert contributions(pack) == contributions(read_pack(first)) | new
        assert first.name in {parent.digest for parent in pack.manifest.parents}
        assert addends_of(pack)
        assert {path.name for path in rounds.packs.iterdir()} == {first.name, pack.digest}


def test_sums_that_are_unlike_the_others_are_named_by_sender(tmp_path):
    packs, lying = fleet(tmp_path, liars=2)
    opened = read_pack(packs[0])
    rounds = Rounds(tmp_path / "server", bundle=opened.manifest.bundle_digest, method=opened.config, merge=PackMerge())
    order = rounds.order()
    for pack in packs:
        assert rounds.receive(answer(order, pack, tmp_path), sender=f"device {pack.name}") is None
    report = rounds.close()
    assert set(report.outliers) == {f"device {name}" for name in lying}
    assert all("lies where others have" in sentence for sentence in report.outliers.values())
    assert len(report.merged) == len(packs), "named, not left out"
