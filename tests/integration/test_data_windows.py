"""Long files as windows, decoded as they are asked for."""

import tracemalloc

import numpy as np
import pytest
import soundfile

from mmcl_edge.data.media import load_audio, stream_windows
from mmcl_edge.errors import InputError, MediaError
from tests.integration.test_data_makers import (
    SOUNDS,
    VIDEOS,
    tone,
    write_media,
    write_picture,
    write_sound,
    write_video,
)


@pytest.mark.parametrize("suffix", SOUNDS)
def test_windows_of_a_sound_are_parts_of_the_whole(tmp_path, suffix):
    path = write_sound(tmp_path / f"a{suffix}", tone(2.0, 44_100), 44_100)
    whole = load_audio(path)
    cut = list(stream_windows(path, window_s=0.7, hop_s=0.5))
    assert [start for start, _, _ in cut] == [0.0, 0.5, 1.0, 1.5][: len(cut)]
    assert cut[-1][1] == pytest.approx(len(whole) / 16_000, abs=1e-6)
    for start, end, sample in cut:
        np.testing.assert_array_equal(sample.audio, whole[round(start * 16_000) : round(end * 16_000)])
        assert sample.frames is None


@pytest.mark.parametrize("suffix", VIDEOS)
@pytest.mark.parametrize("sound", [True, False], ids=["with sound", "silent"])
def test_frames_of_a_video_belong_to_their_window(tmp_path, suffix, sound):
    path = write_video(tmp_path / f"v{suffix}", sound=sound)
    cut = list(stream_windows(path, window_s=1.0, hop_s=0.5, max_frames=2))
    assert [(start, end) for start, end, _ in cut[:3]] == [(0.0, 1.0), (0.5, 1.5), (1.0, pytest.approx(2.0, abs=0.1))]
    for start, _, sample in cut[:3]:
        levels = sample.frames.mean(axis=(1, 2, 3))
        np.testing.assert_allclose(levels, [120 * (start + 0.25), 120 * (start + 0.75)], atol=14)
        assert (sample.audio is not None) is sound


def test_a_window_longer_than_the_file_holds_all_of_it(tmp_path):
    ((start, end, sample),) = stream_windows(write_video(tmp_path / "v.mp4"), window_s=60, hop_s=30)
    assert (start, end) == (0.0, pytest.approx(2.0, abs=0.1))
    assert len(sample.audio) == round(end * 16_000)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_memory_follows_the_window_not_the_file(tmp_path, suffix):
    path = tmp_path / f"long{suffix}"
    with soundfile.SoundFile(path, "w", 16_000, 1, "PCM_16") as file:
        for _ in range(30):
            file.write(tone(20.0))
    tracemalloc.start()
    count = sum(1 for _ in stream_windows(path, window_s=5, hop_s=5))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 120
    assert peak_bytes < 4 << 20  # the sound alone is 38 MB


def test_windows_before_the_fault_are_given(tmp_path):
    path = write_video(tmp_path / "v.mkv", duration_s=6.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    given = []
    with pytest.raises(MediaError, match="truncated"):
        given.extend(stream_windows(path, window_s=1, hop_s=1))
    assert 1 <= len(given) <= 3


def test_stopping_early_closes_the_file(tmp_path):
    stream = stream_windows(write_media(tmp_path / "v.mp4"), window_s=0.2, hop_s=0.2)
    next(stream)
    stream.close()


def test_pictures_have_no_windows(tmp_path):
    with pytest.raises(InputError, match="neither"):
        next(stream_windows(write_picture(tmp_path / "p.png"), window_s=1, hop_s=1))
