"""What an export leaves behind: the bundle's contract, parity, determinism, and nothing at all after a failure."""

from __future__ import annotations

import dataclasses
import shutil
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from mmcl_edge.bundle import Bundle, FileEntry, SegmentEntry
from mmcl_edge.errors import ExportError, StorageError
from mmcl_edge.export import segment as segment_module
from mmcl_edge.export.exporter import export_bundle, export_sources
from mmcl_edge.export.onnx_graph import OPSET
from mmcl_edge.export.parity import MAX_RELATIVE_ERROR, Checker, relative_error, rounded_up
from mmcl_edge.export.source import SourceBackbone
from mmcl_edge.export.torch_backbone import TorchBackbone
from mmcl_edge.types import AUDIO, FRAMES, Backbone
from tests.bundles import tiny_sources, tiny_vit, tiny_whisper

KINDS = [("cnn", "recompute"), ("vit", "save")]
BY_KIND = pytest.mark.parametrize("pair, vjp", KINDS, ids=["-".join(kind) for kind in KINDS])


def small_source() -> SourceBackbone:
    """One layer: the quickest thing that can be exported."""
    return tiny_whisper(width=8, depth=1, heads=1)


def graphs(bundle: Bundle, modality: str) -> list[tuple[SegmentEntry, str]]:
    entry = bundle.manifest.backbone(modality)
    return [(s, f"segment_{i:02d}") for i, s in enumerate(entry.segments)] + [(entry.output, "output")]


def names(bundle: Bundle, file: FileEntry) -> tuple[list[str], list[str]]:
    graph = onnx.load(bundle.file(file)).graph
    return [value.name for value in graph.input], [value.name for value in graph.output]


@BY_KIND
def test_files_and_graph_names_are_those_of_the_contract(tiny, pair: str, vjp: str) -> None:  # type: ignore[no-untyped-def]
    bundle = tiny(pair, vjp)
    for modality in (AUDIO, FRAMES):
        stem = bundle.manifest.backbone(modality).stem
        assert stem.path == f"{modality}/stem.onnx"
        assert names(bundle, stem) == (["x"], ["y"])
        for entry, name in graphs(bundle, modality):
            assert entry.vjp is not None
            assert (entry.forward.path, entry.vjp.path) == (f"{modality}/{name}.onnx", f"{modality}/{name}.vjp.onnx")
            assert names(bundle, entry.forward) == (["x"], ["y"])
            saved = list(entry.saved)
            if vjp == "recompute":
                assert (entry.save, saved) == (None, [])
                assert names(bundle, entry.vjp) == (["x", "g"], ["gx"])
            else:
                assert entry.save is not None
                assert entry.save.path == f"{modality}/{name}.save.onnx"
                assert names(bundle, entry.save) == (["x"], ["y", *saved])
                assert names(bundle, entry.vjp) == ([*saved, "g"], ["gx"])
                assert saved == [f"s{i}" for i in range(len(saved))]


@BY_KIND
def test_segments_chain_and_manifest_says_what_was_exported(tiny, pair: str, vjp: str) -> None:  # type: ignore[no-untyped-def]
    manifest = tiny(pair, vjp).manifest
    assert (manifest.blocks, manifest.vjp_mode, manifest.opset, manifest.trained) == (2, vjp, OPSET, False)
    assert {"torch", "onnx", "onnxruntime", "timm", "torchaudio"} <= set(manifest.versions)
    for source in tiny_sources(pair):  # type: ignore[arg-type]
        entry, peer = manifest.backbone(source.modality), TorchBackbone(source, 2)
        assert isinstance(peer, Backbone)
        chain = [*entry.segments, entry.output]
        assert tuple(segment.input for segment in chain) == peer.features
        assert tuple(segment.output for segment in chain) == (*peer.features[1:], peer.output_features)
        assert [layer for segment in entry.segments for layer in segment.layers] == [name for name, _ in source.layers]
        assert (entry.pool, entry.input, entry.origin) == (source.pool, source.input, source.origin)
        for parity in (entry.stem_parity, *(segment.parity for segment in chain)):
            assert parity.forward <= MAX_RELATIVE_ERROR
            assert {1, 2, 5} <= set(parity.batch_sizes)
        assert all(segment.parity.vjp is not None and segment.parity.vjp <= MAX_RELATIVE_ERROR for segment in chain)
        assert (entry.front_end_parity is not None) == (source.modality == AUDIO)


