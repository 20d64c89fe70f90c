"""One graph of a bundle and a pack: it answers as the live runtime does, or is not written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mmcl_edge.commands.main import cli
from mmcl_edge.errors import BundleError, ExportError, InputError, PackError, StorageError
from mmcl_edge.export import fuse as fusing
from mmcl_edge.export.fuse import fuse
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.fused import FUSED_NAME, MODEL_NAME, FusedRuntime
from tests.conftest import TinyBundle
from tests.predicting import LABELS, make_pack, picture, samples, sound


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory, tiny: TinyBundle) -> tuple[Path, Path]:
    """A fused folder of the tiny pair, and the pack in it (of settings that no predict graph serves)."""
    folder = tmp_path_factory.mktemp("fused")
    pack = make_pack(folder / "packs", tiny())
    report = fuse(tiny(), pack, folder / "out")
    assert report.largest_difference < 1e-5
    assert report.size_bytes == (folder / "out" / MODEL_NAME).stat().st_size
    assert min(report.fused_ms, report.live_ms) > 0
    return folder / "out", pack


def test_it_answers_as_the_live_runtime_does(fused: tuple[Path, Path], tiny: TinyBundle):
    folder, pack = fused
    live = Runtime.open(tiny(), pack, "cpu", 1)
    with FusedRuntime.open(folder, "cpu", 1) as runtime:
        assert runtime.labels == LABELS
        for sample in samples():
            if sample.audio is None or sample.frames is None:
                continue
            one, other = (each.predict(sample.audio, sample.frames) for each in (runtime, live))
            assert dict(one.probabilities) == pytest.approx(dict(other.probabilities), abs=1e-5)
            assert dict(one.expert_load) == pytest.approx(dict(other.expert_load), abs=1e-5)
            assert one.pack_digest == other.pack_digest
    with pytest.raises(InputError, match="was closed"):
        runtime.predict(sound(), picture())


def test_a_missing_modality_is_a_sentence(fused: tuple[Path, Path]):
    runtime = FusedRuntime.open(fused[0], "cpu", 1)
    with pytest.raises(InputError, match="takes audio and frames, but the sample has audio"):
        runtime.predict(sound(), None)


def test_sound_alone(tiny: TinyBundle, tmp_path: Path):
    pack = make_pack(tmp_path / "packs", tiny(), placement="ladder")
    fuse(tiny(), pack, tmp_path / "out", modalities=["audio"])
    one = FusedRuntime.open(tmp_path / "out", "cpu", 1).predict(sound(), None)
    other = Runtime.open(tiny(), pack, "cpu", 1).predict(sound(), None)
    assert dict(one.probabilities) == pytest.approx(dict(other.probabilities), abs=1e-5)


def test_nothing_is_written_where_the_graph_disagrees(
    tiny: TinyBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fusing, "MAX_DIFFERENCE", -1.0)
    with pytest.raises(ExportError, match="nothing was written"):
        fuse(tiny(), make_pack(tmp_path / "packs", tiny()), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["packs"]


def test_wrong_input_is_refused_before_any_work(fused: tuple[Path, Path], tiny: TinyBundle, tmp_path: Path):
    folder, pack = fused
    with pytest.raises(InputError, match="smell"):
        fuse(tiny(), pack, tmp_path / "out", modalities=["smell"])
    with pytest.raises(StorageError, match="exists already"):
        fuse(tiny(), pack, folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(StorageError, match="other files"):
        fuse(tiny(), pack, tmp_path / "other", force=True)
    with pytest.raises(PackError):
        fuse(tiny("vit"), pack, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "kind"), [(FUSED_NAME, BundleError), (MODEL_NAME, BundleError), ("pack/pack.json", PackError)]
)
def test_a_changed_file_is_refused(tmp_path: Path, name: str, kind: type[Exception], fused: tuple[Path, Path]):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(fused[0], folder)
    path = folder / name
    path.write_bytes(path.read_bytes()[:-2] + b"xx")
    with pytest.raises(kind):
        FusedRuntime.open(folder, "cpu", 1)
    with pytest.raises(BundleError, match="export --fuse"):
        FusedRuntime.open(tmp_path, "cpu", 1)


def test_the_command(tiny: TinyBundle, tmp_path: Path):
    pack = make_pack(tmp_path / "packs", tiny())
    arguments = ["export", "--fuse", str(pack), "--bundle", str(tiny().path), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.output)
    assert report["path"] == str(tmp_path / "out")
    assert report["largest_difference"] < 1e-4
    again = CliRunner().invoke(cli, arguments)
    assert (again.exit_code, "exists already" in again.output) == (2, True)
    forced = CliRunner().invoke(cli, [*arguments, "--force"])
    assert (forced.exit_code, "Answers as the live runtime" in forced.output) == (0, True), forced.output
    for wrong in (["export", "--fuse", str(pack)], ["export", "--modalities", "audio"], [*arguments, "--blocks", "2"]):
        assert CliRunner().invoke(cli, wrong).exit_code == 2
