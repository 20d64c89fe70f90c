"""Every format that is read: whole, truncated, empty, broken in the middle, misnamed, oversized."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mmcl_edge.data import media
from mmcl_edge.data.media import MediaItem, load_audio, load_picture, load_sample, load_video
from mmcl_edge.errors import MediaError
from tests.integration.test_data_makers import (
    PICTURES,
    SOUNDS,
    VIDEOS,
    gradient,
    tone,
    with_orientation,
    write_media,
    write_picture,
    write_sound,
    write_video,
)

ALL = (*SOUNDS, *PICTURES, *VIDEOS)


def load(path: Path):
    return load_sample(MediaItem("x", path.stem, **{media.kind_of(path): path}))


def main_frequency_hz(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(np.argmax(spectrum)) * 16_000 / len(waveform)


@pytest.mark.parametrize("suffix", SOUNDS)
@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_sounds_decode_to_16_khz(tmp_path, suffix, rate_hz):
    waveform = load_audio(write_sound(tmp_path / f"a{suffix}", tone(2.0, rate_hz), rate_hz))
    assert waveform.dtype == np.float32
    assert len(waveform) == pytest.approx(32_000, abs=0.03 * 16_000)
    middle = waveform[4_000:-4_000]
    assert main_frequency_hz(middle) == pytest.approx(440, abs=2)
    assert np.abs(middle).max() == pytest.approx(0.4, rel=0.1)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_lossless_sound_is_exact_and_channels_are_averaged(tmp_path, suffix):
    left = tone()
    waveform = load_audio(write_sound(tmp_path / f"a{suffix}", np.stack([left, np.zeros_like(left)])))
    np.testing.assert_allclose(waveform, left / 2, atol=1 / 32_768)


@pytest.mark.parametrize("suffix", [*PICTURES, ".jpeg"])
def test_pictures_decode_to_rgb(tmp_path, suffix):
    frames = load_picture(write_picture(tmp_path / f"p{suffix}"))
    assert frames.shape == (1, 64, 96, 3)
    error = np.abs(frames[0].astype(int) - gradient())
    assert error.mean() < 4
    if suffix == ".png":
        assert error.max() == 0


@pytest.mark.parametrize("suffix", VIDEOS)
@pytest.mark.parametrize("max_frames, levels", [(1, [120]), (4, [24, 84, 144, 204]), (30, list(range(0, 240, 12)))])
def test_videos_give_sound_and_evenly_spaced_frames(tmp_path, suffix, max_frames, levels):
    sample = load_video(write_video(tmp_path / f"v{suffix}"), max_frames=max_frames)
    assert sample.frames.shape == (len(levels), 64, 96, 3)
    np.testing.assert_allclose(sample.frames.mean(axis=(1, 2, 3)), levels, atol=13)
    assert len(sample.audio) == pytest.approx(32_000, abs=1_600)
    assert main_frequency_hz(sample.audio[4_000:-4_000]) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("suffix", VIDEOS)
def test_a_video_without_sound_has_none(tmp_path, suffix):
    sample = load_video(write_video(tmp_path / f"v{suffix}", sound=False), max_frames=2)
    assert sample.audio is None
    assert len(sample.frames) == 2


def test_a_pair_is_one_labelled_sample(tmp_path):
    item = MediaItem("dog", "a", audio=write_sound(tmp_path / "a.wav"), picture=write_picture(tmp_path / "a.png"))
    sample = load_sample(item)
    assert (sample.label, sample.source) == ("dog", "a.wav+png")
    assert (sample.audio.shape, sample.frames.shape) == ((32_000,), (1, 64, 96, 3))


def test_large_pictures_are_reduced_in_samples_only(tmp_path):
    path = write_picture(tmp_path / "p.png", gradient(768, 1536))
    assert load(path).frames.shape == (1, 384, 768, 3)
    assert load_sample(MediaItem(None, "p", picture=path), short_side_px=None).frames.shape == (1, 768, 1536, 3)
    np.testing.assert_allclose(load(path).frames[0].astype(int), gradient(384, 768), atol=3)


TRANSPARENT = np.dstack([gradient(), np.full((64, 96), 128, np.uint8)])
LAYOUTS = {
    "grey": (gradient()[..., 0].copy(), "gray", np.repeat(gradient()[..., :1], 3, axis=-1)),
    "transparent over white": (TRANSPARENT, "rgba", (gradient() * (128 / 255) + 127).round()),
    "16 bits": (gradient().astype(np.uint16) * 257, "rgb48be", gradient()),
}


@pytest.mark.parametrize("pixels, layout, expected", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_other_pixel_layouts_become_rgb(tmp_path, pixels, layout, expected):
    frames = load_picture(write_picture(tmp_path / "p.png", pixels, layout=layout))
    np.testing.assert_allclose(frames[0], expected, atol=1)


def png(width: int, height: int, *, colour: int, body: bytes, extra: bytes = b"") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(body, 9)) + chunk(b"IEND", b"")


def test_palettes_are_looked_up(tmp_path):
    colours = bytes([255, 0, 0, 0, 0, 255])
    palette = struct.pack(">I", 6) + b"PLTE" + colours + struct.pack(">I", zlib.crc32(b"PLTE" + colours))
    rows = b"".join(b"\0" + bytes([row % 2] * 16) for row in range(16))
    (tmp_path / "p.png").write_bytes(png(16, 16, colour=3, body=rows, extra=palette))
    frames = load_picture(tmp_path / "p.png")
    assert frames[0, :2, 5].tolist() == [[255, 0, 0], [0, 0, 255]]


CORNER = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
"""Where the stored picture's first pixel belongs, by EXIF orientation."""


