"""Test conditions: what each changes, what it leaves, and that it is the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from mmcl_edge.data.conditions import CONDITIONS, NOISE_SNR_DB, blur, noise_5db
from mmcl_edge.types import Sample


def sample(**changes: object) -> Sample:
    rng = np.random.default_rng(0)
    fields = {
        "audio": (0.3 * np.sin(np.arange(16_000) * 0.1)).astype(np.float32),
        "frames": rng.integers(0, 256, (2, 64, 48, 3), dtype=np.uint8),
        "label": "cat",
    }
    return Sample(**(fields | changes))


def same(one: Sample, other: Sample) -> bool:
    pairs = ((one.audio, other.audio), (one.frames, other.frames))
    return all((a is None and b is None) or np.array_equal(a, b) for a, b in pairs) and one.label == other.label


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_is_the_same_every_time_and_changes_something(name: str):
    before = sample()
    assert same(CONDITIONS[name](before), CONDITIONS[name](sample()))
    assert not same(CONDITIONS[name](before), before)
    assert same(before, sample()), "the sample itself was changed"


def test_one_modality_is_taken_but_never_the_last():
    whole = sample()
    assert CONDITIONS["audio_only"](whole).frames is None
    assert CONDITIONS["frames_only"](whole).audio is None
    for name, field in (("audio_only", "audio"), ("frames_only", "frames")):
        alone = sample(**{field: None})
        assert same(CONDITIONS[name](alone), alone)


def test_noise_is_as_loud_as_it_says():
    before = sample()
    added = noise_5db(before).audio - before.audio
    ratio = 10 * np.log10(np.mean(before.audio.astype(float) ** 2) / np.mean(added.astype(float) ** 2))
    assert ratio == pytest.approx(NOISE_SNR_DB, abs=0.2)


def test_blur_spreads_a_point_and_keeps_its_light():
    frames = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    frames[0, 32, 32] = 255
    done = blur(sample(frames=frames)).frames
    assert done.shape == frames.shape
    assert done[0, 32, 32, 0] < 40
    assert int(done[0, 29:36, 29:36, 0].astype(int).sum()) == pytest.approx(255, abs=30)
    flat = np.full((1, 64, 64, 3), 90, dtype=np.uint8)
    assert np.array_equal(blur(sample(frames=flat)).frames, flat), "nothing to blur, edges included"


@pytest.mark.parametrize("size", [(2, 2), (3, 50)])
def test_blur_takes_tiny_pictures(size: tuple[int, int]):
    frames = np.full((1, *size, 3), 7, dtype=np.uint8)
    assert np.array_equal(blur(sample(frames=frames)).frames, frames)


@pytest.mark.parametrize("name", CONDITIONS)
def test_what_is_missing_stays_missing(name: str):
    assert CONDITIONS[name](sample(frames=None)).frames is None
    assert CONDITIONS[name](sample(audio=None)).audio is None
