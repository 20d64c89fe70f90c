"""Decoded video frames as RGB arrays: colour, transparency, size, orientation."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from mmcl_edge.data.arrays import MAX_SIDE_PX, MIN_SIDE_PX
from mmcl_edge.data.containers import MAX_PIXELS, broken

SHORT_SIDE_PX = 384
"""Samples keep pictures no larger than this: above what backbones see, and a task fits in a device's memory."""

_ORIENTATION_TAG = 0x0112
_TURNS: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}
"""EXIF orientation to the operation that sets the picture upright."""


def check_pixels(path: Path, *, width: int, height: int) -> None:
    """Refuse a picture that is too small or too large, before it is decoded.

    Raises:
        MediaError: a side is outside 8 to 8,192 px, or there are more than 64 million pixels.
    """
    sides = sorted((width, height))
    found = f"it has {width} x {height}" if sides[0] else "it has more, or its header is broken"
    if sides[0] < MIN_SIDE_PX or sides[1] > MAX_SIDE_PX or width * height > MAX_PIXELS:
        raise broken(
            path,
            f"expected sides of {MIN_SIDE_PX} to {MAX_SIDE_PX:,} px and at most {MAX_PIXELS:,} pixels, but {found}",
        )


def to_rgb(frame: av.VideoFrame, *, short_side_px: int | None = None) -> NDArray[np.uint8]:
    """A frame as RGB ``(H, W, 3)`` uint8; transparency is laid over white.

    Args:
        frame: as decoded.
        short_side_px: a larger frame is reduced (area filter) until its short side has so many pixels.
    """
    width, height = _reduced(frame.width, frame.height, short_side_px)
    pixels = "rgba" if _has_alpha(frame) else "rgb24"
    array = frame.reformat(width, height, format=pixels, interpolation="AREA").to_ndarray()
    return _over_white(array) if pixels == "rgba" else array.astype(np.uint8, copy=False)


def turn_upright(picture: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """``(H, W, 3)`` turned and mirrored as EXIF ``orientation`` (1 to 8) asks; unknown values change nothing."""
    return np.ascontiguousarray(_TURNS.get(orientation, _TURNS[1])(picture))


def turn_by(picture: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    """``(H, W, 3)`` turned anticlockwise by the nearest multiple of 90 degrees (a video's display matrix)."""
    return np.ascontiguousarray(np.rot90(picture, round(degrees / 90) % 4))


def exif_orientation(data: bytes) -> int:
    """The EXIF orientation (1 to 8) in the bytes of a JPEG; 1 where there is none or it makes no sense."""
    start = data.find(b"Exif\0\0", 0, 1 << 16)
    if data[:2] != b"\xff\xd8" or start < 0:
        return 1
    try:
        return _orientation_of(data[start + 6 : start + 6 + (1 << 16)])
    except struct.error:
        return 1


def _orientation_of(tiff: bytes) -> int:
    order = "<" if tiff[:2] == b"II" else ">"
    (offset,) = struct.unpack_from(order + "I", tiff, 4)
    (count,) = struct.unpack_from(order + "H", tiff, offset)
    for entry in range(offset + 2, offset + 2 + 12 * count, 12):
        tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
        if tag == _ORIENTATION_TAG:
            return value if 1 <= value <= 8 else 1
    return 1


def _reduced(width: int, height: int, short_side_px: int | None) -> tuple[int, int]:
    factor = 1.0 if short_side_px is None else min(short_side_px / min(width, height), 1.0)
    return round(width * factor), round(height * factor)


def _has_alpha(frame: av.VideoFrame) -> bool:
    return frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components)


def _over_white(rgba: NDArray[Any]) -> NDArray[np.uint8]:
    alpha = rgba[..., 3:].astype(np.uint16)
    colours = rgba[..., :3].astype(np.uint16) * alpha + 255 * (255 - alpha)
    return ((colours + 127) // 255).astype(np.uint8)
