"""``Runtime.predict``: what an answer holds, what input gives the same answer, what is refused and what stays."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mmcl_edge.bundle import Bundle
from mmcl_edge.errors import InputError, PackError
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.types import Prediction, Sample
from tests.conftest import TinyBundle
from tests.predicting import LABELS, make_pack, picture, samples, sound

PLACEMENTS = ("inline", "ladder")


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory, tiny: TinyBundle) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packs")
    return {placement: make_pack(folder, tiny(), placement=placement) for placement in PLACEMENTS}


@pytest.fixture(scope="module", params=PLACEMENTS)
def runtime(request: pytest.FixtureRequest, tiny: TinyBundle, packs: dict[str, Path]) -> Runtime:
    return Runtime.open(tiny(), packs[request.param], "cpu", 1)


def close(one: Prediction, other: Prediction, tolerance: float = 1e-5) -> bool:
    pairs = zip(one.probabilities.values(), other.probabilities.values(), strict=True)
    return all(abs(a - b) <= tolerance for a, b in pairs)


def test_an_answer_is_whole(runtime: Runtime):
    answer = runtime.predict(sound(), picture())
    assert tuple(answer.probabilities) == runtime.labels == LABELS
    assert sum(answer.probabilities.values()) == pytest.approx(1.0, abs=1e-6)
    assert sum(answer.expert_load.values()) == pytest.approx(1.0, abs=1e-5)
    assert all(load > 0 for load in answer.expert_load.values())
    assert set(answer.expert_load) <= {expert.id for expert in runtime.pack.manifest.experts}
    assert set(answer.latency_ms) == {"preprocess", "encode", "total"}
    assert answer.latency_ms["total"] == pytest.approx(answer.latency_ms["preprocess"] + answer.latency_ms["encode"])
    assert min(answer.latency_ms.values()) > 0
    assert answer.pack_digest == runtime.pack.digest


def test_the_label_is_the_first_of_the_best(runtime: Runtime):
    answer = runtime.predict(sound(), picture())
    best = answer.top_k(3)
    assert best[0] == (answer.label, max(answer.probabilities.values()))
    assert [value for _, value in best] == sorted(answer.probabilities.values(), reverse=True)
    assert (answer.top_k(1), answer.top_k(0), len(answer.top_k(9))) == (best[:1], (), 3)


def test_an_answer_cannot_be_changed(runtime: Runtime):
    answer = runtime.predict(sound(), None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        answer.label = "cow"
    with pytest.raises(TypeError):
        answer.probabilities["ant"] = 1.0


def test_a_batch_equals_its_rows(runtime: Runtime):
    together = runtime.predict_batch(samples())
    alone = [runtime.predict(sample.audio, sample.frames) for sample in samples()]
    assert all(close(one, other) for one, other in zip(together, alone, strict=True))
    assert [answer.label for answer in together] == [answer.label for answer in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.expert_load == pytest.approx(other.expert_load, abs=1e-5)
    assert len({tuple(answer.probabilities.values()) for answer in alone}) == len(alone)
    assert runtime.predict_batch([]) == []


WAVE = sound()
PICTURE = picture()
SAME = {
    "float64": (WAVE.astype(np.float64), PICTURE, 0.0),
    "int16": ((WAVE * 32768).astype(np.int16), PICTURE, 2e-3),
    "one channel": (WAVE[None], PICTURE, 0.0),
    "stereo": (np.stack([WAVE, WAVE]), PICTURE, 1e-6),
    "strided": (np.repeat(WAVE, 2)[::2], PICTURE, 0.0),
    "one frame": (WAVE, PICTURE[None], 0.0),
    "Fortran order": (WAVE, np.asfortranarray(PICTURE), 0.0),
    "read-only": (np.frombuffer(WAVE.tobytes(), np.float32), np.frombuffer(PICTURE, np.uint8).reshape(70, 90, 3), 0.0),
}


@pytest.mark.parametrize(("audio", "frames", "tolerance"), SAME.values(), ids=SAME)
def test_the_form_of_the_input_does_not_matter(runtime: Runtime, audio, frames, tolerance: float):
    assert close(runtime.predict(audio, frames), runtime.predict(WAVE, PICTURE), tolerance)


def test_input_is_left_as_it_was(runtime: Runtime):
    audio, frames = WAVE.copy(), PICTURE.copy()
    runtime.predict(audio, frames)
    assert np.array_equal(audio, WAVE)
    assert np.array_equal(frames, PICTURE)


def test_any_rate_is_the_same_sound(runtime: Runtime):
    tones = {rate: np.sin(2 * np.pi * 700 * np.arange(rate) / rate).astype(np.float32) for rate in (16_000, 44_100)}
    answers = [runtime.predict(tone, None, sample_rate_hz=rate) for rate, tone in tones.items()]
    assert close(*answers, tolerance=0.02)


@pytest.mark.parametrize("given", [(WAVE, None), (None, PICTURE), (WAVE, picture(3))], ids=["sound", "picture", "both"])
def test_modalities_may_be_missing(runtime: Runtime, given):
    answer = runtime.predict(*given)
    assert sum(answer.probabilities.values()) == pytest.approx(1.0, abs=1e-6)
    assert not close(answer, runtime.predict(WAVE, PICTURE), 1e-6)


NAN = WAVE.copy()
NAN[7] = np.nan
REFUSED = {
    "nothing": (None, None, "all are None"),
    "integers": (np.zeros(16_000, np.int32), None, "float32, float64 or int16"),
    "rank 3": (np.zeros((1, 1, 16_000), np.float32), None, "shape"),
    "empty": (np.zeros(0, np.float32), None, "empty"),
    "NaN": (NAN, None, "NaN"),
    "infinite": (np.where(np.isnan(NAN), np.inf, NAN), None, "infinity"),
    "too loud": (WAVE * 100, None, "from -1 to 1"),
    "too short": (WAVE[:100], None, "at least"),
    "too long": (np.zeros(31 * 16_000, np.float32), None, "at most 30 s"),
    "a list": ([0.0] * 16_000, None, "numpy array"),
    "a float picture": (None, PICTURE.astype(np.float32), "uint8"),
    "grey": (None, PICTURE[..., 0], "shape"),
    "four colours": (None, np.zeros((64, 64, 4), np.uint8), "shape"),
    "no frame": (None, np.zeros((0, 64, 64, 3), np.uint8), "at least one frame"),
    "tiny": (None, np.zeros((4, 64, 3), np.uint8), "sides"),
    "good sound, bad picture": (WAVE, PICTURE.astype(np.int64), "uint8"),
}


@pytest.mark.parametrize(("audio", "frames", "sentence"), REFUSED.values(), ids=REFUSED)
def test_bad_input_gets_a_sentence(runtime: Runtime, audio, frames, sentence: str):
    with pytest.raises(InputError, match=sentence):
        runtime.predict(audio, frames)


def test_a_bad_sample_of_a_batch_is_named(runtime: Runtime):
    with pytest.raises(InputError, match=r"second\.wav: .*NaN"):
        runtime.predict_batch([Sample(WAVE, None, source="first.wav"), Sample(NAN, None, source="second.wav")])


def test_without_a_pack_there_is_no_answer(tiny: TinyBundle):
    with Runtime.open(tiny(), provider="cpu", threads=1) as runtime, pytest.raises(InputError, match="load_pack"):
        runtime.predict(WAVE, None)


def test_a_pack_of_another_bundle_is_refused_and_the_old_one_stays(tmp_path: Path, tiny: TinyBundle, packs):
    bundle = tiny()
    foreign = make_pack(tmp_path, another(bundle, tmp_path / "bundle"))
    with Runtime.open(bundle, packs["inline"], "cpu", 1) as runtime:
        before = runtime.predict(WAVE, PICTURE)
        with pytest.raises(PackError, match="bundle"):
            runtime.load_pack(foreign)
        with pytest.raises(PackError):
            runtime.load_pack(tmp_path / "nowhere")
        after = runtime.predict(WAVE, PICTURE)
    assert (after.pack_digest, after.probabilities) == (before.pack_digest, before.probabilities)


def another(bundle: Bundle, folder: Path) -> Bundle:
    """The same graphs under another manifest, hence another digest."""
    shutil.copytree(bundle.path, folder)
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["versions"]["other"] = "1"
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return Bundle.open(folder)


def test_a_closed_runtime_answers_no_more(tiny: TinyBundle, packs):
    with Runtime.open(str(tiny().path), str(packs["ladder"]), "cpu", 1) as runtime:
        runtime.predict(WAVE, None)
    for use in (lambda: runtime.predict(WAVE, None), lambda: runtime.load_pack(packs["ladder"]), lambda: runtime.pack):
        with pytest.raises(InputError, match="was closed"):
            use()
    runtime.close()


def test_predicting_leaves_no_trace_of_gradients(runtime: Runtime):
    with torch.enable_grad():
        runtime.predict(WAVE, PICTURE)
    assert [p for p in runtime._current().classes.model.parameters() if p.grad is not None] == []
