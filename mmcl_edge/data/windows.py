"""Long samples and long files as windows with their times, in bounded memory.

A window is ``(start_s, end_s, Sample)``. Windows start every ``hop_s``; the last one ends with the sound, so it may be
shorter. Frames belong to the window in which they are shown; a single picture belongs to all of them. Motion is cut at
the same times as the sound beside it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from mmcl_edge.data.arrays import MIN_DURATION_S
from mmcl_edge.data.items import kind_of
from mmcl_edge.data.motion import MIN_DURATION_S as MIN_MOTION_S
from mmcl_edge.data.pictures import SHORT_SIDE_PX
from mmcl_edge.data.sounds import SoundPipe, pieces_of
from mmcl_edge.data.videos import Event, FramePicker, even_times, events
from mmcl_edge.errors import InputError
from mmcl_edge.types import MOTION_RATE_HZ, SAMPLE_RATE_HZ, Sample

Window = tuple[float, float, Sample]

_LAG_S = 10.0
"""A track that is so far behind the other one has ended, or was never there."""
_MIN_SAMPLES = round(MIN_DURATION_S * SAMPLE_RATE_HZ)
_MIN_READINGS = round(MIN_MOTION_S * MOTION_RATE_HZ)


def windows(
    sample: Sample, *, window_s: float, hop_s: float, frame_times_s: Sequence[float] | None = None
) -> Iterator[Window]:
    """Cut a sample in memory into windows.

    Args:
        sample: what to cut; its pictures alone (no sound, no times) are one window of no length.
        window_s: length of a window in seconds.
        hop_s: from one start to the next, in seconds.
        frame_times_s: when each frame appears; ``None`` spreads several frames evenly over the sound.

    Raises:
        InputError: a length that makes no sense.
    """
    _check(window_s, hop_s)
    sound_s = 0.0 if sample.audio is None else len(sample.audio) / SAMPLE_RATE_HZ
    motion_s = 0.0 if sample.motion is None else len(sample.motion) / MOTION_RATE_HZ
    count = 0 if sample.frames is None else len(sample.frames)
    times = list(frame_times_s) if frame_times_s is not None else even_times(0.0, sound_s or motion_s, count)
    for start_s, end_s in _spans(max([sound_s or motion_s, *times]), window_s, hop_s):
        audio = None if sample.audio is None else sample.audio[_at(start_s) : _at(end_s)]
        frames = None if sample.frames is None else sample.frames[_shown(times, start_s, end_s)]
        motion = None if sample.motion is None else motion_between(sample.motion, start_s, end_s)
        yield start_s, end_s, replace(sample, audio=audio, frames=frames, motion=motion)


def motion_between(motion: NDArray[np.float32], start_s: float, end_s: float) -> NDArray[np.float32] | None:
    """The readings ``(samples, channels)`` of a span of time; ``None`` where it has next to none."""
    part = motion[round(start_s * MOTION_RATE_HZ) : round(end_s * MOTION_RATE_HZ)]
    return part if len(part) >= _MIN_READINGS else None


def stream_windows(
    path: Path, *, window_s: float, hop_s: float, max_frames: int = 4, short_side_px: int | None = SHORT_SIDE_PX
) -> Iterator[Window]:
    """Decode a sound or video file window by window; memory depends on the windows, not on the file.

    Args:
        path: sound or video of any length.
        window_s: length of a window in seconds.
        hop_s: from one start to the next, in seconds.
        max_frames: at most so many frames in a window of a video, uniformly spaced.
        short_side_px: larger frames are reduced to this short side; ``None`` keeps their size.

    Raises:
        InputError: a length that makes no sense, or a file that is neither sound nor video.
        MediaError: corrupt or truncated; windows before the fault have been given by then.
    """
    _check(window_s, hop_s)
    cutter = _Cutter(window_s, hop_s, max_frames, short_side_px, source=path.name)
    for time_s, event in _events(path):
        if isinstance(event, av.VideoFrame):
            cutter.add_frame(time_s, event)
        else:
            cutter.add_sound(event)
        yield from cutter.ready()
    yield from cutter.rest()


def _events(path: Path) -> Iterator[Event]:
    kind = kind_of(path)
    if kind == "video":
        yield from events(path)
    elif kind == "audio":
        pipe = SoundPipe(path)
        for piece, rate_hz in pieces_of(path):
            yield 0.0, pipe.push(piece, rate_hz)
        yield 0.0, pipe.finish()
    else:
        raise InputError(f"{path}: expected a sound or a video to cut into windows, but it is neither.")


def _check(window_s: float, hop_s: float) -> None:
    if not (math.isfinite(window_s) and window_s >= MIN_DURATION_S and math.isfinite(hop_s) and hop_s > 0):
        raise InputError(
            f"Expected windows of at least {MIN_DURATION_S:g} s and a hop above 0 s, but found {window_s!r} and "
            f"{hop_s!r}; try 5 and 2.5."
        )


def _spans(duration_s: float, window_s: float, hop_s: float) -> Iterator[tuple[float, float]]:
    number = 0
    yield 0.0, min(window_s, duration_s)
    while _is_needed(number + 1, duration_s, window_s, hop_s):
        number += 1
        yield number * hop_s, min(number * hop_s + window_s, duration_s)


def _is_needed(number: int, duration_s: float, window_s: float, hop_s: float) -> bool:
    """Whether the window before leaves something at the end, and this one would hold something."""
    uncovered = duration_s > (number - 1) * hop_s + window_s + MIN_DURATION_S
    return number == 0 or (uncovered and duration_s >= number * hop_s + MIN_DURATION_S)


def _at(time_s: float) -> int:
    return round(time_s * SAMPLE_RATE_HZ)


def _shown(times_s: Sequence[float], start_s: float, end_s: float) -> list[int]:
    """Indices of the frames that appear in the span; where none does, the one on show as it starts."""
    inside = [index for index, time_s in enumerate(times_s) if start_s <= time_s < end_s]
    before = [index for index, time_s in enumerate(times_s) if time_s < start_s]
    return inside or before[-1:] or [0]


@dataclass
class _Open:
    number: int
    start_s: float
    end_s: float
    picker: FramePicker


class _Cutter:
    """Collects sound and frames, and gives the windows that are complete."""

    def __init__(
        self, window_s: float, hop_s: float, max_frames: int, short_side_px: int | None, *, source: str
    ) -> None:
        self._window_s, self._hop_s, self._source = window_s, hop_s, source
        self._max_frames, self._short_side_px = max_frames, short_side_px
        self._open: deque[_Open] = deque()
        self._next = 0
        self._sound = np.zeros(0, np.float32)
        self._sound_from = 0  # index of the first sample that is still kept
        self._frame_s = 0.0
        self._frame_gap_s = 0.0
        self._shown: av.VideoFrame | None = None
        self._open_until(0.0)

    @property
    def _sound_s(self) -> float:
        return (self._sound_from + len(self._sound)) / SAMPLE_RATE_HZ

    def add_sound(self, samples: NDArray[np.float32]) -> None:
        self._sound = np.concatenate((self._sound, samples))
        self._open_until(self._sound_s)

    def add_frame(self, time_s: float, frame: av.VideoFrame) -> None:
        self._open_until(time_s)
        for window in self._open:
            window.picker.offer(time_s, frame)
        self._frame_gap_s, self._frame_s, self._shown = time_s - self._frame_s, time_s, frame

    def ready(self) -> Iterator[Window]:
        """Windows that both tracks have passed, or one of them by far."""
        passed_s = max(min(self._sound_s, self._frame_s), max(self._sound_s, self._frame_s) - _LAG_S)
        while self._open and self._open[0].end_s <= passed_s:
            window = self._open.popleft()
            yield from self._cut(window, window.end_s)
        keep_from = _at(self._open[0].start_s if self._open else self._next * self._hop_s)
        drop = min(max(keep_from - self._sound_from, 0), len(self._sound))
        self._sound, self._sound_from = self._sound[drop:], self._sound_from + drop

    def rest(self) -> Iterator[Window]:
        """The windows still open when the file ends."""
        duration_s = max(self._sound_s, self._frame_s + self._frame_gap_s)
        for window in self._open:
            if _is_needed(window.number, duration_s, self._window_s, self._hop_s):
                yield from self._cut(window, min(window.end_s, duration_s))

    def _cut(self, window: _Open, end_s: float) -> Iterator[Window]:
        first, last = (max(_at(time_s) - self._sound_from, 0) for time_s in (window.start_s, end_s))
        sound = self._sound[first:last].copy()
        audio, frames = sound if len(sound) >= _MIN_SAMPLES else None, window.picker.frames()
        if audio is not None or frames is not None:
            yield window.start_s, end_s, Sample(audio, frames, source=self._source)

    def _open_until(self, time_s: float) -> None:
        while self._next * self._hop_s <= time_s:
            start_s = float(self._next * self._hop_s)
            end_s = start_s + self._window_s
            picker = FramePicker(even_times(start_s, end_s, self._max_frames), short_side_px=self._short_side_px)
            if self._shown is not None:
                picker.offer(self._frame_s, self._shown)
            self._open.append(_Open(self._next, start_s, end_s, picker))
            self._next += 1
