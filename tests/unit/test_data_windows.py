from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmcl_edge.data.windows import windows
from mmcl_edge.errors import InputError
from mmcl_edge.types import Sample


def sample(duration_s: float = 0.0, frames: int = 0) -> Sample:
    audio = np.arange(round(duration_s * 16_000), dtype=np.float32) if duration_s else None
    pictures = np.broadcast_to(np.arange(frames, dtype=np.uint8)[:, None, None, None], (frames, 8, 8, 3))
    return Sample(audio, pictures if frames else None, "dog", "clip")


SPANS = {
    "exact": (10.0, 5.0, 5.0, [(0, 5), (5, 10)]),
    "a shorter end": (7.0, 5.0, 5.0, [(0, 5), (5, 7)]),
    "an end too short to hear is left": (5.04, 5.0, 5.0, [(0, 5)]),
    "overlapping": (10.0, 5.0, 2.5, [(0, 5), (2.5, 7.5), (5, 10)]),
    "shorter than a window": (3.0, 5.0, 2.5, [(0, 3)]),
    "with gaps": (10.0, 1.0, 4.0, [(0, 1), (4, 5), (8, 9)]),
    "ending in a gap": (3.0, 1.0, 4.0, [(0, 1)]),
}


@pytest.mark.parametrize("duration_s, window_s, hop_s, expected", SPANS.values(), ids=SPANS.keys())
def test_windows_cover_the_sound(duration_s, window_s, hop_s, expected):
    cut = list(windows(sample(duration_s, frames=1), window_s=window_s, hop_s=hop_s))
    assert [(start, end) for start, end, _ in cut] == expected
    for start, end, window in cut:
        assert (window.audio[0], window.audio[-1]) == (start * 16_000, end * 16_000 - 1)
        assert window.frames.shape == (1, 8, 8, 3)
        assert (window.label, window.source) == ("dog", "clip")


FRAMES = {
    "spread evenly": (4, None, [[0, 1], [2, 3]]),
    "by their times": (3, [0.0, 4.9, 5.0], [[0, 1], [2]]),
    "the one on show": (1, [0.0], [[0], [0]]),
    "before the first": (2, [6.0, 7.0], [[0], [0, 1]]),
}


@pytest.mark.parametrize("count, times, expected", FRAMES.values(), ids=FRAMES.keys())
def test_frames_belong_to_their_time(count, times, expected):
    cut = windows(sample(10.0, frames=count), window_s=5, hop_s=5, frame_times_s=times)
    assert [window.frames[:, 0, 0, 0].tolist() for _, _, window in cut] == expected


def test_pictures_alone_are_one_window():
    assert [(start, end) for start, end, _ in windows(sample(frames=3), window_s=5, hop_s=5)] == [(0, 0)]


@given(duration_s=st.floats(0.05, 3), window_s=st.floats(0.05, 2), overlap=st.floats(0.1, 1))
def test_overlapping_windows_miss_nothing(duration_s, window_s, overlap):
    spans = [(s, e) for s, e, _ in windows(sample(duration_s), window_s=window_s, hop_s=window_s * overlap)]
    assert spans[0][0] == 0
    assert spans[-1][1] == pytest.approx(duration_s, abs=0.0501)
    assert all(after[0] <= before[1] + 1e-9 for before, after in pairwise(spans))


@pytest.mark.parametrize("window_s, hop_s", [(0.01, 1), (1, 0), (1, -1), (float("nan"), 1), (1, float("inf"))])
def test_lengths_that_make_no_sense_are_refused(window_s, hop_s):
    with pytest.raises(InputError, match="try 5"):
        next(windows(sample(1.0), window_s=window_s, hop_s=hop_s))
