"""Samples to the tensors that stems take: lengths, token counts, resizing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mmcl_edge.bundle import AudioInput, FileEntry, FramesInput, MotionInput, TextInput
from mmcl_edge.errors import BundleError, InputError, IntegrityError
from mmcl_edge.runtime.preprocess import Preprocessor, prepare_audio, prepare_frames, prepare_motion
from mmcl_edge.types import Sample
from tests.motion import swing
from tests.texts import PIECES, VOCABULARY

SOUND = AudioInput(max_duration_s=30.0, token_stride=320)
FIXED = AudioInput(max_duration_s=30.0, fixed_samples=32_000)


def wave(samples: int) -> np.ndarray:
    return np.arange(1, samples + 1, dtype=np.float32)


@pytest.mark.parametrize(
    ("samples", "padded", "tokens"),
    [(16_000, 16_000, 50), (16_001, 32_000, 51), (800, 16_000, 3), (480_000, 480_000, 1500), (15_999, 16_000, 50)],
)
def test_sound_is_padded_to_whole_seconds_and_its_tokens_counted(samples: int, padded: int, tokens: int):
    item = prepare_audio(wave(samples), SOUND)
    assert item.values.shape == (1, padded)
    assert torch.equal(item.values[0, :samples], torch.from_numpy(wave(samples)))
    assert not item.values[0, samples:].any()
    assert (item.tokens, item.total_tokens) == (tokens, padded // 320)


@pytest.mark.parametrize("samples", [900, 32_000, 50_000], ids=["shorter", "equal", "longer"])
def test_sound_of_a_fixed_length(samples: int):
    item = prepare_audio(wave(samples), FIXED)
    assert item.values.shape == (1, 32_000)
    assert torch.equal(item.values[0, : min(samples, 32_000)], torch.from_numpy(wave(samples)[:32_000]))
    assert item.tokens is None


@pytest.mark.parametrize(("samples", "said"), [(799, "0.050"), (480_001, "30.000")], ids=["short", "long"])
def test_sound_out_of_range_is_refused(samples: int, said: str):
    with pytest.raises(InputError, match=rf"0\.05 to 30 s, but it lasts {said}"):
        prepare_audio(wave(samples), SOUND)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(64, 64), (8, 8), (500, 20), (31, 640)], ids=str)
@pytest.mark.parametrize("keep_aspect", [True, False])
@pytest.mark.parametrize("crop_fraction", [1.0, 0.875])
def test_pictures_of_any_size_become_the_size_asked_for(size: tuple[int, int], keep_aspect: bool, crop_fraction: float):
    spec = FramesInput(height=48, width=32, keep_aspect=keep_aspect, crop_fraction=crop_fraction)
    out = prepare_frames(picture(*size), spec)
    assert out.shape == (2, 3, 48, 32)
    assert out.is_contiguous()
    assert 0 <= float(out.min()) <= float(out.max()) <= 255


def test_a_picture_of_the_right_size_is_left_as_it_is():
    frames = picture(48, 32)
    out = prepare_frames(frames, FramesInput(height=48, width=32, crop_fraction=1.0))
    assert torch.equal(out, torch.from_numpy(frames).permute(0, 3, 1, 2).float())


def test_the_middle_is_what_a_wide_picture_keeps():
    """Left third black, middle grey, right white: only the middle is left of a picture three times as wide."""
    frames = np.repeat(np.array([0, 128, 255], np.uint8), 32)[None, None, :, None].repeat(32, 1).repeat(3, 3)
    out = prepare_frames(frames, FramesInput(height=32, width=32, crop_fraction=1.0))
    assert torch.equal(out, torch.full((1, 3, 32, 32), 128.0))


def test_colours_keep_their_order():
    frames = np.zeros((1, 40, 40, 3), np.uint8) + np.array([10, 100, 200], np.uint8)
    out = prepare_frames(frames, FramesInput(height=24, width=24))
    assert [round(float(channel.mean())) for channel in out[0]] == [10, 100, 200]


MOTION = MotionInput(
    channels=6, rate_hz=50, window_s=2.0, mean=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0), std=(1.0,) * 6, samples_per_token=5
)


@pytest.mark.parametrize(("samples", "tokens"), [(5, 1), (7, 2), (99, 20), (100, 20)])
def test_short_motion_is_padded_with_its_mean_and_its_tokens_counted(samples: int, tokens: int):
    item = prepare_motion(swing(2.0)[:samples], MOTION)
    assert item.values.shape == (1, 6, 100)
    assert torch.equal(item.values[0, :, :samples], torch.from_numpy(swing(2.0)[:samples]).T)
    assert torch.equal(item.values[0, :, samples:], torch.tensor(MOTION.mean)[:, None].expand(6, 100 - samples))
    assert (item.tokens, item.total_tokens) == (tokens, 20)


def test_long_motion_is_cut_to_its_middle():
    item = prepare_motion(swing(6.0), MOTION)
    assert torch.equal(item.values[0], torch.from_numpy(swing(6.0)[100:200]).T)
    assert (item.tokens, item.total_tokens) == (20, 20)


def test_motion_comes_at_the_rate_of_the_backbone():
    item = prepare_motion(swing(4.0), MOTION.model_copy(update={"rate_hz": 25.0, "window_s": 4.0}))
    assert np.abs(item.values[0].T.numpy() - swing(4.0, rate_hz=25)).max() < 0.1
    assert (item.tokens, item.total_tokens) == (20, 20)


@pytest.mark.parametrize(
    ("motion", "words"),
    [(swing(1.0)[:, :3], "6 channels, but it has 3"), (np.full((50, 6), np.nan, np.float32), "NaN or infinity")],
    ids=["channels", "not finite"],
)
def test_motion_of_another_sensor_is_refused(motion: np.ndarray, words: str):
    with pytest.raises(InputError, match=words):
        prepare_motion(motion, MOTION)


def test_motion_is_taken_by_a_bundle_with_a_backbone_for_it_alone():
    with_motion, without = Preprocessor({"motion": MOTION}), Preprocessor({"audio": SOUND})
    assert len(with_motion.sample(None, None, motion=swing(1.0, rate_hz=100), motion_rate_hz=100).motion) == 50
    assert without.sample(np.zeros(16_000, np.float32), None, motion=swing(1.0)).motion is None
    assert list(with_motion(Sample(None, None, motion=swing(1.0)))) == ["motion"]
    with pytest.raises(InputError, match="Expected a sample with audio, but walk has none"):
        without(Sample(None, None, source="walk", motion=swing(1.0)))


@pytest.mark.parametrize("change", [{"mean": (0.0,)}, {"std": (1.0,) * 5 + (0.0,)}, {"samples_per_token": 7}], ids=str)
def test_a_spec_of_motion_that_does_not_fit_itself_is_refused(change: dict[str, object]):
    with pytest.raises(ValueError, match=r"should have|greater than|whole number of tokens"):
        MotionInput.model_validate(MOTION.model_dump() | change)


def text_spec(folder: Path, **changes: object) -> TextInput:
    (folder / "text").mkdir(exist_ok=True)
    (folder / "text" / "vocab.txt").write_bytes(VOCABULARY)
    vocabulary = FileEntry.of(folder, "text/vocab.txt")
    return TextInput.model_validate({"vocabulary": vocabulary, "vocabulary_size": len(PIECES), **changes})


def test_a_text_becomes_ids_that_all_count(tmp_path: Path):
    prepare = Preprocessor({"text": text_spec(tmp_path, max_tokens=6)}, tmp_path)
    item = prepare(prepare.sample(None, None, text="  A dog\nbarks "))["text"]
    assert [PIECES[one] for one in item.values[0].tolist()] == ["[CLS]", "a", "dog", "bark", "##s", "[SEP]"]
    assert (item.values.dtype, item.tokens, item.total_tokens) == (torch.int64, 6, 6)
    longer = prepare(Sample(None, None, text="a dog barks a dog barks"))["text"]
    assert torch.equal(longer.values, item.values)


def test_a_text_is_taken_by_a_bundle_with_a_backbone_for_it_alone(tmp_path: Path):
    with_text, without = Preprocessor({"text": text_spec(tmp_path)}, tmp_path), Preprocessor({"audio": SOUND})
    assert without.sample(np.zeros(16_000, np.float32), None, text="\ud83d").text is None
    with pytest.raises(InputError, match="Expected a sample with audio, but note has none"):
        without(Sample(None, None, source="note", text="a dog"))
    with pytest.raises(InputError, match="Expected a sample with text, but bark has none"):
        with_text(Sample(np.zeros(16_000, np.float32), None, source="bark"))
    with pytest.raises(InputError, match="should be a str, but it is a list"):
        with_text.sample(None, None, text=["a", "dog"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="all are None"):
        with_text.sample(None, None)


def test_a_vocabulary_that_is_not_the_bundles_is_refused(tmp_path: Path):
    spec = text_spec(tmp_path)
    with pytest.raises(BundleError, match=f"should hold {len(PIECES) + 1} pieces, but holds {len(PIECES)}"):
        Preprocessor({"text": spec.model_copy(update={"vocabulary_size": len(PIECES) + 1})}, tmp_path)
    with pytest.raises(BundleError, match="none was given"):
        Preprocessor({"text": spec})
    (tmp_path / "text" / "vocab.txt").write_bytes(VOCABULARY.replace(b"dog", b"cow"))
    with pytest.raises(IntegrityError, match="its bytes were changed"):
        Preprocessor({"text": spec}, tmp_path)
