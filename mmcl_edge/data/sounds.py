"""Decoding of sound files to mono 16 kHz, piece by piece, with truncation checks."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from mmcl_edge.data.arrays import MIN_DURATION_S, check_rate, check_values
from mmcl_edge.data.containers import (
    broken,
    check_complete,
    check_file,
    declared_duration_s,
    decoding_errors,
    open_media,
    start_time_s,
)
from mmcl_edge.data.resample import Resampler
from mmcl_edge.errors import InputError, MediaError

Piece = tuple[NDArray[np.float32], int]
"""Mono samples ``(samples,)`` and their rate in Hz."""

_BLOCK = 1 << 16
_UNKNOWN_FRAMES = 1 << 60


def pieces_of(path: Path) -> Iterator[Piece]:
    """A sound file's mono pieces in order, at their own rate, never more than a second or so in memory.

    Raises:
        MediaError: corrupt, truncated, empty; raised when the fault is reached.
    """
    return _ffmpeg_pieces(path) if path.suffix.lower() == ".mp3" else _soundfile_pieces(path)


def collect(path: Path, pieces: Iterable[Piece], *, max_duration_s: float) -> NDArray[np.float32]:
    """All pieces as one checked waveform ``(samples,)`` in [-1, 1] at 16 kHz.

    Raises:
        MediaError: no samples, too short, longer than ``max_duration_s``, not finite, or of an unusable rate.
    """
    pipe = SoundPipe(path)
    parts = []
    for piece, rate_hz in pieces:
        parts.append(pipe.push(piece, rate_hz))
        check_length(path, pipe.duration_s, max_duration_s)
    if pipe.duration_s < MIN_DURATION_S:
        raise broken(path, f"expected at least {MIN_DURATION_S:g} s of sound, but it has {pipe.duration_s:.3f} s")
    return np.concatenate([*parts, pipe.finish()])


def check_length(path: Path, duration_s: float, max_duration_s: float) -> None:
    """Refuse what is too long to be held in memory as one sample.

    Raises:
        MediaError: ``duration_s`` is above ``max_duration_s``.
    """
    if duration_s > max_duration_s:
        raise MediaError(
            f"{path}: expected at most {max_duration_s:g} s in one sample, but it is longer; "
            "cut it into clips, or predict over windows."
        )


class SoundPipe:
    """Checks, resamples and clips one file's sound piece by piece.

    Attributes:
        duration_s: how much sound came in so far.
    """

    def __init__(self, path: Path) -> None:
        self.duration_s = 0.0
        self._path = path
        self._resampler: Resampler | None = None

    def push(self, piece: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
        """Take mono ``(samples,)`` at ``rate_hz``; give what is ready at 16 kHz.

        Raises:
            MediaError: a value or the rate cannot be used.
        """
        _check(self._path, piece, rate_hz)
        self._resampler = self._resampler or Resampler(rate_hz)
        self.duration_s += len(piece) / rate_hz
        return np.clip(self._resampler.push(piece), -1.0, 1.0)

    def finish(self) -> NDArray[np.float32]:
        """The rest, after the last piece."""
        return np.zeros(0, np.float32) if self._resampler is None else np.clip(self._resampler.finish(), -1.0, 1.0)


class Track:
    """Turns a container's decoded sound frames into mono pieces; a track that starts late begins with silence.

    Args:
        start_s: the container's zero of time, in seconds.
    """

    def __init__(self, start_s: float) -> None:
        self._convert = av.AudioResampler(format="fltp")
        self._start_s: float | None = start_s

    def pieces(self, frame: av.AudioFrame) -> Iterator[Piece]:
        """Mono pieces of one frame."""
        if self._start_s is not None and (late_s := (frame.time or 0.0) - self._start_s) > 0.02:
            yield np.zeros(round(late_s * frame.sample_rate), np.float32), frame.sample_rate
        self._start_s = None
        for planar in self._convert.resample(frame):
            yield planar.to_ndarray().mean(axis=0, dtype=np.float32), planar.sample_rate


def _check(path: Path, piece: NDArray[np.float32], rate_hz: int) -> None:
    try:
        check_rate(rate_hz)
        if len(piece):
            check_values(piece, "The sound")
    except InputError as error:
        raise MediaError(f"{path}: {error}") from error


def _soundfile_pieces(path: Path) -> Iterator[Piece]:
    check_file(path)
    with decoding_errors(path):
        _check_riff(path)
    try:
        with soundfile.SoundFile(path) as file:
            read = 0
            while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
                read += len(block)
                yield block.mean(axis=1, dtype=np.float32), file.samplerate
            declared = file.frames if file.frames < _UNKNOWN_FRAMES else read
            check_complete(path, decoded_s=read / file.samplerate, declared_s=declared / file.samplerate, slack_s=0.0)
    except soundfile.SoundFileError as error:
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        raise broken(path, f"expected a sound file, but it is corrupt or truncated ({reason})") from error


def _ffmpeg_pieces(path: Path) -> Iterator[Piece]:
    with open_media(path) as container:
        if not container.streams.audio:
            raise broken(path, "expected a sound file, but it has no sound track")
        decoded_s = 0.0
        track = Track(start_time_s(container))
        for frame in container.decode(container.streams.audio[0]):
            for piece, rate_hz in track.pieces(frame):
                decoded_s += len(piece) / rate_hz
                yield piece, rate_hz
        if _states_length(path):
            check_complete(path, decoded_s=decoded_s, declared_s=declared_duration_s(container), slack_s=0.1)


def _states_length(path: Path) -> bool:
    """Whether an MP3 carries a header with its length; without one FFmpeg only guesses it."""
    with path.open("rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3":
            file.seek(10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)))
        first_frame = head + file.read(512)
    return any(mark in first_frame for mark in (b"Xing", b"Info", b"VBRI"))


def _check_riff(path: Path) -> None:
    """Refuse a WAV whose data chunk states more bytes than the file has (libsndfile reads such files silently)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"RIFF" or len(file.read(8)) < 8:
            return
        while len(head := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", head)
            if name == b"data":
                _check_data_chunk(path, stated=length, found=size - file.tell())
                return
            file.seek(length + length % 2, 1)


def _check_data_chunk(path: Path, *, stated: int, found: int) -> None:
    unknown = stated >= 0xFFFFFFF0  # a recorder that was streaming could not know
    if not unknown and stated > found:
        raise broken(path, f"its header states {stated:,} bytes of sound, but it holds {found:,} (truncated file)")