@BY_KIND
def test_bundle_computes_the_torch_network_and_its_gradient(tiny, pair: str, vjp: str) -> None:  # type: ignore[no-untyped-def]
    """From raw input through all files, by ONNX Runtime alone, at a batch size and length never exported."""
    bundle = tiny(pair, vjp)

    def run(file: FileEntry, *inputs: np.ndarray) -> list[np.ndarray]:
        session = ort.InferenceSession(bundle.file(file), providers=["CPUExecutionProvider"])
        return session.run(None, dict(zip([i.name for i in session.get_inputs()], inputs, strict=True)))  # type: ignore[no-any-return]

    for source in tiny_sources(pair):  # type: ignore[arg-type]
        entry, peer = bundle.manifest.backbone(source.modality), TorchBackbone(source, 2)
        generator = torch.Generator().manual_seed(5)
        if source.modality == AUDIO:
            samples = source.input.fixed_samples or 12_800  # type: ignore[union-attr]
            raw = torch.randn(4, samples, generator=generator) * 0.1
        else:
            raw = torch.rand(4, 3, 64, 64, generator=generator) * 255
        first = peer.stem(raw).detach().requires_grad_(True)
        y = first
        for index in range(peer.depth):
            y = peer.segment(index, y)
        y = peer.output(y)
        g = torch.randn(y.shape, generator=generator)
        (expected,) = torch.autograd.grad(y, first, g)

        features, kept = run(entry.stem, raw.numpy())[0], []
        for segment in (*entry.segments, entry.output):
            features_in = features
            features, *saved = run(segment.save or segment.forward, features_in)
            kept.append(saved if segment.save else [features_in])
        gradient = g.numpy()
        for segment, inputs in zip((entry.output, *reversed(entry.segments)), reversed(kept), strict=True):
            assert segment.vjp is not None
            (gradient,) = run(segment.vjp, *inputs, gradient)
        assert relative_error(torch.from_numpy(features), y.detach()) < 1e-4
        assert relative_error(torch.from_numpy(gradient), expected) < 1e-3  # kinks, see export/kinks.py


@BY_KIND
def test_files_hold_the_computation_and_nothing_else(tiny, pair: str, vjp: str) -> None:  # type: ignore[no-untyped-def]
    bundle = tiny(pair, vjp)
    for entry in bundle.manifest.backbones:
        assert entry.weights is not None
        for file in entry.files():
            if file == entry.weights:
                continue
            data = bundle.file(file).read_bytes()
            for trace in (
                str(Path(__file__).resolve().parents[2]).encode(),
                b"/home",
                b"site-packages",
                b".py",
                b"Traceback",
                b"pkg.torch",
                b"namespace",
            ):
                assert trace not in data, (file.path, trace)
            model = onnx.load_from_string(data)
            assert (model.producer_name, model.producer_version) == ("mmcl-edge", "")
            places = {e.value for one in model.graph.initializer for e in one.external_data if e.key == "location"}
            assert places <= {Path(entry.weights.path).name}, file.path
            batch = [value.type.tensor_type.shape.dim[0] for value in model.graph.input]
            assert all(dim.dim_param.rpartition("*")[2] == "batch" for dim in batch), file.path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, list[tuple[str, int, int]]]:
    """The smallest bundle, and the progress it reported."""
    seen: list[tuple[str, int, int]] = []
    folder = tmp_path_factory.mktemp("small") / "bundle"
    return export_sources(folder, (small_source(),), progress=lambda *step: seen.append(step)), seen