@pytest.mark.parametrize("orientation", CORNER)
@pytest.mark.parametrize("little", [False, True], ids=["big-endian", "little-endian"])
def test_exif_orientation_sets_the_picture_upright(tmp_path, orientation, little):
    marked = np.zeros((64, 96, 3), np.uint8)
    marked[:16, :16] = 255
    path = write_picture(tmp_path / "p.jpg", marked)
    path.write_bytes(with_orientation(path.read_bytes(), orientation, little=little))
    frames = load_picture(path)
    assert frames.shape == ((1, 64, 96, 3) if orientation < 5 else (1, 96, 64, 3))
    row, column = CORNER[orientation]
    assert frames[0, row, column].min() > 200
    assert (frames > 128).mean() == pytest.approx(256 / 6144, abs=0.01)


@pytest.mark.parametrize("damage", [b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"])
def test_broken_exif_is_ignored(tmp_path, damage):
    path = write_picture(tmp_path / "p.jpg")
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(damage) + 2) + damage + data[2:])
    assert load_picture(path).shape == (1, 64, 96, 3)


CUTS = {"empty": 0.0, "a few bytes": 0.01, "a tenth": 0.1, "half": 0.5, "nine tenths": 0.9}


@pytest.mark.parametrize("part", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize("suffix", ALL)
def test_truncated_files_are_refused(tmp_path, suffix, part):
    whole = tmp_path / f"whole{suffix}"
    data = (write_video(whole, duration_s=6.0) if suffix in VIDEOS else write_media(whole)).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(MediaError) as caught:
        load(cut)
    assert str(cut) in str(caught.value)
    assert "replace it with a whole one or remove it" in str(caught.value)


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".mp3", ".jpg", ".png", ".mp4", ".mkv"])
def test_files_broken_in_the_middle_are_refused(tmp_path, suffix):
    path = write_media(tmp_path / f"a{suffix}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = b"\x55" * 40
    path.write_bytes(data)
    with pytest.raises(MediaError, match="corrupt"):
        load(path)


@pytest.mark.parametrize("suffix", ALL)
def test_noise_never_raises_anything_else(tmp_path, suffix):
    data = write_media(tmp_path / f"a{suffix}").read_bytes()
    generator = np.random.default_rng(7)
    for trial in range(12):
        noisy = bytearray(data)
        for place in generator.integers(0, len(data), 1 + trial * 4):
            noisy[place] = generator.integers(0, 256)
        path = tmp_path / f"noisy{suffix}"
        path.write_bytes(noisy)
        try:
            sample = load(path)
        except MediaError:
            continue
        assert sample.audio is None or np.abs(sample.audio).max() <= 1
        assert sample.frames is None or sample.frames.shape[-1] == 3


DISGUISES = {
    "a playlist": (".mp4", b"#EXTM3U\nhttp://localhost/secret.ts\n"),
    "a concat script": (".mkv", b"ffconcat version 1.0\nfile /etc/hostname\n"),
    "text": (".mp3", b"just some words " * 99),
    "a page": (".jpg", b"<html></html>" * 99),
    "text as sound": (".wav", b"just some words " * 99),
}


@pytest.mark.parametrize("suffix, data", DISGUISES.values(), ids=DISGUISES.keys())
def test_other_files_in_disguise_are_refused(tmp_path, suffix, data):
    (tmp_path / f"a{suffix}").write_bytes(data)
    with pytest.raises(MediaError):
        load(tmp_path / f"a{suffix}")


def test_kinds_are_not_mixed_up(tmp_path):
    sound, video = write_sound(tmp_path / "a.wav"), write_video(tmp_path / "v.mp4")
    for data, suffix in ((sound, ".mp4"), (sound, ".png"), (video, ".jpg")):
        (tmp_path / f"x{suffix}").write_bytes(data.read_bytes())
        with pytest.raises(MediaError):
            load(tmp_path / f"x{suffix}")


def test_the_right_kind_under_the_wrong_extension_is_read(tmp_path):
    (tmp_path / "x.jpg").write_bytes(write_picture(tmp_path / "p.png").read_bytes())
    (tmp_path / "x.mp3").write_bytes(write_sound(tmp_path / "a.wav").read_bytes())
    assert load(tmp_path / "x.jpg").frames.shape == (1, 64, 96, 3)
    assert len(load(tmp_path / "x.mp3").audio) == 32_000


@pytest.mark.parametrize("name", ["a:b", "100%d", "-i", "pipe:0", "sp ace", "ü"])
@pytest.mark.parametrize("suffix", [".png", ".mp3", ".wav", ".mp4"])
def test_names_mean_nothing(tmp_path, name, suffix):
    load(write_media(tmp_path / f"a{suffix}").rename(tmp_path / f"{name}{suffix}"))


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".png", ".mp4"])
@pytest.mark.parametrize("what", ["nothing", "a folder"])
def test_what_is_no_file_is_refused(tmp_path, suffix, what):
    path = tmp_path / f"a{suffix}"
    if what == "a folder":
        path.mkdir()
    with pytest.raises(MediaError, match="there is none"):
        load(path)


