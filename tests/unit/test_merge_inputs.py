"""What merging takes, and what it refuses: with a sentence, and with nothing written."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from mmcl_edge.config import AdapterConfig
from mmcl_edge.errors import MergeError, PackError
from mmcl_edge.fleet.merge import MergeOptions, MergeRejectedError, merge_packs, parents
from mmcl_edge.packs import holds_pack, read_pack
from mmcl_edge.packs.archive import write_archive
from mmcl_edge.packs.manifest import TENSORS_NAME
from mmcl_edge.packs.precision import write_reduced
from tests.builders import OTHER_BUNDLE, forge_file, forge_manifest, on_full_disk, snapshot
from tests.merging import Device, fleet, method, stacked, values


@pytest.fixture
def four(tmp_path):
    return fleet(tmp_path / "fleet", 4)


def other_shape(rank=8):
    adapter = method().adapter.model_copy(update={"rank": rank})
    return method().model_copy(update={"adapter": adapter})


def spoil(pack, position=-4):
    """Change a byte of the tensors; the manifest does not fit it any more."""
    data = bytearray((pack / TENSORS_NAME).read_bytes())
    data[position] ^= 1
    (pack / TENSORS_NAME).write_bytes(bytes(data))


def with_nan(pack):
    """Put a NaN in a pack and make the digests fit, as an attacker would."""
    data = (pack / TENSORS_NAME).read_bytes()
    forge_file(pack, TENSORS_NAME, data[:-4] + np.array(np.nan, "<f4").tobytes())
    return pack


def write_one(folder, **changes):
    return Device(np.random.default_rng(9)).write(folder, **changes)


def older(manifest):
    manifest["schema_version"] = 7


CASES = {
    "a single pack": (lambda four, folder: four[1][:1], {}, "at least two different packs"),
    "the same pack twice": (lambda four, folder: [four[1][0], four[1][0]], {}, "at least two different packs"),
    "an empty folder": (lambda four, folder: [folder], {}, "it holds none"),
    "nothing there": (lambda four, folder: [folder / "no", four[1][0]], {}, "there is none"),
    "another bundle": (
        lambda four, folder: [*four[1], write_one(folder, bundle_digest=OTHER_BUNDLE)],
        {},
        "bbbbbbbbbbbbbbbb",
    ),
    "another shape": (
        lambda four, folder: [*four[1], write_one(folder, config=other_shape())],
        {},
        "adapter.rank (",
    ),
    "another module": (lambda four, folder: [*four[1], write_one(folder, module={"a": 1})], {}, "describe"),
    "too few weights": (lambda four, folder: four[1], {"weights": [1.0]}, "one weight for each of 4 packs"),
    "a negative weight": (lambda four, folder: four[1], {"weights": [1, 1, 1, -1]}, "weights of 0 or more"),
    "weights that are nothing": (lambda four, folder: four[1], {"weights": [0, 0, 0, 0]}, "not all 0"),
    "weights that are not numbers": (
        lambda four, folder: four[1],
        {"weights": [1, 1, 1, float("nan")]},
        "weights of 0 or more",
    ),
    "no such method": (lambda four, folder: four[1], {"method": "average"}, "Expected a method among"),
    "no evaluation data": (lambda four, folder: four[1], {"method": "fisher"}, "--eval DATA"),
    "a base that is not here": (lambda four, folder: four[1], {"method": "ties"}, "name its folder with --base"),
    "no common parent": (
        lambda four, folder: [write_one(folder), Device(np.random.default_rng(8)).write(folder)],
        {"method": "ties"},
        "common parent",
    ),
    "a base and one pack": (lambda four, folder: [four[0], four[1][0]], {"method": "ties"}, "beside the one"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_with_a_sentence_and_nothing_written(four, tmp_path, case):
    make, given, sentence = CASES[case]
    folder = tmp_path / "more"
    folder.mkdir()
    packs = make(four, folder)
    before = snapshot(tmp_path)
    with pytest.raises(MergeError, match=sentence.replace("(", r"\(")):
        merge_packs(packs, tmp_path / "out", **{"method": "mean"} | given)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda pack: spoil(pack), "sha256"),
        (lambda pack: forge_manifest(pack, older), "schema version 7"),
        (with_nan, "finite"),
        (lambda pack: (pack / "README.md").unlink(), "README.md"),
    ],
)
def test_a_broken_pack_is_refused_or_left_out_and_named(four, tmp_path, break_it, sentence):
    _, packs, devices = four
    break_it(packs[1])
    with pytest.raises(PackError, match=sentence):
        merge_packs(packs, tmp_path / "out", method="mean")
    assert not (tmp_path / "out").exists()
    report = merge_packs(packs, tmp_path / "out", method="mean", options=MergeOptions(skip_broken=True))
    (broken,) = report.broken
    assert broken.path == str(packs[1])
    assert sentence in broken.reason
    name = "fusion.mlp.0.weight"
    expected = stacked([devices[0], *devices[2:]], name).mean(axis=0)
    np.testing.assert_allclose(values(report.path)[name].ravel(), expected, rtol=1e-5, atol=1e-6)
    assert merge_packs(packs, tmp_path / "out", method="median").broken == report.broken


def test_a_pack_named_twice_counts_once(four, tmp_path):
    _, packs, _ = four
    twice = merge_packs([*packs, packs[2], packs[0].parent], tmp_path, method="mean")
    assert set(twice.repeated) == {pack.name for pack in packs}
    assert twice.digest == merge_packs(packs, tmp_path, method="mean").digest


def test_folders_and_archives_are_packs_too(four, tmp_path):
    base, packs, _ = four
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    write_archive(packs[0], inbox / "one.mmclpack")
    write_archive(packs[1], inbox / "two.mmclpack", parent=base)
    find = {base.name: base}.get
    report = merge_packs([inbox, *packs[2:]], tmp_path, method="ties", options=MergeOptions(find=find))
    assert report.base == base.name
    assert report.digest == merge_packs([packs[0].parent], tmp_path, method="ties", base=base).digest


def test_the_base_is_found_among_grandparents(four, tmp_path):
    base, packs, devices = four
    rng = np.random.default_rng(5)
    middle = packs[0]
    children = [devices[0].other(rng).write(tmp_path, middle.name, version=3) for _ in range(2)]
    find = {pack.name: pack for pack in (base, middle)}.get
    report = merge_packs([*children, packs[1]], tmp_path, method="ties", options=MergeOptions(find=find))
    assert report.base == base.name
    alone = merge_packs(children, tmp_path, method="ties", options=MergeOptions(find=find))
    assert alone.base == middle.name  # the nearest


def test_weights_by_samples(tmp_path):
    rng = np.random.default_rng(0)
    start = Device(rng)
    one, two = start.other(rng), start.other(rng)
    packs = [one.write(tmp_path, sample_counts={"ant": 30}), two.write(tmp_path, sample_counts={"bee": 10})]
    report = merge_packs(packs, tmp_path, method="mean", weights="samples")
    shares = {share.digest: share.weight for share in report.parents}
    assert shares == {packs[0].name: 0.75, packs[1].name: 0.25}
    expected = 0.75 * one.shared["fusion.mlp.0.bias"] + 0.25 * two.shared["fusion.mlp.0.bias"]
    np.testing.assert_allclose(values(report.path)["fusion.mlp.0.bias"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 2e-3), ("int8", 3e-2)])
def test_packs_of_smaller_precision_are_merged_as_what_they_stand_for(tmp_path, precision, tolerance):
    rng = np.random.default_rng(0)
    start = Device(rng)
    for block in range(2):
        start.freeze(block, f"b{block}-fresh-0", "pets")
    one, two = start.other(rng), start.other(rng)
    packs = [device.write(tmp_path) for device in (one, two)]
    whole = values(merge_packs(packs, tmp_path / "out", method="mean").path)
    small = [tmp_path / "small" / write_reduced(read_pack(pack), precision, tmp_path / "small") for pack in packs]
    merged = values(merge_packs(small, tmp_path / "out", method="mean").path)
    assert merged.keys() == whole.keys()
    assert max(np.abs(merged[name] - whole[name]).max() for name in whole) < tolerance
    report = merge_packs([packs[0], small[1]], tmp_path / "out", method="mean")
    mixed = values(report.path)
    assert report.impostors == ()
    frozen = [name for name in whole if name.startswith("blocks.0.experts.b0-") and "fresh" not in name]
    assert frozen
    assert all(np.array_equal(mixed[name], whole[name]) for name in frozen)  # the exact one is taken


def test_bfloat16_is_read(tmp_path):
    rng = np.random.default_rng(0)
    device = Device(rng)
    tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in device.tensors().items()}
    half = {name: value.to(torch.bfloat16) if name.startswith("fusion") else value for name, value in tensors.items()}
    packs = [device.write(tmp_path, tensors=half), device.write(tmp_path)]
    found = values(merge_packs(packs, tmp_path, method="mean").path)
    name = "fusion.mlp.0.weight"
    expected = (half[name].float().numpy().astype(np.float64) + tensors[name].numpy()) / 2
    np.testing.assert_allclose(found[name], expected, rtol=1e-6)


def test_a_file_that_changes_during_the_merge_is_noticed(four, tmp_path, monkeypatch):
    _, packs, _ = four
    unite = parents.unite

    def meddling(sources, **options):
        spoil(packs[0])
        return unite(sources, **options)

    monkeypatch.setattr(parents, "unite", meddling)
    with pytest.raises(PackError, match="changed during the merge"):
        merge_packs(packs, tmp_path / "out", method="mean")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing_behind(four, tmp_path):
    _, packs, _ = four
    out = tmp_path / "out"
    out.mkdir()
    for refused in on_full_disk(lambda: merge_packs(packs, out, method="mean")):
        for folder in out.iterdir():  # the last write is after the rename: then the pack is there, and whole
            assert refused is None or holds_pack(folder, folder.name)
    assert len(list(out.iterdir())) == 1


def right_answers(share):
    """Answers of a pack that is right so often about each of its classes."""
    return {label: (round(100 * share), 100) for label in ("ant", "bee")}


def evaluation(four, results):
    """Parents are right 90 times of 100; results by method, which their figures name."""
    names = {pack.name for pack in four[1]}

    def evaluate(folder):
        if folder.name in names:
            return right_answers(0.9)
        parents = {parent.method for parent in read_pack(folder).manifest.parents} - {"base"}
        return right_answers(results[parents.pop()])

    return evaluate


def test_a_result_that_is_worse_is_refused(four, tmp_path):
    before = snapshot(tmp_path)
    given = {"method": "mean", "evaluate": evaluation(four, {"mean": 0.85})}
    with pytest.raises(MergeRejectedError, match="above the tolerance") as caught:
        merge_packs(four[1], tmp_path / "out", tolerance=0.02, **given)
    assert snapshot(tmp_path) == before
    assert not caught.value.report.accepted
    assert caught.value.report.judgement.largest_loss == pytest.approx(0.05)
    accepted = merge_packs(four[1], tmp_path / "out", tolerance=0.06, **given)
    assert accepted.accepted
    assert read_pack(accepted.path).evaluation["classes"]["ant"] == {"samples": 100, "before": 0.9, "after": 0.85}


def test_auto_takes_the_best_and_says_why(four, tmp_path):
    base, packs, _ = four
    results = {"mean": 0.88, "union": 0.7, "task-arithmetic": 0.89, "ties": 0.95, "median": 0.9}
    report = merge_packs(packs, tmp_path / "out", base=base, evaluate=evaluation(four, results))
    assert report.method == "ties"
    assert {trial.method: trial.accuracy for trial in report.tried} == results
    assert "ties 95.0 %" in report.reason
    assert read_pack(report.path).manifest.parents[0].method == "ties"


def test_auto_without_evaluation_says_that_nothing_was_measured(four, tmp_path):
    base, packs, _ = four
    with_base = merge_packs(packs, tmp_path / "out", base=base)
    without = merge_packs(packs, tmp_path / "out")
    assert (with_base.method, without.method) == ("task-arithmetic", "mean")
    assert all("Nothing was measured" in report.reason for report in (with_base, without))


def test_a_row_that_stands_for_another_class_is_named(tmp_path):
    rng = np.random.default_rng(0)
    start = Device(rng, labels=("ant", "bee", "cow", "dog"))
    devices = [start.other(rng) for _ in range(10)]
    for liar in devices[:2]:
        liar.head["bee"], liar.head["dog"] = liar.head["dog"], liar.head["bee"]
    packs = [device.write(tmp_path) for device in devices]
    report = merge_packs(packs, tmp_path, method="median")
    assert {one.digest for one in report.outliers} == {pack.name for pack in packs[:2]}
    assert all(one.exchanged == (("bee", "dog"),) for one in report.outliers)


def test_honest_packs_are_no_outliers(tmp_path):
    _, packs, _ = fleet(tmp_path / "fleet", 30)
    assert merge_packs(packs, tmp_path, method="median").outliers == ()


def test_adapter_configurations_may_differ_in_what_only_training_reads(tmp_path):
    rng = np.random.default_rng(0)
    start = Device(rng)
    quiet = method().model_copy(
        update={"adapter": AdapterConfig(**{**method().adapter.model_dump(), "router_noise": 0.0})}
    )
    packs = [start.other(rng).write(tmp_path), start.other(rng).write(tmp_path, config=quiet)]
    report = merge_packs(packs, tmp_path, method="mean")
    assert any("different settings" in note for note in report.notes)


def test_the_whole_command_runs_without_torch(four, tmp_path):
    base, packs, _ = four
    code = (
        "import sys\n"
        "from mmcl_edge.commands.merge import command\n"
        "try:\n    command(sys.argv[1:])\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print({name for name in ('torch', 'onnxruntime') if name in sys.modules})"
    )
    words = [str(packs[0].parent), "--method", "ties", "--base", str(base), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    shutil.rmtree(tmp_path / "out")
