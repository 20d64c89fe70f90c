"""Decoding of videos in one pass: sound and pictures as events on one clock, frames picked by time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from mmcl_edge.data.containers import PIXEL_LIMIT, broken, check_complete, declared_duration_s, open_media, start_time_s
from mmcl_edge.data.pictures import check_pixels, to_rgb, turn_by
from mmcl_edge.data.sounds import SoundPipe, Track

Event = tuple[float, "NDArray[np.float32] | av.VideoFrame"]
"""A time in seconds with 16 kHz sound ``(samples,)`` that ends then, or with a frame that appears then."""


def events(path: Path) -> Iterator[Event]:
    """What a video file holds, in the order of the file, decoded as it is asked for.

    Raises:
        MediaError: corrupt, truncated, or without a picture track; raised when the fault is reached.
    """
    with open_media(path) as container:
        video = _picture_track(path, container)
        track, pipe = Track(start_time_s(container)), SoundPipe(path)
        seen_s = 0.0
        for frame in container.decode(video, *container.streams.audio[:1]):
            if isinstance(frame, av.AudioFrame):
                for piece, rate_hz in track.pieces(frame):
                    sound = pipe.push(piece, rate_hz)
                    yield pipe.duration_s, sound
            elif isinstance(frame, av.VideoFrame) and not frame.is_corrupt:
                time_s = max((frame.time or 0.0) - start_time_s(container), 0.0)
                seen_s = max(seen_s, time_s)
                yield time_s, frame
        yield pipe.duration_s, pipe.finish()
        slack_s = 0.15 + float(1 / (video.average_rate or 1))
        seen_s = max(seen_s, pipe.duration_s)
        check_complete(path, decoded_s=seen_s, declared_s=declared_duration_s(container), slack_s=slack_s)


def duration_s(path: Path) -> float:
    """Length of a video in seconds: what its header states, else what its packets reach (nothing is decoded).

    Raises:
        MediaError: it cannot be opened, or has no picture track.
    """
    with open_media(path) as container:
        video = _picture_track(path, container)
        declared = declared_duration_s(container)
        if declared is not None:
            return declared
        times = [float(p.pts * p.time_base) for p in container.demux(video) if p.pts is not None and p.time_base]
        return max(times, default=0.0) - start_time_s(container)


def _picture_track(path: Path, container: InputContainer) -> av.VideoStream:
    if not container.streams.video:
        raise broken(path, "expected a video, but it has no picture track")
    stream = container.streams.video[0]
    check_pixels(path, width=stream.width, height=stream.height)
    stream.codec_context.options = PIXEL_LIMIT
    return stream


def even_times(start_s: float, end_s: float, count: int) -> list[float]:
    """Middles of ``count`` equal parts of the span."""
    return [start_s + (part + 0.5) * (end_s - start_s) / count for part in range(count)]


class FramePicker:
    """Keeps the frame shown at each of the wanted times, from frames offered in order.

    Args:
        times_s: wanted times in seconds, ascending.
        short_side_px: frames are reduced to this short side; ``None`` keeps their size.
    """

    def __init__(self, times_s: Sequence[float], *, short_side_px: int | None = None) -> None:
        self._wanted = deque(times_s)
        self._short_side_px = short_side_px
        self._shown: av.VideoFrame | None = None
        self._picked: list[NDArray[np.uint8]] = []
        self._last: av.VideoFrame | None = None

    def offer(self, time_s: float, frame: av.VideoFrame) -> None:
        """A frame that appears at ``time_s``: times before it belong to the frame shown until then."""
        while self._wanted and time_s > self._wanted[0]:
            self._pick(self._shown or frame)
        self._shown = frame

    def frames(self) -> NDArray[np.uint8] | None:
        """The picked frames ``(T, H, W, 3)`` without repetitions; times after the last frame show it."""
        if self._shown is not None:
            while self._wanted:
                self._pick(self._shown)
        return np.stack(self._picked) if self._picked else None

    def _pick(self, frame: av.VideoFrame) -> None:
        self._wanted.popleft()
        if frame is self._last:
            return
        self._last = frame
        picture = turn_by(to_rgb(frame, short_side_px=self._short_side_px), frame.rotation)
        if not self._picked or self._picked[0].shape == picture.shape:
            self._picked.append(picture)
