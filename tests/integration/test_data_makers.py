"""Makes small media files for the tests of ``mmcl_edge.data``; skips where the FFmpeg build lacks an encoder."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

TONE_HZ = 440.0
FRAMES, FRAME_RATE_HZ = 20, 10
VIDEO_CODECS = {".mp4": ("libx264", "aac"), ".mkv": ("mpeg4", "aac"), ".webm": ("libvpx", "libopus")}
SOUNDS, PICTURES, VIDEOS = (".wav", ".flac", ".ogg", ".mp3"), (".jpg", ".png", ".webp"), tuple(VIDEO_CODECS)
_PICTURE_CODECS = {
    ".jpg": ("mjpeg", "yuvj444p"),
    ".jpeg": ("mjpeg", "yuvj444p"),
    ".png": ("png", None),
    ".webp": ("libwebp", "bgra"),
}


def shared_data() -> Path:
    """The folder with the test datasets, beside the repository; skips where it is absent."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not (folder / "av21" / "index.csv").is_file():
        pytest.skip(f"the test datasets are not in {folder}")
    return folder


def tone(duration_s: float = 2.0, rate_hz: int = 16_000, *, hz: float = TONE_HZ, peak: float = 0.4) -> np.ndarray:
    return (peak * np.sin(2 * np.pi * hz * np.arange(round(duration_s * rate_hz)) / rate_hz)).astype(np.float32)


def gradient(height: int = 64, width: int = 96) -> np.ndarray:
    """Red grows to the right, green to the bottom: every corner has its own colour."""
    rows, columns = np.mgrid[0:height, 0:width]
    blue = np.full((height, width), 64)
    return np.stack([columns * 255 // (width - 1), rows * 255 // (height - 1), blue], -1).astype(np.uint8)


def need_encoder(name: str) -> None:
    if name not in av.codecs_available:
        pytest.skip(f"this FFmpeg build has no encoder {name}")
    try:
        av.Codec(name, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this FFmpeg build has no encoder {name}")


def write_sound(path: Path, samples: np.ndarray | None = None, rate_hz: int = 16_000) -> Path:
    samples = tone(rate_hz=rate_hz) if samples is None else samples
    if path.suffix != ".mp3":
        soundfile.write(path, samples.T, rate_hz)
        return path
    need_encoder("mp3")
    with av.open(path, "w") as container:
        stream = container.add_stream("mp3", rate=rate_hz, layout="mono")
        for packet in (*stream.encode(_sound_frame(samples, rate_hz)), *stream.encode(None)):
            container.mux(packet)
    return path


def write_picture(path: Path, picture: np.ndarray | None = None, *, layout: str = "rgb24") -> Path:
    codec, pixels = _PICTURE_CODECS[path.suffix]
    need_encoder(codec)
    picture = gradient() if picture is None else picture
    context = av.VideoCodecContext.create(codec, "w")
    context.height, context.width = picture.shape[:2]
    context.pix_fmt, context.time_base = pixels or layout, Fraction(1, 1)
    if codec == "libwebp":
        context.options = {"lossless": "1"}
    frame = av.VideoFrame.from_ndarray(picture, format=layout).reformat(format=context.pix_fmt)
    path.write_bytes(b"".join(bytes(packet) for packet in (*context.encode(frame), *context.encode(None))))
    return path


def write_video(path: Path, *, sound: bool = True, duration_s: float = 2.0, seekable: bool = True) -> Path:
    """A video whose frame at time ``t`` is grey of the level ``12 * 10 t`` (modulo 240), with a tone.

    Where it is not ``seekable``, the muxer cannot go back and state the length in the header.
    """
    picture_codec, sound_codec = VIDEO_CODECS[path.suffix]
    need_encoder(picture_codec)
    need_encoder(sound_codec)
    target = path if seekable else _Pipe(path)
    with av.open(target, "w", format={".mkv": "matroska"}.get(path.suffix, path.suffix[1:])) as container:
        video = container.add_stream(picture_codec, rate=FRAME_RATE_HZ)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        audio = container.add_stream(sound_codec, rate=48_000, layout="mono") if sound else None
        for index in range(round(duration_s * FRAME_RATE_HZ)):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), index * 12 % 240, np.uint8), format="rgb24")
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            _write_track(container, audio, tone(duration_s, 48_000))
    return path


def write_media(path: Path) -> Path:
    if path.suffix in SOUNDS:
        return write_sound(path)
    return write_video(path) if path.suffix in VIDEOS else write_picture(path)


def with_orientation(jpeg: bytes, orientation: int, *, little: bool = False) -> bytes:
    """The JPEG with an EXIF block that states ``orientation``."""
    order, mark = ("<", b"II*\0") if little else (">", b"MM\0*")
    tiff = mark + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    block = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


class _Pipe:
    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_bytes(b"")

    def write(self, data: bytes) -> int:
        with self._path.open("ab") as file:
            return file.write(data)


def _sound_frame(samples: np.ndarray, rate_hz: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
    frame.sample_rate, frame.pts = rate_hz, 0
    return frame


def _write_track(container: av.container.OutputContainer, stream: av.AudioStream, samples: np.ndarray) -> None:
    context = stream.codec_context
    fit = av.AudioResampler(context.format, "mono", context.sample_rate, context.frame_size or None)
    for frame in (*fit.resample(_sound_frame(samples, 48_000)), *fit.resample(None)):
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