def test_an_item_without_files_is_refused():
    with pytest.raises(MediaError, match="no file"):
        load_sample(MediaItem(None, "a"))


@pytest.mark.parametrize("side", [7, 8193, 20_000])
def test_odd_sizes_are_refused_before_they_are_decoded(tmp_path, side):
    (tmp_path / "p.png").write_bytes(png(side, 16, colour=0, body=b"\0" * 17))
    with pytest.raises(MediaError, match=f"{side} x 16|has more"):
        load_picture(tmp_path / "p.png")


def test_a_picture_bomb_costs_nothing(tmp_path):
    (tmp_path / "p.png").write_bytes(png(60_000, 60_000, colour=0, body=bytes(1 << 20)))
    with pytest.raises(MediaError, match="64,000,000 pixels"):
        load_picture(tmp_path / "p.png")


BAD_VALUES = {
    "too short": (np.zeros(400, np.float32), "at least 0.05 s"),
    "NaN": (np.full(4_000, np.nan, np.float32), "NaN"),
    "too loud": (np.full(4_000, 30.0, np.float32), "peak is 30"),
    "no samples": (np.zeros(0, np.float32), "at least 0.05 s"),
}


@pytest.mark.parametrize("samples, message", BAD_VALUES.values(), ids=BAD_VALUES.keys())
def test_sound_files_with_unusable_samples_are_refused(tmp_path, samples, message):
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(MediaError, match=message):
        load_audio(tmp_path / "a.wav")


def test_an_unusable_rate_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(4_000), 2_000)
    with pytest.raises(MediaError, match="4,000 to 192,000"):
        load_audio(tmp_path / "a.wav")


def test_files_too_long_for_one_sample_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(media, "MAX_DURATION_S", 1.5)
    for suffix in (*SOUNDS, *VIDEOS):
        with pytest.raises(MediaError, match="windows"):
            load(write_media(tmp_path / f"a{suffix}"))


def test_a_stream_of_unknown_length_is_read(tmp_path):
    path = write_sound(tmp_path / "a.wav")
    data = path.read_bytes()
    place = data.index(b"data") + 4
    path.write_bytes(data[:4] + b"\xff" * 4 + data[8:place] + b"\xff" * 4 + data[place + 4 :])
    assert len(load_audio(path)) == 32_000


def test_an_mp3_without_a_length_header_is_read(tmp_path):
    path = write_sound(tmp_path / "a.mp3")
    data = path.read_bytes()
    start = min(place for mark in (b"\xff\xfb", b"\xff\xf3") if (place := data.find(mark)) >= 0)
    path.write_bytes(data[start:].replace(b"Xing", b"\0\0\0\0").replace(b"Info", b"\0\0\0\0"))
    assert len(load_audio(path)) == pytest.approx(32_000, abs=3_000)


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_a_video_that_does_not_state_its_length_is_read(tmp_path, suffix):
    sample = load_video(write_video(tmp_path / f"v{suffix}", seekable=False), max_frames=4)
    np.testing.assert_allclose(sample.frames.mean(axis=(1, 2, 3)), [24, 84, 144, 204], atol=16)
    assert len(sample.audio) == pytest.approx(32_000, abs=1_600)
