"""Sums of contributions: each counted once, whatever the order and the grouping; sums that nobody can have refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mmcl_edge.config import MethodConfig
from mmcl_edge.errors import InputError, PackError
from mmcl_edge.learners.analytic.addends import Addend, addends_of, folded, stored, total, union
from mmcl_edge.learners.analytic.evidence import Evidence, with_constant
from mmcl_edge.learners.analytic.statistics import RidgeStatistics
from mmcl_edge.packs import read_pack, write_pack
from tests.builders import pack_contents

WIDTH = 24
LABELS = ("ant", "bee", "cow", "dog", "eel")


def samples(seed: int, classes: tuple[str, ...], count: int) -> tuple[Tensor, list[str]]:
    """Features of ``count`` samples a class, each class about a centre of its own."""
    names = [name for name in classes for _ in range(count)]
    noise = torch.randn(len(names), WIDTH, generator=torch.Generator().manual_seed(seed))
    centres = torch.randn(len(LABELS), WIDTH, generator=torch.Generator().manual_seed(99))
    return centres[[LABELS.index(name) for name in names]] + noise, names


def contribution(seed: int, classes: tuple[str, ...], count: int = 4) -> Addend:
    x, names = samples(seed, classes, count)
    targets = functional.one_hot(torch.tensor([LABELS.index(name) for name in names]), len(LABELS)).float()
    empty = RidgeStatistics.empty(WIDTH + 1, len(LABELS), dtype=torch.float32)
    return Addend.of({"audio": empty.add(with_constant(x), targets), "frames": empty}, LABELS)


DEVICES = [contribution(1, ("ant", "bee")), contribution(2, ("bee", "cow"), 9), contribution(3, ("dog", "eel"))]


def weights(addend: Addend) -> Tensor:
    return Evidence(addend.placed(LABELS)["audio"]).weights


def central() -> Tensor:
    """The head of one device that has seen every sample."""
    parts = [samples(1, ("ant", "bee"), 4), samples(2, ("bee", "cow"), 9), samples(3, ("dog", "eel"), 4)]
    x, names = torch.cat([part[0] for part in parts]), [name for part in parts for name in part[1]]
    targets = functional.one_hot(torch.tensor([LABELS.index(name) for name in names]), len(LABELS)).float()
    return Evidence(RidgeStatistics.empty(WIDTH + 1, len(LABELS)).add(with_constant(x), targets)).weights


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_merged_heads_equal_training_on_all_data_in_any_order(order: tuple[int, ...]):
    merged = folded(union([[DEVICES[i]] for i in order]))
    assert float((weights(merged) - central()).abs().max()) < 1e-5


def test_merged_heads_equal_training_on_all_data_in_any_grouping():
    one, two, three = DEVICES
    left = folded(union([[folded(union([[one], [two]]))], [three]]))
    right = folded(union([[one], [folded(union([[two], [three]]))]]))
    assert left.atoms == right.atoms
    assert left.id == right.id
    for merged in (left, right):
        assert float((weights(merged) - central()).abs().max()) < 1e-5


def test_equal_merges_are_equal_bits_whatever_the_order():
    one, other = folded(union([DEVICES[:2], DEVICES[2:]])), folded(union([DEVICES[2:], DEVICES[:2][::-1]]))
    found, wanted = stored([one])[0], stored([other])[0]
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in found)


def test_a_shared_parent_is_counted_once():
    base, new, newer = DEVICES
    chosen = union([[base, new], [base, newer]])
    assert sorted(one.id for one in chosen) == sorted(one.id for one in DEVICES)


def test_a_merge_that_holds_a_contribution_already_takes_its_place():
    base, new, newer = DEVICES
    released = folded([base, new])
    assert [one.id for one in union([[released], [base, newer], [new]])] == [released.id, newer.id]


def test_overlapping_sums_that_cannot_be_parted_are_refused():
    one, two, three = DEVICES
    with pytest.raises(InputError, match="disjoint or hold one another"):
        union([[folded([one, two])], [folded([two, three])]])


def test_overlap_is_no_matter_where_the_rest_is_known_by_itself():
    one, two, three = DEVICES
    chosen = union([[folded([one, two])], [folded([two, three])], [three]])
    assert {atom for addend in chosen for atom in addend.atoms} == {addend.id for addend in DEVICES}


def test_sums_of_other_sizes_are_refused():
    empty = RidgeStatistics.empty(WIDTH + 3, 1, dtype=torch.float32)
    other = Addend.of({"audio": empty.add(torch.ones(2, WIDTH + 3), torch.ones(2, 1))}, ("ant",))
    with pytest.raises(InputError, match="equal budgets"):
        union([[DEVICES[0]], [other]])


def test_the_same_samples_have_one_atom_and_others_have_another():
    assert contribution(1, ("ant", "bee")).id == DEVICES[0].id
    assert contribution(4, ("ant", "bee")).id != DEVICES[0].id


def test_many_small_parts_are_summed_in_pieces():
    many = [contribution(seed, LABELS, 1) for seed in range(40)]
    one_by_one = folded([many[0]])
    for addend in many[1:]:
        one_by_one = folded([one_by_one, addend])
    assert float((weights(folded(many)) - weights(one_by_one)).abs().max()) < 1e-5
    empty = RidgeStatistics.empty(WIDTH + 1, dtype=torch.float32)
    assert len(total(many, LABELS, {"audio": empty})["audio"].root) == WIDTH + 1


# In packs


def written(folder: Path, addends: list[Addend], **changes: Any) -> Path:
    tensors, module = stored(addends)
    fields = {"tensors": tensors, "module": module, "labels": LABELS, "experts": (), "sample_counts": {}}
    config = MethodConfig(learner="analytic")
    return folder / write_pack(folder, pack_contents(config=config, **fields | changes))


def test_packs_keep_addends_bit_for_bit(tmp_path: Path):
    found = addends_of(read_pack(written(tmp_path, DEVICES)))
    assert [one.id for one in found] == [one.id for one in DEVICES]
    for one, other in zip(found, DEVICES, strict=True):
        assert one.classes == other.classes
        for head, sums in one.sums.items():
            assert torch.equal(sums.root, other.sums[head].root)
            assert torch.equal(sums.cross, other.sums[head].cross)


def changed(part: str, change: Any) -> dict[str, Any]:
    tensors, _ = stored(DEVICES[:1])
    name = f"analytic.{DEVICES[0].id}.audio.{part}"
    return {"tensors": {**tensors, name: change(tensors[name])}}


def atoms(names: list[str]) -> dict[str, Any]:
    """The first device's addend with other atoms."""
    tensors, _ = stored(DEVICES[:1])
    rows = torch.tensor([list(bytes.fromhex(name)) for name in names], dtype=torch.uint8)
    return {"tensors": {**tensors, f"analytic.{DEVICES[0].id}.atoms": rows}}


