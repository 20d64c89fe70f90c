import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmcl_edge.data.arrays import as_frames, as_waveform
from mmcl_edge.data.resample import Resampler, output_length, resample
from mmcl_edge.errors import InputError

RATES_HZ = (4_000, 8_000, 11_025, 16_000, 22_050, 22_051, 44_100, 48_000, 96_000, 191_999, 192_000)


def sine(hz: float, rate_hz: int, duration_s: float = 1.0, peak: float = 0.5) -> np.ndarray:
    return (peak * np.sin(2 * np.pi * hz * np.arange(round(duration_s * rate_hz)) / rate_hz)).astype(np.float32)


BAD_SOUNDS = {
    "a list": ([0.0] * 4000, 16_000, "numpy array", "np.asarray"),
    "None": (None, 16_000, "NoneType", "np.asarray"),
    "int32": (np.zeros(4000, np.int32), 16_000, "int32", "astype"),
    "float16": (np.zeros(4000, np.float16), 16_000, "float16", "astype"),
    "complex": (np.zeros(4000, np.complex64), 16_000, "complex64", "astype"),
    "big-endian": (np.zeros(4000, ">f4"), 16_000, ">f4", "astype"),
    "rank 0": (np.array(0.5), 16_000, "()", "one clip"),
    "rank 3": (np.zeros((1, 2, 4000), np.float32), 16_000, "(1, 2, 4000)", "one clip"),
    "empty": (np.zeros(0, np.float32), 16_000, "empty", "None"),
    "no channels": (np.zeros((0, 4000), np.float32), 16_000, "empty", "None"),
    "(samples, channels)": (np.zeros((4000, 2), np.float32), 16_000, "(4000, 2)", ".T"),
    "too short": (np.zeros(799, np.float32), 16_000, "at least 0.05 s", "longer clip"),
    "too long": (np.zeros(32_001, np.float32), 16_000, "at most 2 s", "windows"),
    "NaN": (np.full(4000, np.nan, np.float32), 16_000, "NaN or infinity", "re-record"),
    "one NaN": (np.r_[np.zeros(4000), np.nan], 16_000, "NaN or infinity", "re-record"),
    "infinite": (np.r_[np.zeros(4000), -np.inf], 16_000, "NaN or infinity", "re-record"),
    "16-bit range as float": (np.full(4000, 20_000.0), 16_000, "peak is 20000", "int16"),
    "rate too low": (np.zeros(4000, np.float32), 3_999, "4,000 to 192,000", "recorded at"),
    "rate too high": (np.zeros(4000, np.float32), 192_001, "4,000 to 192,000", "recorded at"),
    "rate not whole": (np.zeros(4000, np.float32), 16_000.0, "16000.0", "recorded at"),
    "rate a bool": (np.zeros(4000, np.float32), True, "True", "recorded at"),
    "rate a text": (np.zeros(4000, np.float32), "16000", "'16000'", "recorded at"),
}


@pytest.mark.parametrize("audio, rate_hz, found, advice", BAD_SOUNDS.values(), ids=BAD_SOUNDS.keys())
def test_bad_sound_is_refused_with_a_sentence(audio, rate_hz, found, advice):
    with pytest.raises(InputError) as caught:
        as_waveform(audio, rate_hz, max_duration_s=2.0)
    assert found in str(caught.value)
    assert advice in str(caught.value)
    assert str(caught.value).endswith(".")


GOOD_SOUNDS = {
    "float32 mono": lambda x: x,
    "float64 mono": lambda x: x.astype(np.float64),
    "one channel": lambda x: x[None],
    "two channels, mean": lambda x: np.stack([2 * x, np.zeros_like(x)]),
    "32 channels": lambda x: np.tile(x, (32, 1)),
    "not contiguous": lambda x: np.repeat(x, 2)[::2],
    "read-only": lambda x: np.frombuffer(x.tobytes(), np.float32),
}


@pytest.mark.parametrize("form", GOOD_SOUNDS.values(), ids=GOOD_SOUNDS.keys())
def test_every_accepted_form_is_the_same_sound(form):
    plain = sine(440, 16_000)
    waveform = as_waveform(form(plain), 16_000)
    assert waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, plain, atol=1e-6)


def test_int16_is_scaled_by_full_scale():
    waveform = as_waveform(np.array([-32768, 0, 16384] * 400, np.int16), np.int64(16_000))
    np.testing.assert_array_equal(waveform[:3], np.array([-1.0, 0.0, 0.5], np.float32))


def test_input_is_never_changed_and_overshoot_is_clipped():
    audio = sine(440, 16_000, peak=1.5)
    before = audio.copy()
    waveform = as_waveform(audio, 16_000)
    assert np.abs(waveform).max() == 1.0
    np.testing.assert_array_equal(audio, before)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("part_of_nyquist", [0.05, 0.4, 0.8])
