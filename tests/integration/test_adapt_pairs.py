"""Modalities learned from pairs in a workspace: one pack that predicts, embeds and retrieves."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmcl_edge.config import AdaptConfig, CometConfig
from mmcl_edge.data.pair_folder import read_pairs
from mmcl_edge.errors import InputError
from mmcl_edge.learners.comet.storage import space_of
from mmcl_edge.packs import read_pack
from mmcl_edge.runtime import adapt_pairs as engine
from mmcl_edge.runtime.adapt import adapt
from mmcl_edge.runtime.adapt_pairs import PairRequest, adapt_pairs
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.replay_store import ReplayStore
from mmcl_edge.runtime.run_record import RunRecord
from mmcl_edge.runtime.workspace import HOME_VARIABLE, Workspace
from mmcl_edge.types import Sample
from tests.adapting import method, request, write_task
from tests.builders import snapshot
from tests.conftest import TinyBundle
from tests.integration.commands import answer, refused, run
from tests.integration.test_data_makers import write_sound
from tests.predicting import sound

CAPTIONS = ("a red dog", "the blue bird", "a loud cat", "the night cafe", "dogs bark", "a bird sings", "meow", "red")
SMALL = CometConfig(slots=2, dim=8, codes=8, rank=4, specific_dim=4, hidden=16, epochs=2, batch_size=4)
HOW = AdaptConfig(tolerance=1.0, holdout_fraction=0.3)


@pytest.fixture
def workspace(tiny: TinyBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    made = Workspace(tmp_path / "home").create()
    made.install_bundle(tiny("captioned").path)
    return made


def write_pairs(folder: Path, modality: str) -> Path:
    folder.mkdir(parents=True)
    for number, caption in enumerate(CAPTIONS):
        stem = folder / f"{modality}_{number}"
        if modality == "image":
            Image.fromarray(np.random.default_rng(number).integers(0, 256, (24, 24, 3), np.uint8)).save(
                stem.with_suffix(".png")
            )
        else:
            write_sound(stem.with_suffix(".wav"), sound(0.5, seed=number))
        stem.with_suffix(".txt").write_text(f"{caption}\n")
    return folder


def ask(modality: str, data: Path, **changes: object) -> PairRequest:
    return PairRequest(modality, data, **{"space": SMALL, "adapt": HOW, "provider": "cpu", "threads": 1} | changes)


def test_stages_share_one_space_and_are_measured(workspace: Workspace, tmp_path: Path):
    pictures, voices = (write_pairs(tmp_path / name, name) for name in ("image", "speech"))
    first = adapt_pairs(workspace, ask("image", pictures))
    assert first.accepted
    assert first.space is not None
    assert (first.before, first.space["modalities"]) == ({"old": None, "new": None}, ["text", "image"])
    assert (first.train_samples, first.holdout_samples, first.task) == (5, 3, "image")
    assert first.task_digest == read_pairs(pictures, "image").digest
    second = adapt_pairs(workspace, ask("speech", voices, space=None))
    assert second.space is not None
    assert second.before["old"] is not None
    assert second.after["new"] is not None
    assert set(second.space["retrieval"]["after"]) == {"image", "speech"}
    pack = read_pack(workspace.current_pack())
    assert (pack.config.learner, pack.config.space, pack.manifest.version) == ("none", SMALL, 2)
    assert set(pack.evaluation) == {"retrieval_image", "retrieval_speech"}
    facts = space_of(pack).facts
    assert (facts.stages, facts.pairs) == (("image", "speech"), {"image": 5, "speech": 5})
    held = ReplayStore(workspace.replay_path).read(pack.digest)
    assert [(one.modality, len(one.captions)) for one in held.pairs] == [("image", 1)] * 3 + [("speech", 1)] * 3

    again = adapt_pairs(workspace, ask("speech", voices, space=None))
    assert again.repeated
    assert again.pack_digest == second.pack_digest
    more = adapt_pairs(workspace, ask("speech", voices, space=None, name="once more"))
    assert not more.repeated
    assert more.before["new"] is not None, "a modality is taught again"
    assert space_of(read_pack(workspace.current_pack())).facts.pairs == {"image": 5, "speech": 10}


def test_the_same_stages_give_the_same_pack(workspace: Workspace, tiny: TinyBundle, tmp_path: Path):
    pictures = write_pairs(tmp_path / "image", "image")
    other = Workspace(tmp_path / "other").create()
    other.install_bundle(tiny("captioned").path)
    assert adapt_pairs(workspace, ask("image", pictures)).pack_digest == (
        adapt_pairs(other, ask("image", pictures)).pack_digest
    )


@pytest.mark.parametrize("learner", ["mmcl", "analytic"])
def test_classes_and_modalities_ride_in_one_pack(workspace: Workspace, tmp_path: Path, learner: str):
    write_task(workspace, "sounds", {"low": "sound", "high": "sound"}, count=4)
    write_task(workspace, "more", {"hum": "sound"}, count=4)
    tiny_method = method().model_copy(update={"learner": learner})
    tasks = [request(name, method=tiny_method) for name in ("sounds", "more")]
    assert adapt(workspace, tasks[0]).accepted
    heard = Sample(sound(0.5, seed=1), None)
    with Runtime.open(workspace.bundle_path, workspace.current_pack(), "cpu", 1) as runtime:
        before = runtime.predict_batch([heard])[0]
        with pytest.raises(InputError, match="has none; teach it one"):
            runtime.embed([heard], "sound")
    adapt_pairs(workspace, ask("image", write_pairs(tmp_path / "image", "image")))
    shown = Sample(None, np.full((1, 20, 20, 3), 9, np.uint8))
    with Runtime.open(workspace.bundle_path, workspace.current_pack(), "cpu", 1) as runtime:
        after = runtime.predict_batch([heard])[0]
        assert dict(after.probabilities) == dict(before.probabilities), "the classes are as they were"
        vector = runtime.embed([shown], "image")
        assert vector.shape == (1, 16)
        assert vector.dtype == np.float32
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert adapt(workspace, tasks[1]).accepted
    with Runtime.open(workspace.bundle_path, workspace.current_pack(), "cpu", 1) as runtime:
        assert set(runtime.labels) == {"low", "high", "hum"}
        assert runtime.modalities == ("text", "image")
        assert np.array_equal(runtime.embed([shown], "image"), vector), "the space is as it was"
    pack = read_pack(workspace.current_pack())
    assert "retrieval_image" in pack.evaluation
    assert pack.manifest.experiences == ("sounds", "more")
    assert len(ReplayStore(workspace.replay_path).read(pack.digest).pairs) == 3


def test_classes_come_after_a_space(workspace: Workspace, tmp_path: Path):
    adapt_pairs(workspace, ask("image", write_pairs(tmp_path / "image", "image")))
    with Runtime.open(workspace.bundle_path, workspace.current_pack(), "cpu", 1) as runtime:
        assert runtime.labels == ()
        with pytest.raises(InputError, match="holds a shared space alone"):
            runtime.predict(sound(0.5), None)
    write_task(workspace, "sounds", {"low": "sound", "high": "sound"}, count=4)
    assert adapt(workspace, request("sounds")).accepted
    pack = read_pack(workspace.current_pack())
    assert (pack.config.learner, pack.config.space) == ("mmcl", SMALL)


def test_a_stage_that_harms_earlier_ones_is_refused(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each is judged on its own: what one gained does not hide what another lost."""
    for name in ("image", "sound"):
        adapt_pairs(workspace, ask(name, write_pairs(tmp_path / name, name)))
    before = workspace.current_pack()
    figures = [{"image": 0.9, "sound": 0.5}, {"image": 0.7, "sound": 0.7, "speech": 0.9}] * 2
    monkeypatch.setattr(engine, "retrieval_of", lambda *_: figures.pop(0))
    voices = write_pairs(tmp_path / "speech", "speech")
    strict = HOW.model_copy(update={"tolerance": 0.1})
    harmful = adapt_pairs(workspace, ask("speech", voices, adapt=strict))
    assert (harmful.accepted, harmful.pack_digest, workspace.current_pack()) == (False, None, before)
    assert adapt_pairs(workspace, ask("speech", voices, adapt=strict)).repeated
    result = run("adapt", "--modality", "speech", "--data", voices, "--tolerance", 0.1, "--threads", 1)
    assert result.exit_code == 3
    assert "retrieval of image fell from 90.0 % to 70.0 %" in result.stdout