def lonely() -> dict[str, Any]:
    """Beside the first device's, an addend without sums."""
    tensors, module = stored(DEVICES[:1])
    rows = torch.zeros(1, 8, dtype=torch.uint8)
    more = {"id": "0" * 16, "contributions": 1, "classes": ["ant"]}
    return {
        "tensors": {**tensors, f"analytic.{'0' * 16}.atoms": rows},
        "module": {"addends": [*module["addends"], more]},
    }


def entry(**changes: Any) -> dict[str, Any]:
    module = stored(DEVICES[:1])[1]
    return {"module": {"addends": [module["addends"][0] | changes]}}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        pytest.param(changed("root", lambda x: x * 100), "not that of", id="scaled root"),
        pytest.param(changed("cross", lambda x: -x), "do not add up", id="flipped sign"),
        pytest.param(changed("cross", lambda x: x * 100), "do not add up", id="scaled cross"),
        pytest.param(changed("counts", lambda x: x * 1000), "rows for", id="samples claimed"),
        pytest.param(changed("counts", lambda x: -x), "whole numbers", id="negative counts"),
        pytest.param(changed("counts", lambda x: x + 0.5), "whole numbers", id="half a sample"),
        pytest.param(changed("cross", lambda x: torch.cat([x[:1], 1e6 * x[1:]])), "larger than", id="huge cross"),
        pytest.param(changed("root", lambda x: x[:-1]), "no triangle", id="cut root"),
        pytest.param(changed("root", lambda x: x.double()), "float32", id="other dtype"),
        pytest.param(changed("cross", lambda x: x[:, :1].clone()), "shapes", id="column missing"),
        pytest.param(entry(classes=["ant", "yak"]), "not among", id="class of no label"),
        pytest.param(entry(classes=["ant", "ant"]), "not among", id="class twice"),
        pytest.param(atoms(["0" * 16]), "does not follow", id="other atom"),
        pytest.param(atoms(["0" * 16, "1" * 16]), "does not name its 1", id="more atoms"),
        pytest.param(atoms(["0" * 16, "1" * 16]) | entry(contributions=2), "does not follow", id="atoms of another"),
        pytest.param(entry(contributions=2), "does not name its 2", id="atoms missing"),
        pytest.param(entry(contributions=0), "contributions", id="no atoms"),
        pytest.param(entry(id="0" * 16), "does not name", id="other id"),
        pytest.param(lonely(), "should have root", id="sums missing"),
        pytest.param(entry(extra=1), "addends|extra", id="unknown field"),
        pytest.param({"module": {}}, "belongs to no addend", id="no addends"),
        pytest.param({"module": {"addends": 2 * stored(DEVICES[:1])[1]["addends"]}}, "twice", id="addend twice"),
    ],
)
def test_sums_that_no_samples_have_are_refused(tmp_path: Path, changes: dict[str, Any], match: str):
    pack = read_pack(written(tmp_path, DEVICES[:1], **changes))
    with pytest.raises(PackError, match=match):
        addends_of(pack)
