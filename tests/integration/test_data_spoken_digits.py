"""The built-in sample: what is written is digits, spoken and drawn, always the same."""

import builtins
import ctypes
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mmcl_edge.data import speech, spoken_digits
from mmcl_edge.data.media import load_picture
from mmcl_edge.data.speech import Voice, speak
from mmcl_edge.data.spoken_digits import ACCENTS, EXPERIENCES, SPEAKERS, TEST_FOLDER, WORDS, write_spoken_digits
from mmcl_edge.data.task_folder import decode_task, read_task
from mmcl_edge.errors import InputError, MissingExtraError, StorageError
from mmcl_edge.fileio import sha256_file

pytest.importorskip("espeakng_loader", reason="the extra 'quickstart' is not installed")
pytest.importorskip("sklearn", reason="the extra 'quickstart' is not installed")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_spoken_digits(tmp_path_factory.mktemp("sample") / "digits", samples_per_class=8, seed=0)


def samples_of(folder: Path, part: str):
    return [sample for task in EXPERIENCES for sample in decode_task(read_task(folder / part / task))[0]]


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*.*"))}


def test_the_folders_are_tasks(written):
    for part, count in (("", 8), (TEST_FOLDER, 4)):
        for task, numbers in EXPERIENCES.items():
            read = read_task(written / part / task)
            assert read.classes == tuple(sorted(WORDS[number] for number in numbers))
            assert (len(read.items), read.ignored) == (count * len(numbers), 0)
            assert all(item.audio and item.picture for item in read.items)


def test_every_sample_is_heard_and_seen(written):
    for sample in (*samples_of(written, ""), *samples_of(written, TEST_FOLDER)):
        assert 0.2 <= len(sample.audio) / 16_000 <= 1.5
        assert np.sqrt(np.mean(sample.audio**2)) > 0.02
        assert 0.39 < np.abs(sample.audio).max() < 0.91
        assert sample.frames.shape == (1, 64, 64, 3)
        assert sample.frames[0, 8:-8, 8:-8].max() > 200
        assert not sample.frames[0, :8].any()


def test_no_picture_and_no_recording_occurs_twice(written):
    train, test = (samples_of(written, part) for part in ("", TEST_FOLDER))
    assert len({sample.frames.tobytes() for sample in (*train, *test)}) == len(train) + len(test)
    assert len({sample.audio.tobytes() for sample in (*train, *test)}) == len(train) + len(test)
    assert not set(SPEAKERS["train"]) & set(SPEAKERS[TEST_FOLDER])


def features(sample) -> tuple[np.ndarray, np.ndarray]:
    """A small picture, and 20 steps of log energy in 32 bands."""
    frames = np.lib.stride_tricks.sliding_window_view(sample.audio, 400)[::160] * np.hanning(400)
    bands = np.abs(np.fft.rfft(frames, 512))[:, :256].reshape(len(frames), 32, 8).mean(axis=-1)
    steps = np.log(bands + 1e-3)[np.linspace(0, len(frames) - 1, 20).astype(int)]
    return sample.frames[0, ::4, ::4, 0].ravel() / 255, steps.ravel()


@pytest.mark.parametrize("modality, least", [(0, 0.75), (1, 0.85)], ids=["picture", "sound"])
def test_a_plain_classifier_learns_the_digits(written, modality, least):
    """The labels belong to what is seen and heard: nearest class mean, on speakers and writers not met."""
    train, test = (samples_of(written, part) for part in ("", TEST_FOLDER))
    means = {
        word: np.mean([features(sample)[modality] for sample in train if sample.label == word], axis=0)
        for word in WORDS
    }
    found = [min(WORDS, key=lambda word: np.linalg.norm(means[word] - features(sample)[modality])) for sample in test]
    assert np.mean([word == sample.label for word, sample in zip(found, test, strict=True)]) >= least