def test_a_cut_before_the_swap_leaves_the_old_pack(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    adapt_pairs(workspace, ask("image", write_pairs(tmp_path / "image", "image")))
    before = workspace.current_pack()
    voices = write_pairs(tmp_path / "speech", "speech")
    for cut in ((Workspace, "use_pack"), (RunRecord, "finish"), (ReplayStore, "write")):
        with monkeypatch.context() as patch:
            patch.setattr(*cut, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                adapt_pairs(workspace, ask("speech", voices))
        assert workspace.current_pack() == before
    assert adapt_pairs(workspace, ask("speech", voices)).accepted
    assert workspace.current_pack() != before


def test_held_out_pairs_stay_held_out(workspace: Workspace, tmp_path: Path):
    voices = write_pairs(tmp_path / "speech", "speech")
    adapt_pairs(workspace, ask("speech", voices))
    store = ReplayStore(workspace.replay_path)
    held = {one.captions for one in store.read(workspace.current_digest()).pairs}
    for path in sorted(voices.glob("*_7.*")) + sorted(voices.glob("*_6.*")):
        shutil.copy(path, path.with_name(f"again_{path.name}"))
    report = adapt_pairs(workspace, ask("speech", voices, name="grown"))
    kept = {one.captions for one in store.read(workspace.current_digest()).pairs}
    assert held <= kept
    assert report.train_samples + report.holdout_samples == len(CAPTIONS) + 2


def test_too_few_pairs_are_learned_without_being_measured(
    workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = write_pairs(tmp_path / "image", "image")
    for number in range(4, len(CAPTIONS)):
        for path in folder.glob(f"image_{number}.*"):
            path.unlink()
    report = adapt_pairs(workspace, ask("image", folder))
    assert (report.accepted, report.train_samples, report.holdout_samples, report.after["new"]) == (True, 4, 0, None)
    assert "4 pairs are too few to hold some out" in caplog.text
    assert "cannot be checked" not in caplog.text
    report = adapt_pairs(workspace, ask("speech", write_pairs(tmp_path / "speech", "speech")))
    assert (report.accepted, report.before["old"]) == (True, None)
    assert "of image too few pairs are held out here, so whether it is still found cannot be checked" in caplog.text


def test_pairs_without_words_teach_through_a_modality_that_is_known(workspace: Workspace, tmp_path: Path):
    adapt_pairs(workspace, ask("image", write_pairs(tmp_path / "image", "image")))
    folder = write_pairs(tmp_path / "scenes", "image")
    for number in range(len(CAPTIONS)):
        (folder / f"image_{number}.txt").unlink()
        write_sound(folder / f"image_{number}.wav", sound(0.5, seed=number))
    report = adapt_pairs(workspace, ask("sound", folder, mediator="image"))
    assert report.space["modalities"] == ["text", "image", "sound"]
    assert report.after["new"] is not None
    kept = ReplayStore(workspace.replay_path).read(report.pack_digest).pairs
    held = [one for one in kept if one.modality == "sound"]
    assert [(one.mediator, one.captions) for one in held] == [("image", ())] * 3
    assert all(one.sample.audio is not None and one.sample.frames is not None for one in held)
    with Runtime.open(workspace.bundle_path, workspace.current_pack(), "cpu", 1) as runtime:
        words = runtime.embed([Sample(None, None, text=caption) for caption in CAPTIONS], "text")
        heard = runtime.embed([Sample(sound(0.5, seed=number), None) for number in range(len(CAPTIONS))], "sound")
    unseen = {int(one.sample.source.partition("_")[2].partition(".")[0]) for one in kept}
    taught = [number for number in range(len(CAPTIONS)) if number not in unseen]
    found = (words @ heard.T)[taught][:, taught].argmax(axis=1)
    assert found.tolist() == list(range(len(taught))), "words find sounds that were never captioned"


def test_a_space_that_begins_without_text_is_warned_of(workspace: Workspace, tmp_path: Path):
    folder = write_pairs(tmp_path / "scenes", "image")
    for number in range(len(CAPTIONS)):
        write_sound(folder / f"image_{number}.wav", sound(0.5, seed=number))
    told = answer("adapt", "--modality", "sound", "--mediator", "image", "--data", folder, "--epochs", 1)
    assert any("cannot learn words later" in text for text in told["warnings"])


def test_a_person_teaches_and_finds(workspace: Workspace, tmp_path: Path):
    pictures, voices = (write_pairs(tmp_path / name, name) for name in ("image", "speech"))
    shown = run("adapt", "--modality", "image", "--data", pictures, "--epochs", 1, "--threads", 1)
    assert shown.exit_code == 0, shown.output
    assert "Learned image through text from image" in shown.stdout
    assert "held-out pairs found (mean reciprocal rank)" in shown.stdout
    assert "image: epoch 1/1: total" in shown.stderr
    told = answer("adapt", "--modality", "speech", "--mediator", "text", "--data", voices, "--threads", 1)
    assert (told["learner"], told["space"]["modalities"], told["epochs"]) == ("comet", ["text", "image", "speech"], 10)
    answer("index", "build", pictures, "--threads", 1)
    found = answer("index", "query", voices / "speech_3.wav", "--as", "speech", "--modality", "image", "-k", 2)
    assert [hit["modality"] for hit in found["hits"]] == ["image", "image"]
    by_words = answer("index", "query", CAPTIONS[0], "--modality", "image", "-k", 8)
    assert str(pictures / "image_0.png") in [hit["path"] for hit in by_words["hits"]]
    before = snapshot(workspace.root / "index")
    with Runtime.open(workspace.bundle_path, workspace.current_pack(), "cpu", 1) as runtime:
        hits = runtime.retrieve(voices / "speech_3.wav", 2, read_as="speech", modality="image")
        assert [hit.path for hit in hits] == [hit["path"] for hit in found["hits"]]
        assert runtime.retrieve(Sample(None, None, text=CAPTIONS[0]), 1)[0].source == (
            runtime.retrieve(CAPTIONS[0], 1)[0].source
        )
        with pytest.raises(InputError, match="sound was not taught"):
            runtime.retrieve(voices / "speech_3.wav")
    assert answer("index", "info")["usable"] is True
    write_task(workspace, "sounds", {"low": "sound", "high": "sound"}, count=4)
    assert adapt(workspace, request("sounds")).accepted
    assert answer("index", "info")["usable"] is True, "classes do not make an index old"
    assert answer("index", "query", CAPTIONS[0], "--modality", "image", "-k", 8)["hits"] == by_words["hits"]
    assert snapshot(workspace.root / "index") == before
    adapt_pairs(workspace, ask("sound", write_pairs(tmp_path / "sound", "sound"), space=None))
    assert answer("index", "info")["usable"] is False
    refused(run("index", "query", CAPTIONS[0]), "older than the pack in use", "mmcl-edge index build")
    assert snapshot(workspace.root / "index") == before
