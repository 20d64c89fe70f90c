"""Media files to samples: sounds, pictures, videos, pairs of a sound and a picture, motion, and texts.

Corrupt, truncated and empty files raise ``MediaError``. What can be noticed depends on the format: FLAC, Ogg and
PNG carry checksums; WAV, MP4, MKV, WebM and MP3 (with a length header) state their length; a JPEG with a
broken body is refused whole rather than shown half grey. Flipped bits inside WAV or WebP data cannot be seen.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from mmcl_edge.data import videos
from mmcl_edge.data.arrays import MIN_DURATION_S
from mmcl_edge.data.containers import PIXEL_LIMIT, broken, check_file, open_media
from mmcl_edge.data.items import SUFFIXES, Kind, MediaItem, kind_of, pair_files
from mmcl_edge.data.motion import load_motion
from mmcl_edge.data.pictures import SHORT_SIDE_PX, check_pixels, exif_orientation, to_rgb, turn_upright
from mmcl_edge.data.sounds import check_length, collect, pieces_of
from mmcl_edge.data.texts import load_text
from mmcl_edge.data.windows import stream_windows, windows
from mmcl_edge.errors import MediaError
from mmcl_edge.types import SAMPLE_RATE_HZ, Sample

__all__ = [
    "MAX_DURATION_S",
    "SHORT_SIDE_PX",
    "SUFFIXES",
    "Kind",
    "MediaItem",
    "kind_of",
    "load_audio",
    "load_motion",
    "load_picture",
    "load_sample",
    "load_text",
    "load_video",
    "pair_files",
    "stream_windows",
    "windows",
]

MAX_DURATION_S = 600.0
"""Longest file that becomes one sample; longer ones are read as windows."""
MAX_PICTURE_BYTES = 128 << 20


def load_sample(item: MediaItem, *, max_frames: int = 4, short_side_px: int | None = SHORT_SIDE_PX) -> Sample:
    """Decode an item.

    Args:
        item: what to decode.
        max_frames: at most so many frames of a video.
        short_side_px: larger pictures are reduced to this short side; ``None`` keeps their size.

    Raises:
        MediaError: a file cannot be decoded, or the item has none.
    """
    if not item.files:
        raise MediaError(
            f"{item.stem}: expected a sound, a picture, a video, motion or a text, but the item has no file."
        )
    audio = frames = None
    if item.video is not None:
        video = load_video(item.video, max_frames=max_frames, short_side_px=short_side_px)
        audio, frames = video.audio, video.frames
    if item.audio is not None:
        audio = load_audio(item.audio)
    if item.picture is not None:
        frames = load_picture(item.picture, short_side_px=short_side_px)
    motion = None if item.motion is None else load_motion(item.motion)
    text = None if item.text is None else load_text(item.text)
    return Sample(audio, frames, item.label, item.source, motion, text)


def load_audio(path: Path | str) -> NDArray[np.float32]:
    """A sound file as a mono waveform ``(samples,)`` in [-1, 1] at 16 kHz, at most ten minutes.

    Raises:
        MediaError: corrupt, truncated, empty, too short or too long.
    """
    path = Path(path)
    return collect(path, pieces_of(path), max_duration_s=MAX_DURATION_S)


def load_picture(path: Path | str, *, short_side_px: int | None = None) -> NDArray[np.uint8]:
    """A picture file as ``(1, H, W, 3)`` uint8 RGB, upright, transparency over white.

    Args:
        path: JPEG, PNG or WebP (the first picture of an animated one).
        short_side_px: a larger picture is reduced to this short side.

    Raises:
        MediaError: corrupt, truncated, empty, too small or too large.
    """
    path = Path(path)
    check_file(path)
    if path.stat().st_size > MAX_PICTURE_BYTES:
        raise broken(path, f"expected a picture file of at most {MAX_PICTURE_BYTES >> 20} MiB, but it is larger")
    picture = to_rgb(_first_frame(path), short_side_px=short_side_px)
    with path.open("rb") as file:
        orientation = exif_orientation(file.read(1 << 17))
    return turn_upright(picture, orientation)[None]


def _first_frame(path: Path) -> av.VideoFrame:
    with open_media(path, picture=True) as container:
        stream = container.streams.video[0]
        check_pixels(path, width=stream.width, height=stream.height)
        stream.codec_context.options = {"err_detect": "explode", **PIXEL_LIMIT}
        for frame in container.decode(stream):
            return frame
    raise broken(path, "expected a picture, but none could be decoded")


def load_video(path: Path | str, *, max_frames: int, short_side_px: int | None = None) -> Sample:
    """A video file as its sound track and up to ``max_frames`` frames, uniformly spaced in time.

    Raises:
        MediaError: corrupt, truncated, empty, without pictures, or longer than ten minutes.
    """
    path = Path(path)
    length_s = videos.duration_s(path)
    check_length(path, length_s, MAX_DURATION_S)
    picker = videos.FramePicker(videos.even_times(0.0, length_s, max_frames), short_side_px=short_side_px)
    sound: list[NDArray[np.float32]] = []
    for time_s, event in videos.events(path):
        check_length(path, time_s, MAX_DURATION_S)
        if isinstance(event, np.ndarray):
            sound.append(event)
        else:
            picker.offer(time_s, event)
    frames = picker.frames()
    if frames is None:
        raise broken(path, "expected a video, but no picture could be decoded")
    audio = np.concatenate(sound)
    heard = len(audio) >= MIN_DURATION_S * SAMPLE_RATE_HZ
    return Sample(audio if heard else None, frames, source=path.name)