def test_the_same_seed_writes_the_same_bytes(tmp_path, written):
    speak("something said in between", Voice("en-us+m4"))
    steps = []
    again = write_spoken_digits(
        tmp_path / "again", samples_per_class=8, seed=0, progress=lambda done, of: steps.append((done, of))
    )
    assert digests(again) == digests(written)
    assert steps == [(step, 120) for step in range(1, 121)]
    other = write_spoken_digits(tmp_path / "other", samples_per_class=1, test_samples_per_class=1, seed=1)
    assert not set(digests(other).values()) & set(digests(written).values())


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(StorageError, match="exists already"):
        write_spoken_digits(tmp_path, samples_per_class=1, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["keep.txt"]


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def interrupt(done: int, of: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_spoken_digits(tmp_path / "digits", samples_per_class=1, seed=0, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("train, test", [(0, 1), (1, 0), (171, None), (100, 75)])
def test_counts_beyond_the_pictures_are_refused(tmp_path, train, test):
    with pytest.raises(InputError, match="174"):
        write_spoken_digits(tmp_path / "x", samples_per_class=train, test_samples_per_class=test, seed=0)


@pytest.mark.parametrize("missing", ["sklearn.datasets", "espeakng_loader"])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, missing):
    real = builtins.__import__

    def refuse(name, *rest, **options):
        if name == missing:
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r'pip install "mmcl-edge\[quickstart\]"'):
        write_spoken_digits(tmp_path / "x", samples_per_class=1, seed=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("accent", ACCENTS)
def test_every_voice_says_every_word(accent):
    for speaker in (*SPEAKERS["train"], *SPEAKERS[TEST_FOLDER]):
        said = [speak(word, Voice(f"{accent}+{speaker}", rate_wpm=200)) for word in ("two", "six", "seven")]
        assert all(0.15 < len(waveform) / 16_000 < 1.5 for waveform in said)
        assert len({waveform.tobytes() for waveform in said}) == 3


def test_what_was_said_before_does_not_matter():
    voice = Voice("en+f1", rate_wpm=140, pitch=40)
    first = speak("zero", voice)
    for words in ("one two three", "four"):
        speak(words, Voice("en-us+m3"))
        speak(words, voice)
    np.testing.assert_array_equal(speak("zero", voice), first)


def test_threads_take_turns():
    jobs = [(word, Voice(f"en+{speaker}")) for word in ("one", "nine") for speaker in ("f1", "m2")] * 4
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda job: speak(*job), jobs))
    for job, waveform in zip(jobs, together, strict=True):
        np.testing.assert_array_equal(waveform, speak(*job))


BAD_VOICES = {
    "an unknown accent": Voice("xx-nowhere"),
    "an unknown variant": Voice("en+nobody"),
    "an empty name": Voice("none at all+f1"),
}


@pytest.mark.parametrize("voice", BAD_VOICES.values(), ids=BAD_VOICES.keys())
def test_unknown_voices_are_refused(voice):
    with pytest.raises(InputError, match="has no voice"):
        speak("zero", voice)
    assert len(speak("zero", Voice("en"))) > 1_000


def test_saying_nothing_is_refused():
    with pytest.raises(InputError, match="said nothing"):
        speak("", Voice("en"))


def test_a_library_that_does_not_load_is_a_sentence(tmp_path, monkeypatch):
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr("espeakng_loader.get_library_path", lambda: str(broken))
    with pytest.raises(InputError, match="does not load"):
        speak("zero", Voice("en"))


def test_missing_speech_data_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("espeakng_loader.get_data_path", lambda: str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="espeak-ng"):
        speak("zero", Voice("en"))


def test_a_data_path_too_long_for_the_library_is_a_sentence(monkeypatch):
    monkeypatch.setattr("espeakng_loader.get_data_path", lambda: "/x" * 100)
    with pytest.raises(InputError, match="shorter path"):
        speak("zero", Voice("en"))


def test_the_callback_lives_as_long_as_the_engine():
    with speech._engine() as engine:
        assert isinstance(engine._callback, ctypes._CFuncPtr)
        assert engine.sample_rate_hz == 22_050


def test_png_bytes_decode_to_the_same_picture(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (tmp_path / "p.png").write_bytes(spoken_digits.encode_png(picture))
    np.testing.assert_array_equal(load_picture(tmp_path / "p.png")[0], picture)