def test_a_second_export_has_the_same_bytes_and_says_nothing(
    small: tuple[Bundle, object], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        again = export_sources(tmp_path / "again", (small_source(),))
    assert again.digest == small[0].digest
    assert capfd.readouterr() == ("", "")
    assert not [str(warning.message) for warning in caught]


def test_progress_counts_every_step_once(small: tuple[Bundle, list[tuple[str, int, int]]]) -> None:
    what = ["audio: stem", "audio: block 1 of 1 (blocks.0)", "audio: output", "predict graphs"]
    assert small[1] == [(step, done, 4) for done, step in enumerate(what)]


def test_a_graph_that_disagrees_with_torch_ends_the_export_and_leaves_what_was_there(
    small: tuple[Bundle, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's own gradient is made to come out a little larger, as if the exported one were off."""
    honest = segment_module.torch_vjp

    def altered(*args: object) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        y, g, gx = honest(*args)  # type: ignore[arg-type]
        return y, g, gx * (1 + 3 * MAX_RELATIVE_ERROR)

    monkeypatch.setattr(segment_module, "torch_vjp", altered)
    shutil.copytree(small[0].path, tmp_path / "bundle")
    with pytest.raises(ExportError, match=r"VJP graph audio/segment_00\.vjp\.onnx should agree with torch"):
        export_sources(tmp_path / "bundle", (small_source(),), force=True)
    assert Bundle.open(tmp_path / "bundle").digest == small[0].digest
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_front_end_that_disagrees_with_torchaudio_ends_the_export(tmp_path: Path) -> None:
    source = small_source()

    class Deaf:
        def __call__(self, waveform: torch.Tensor) -> torch.Tensor:
            return source.front_end(waveform)  # type: ignore[misc]

        def reference(self, waveform: torch.Tensor) -> torch.Tensor:
            return source.front_end.reference(waveform) * 1.01  # type: ignore[union-attr]

    with pytest.raises(ExportError, match="audio front end should agree"):
        export_sources(tmp_path / "bundle", (dataclasses.replace(source, front_end=Deaf()),))
    assert list(tmp_path.iterdir()) == []


class Inverse(nn.Module):
    """An operation that ONNX does not have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.inv(x.transpose(1, 2) @ x + torch.eye(x.shape[2])).sum() * x


def test_a_layer_that_cannot_be_exported_is_named_in_a_sentence(tmp_path: Path) -> None:
    source = dataclasses.replace(small_source(), layers=(("blocks.0", Inverse()),))
    with pytest.raises(
        ExportError, match=r"^audio/segment_00 uses an operation that cannot be exported .*another"
    ) as error:
        export_sources(tmp_path / "bundle", (source,))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


EXPECTED = torch.tensor([3.0, 4.0])
ERRORS = {
    "equal": ([3.0, 4.0], 0.0),
    "a tenth off": ([3.0, 4.5], 0.1),
    "not a number": ([float("nan"), 4.0], float("inf")),
    "infinite": ([float("inf"), 4.0], float("inf")),
    "another shape": ([3.0], float("inf")),
}


@pytest.mark.parametrize("found, error", ERRORS.values(), ids=ERRORS)
def test_relative_error_and_its_limit(found: list[float], error: float) -> None:
    assert relative_error(torch.tensor(found), EXPECTED) == pytest.approx(error)
    check = Checker("graph")
    if error <= MAX_RELATIVE_ERROR:
        return check.compare([torch.tensor(found)], [EXPECTED])
    with pytest.raises(ExportError, match=r"The exported graph should agree with torch to 0\.0001"):
        check.compare([EXPECTED, torch.tensor(found)], [EXPECTED, EXPECTED])
    return None


BOUNDS = {0.0: 0.0, 1e-7: 1e-7, 1.1e-7: 2e-7, 2e-7: 2e-7, 3.97e-6: 5e-6, 9.9e-5: 1e-4, 1.0: 1.0, 7.0: 10.0}


@pytest.mark.parametrize("error, bound", BOUNDS.items())
def test_manifests_hold_bounds_from_a_coarse_series(error: float, bound: float) -> None:
    assert rounded_up(error) == bound


def test_relative_error_of_nothing_against_nothing_is_zero() -> None:
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0


def occupied(folder: Path) -> None:
    folder.mkdir()
    (folder / "photo.jpg").write_bytes(b"dear")


def test_a_folder_that_exists_is_refused_before_any_work(tmp_path: Path) -> None:
    occupied(tmp_path / "mine")
    steps: list[str] = []
    with pytest.raises(StorageError, match=r"exists already.*--force"):
        export_bundle(tmp_path / "mine", progress=lambda what, done, total: steps.append(what))
    with pytest.raises(StorageError, match=r"holds other files and no bundle\.json"):
        export_bundle(tmp_path / "mine", force=True, progress=lambda what, done, total: steps.append(what))
    assert steps == []
    assert (tmp_path / "mine" / "photo.jpg").read_bytes() == b"dear"


def test_too_many_blocks_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="between 1 and 2"):
        export_sources(tmp_path / "b", (tiny_vit(AUDIO), tiny_whisper()), blocks=3)
    assert list(tmp_path.iterdir()) == []
