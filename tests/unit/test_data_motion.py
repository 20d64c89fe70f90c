"""Motion: arrays and tables brought to 50 Hz, cut, and put into windows."""

import numpy as np
import pytest

from mmcl_edge.data.clips import clipped
from mmcl_edge.data.items import pair_files
from mmcl_edge.data.media import load_sample
from mmcl_edge.data.motion import as_motion, load_motion, resample_motion
from mmcl_edge.data.windows import windows
from mmcl_edge.errors import InputError, MediaError
from mmcl_edge.types import MOTION_RATE_HZ, Sample
from tests.motion import swing, write_motion


def test_motion_at_50_hz_stays_as_it_is_and_gets_its_type():
    given = swing(2.0).astype(np.float64)
    found = as_motion(given)
    assert (found.dtype, found.shape) == (np.float32, (100, 6))
    np.testing.assert_array_equal(found, given.astype(np.float32))


@pytest.mark.parametrize("rate_hz, tolerance", [(25, 0.05), (40, 0.05), (100, 0.03), (400, 0.03)])
def test_a_slow_swing_is_the_same_from_every_rate(rate_hz, tolerance):
    found = resample_motion(swing(4.0, hz=1.0, rate_hz=rate_hz), rate_hz, MOTION_RATE_HZ)
    assert found.shape == (200, 6)
    assert np.abs(found[2:-2] - swing(4.0, hz=1.0)[2:-2]).max() < tolerance


def test_a_movement_too_quick_for_the_new_rate_does_not_turn_up_as_a_slow_one():
    quick = swing(4.0, hz=96.0, rate_hz=800)  # picking every sixteenth reading would show 4 Hz at full size
    assert np.abs(quick[::16]).max() > 0.7
    assert np.abs(resample_motion(quick, 800, MOTION_RATE_HZ)).max() < 0.2


def test_a_table_is_read_with_its_own_uneven_times(tmp_path):
    path = write_motion(tmp_path / "walk.csv", swing(3.0, hz=1.0, rate_hz=200), rate_hz=200, start_s=7.0)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *(line for i, line in enumerate(lines[1:]) if i % 5 != 3 or i == 599)]))
    found = load_motion(path)
    assert found.shape == (150, 6)
    assert np.abs(found[2:-2] - swing(3.0, hz=1.0)[2:-2]).max() < 0.03


HEADER = "time_s,x\n"
BROKEN = {
    "empty": ("", "empty"),
    "no header": ("0,1\n0.02,1\n0.04,1\n0.06,2\n", "a header"),
    "one column": ("time_s\n0\n1\n2\n", "a header"),
    "a word": (HEADER + "0,1\n0.5,fast\n1,2\n", "line 3"),
    "not finite": (HEADER + "0,1\n0.5,nan\n1,2\n", "line 3"),
    "beyond float32": (HEADER + "0,1\n0.5,1e300\n1,2\n", "line 3"),
    "a short line": (HEADER + "0,1\n0.5\n1,2\n", "line 3"),
    "times that go back": (HEADER + "0,1\n0.5,1\n0.4,2\n", "line 4"),
    "milliseconds": (HEADER + "".join(f"{20 * i},1\n" for i in range(100)), "should be seconds"),
    "too short": (HEADER + "0,1\n0.01,1\n", "0.1 to 600 s"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("text, words", BROKEN.values(), ids=BROKEN.keys())
def test_a_table_that_is_no_motion_is_refused_with_its_name(tmp_path, text, words):
    path = tmp_path / "walk.csv"
    path.write_text(text)
    with pytest.raises(MediaError, match=r"walk\.csv") as caught:
        load_motion(path)
    assert words in str(caught.value)


REFUSED = {
    "a list": ([[1.0] * 6] * 50, 50, "np.asarray"),
    "one axis": (np.zeros(50), 50, r"\(samples, channels\)"),
    "channels first": (np.zeros((6, 50)).T[:, :0], 50, r"\(samples, channels\)"),
    "too many channels": (np.zeros((50, 33)), 50, r"transpose"),
    "not finite": (np.full((50, 6), np.inf), 50, "NaN or infinity"),
    "too short": (np.zeros((2, 6)), 50, "at|0.1 to 600 s"),
    "too long": (np.zeros((601, 1)), 1, "0.1 to 600 s"),
    "a rate of nothing": (np.zeros((50, 6)), 0, "rate of motion"),
    "a rate that is no number": (np.zeros((50, 6)), "50", "rate of motion"),
}


@pytest.mark.parametrize("motion, rate_hz, words", REFUSED.values(), ids=REFUSED.keys())
def test_arrays_that_are_no_motion_are_refused(motion, rate_hz, words):
    with pytest.raises(InputError, match=words):
        as_motion(motion, rate_hz)


def test_a_table_belongs_to_the_sample_of_its_stem_and_stands_alone_without_one(tmp_path):
    for name in ("a.mp4", "a.csv", "b.wav", "b.jpg", "b.csv", "c.csv", "d.flac", "d.wav", "d.csv"):
        (tmp_path / name).touch()
    items = {item.source: item for item in pair_files(tmp_path.iterdir(), label="walk")}
    assert list(items) == ["a.mp4+csv", "b.wav+jpg+csv", "c.csv", "d.flac+csv", "d.wav+csv"]
    assert (items["c.csv"].files, items["c.csv"].video) == ((tmp_path / "c.csv",), None)


def test_a_table_alone_becomes_a_sample(tmp_path):
    write_motion(tmp_path / "walk.csv", swing(1.0))
    (item,) = pair_files([tmp_path / "walk.csv"], label="walk")
    sample = load_sample(item)
    assert (sample.audio, sample.frames, sample.label, sample.source) == (None, None, "walk", "walk.csv")
    np.testing.assert_allclose(sample.motion, swing(1.0), atol=1e-5)


def test_motion_is_cut_to_the_seconds_of_the_sound_beside_it():
    motion = np.arange(500, dtype=np.float32)[:, None]
    audio = np.zeros(10 * 16_000, np.float32)
    audio[6 * 16_000 : 8 * 16_000] = 0.5
    cut = clipped(Sample(audio, None, motion=motion), 2.0)
    assert (len(cut.audio), cut.motion[0, 0], len(cut.motion)) == (32_000, 300.0, 100)


def test_motion_alone_is_cut_to_where_most_moves():
    still = np.zeros((200, 6), np.float32)
    cut = clipped(Sample(None, None, motion=np.concatenate([still, swing(2.0), still])), 2.0)
    np.testing.assert_array_equal(cut.motion, swing(2.0))
    short = Sample(None, None, motion=swing(1.0))
    assert clipped(short, 2.0) is short


def test_windows_cut_motion_at_their_times_alone_and_beside_sound():
    motion = np.arange(110, dtype=np.float32)[:, None]
    alone = list(windows(Sample(None, None, motion=motion), window_s=1.0, hop_s=1.0))
    assert [(start, len(one.motion)) for start, _, one in alone] == [(0.0, 50), (1.0, 50), (2.0, 10)]
    sound = np.zeros(3 * 16_000, np.float32)
    beside = [one.motion for _, _, one in windows(Sample(sound, None, motion=motion), window_s=1.5, hop_s=1.5)]
    assert [one if one is None else one[0, 0] for one in beside] == [0.0, 75.0]
