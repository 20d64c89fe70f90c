"""Text beside sound and pictures, end to end: export, predict graphs, one fused graph, int8, and an adapted pack."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from mmcl_edge.bundle import Bundle, TextInput
from mmcl_edge.calibration.ranges import quantize_bundle
from mmcl_edge.calibration.samples import divide
from mmcl_edge.calibration.settings import RangesConfig
from mmcl_edge.config import AdapterConfig, MethodConfig
from mmcl_edge.errors import BundleError, InputError
from mmcl_edge.export.fuse import fuse
from mmcl_edge.export.torch_backbone import TorchBackbone
from mmcl_edge.packs import read_pack
from mmcl_edge.runtime.adapt import adapt
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.fused import FusedRuntime
from mmcl_edge.runtime.preprocess import Preprocessor
from mmcl_edge.runtime.replay_store import ReplayStore
from mmcl_edge.runtime.segments import open_backbones
from mmcl_edge.runtime.sessions import SessionFactory
from mmcl_edge.runtime.threads import ThreadPlan
from mmcl_edge.runtime.workspace import Workspace
from mmcl_edge.types import Prediction, Sample
from tests.adapting import method, request
from tests.calibrating import live_samples
from tests.conftest import TinyBundle
from tests.integration.commands import answer
from tests.integration.test_data_makers import tone, write_picture, write_sound, write_video
from tests.integration.test_runtime_gradients import check, everything_trainable, tiny_peers
from tests.predicting import make_pack, picture, sound
from tests.texts import tiny_bert

SAYS = {"dog": "a dog barks {}", "cat": "the red cat, meow! {}", "bird": "blue birds singing {}"}
HZ = {"dog": 250.0, "cat": 2500.0, "bird": 900.0}
MANNERS = ("loud", "at night", "in the cafe", "", "a", "the night", "loud night", "red", "blue", "on", "off", "far")


def samples() -> list[Sample]:
    """Texts of several lengths, alone, beside others, and missing."""
    return [
        Sample(sound(1.0, seed=1), picture(1, seed=1), text="a dog barks"),
        Sample(
            sound(0.5, seed=2), picture(2, seed=2), text="The red cat, far in the night, meows loudly at blue birds."
        ),
        Sample(None, None, text="bird"),
        Sample(sound(1.0, seed=4), picture(1, seed=4)),
        Sample(None, picture(1, seed=5), text="a dog barks"),
    ]


def close(one: Prediction, other: Prediction) -> bool:
    pairs = zip(one.probabilities.values(), other.probabilities.values(), strict=True)
    return max(abs(a - b) for a, b in pairs) <= 1e-5


def ask(runtime: Runtime | FusedRuntime, sample: Sample) -> Prediction:
    return runtime.predict(sample.audio, sample.frames, text=sample.text)


def test_a_bundle_holds_its_vocabulary_and_every_graph_agrees_with_torch(tiny: TinyBundle):
    entry = tiny("captioned").manifest.backbone("text")
    assert isinstance(entry.input, TextInput)
    assert entry.input.vocabulary in list(entry.files())
    assert (tiny("captioned").path / "text" / "vocab.txt").is_file()
    parities = [entry.stem_parity, *(one.parity for one in (*entry.segments, entry.output))]
    assert all(one.forward <= 1e-5 and (one.vjp or 0) <= 1e-5 for one in parities)
    assert all(one.vjp is not None and one.batch_sizes == (1, 2, 5) for one in parities[1:])


@pytest.mark.parametrize("tokens", [2, 3, 17, 128])
def test_texts_of_any_length_run_as_in_torch(tiny: TinyBundle, tokens: int):
    bundle, source = tiny("captioned"), tiny_bert()
    onnx = open_backbones(bundle, SessionFactory(ThreadPlan(onnx=1), provider="cpu"))["text"]
    peer = TorchBackbone(source, onnx.depth)
    ids = torch.randint(len(source.files["text/vocab.txt"].splitlines()), (3, tokens), generator=torch.manual_seed(0))
    with torch.inference_mode():
        one, other = onnx.stem(ids), peer.stem(ids)
        for index in range(onnx.depth):
            one, other = onnx.segment(index, one), peer.segment(index, other)
        one, other = onnx.output(one), peer.output(other)
    assert one.shape == (3, tokens, 16)
    assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("placement", ["inline", "ladder"])
def test_gradients_through_three_backbones_equal_torch(tiny: TinyBundle, placement: str):
    alive = check(tiny("captioned"), tiny_peers("captioned"), placement, given=samples())
    assert alive == everything_trainable(tiny_peers("captioned"), placement)
    assert any(".text." in name for name in alive)


@pytest.mark.parametrize("placement", ["inline", "ladder"])
def test_predict_graphs_serve_every_set_of_three_as_the_segments_do(tmp_path: Path, tiny: TinyBundle, placement: str):
    bundle = tiny("captioned")
    config = MethodConfig(adapter=AdapterConfig(placement=placement))
    names = ("audio", "frames", "text")
    with Runtime.open(bundle, make_pack(tmp_path, bundle, method=config), "cpu", 1) as runtime:
        for chosen in (one for size in (1, 2, 3) for one in combinations(names, size)):
            given = replace(samples()[1], **{name: None for name in names if name not in chosen})
            assert runtime._current().classes.bound.takes(runtime.preprocess(given))
            assert all(close(ask(runtime, given), one) for one in runtime.predict_batch([given, given]))


def test_what_others_are_longer_by_and_what_is_missing_changes_nothing_in_a_batch(tmp_path: Path, tiny: TinyBundle):
    with Runtime.open(tiny("captioned"), make_pack(tmp_path, tiny("captioned")), "cpu", 1) as runtime:
        together = runtime.predict_batch(samples())
        alone = [ask(runtime, one) for one in samples()]
        assert all(close(one, other) for one, other in zip(together, alone, strict=True))
        assert not close(alone[0], ask(runtime, replace(samples()[0], text="a cat sings")))
        assert close(alone[0], ask(runtime, replace(samples()[0], text="  A dog barks\n")))
        with pytest.raises(InputError, match="say something, but it is empty"):
            runtime.predict(sound(), None, text="   ")
        with pytest.raises(InputError, match=r"walk: .* lone surrogates"):
            runtime.predict_batch([Sample(None, None, source="walk", text="\ud83d")])


def test_longer_texts_than_the_backbone_takes_are_cut(tmp_path: Path, tiny: TinyBundle):
    with Runtime.open(tiny("captioned"), make_pack(tmp_path, tiny("captioned")), "cpu", 1) as runtime:
        fits = " ".join(["dog"] * 126)
        assert close(runtime.predict(None, None, text=fits), runtime.predict(None, None, text=f"{fits} cat bird"))
        assert not close(runtime.predict(None, None, text=fits), runtime.predict(None, None, text="cat " * 63 + fits))


def test_text_fuses_into_one_graph_beside_its_vocabulary(tmp_path: Path, tiny: TinyBundle):
    pack = make_pack(tmp_path, tiny("captioned"), placement="ladder")
    report = fuse(tiny("captioned"), pack, tmp_path / "fused", modalities=["audio", "text"])
    assert report.largest_difference <= 1e-4
    given = replace(samples()[1], frames=None)
    with (
        FusedRuntime.open(tmp_path / "fused", "cpu", 1) as fused,
        Runtime.open(tiny("captioned"), pack, "cpu", 1) as live,
    ):
        assert close(ask(fused, given), ask(live, given))
        with pytest.raises(InputError, match="takes audio and text, but the sample has text"):
            fused.predict(None, None, text="dog")
    vocabulary = tmp_path / "fused" / "text" / "vocab.txt"
    vocabulary.write_bytes(vocabulary.read_bytes().replace(b"dog", b"cow"))
    with pytest.raises(BundleError, match=r"vocab\.txt should have sha256"):
        FusedRuntime.open(tmp_path / "fused", "cpu", 1)


def test_a_bundle_with_another_vocabulary_is_refused(tmp_path: Path, tiny: TinyBundle):
    folder = tmp_path / "bundle"
    folder.mkdir()
    source = tiny("captioned")
    for path in source.path.rglob("*"):
        target = folder / path.relative_to(source.path)
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    vocabulary = folder / "text" / "vocab.txt"
    whole = vocabulary.read_bytes()
    vocabulary.write_bytes(whole.replace(b"dog", b"cow"))
    with pytest.raises(BundleError, match=r"vocab\.txt should have sha256"):
        Bundle.open(folder)
    vocabulary.unlink()
    with pytest.raises(BundleError, match=r"should contain the file text/vocab\.txt"):
        Bundle.open(folder)
    vocabulary.write_bytes(whole)
    manifest = json.loads((folder / "bundle.json").read_text())
    next(one for one in manifest["backbones"] if one["modality"] == "text")["input"]["vocabulary_size"] += 1
    (folder / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"vocab\.txt should hold .* pieces, but holds"):
        Preprocessor.of(Bundle.open(folder))


def test_graphs_of_text_become_int8(tmp_path: Path, tiny: TinyBundle):
    bundle = tiny("captioned")
    float_one = Bundle(bundle.path, bundle.manifest.model_copy(update={"predict": ()}), digest=bundle.digest)
    config = RangesConfig(any_speed=True, keep_accuracy=1.0)
    said = [replace(one, text=f"{SAYS['dog']} {MANNERS[i % 12]}") for i, one in enumerate(live_samples(24))]
    data = divide(said, float_one.manifest, config, labelled=True)
    made = quantize_bundle(float_one, data, tmp_path / "int8", config=config, threads=1)
    int8 = {one.graph for one in made.record.graphs if one.int8 and one.modality == "text"}
    assert int8 == {"text/segment_00.onnx", "text/segment_01.onnx"}
    again = Bundle.open(tmp_path / "int8")
    assert again.manifest.backbone("text").input == bundle.manifest.backbone("text").input
    pack = make_pack(tmp_path, bundle)
    with Runtime.open(again, pack, "cpu", 1) as small, Runtime.open(bundle, pack, "cpu", 1) as live:
        pairs = [(ask(small, one), ask(live, one)) for one in said[:4]]
    for one, other in pairs:
        assert max(abs(one.probabilities[name] - p) for name, p in other.probabilities.items()) < 0.1


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny: TinyBundle) -> Workspace:
    """A workspace that learned dogs and cats, then birds, from sounds, pictures and videos with a text beside each."""
    workspace = Workspace(tmp_path_factory.mktemp("text") / "home").create()
    workspace.install_bundle(tiny("captioned").path)
    write_task(workspace.task_folder("pets"), "dog", "cat")
    write_task(workspace.task_folder("garden"), "bird")
    for name in ("pets", "garden"):
        assert adapt(workspace, request(name, method=method(epochs=40))).accepted
    return workspace


def write_task(folder: Path, *labels: str) -> None:
    for label in labels:
        (folder / label).mkdir(parents=True)
        (folder / label / "README.txt").write_text("no sample")
        for number, manner in enumerate(MANNERS):
            stem = folder / label / f"{label}_{number}"
            stem.with_suffix(".txt").write_text(SAYS[label].format(manner))
            if number % 3 == 1:
                write_video(stem.with_suffix(".mp4"), duration_s=0.6)
            else:
                write_sound(stem.with_suffix(".wav"), tone(0.5, hz=HZ[label]))
            if number % 3 == 2:
                write_picture(stem.with_suffix(".png"), np.full((32, 32, 3), 40 + number, np.uint8))


def test_two_experiences_with_text_are_learned_and_kept(home: Workspace):
    folder = home.current_pack()
    assert folder is not None
    pack = read_pack(folder)
    assert set(pack.manifest.label_names) == set(SAYS)
    kept = ReplayStore(home.replay_path).read(pack.digest)
    texts = Counter(one.text for one in (*kept.train, *kept.holdout))
    assert texts
    assert None not in texts
    assert "no sample" not in texts


def test_what_was_learned_is_answered_with_text_alone_beside_sound_and_without_it(home: Workspace):
    with Runtime.open(home.bundle_path, home.current_pack(), "cpu", 1) as runtime:
        alone = {label: runtime.predict(None, None, text=says.format("so loud")).label for label, says in SAYS.items()}
        for label, says in SAYS.items():
            for given in (says.format("off the night"), None):
                one = runtime.predict(tone(0.5, hz=HZ[label]), None, text=given)
                assert sum(one.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
    assert alone == {label: label for label in SAYS}


def test_the_commands_answer_texts_alone_and_beside_sounds(
    home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MMCL_EDGE_HOME", str(home.root))
    (tmp_path / "alone.txt").write_text(SAYS["cat"].format("far off"))
    (tmp_path / "long.txt").write_text(SAYS["bird"].format("far off"))
    write_sound(tmp_path / "long.wav", tone(1.2, hz=HZ["bird"]))
    found = answer("predict", *sorted(tmp_path.iterdir()), "--window-s", "0.6")["predictions"]
    rows = [(row["source"], row["start_s"]) for row in found]
    assert rows == [("alone.txt", None), ("long.wav+txt", 0.0), ("long.wav+txt", 0.6)]
    assert found[0]["label"] == "cat"


def test_the_analytic_learner_counts_text_too(tmp_path: Path, tiny: TinyBundle):
    workspace = Workspace(tmp_path / "home").create()
    workspace.install_bundle(tiny("captioned").path)
    write_task(workspace.task_folder("pets"), "dog", "cat", "bird")
    config = method().model_copy(update={"learner": "analytic"})
    assert adapt(workspace, request("pets", method=config)).accepted
    with Runtime.open(workspace.bundle_path, workspace.current_pack(), "cpu", 1) as runtime:
        found = {label: runtime.predict(None, None, text=says.format("so loud")).label for label, says in SAYS.items()}
    assert found == {label: label for label in SAYS}