def test_resampled_sine_is_the_sine_sampled_at_16_khz(rate_hz, part_of_nyquist):
    hz = part_of_nyquist * min(rate_hz, 16_000) / 2
    found = resample(sine(hz, rate_hz, 1.037), rate_hz)
    expected = sine(hz, 16_000, 1.037)
    middle = slice(800, -800)
    assert len(found) == len(expected)
    assert np.abs(found[middle] - expected[middle]).max() < 1e-4 * 0.5


@pytest.mark.parametrize("rate_hz", [22_050, 44_100, 48_000, 192_000])
def test_what_16_khz_cannot_hold_is_removed(rate_hz):
    assert np.abs(resample(sine(9_000, rate_hz), rate_hz)[800:-800]).max() < 1e-3 * 0.5


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_the_tail_is_not_lost(rate_hz):
    click = np.zeros(rate_hz, np.float32)
    click[-rate_hz // 200 :] = 0.5  # the last 5 ms
    found = resample(click, rate_hz)
    assert np.abs(found[-40:]).mean() > 0.3
    assert np.abs(found[:-800]).max() < 1e-3


@settings(max_examples=40, deadline=None)
@given(
    rate_hz=st.sampled_from(RATES_HZ),
    duration_s=st.floats(0.05, 0.4),
    cuts=st.lists(st.floats(0, 1), max_size=5),
    seed=st.integers(0, 2**32 - 1),
)
def test_pieces_joined_equal_the_whole(rate_hz, duration_s, cuts, seed):
    samples = np.ceil(duration_s * rate_hz).astype(int)
    audio = np.random.default_rng(seed).uniform(-1, 1, samples).astype(np.float32)
    resampler = Resampler(rate_hz)
    pieces = np.split(audio, sorted(int(cut * samples) for cut in cuts))
    joined = np.concatenate([*map(resampler.push, pieces), resampler.finish()])
    assert len(joined) == output_length(samples, rate_hz) == round(samples * 16_000 / rate_hz)
    np.testing.assert_array_equal(joined, resample(audio, rate_hz))


@settings(max_examples=60, deadline=None)
@given(
    audio=hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int16]),
        hnp.array_shapes(min_dims=0, max_dims=3, max_side=1500),
        fill=st.nothing(),
        elements={"min_value": -2, "max_value": 2},
    )
    | st.none(),
    rate_hz=st.integers(-1, 200_000),
)
def test_any_array_is_a_clean_waveform_or_a_sentence(audio, rate_hz):
    try:
        waveform = as_waveform(audio, rate_hz)
    except InputError:
        return
    assert waveform.shape == (round(audio.shape[-1] * 16_000 / rate_hz),)
    assert np.isfinite(waveform).all()
    assert np.abs(waveform).max() <= 1


BAD_PICTURES = {
    "a list": ([[0]], "numpy array", "np.asarray"),
    "float": (np.zeros((64, 64, 3), np.float32), "float32", "astype"),
    "grey": (np.zeros((64, 64), np.uint8), "(64, 64)", "colours last"),
    "four colours": (np.zeros((64, 64, 4), np.uint8), "(64, 64, 4)", "colours last"),
    "colours first": (np.zeros((3, 64, 64), np.uint8), "(3, 64, 64)", "colours last"),
    "rank 5": (np.zeros((1, 1, 64, 64, 3), np.uint8), "(1, 1, 64, 64, 3)", "colours last"),
    "no frames": (np.zeros((0, 64, 64, 3), np.uint8), "at least one frame", "None"),
    "too small": (np.zeros((7, 64, 3), np.uint8), "64 x 7", "resize"),
    "too large": (np.zeros((8, 8193, 3), np.uint8), "8193 x 8", "resize"),
    "no pixels": (np.zeros((0, 0, 3), np.uint8), "0 x 0", "resize"),
}


@pytest.mark.parametrize("frames, found, advice", BAD_PICTURES.values(), ids=BAD_PICTURES.keys())
def test_bad_picture_is_refused_with_a_sentence(frames, found, advice):
    with pytest.raises(InputError, match=re.escape(found)) as caught:
        as_frames(frames)
    assert advice in str(caught.value)


@pytest.mark.parametrize("shape", [(8, 8, 3), (1, 8, 8, 3), (5, 8, 8192, 3)], ids=str)
def test_pictures_become_contiguous_batches(shape):
    frames = as_frames(np.ones(shape, np.uint8)[..., ::-1])
    assert frames.shape == (1, *shape)[-4:]
    assert frames.flags.c_contiguous
