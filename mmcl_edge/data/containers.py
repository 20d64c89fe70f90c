"""Opening media files with FFmpeg (through PyAV), safely.

Rules:
1. A file is opened as a stream of bytes, never by name: names with colons or per cent signs mean nothing to FFmpeg.
2. The first bytes decide which of the formats below is read. FFmpeg never guesses: it takes small JPEGs for other
   things, and a playlist in disguise would fetch other files.
3. Whatever FFmpeg refuses becomes a ``MediaError`` that names the file.
4. Containers are closed on every path out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer

from mmcl_edge.errors import MediaError

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "jpeg_pipe"),
    (0, b"\x89PNG\r\n\x1a\n", "png_pipe"),
    (8, b"WEBP", "webp_pipe"),
    (8, b"WAVE", "wav"),
    (0, b"fLaC", "flac"),
    (0, b"OggS", "ogg"),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    *((4, atom, "mov") for atom in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")),
    (0, b"ID3", "mp3"),
    *((0, bytes((0xFF, second)), "mp3") for second in (0xE2, 0xE3, 0xF2, 0xF3, 0xFA, 0xFB)),
)
"""Offset and bytes that mark a format, and FFmpeg's name for it."""
MAX_PIXELS = 64_000_000
"""Largest picture that is decoded (192 MB as RGB)."""
PIXEL_LIMIT = {"max_pixels": str(MAX_PIXELS)}
"""FFmpeg's codec option that refuses larger pictures before it decodes them."""

_ADVICE = "replace it with a whole one or remove it"


def broken(path: Path, what: str) -> MediaError:
    """The error for a file that cannot be decoded; ``what`` says what was expected and found."""
    return MediaError(f"{path}: {what}; {_ADVICE}.")


def check_file(path: Path) -> None:
    """Refuse what is not a file with bytes in it.

    Raises:
        MediaError: missing, not a regular file, or empty.
    """
    if not path.is_file():
        raise MediaError(f"{path}: expected a media file, but there is none; check the path.")
    if path.stat().st_size == 0:
        raise broken(path, "expected a media file, but it is empty (0 bytes)")


@contextmanager
def decoding_errors(path: Path) -> Iterator[None]:
    """Turn what FFmpeg and the system say about ``path`` into a ``MediaError`` sentence."""
    try:
        yield
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise broken(path, f"expected a file that decodes, but it is corrupt or unsupported ({reason})") from error


@contextmanager
def open_media(path: Path, *, picture: bool = False) -> Iterator[InputContainer]:
    """An open container; errors inside the block become ``MediaError``.

    Args:
        path: the file.
        picture: expect a still picture (one stream, of at most ``MAX_PIXELS``); otherwise a sound or video.

    Raises:
        MediaError: the file is missing, empty, corrupt, or of no format that is read here.
    """
    check_file(path)
    format_name = _format_of(path, picture=picture)
    limit: Any = [PIXEL_LIMIT] if picture else None  # while FFmpeg probes, which decodes pictures
    with (
        decoding_errors(path),
        path.open("rb") as file,
        av.open(file, "r", format=format_name, metadata_errors="replace", stream_options=limit) as container,
    ):
        yield container


def _format_of(path: Path, *, picture: bool) -> str:
    with decoding_errors(path), path.open("rb") as file:
        head = file.read(16)
    for offset, mark, name in _SIGNATURES:
        if name.endswith("_pipe") is picture and head[offset : offset + len(mark)] == mark:
            return name
    kind = "picture (JPEG, PNG or WebP)" if picture else "sound or video (WAV, FLAC, Ogg, MP3, MP4, MKV or WebM)"
    raise broken(path, f"expected a {kind}, but it begins with {head[:8]!r}, which marks none of them")


def declared_duration_s(container: InputContainer) -> float | None:
    """The length that the container's header states, in seconds, or ``None``."""
    return None if container.duration is None else container.duration / av.time_base


def start_time_s(container: InputContainer) -> float:
    """Time stamp of the container's first instant, in seconds: the zero of all its streams."""
    return 0.0 if container.start_time is None else container.start_time / av.time_base


def check_complete(path: Path, *, decoded_s: float, declared_s: float | None, slack_s: float = 0.15) -> None:
    """Refuse a file that ends before its header says.

    Raises:
        MediaError: less was decoded than declared, by more than ``slack_s`` and 2 %.
    """
    if declared_s is not None and decoded_s < 0.98 * declared_s - slack_s:
        raise broken(
            path,
            f"its header states {declared_s:.2f} s, but only {decoded_s:.2f} s could be decoded (truncated file)",
        )
