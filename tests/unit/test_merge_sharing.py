"""``merge_packs`` on packs that hold shared spaces, alone or beside classes."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmcl_edge.config import MethodConfig
from mmcl_edge.errors import MergeError, PackError
from mmcl_edge.fleet.merge import MergeOptions, MergeRejectedError, MergeReport, merge_packs
from mmcl_edge.fleet.merge.spaces import merge_spaces
from mmcl_edge.fleet.merge.spaces_held import HeldSpace
from mmcl_edge.learners.analytic import addends
from mmcl_edge.learners.comet.storage import StoredSpace, space_of
from mmcl_edge.packs import read_pack, write_pack
from mmcl_edge.packs.precision import Reduction, write_reduced
from tests.builders import pack_contents
from tests.crossmodal import samples
from tests.merging import Device, fleet, method
from tests.spaces import EVERY, changed, embedded, held, same, stored, write
from tests.unit.test_analytic_addends import DEVICES, LABELS, written

BASE = stored(("image", EVERY))
ONE = stored(("image", EVERY), ("speech", EVERY))
TWO = stored(("image", EVERY), ("sound", EVERY))


def space(folder: Path | None) -> StoredSpace:
    assert folder is not None
    found = space_of(read_pack(folder))
    assert found is not None
    return found


@pytest.fixture
def release(tmp_path: Path) -> list[Path]:
    """A release and two devices that went on from it."""
    base = write(tmp_path / "base", BASE)
    return [base, *(write(tmp_path / "packs", one, read_pack(base)) for one in (ONE, TWO))]


def merged(packs: list[Path], out: Path, **asked: Any) -> MergeReport:
    return merge_packs(packs, out, **asked)


def test_a_pack_of_both_devices(release, tmp_path):
    report = merged(release[1:], tmp_path / "out", base=release[0])
    assert report.path is not None
    pack = read_pack(report.path, expected_digest=report.digest)
    assert (pack.config.learner, pack.manifest.labels) == ("none", ())
    assert {one.digest: one.weight for one in pack.manifest.parents} == {
        release[0].name: 0,
        release[1].name: 0.5,
        release[2].name: 0.5,
    }
    assert report.base == release[0].name
    found = space(report.path)
    assert set(found.facts.modalities) == {"text", "image", "speech", "sound"}
    assert report.space is not None
    assert (report.space.packs, report.space.codes, report.space.experts) == (
        2,
        len(found.tensors["codebook.codes"]),
        6,
    )
    assert json.dumps(report.as_json())
    wanted = merge_spaces(
        [HeldSpace(path.name, 0.5, one) for path, one in zip(release[1:], (ONE, TWO), strict=True)],
        base=HeldSpace(release[0].name, 0.0, BASE),
    )
    assert same(found, wanted.stored)


def test_the_order_of_packs_and_who_reads_them_do_not_matter(release, tmp_path):
    first = merged(release[1:], tmp_path / "a", base=release[0])
    with ThreadPoolExecutor(2) as pool:
        second = merged(release[:0:-1], tmp_path / "b", base=release[0], executor=pool)
    assert first.digest == second.digest


def test_the_base_is_found_among_what_packs_come_from(release, tmp_path):
    places = {path.name: path for path in release}
    found = merged(release[1:], tmp_path / "a", options=MergeOptions(find=places.get))
    assert found.digest == merged(release[1:], tmp_path / "b", base=release[0]).digest


@pytest.mark.parametrize("method", ["mean", "union", "median", "krum", "task-arithmetic", "ties", "slerp"])
def test_every_method_goes(release, tmp_path, method):
    report = merged(release[1:], tmp_path / "out", method=method, base=release[0])
    assert set(space(report.path).facts.modalities) == {"text", "image", "speech", "sound"}


def test_classes_and_spaces_merge_beside_each_other(release, tmp_path):
    _, packs, _ = fleet(tmp_path / "fleet", 2)
    alone = merged(packs, tmp_path / "alone", method="mean")
    together = merged([*packs, *release[1:]], tmp_path / "out", method="mean", base=release[0])
    assert together.labels == alone.labels
    assert together.path is not None
    assert alone.path is not None
    pack, classes = read_pack(together.path), read_pack(alone.path)
    assert (pack.config.learner, pack.config.space) == ("mmcl", BASE.config)
    tensors = pack.tensors()
    for name, value in classes.tensors().items():
        torch.testing.assert_close(tensors[name], value, rtol=1e-6, atol=1e-7)
    assert set(space(together.path).facts.modalities) == {"text", "image", "speech", "sound"}


def test_one_pack_with_classes_keeps_them_beside_a_space(release, tmp_path):
    device = Device(np.random.default_rng(0)).write(tmp_path / "device")
    for way in ("auto", "median"):
        report = merged([device, release[1]], tmp_path / way, method=way)
        assert report.path is not None
        tensors = read_pack(report.path).tensors()
        for name, value in read_pack(device).tensors().items():
            assert torch.equal(tensors[name], value)
        assert same(space(report.path), ONE)


def test_one_space_among_packs_of_classes_is_taken_as_it_is(tmp_path):
    rng = np.random.default_rng(0)
    start = Device(rng)
    bare = start.other(rng).write(tmp_path / "packs")
    device = start.other(rng)
    config = method().model_copy(update={"space": ONE.config})
    tensors: dict[str, Any] = device.tensors() | {n: v.numpy() for n, v in ONE.tensors_in_pack().items()}
    holding = device.write(tmp_path / "packs", tensors=tensors, config=config, module=ONE.module())
    report = merged([bare, holding], tmp_path / "out")
    assert same(space(report.path), ONE)
    assert not any("different settings" in note for note in report.notes)


def test_sums_are_added_beside_spaces(release, tmp_path):
    tensors, module = addends.stored([DEVICES[0]])
    config = MethodConfig(learner="analytic", space=ONE.config)
    fields = {"labels": LABELS, "experts": (), "sample_counts": {}, "module": {**module, **ONE.module()}}
    made = pack_contents(config=config, tensors={**tensors, **ONE.tensors_in_pack()}, **fields)
    first, second = tmp_path / write_pack(tmp_path, made), written(tmp_path, [DEVICES[1]])
    report = merged([first, second, release[2]], tmp_path / "out")
    assert report.path is not None
    pack = read_pack(report.path)
    assert pack.config.learner == "analytic"
    (total,) = addends.addends_of(pack)
    assert set(total.atoms) == {*DEVICES[0].atoms, *DEVICES[1].atoms}
    assert set(space(report.path).facts.modalities) == {"text", "image", "speech", "sound"}


def test_packs_of_fewer_bits_are_merged_as_what_they_stand_for(release, tmp_path):
    packs = [release[1]]
    precisions: tuple[Reduction, ...] = ("fp16", "int8")
    for precision in precisions:
        packs.append(tmp_path / write_reduced(read_pack(release[2]), precision, tmp_path))
        found = space(merged(packs, tmp_path / "out", base=release[0]).path)
        before, after = (embedded(one, "sound", samples("sound")) for one in (TWO, found))
        assert float((before * after).sum(dim=1).min()) > 0.9
        packs.pop()


def test_a_far_branch_is_named(tmp_path):
    packs = []
    for number in range(5):
        generator = torch.Generator().manual_seed(number)

        def change(name: str, value: torch.Tensor, generator: torch.Generator = generator, n: int = number) -> Any:
            moved = name == "branches.image.project.weight"
            return value + (2.0 if n == 4 else 0.01) * torch.randn(value.shape, generator=generator) if moved else value

        packs.append(write(tmp_path / "packs", changed(held("0", ("image", EVERY)), change).stored))
    report = merged(packs, tmp_path / "out", method="median")
    assert [one.digest for one in report.outliers or ()] == [packs[4].name]
    assert "space.image" in {far.part for far in (report.outliers or ())[0].far}


def test_a_malformed_space_is_refused_or_left_out(release, tmp_path):
    wrong = {name: value for name, value in TWO.tensors.items() if name != "branches.sound.mean"}
    bad = write(tmp_path / "bad", StoredSpace(TWO.config, wrong, TWO.facts))
    with pytest.raises(PackError, match=r"space.branches.sound.mean is missing"):
        merged([release[1], bad], tmp_path / "out")
    report = merged([*release[1:], bad], tmp_path / "out", method="median")
    assert [one.path for one in report.broken] == [str(bad)]


def test_spaces_that_do_not_fit_are_refused_and_nothing_is_written(release, tmp_path):
    other = stored(("image", EVERY), config=BASE.config.model_copy(update={"code_temperature": 0.2}))
    with pytest.raises(MergeError, match="code_temperature"):
        merged([release[1], write(tmp_path / "other", other)], tmp_path / "out")
    with pytest.raises(MergeError, match="one bundle"):
        merged([release[1], write(tmp_path / "other", TWO, bundle_digest="b" * 64)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_loses_a_modality_is_refused(release, tmp_path):
    def ask(folder: Path) -> dict[str, float]:
        known = space(folder).facts.modalities
        merged_one = len(known) == 4
        return {name: 0.5 if merged_one and name == "sound" else 0.6 for name in known if name != "text"}

    with pytest.raises(MergeRejectedError, match=r"pairs of sound with a mean reciprocal rank of 0\.500") as refused:
        merged(release[1:], tmp_path / "out", evaluate_pairs=ask)
    assert refused.value.exit_code == 3
    pairs = refused.value.report.pairs
    assert pairs is not None
    assert pairs.largest_loss == pytest.approx(0.1)
    assert not (tmp_path / "out").exists()
    report = merged(release[1:], tmp_path / "out", evaluate_pairs=ask, tolerance=0.11)
    assert report.path is not None
    assert read_pack(report.path).evaluation["retrieval_sound"] == 0.5


def test_questions_that_packs_cannot_answer_are_refused(release, tmp_path):
    _, packs, _ = fleet(tmp_path / "fleet", 2)
    with pytest.raises(MergeError, match="--eval-pairs MODALITY=DIR instead"):
        merged(release[1:], tmp_path / "out", evaluate=lambda folder: {})
    with pytest.raises(MergeError, match="none of these has one"):
        merged(packs, tmp_path / "out", evaluate_pairs=lambda folder: {})
    with pytest.raises(MergeError, match=r"modalities that the packs know \(text, image, s"):
        merged(release[1:], tmp_path / "out", evaluate_pairs=lambda folder: {})
    assert not (tmp_path / "out").exists()


def test_what_was_not_measured_is_said(release, tmp_path):
    _, packs, _ = fleet(tmp_path / "fleet", 2)
    every, asked = [*packs, *release[1:]], {"method": "mean", "base": release[0]}

    def answers(folder: Path) -> dict[str, tuple[int, int]]:
        return dict.fromkeys(read_pack(packs[0]).manifest.label_names, (1, 1))

    unsaid = "The shared space was not measured"
    report = merged(every, tmp_path / "out", evaluate=answers, **asked)
    assert any(unsaid in note for note in report.notes)
    few = MergeOptions(most_evaluated=1)
    report = merged(
        every, tmp_path / "both", evaluate=answers, evaluate_pairs=lambda folder: {"image": 0.5}, options=few, **asked
    )
    assert not any(unsaid in note for note in report.notes)
    alone = merged(release[1:], tmp_path / "pairs", evaluate_pairs=lambda folder: {"image": 0.5}, options=few)
    for one in (report, alone):
        assert any("the 1 of most weight were judged" in note for note in one.notes)


def test_packs_without_a_space_need_no_torch(tmp_path):
    _, packs, _ = fleet(tmp_path / "fleet", 2)
    code = (
        "import sys; from pathlib import Path; from mmcl_edge.fleet.merge import merge_packs;"
        f"merge_packs([Path(p) for p in {[str(one) for one in packs]!r}], Path({str(tmp_path / 'out')!r}));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
