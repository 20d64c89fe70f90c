"""UESTC-MMEA-CL: 32 daily activities, first-person video with accelerometer and gyroscope (Xu et al., IEEE TMM 2023).

Confirmed by the authors' own description: the layout below, 10 participants, 30.4 hours, about 200 clips a class, split
7:2:1, median filter of width 5 and removal of the gyroscope's drift before use::

    uestc_mmea/train.txt, val.txt, test.txt
    uestc_mmea/video/<number>_<class>/<stem>.mp4
    uestc_mmea/sensor/<number>_<class>/<stem>.csv      six columns of raw counts, no header: acceleration, turning

Confirmed by other people's loaders only: stems are ``<number>_<class>_<year>_<month>_<day>_<hour>_<minute>_<second>``;
lines of the lists hold a path, perhaps more after it (we take its last two parts, whatever stands before them); 16.4
counts are one degree a second. They disagree on counts a g: 8,192 or 16,384. With 8,192 the published mean and spread
give a root mean square of 1.01 g, what gravity must give, so that is the default.

Not known: who wears the glasses in which clip (names do not say, so there are no participants as domains; the day of
recording is offered instead, a guess at best), and the sensor's rate. Video and sensor are said to be synchronised, so
the rate follows from the number of readings and the length of the video unless it is given.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mmcl_edge.data import videos
from mmcl_edge.data.containers import check_file
from mmcl_edge.data.items import MediaItem
from mmcl_edge.data.media import load_sample
from mmcl_edge.data.motion import as_motion
from mmcl_edge.data.readers.index_files import Place, broken_line, plain, read_lines
from mmcl_edge.data.readers.rows import DatasetReader, IndexedReader, Row
from mmcl_edge.errors import InputError, MediaError
from mmcl_edge.types import FrozenModel, Sample

G_MEAN, G_STD = (0.0352, 0.3717, -0.7944), (0.1836, 0.4058, 0.2219)
"""Of acceleration in g (8,192 counts), as a public loader has them."""
ANGLE_MEAN, ANGLE_STD = (78.5445, -2.1253, -6.6940), (352.5285, 181.1698, 286.6291)
"""Of turning, drift removed and summed up over readings (``gyroscope='angle'``), as the same loader has them."""

_SPLITS = ("train", "val", "test")
_LAYOUT = (
    "uestc_mmea/train.txt, val.txt, test.txt, uestc_mmea/video/<number>_<class>/<stem>.mp4 and "
    "uestc_mmea/sensor/<number>_<class>/<stem>.csv"
)
_SOURCE = (
    "UESTC-MMEA-CL from the page of its authors (IVIP lab, University of Electronic Science and Technology of China)"
)
_DAY = re.compile(r"_(\d{4}_\d{1,2}_\d{1,2})_\d{1,2}_\d{1,2}_\d{1,2}$")


class UestcSettings(FrozenModel):
    """How raw counts become motion.

    ``gyroscope``: ``rate`` gives degrees a second; ``angle`` removes the drift (the clip's mean) and sums up over
    readings, as the authors' loader does and as ``ANGLE_MEAN`` and ``ANGLE_STD`` expect.
    """

    counts_per_g: float = Field(8192.0, gt=0)
    counts_per_dps: float = Field(16.4, gt=0)
    median_width: int = Field(5, ge=1, description="Readings of the median filter, odd; 1 leaves it out.")
    gyroscope: Literal["rate", "angle"] = "angle"
    rate_hz: float | None = Field(None, gt=0, description="Of the sensor; None takes readings by length of the video.")
    domains: Literal["none", "day"] = "none"


def read_uestc_mmea(root: Path, settings: UestcSettings | None = None) -> DatasetReader:
    """UESTC-MMEA-CL, classes in the order of their numbers.

    Raises:
        InputError: the dataset is not there or a list is broken.
    """
    settings = settings or UestcSettings()
    place = Place(root / "uestc_mmea", _LAYOUT, _SOURCE)
    rows = [row for split in _SPLITS for row in _rows(place, split, settings)]
    return IndexedReader("uestc_mmea", tuple(sorted(rows, key=_number)), partial(_decode, settings=settings))


def _number(row: Row) -> int:
    return int(row.id.split("_", 1)[0])


def _rows(place: Place, split: str, settings: UestcSettings) -> Iterator[Row]:
    path = place.file(f"{split}.txt")
    for number, line in read_lines(path):
        parts = PurePosixPath(line.split()[0].replace("\\", "/")).parts
        if len(parts) < 2 or not re.fullmatch(r"\d+_.+", parts[-2]):
            raise broken_line(path, number, "a path .../<number>_<class>/<stem>", f"it reads {line!r}")
        folder, stem = (plain(path, number, one, "of a clip") for one in (parts[-2], _stem(parts[-1])))
        label = folder.split("_", 1)[1]
        sensor, video = (
            place.folder / "sensor" / folder / f"{stem}.csv",
            place.folder / "video" / folder / f"{stem}.mp4",
        )
        item = MediaItem(label, stem, video=video, motion=sensor)
        yield Row(f"{folder}/{stem}", label, split, stem, _domain(stem, settings), item)


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0] if name.endswith((".mp4", ".csv")) else name


def _domain(stem: str, settings: UestcSettings) -> str:
    found = _DAY.search(stem) if settings.domains == "day" else None
    return found.group(1) if found else ""


def _decode(row: Row, *, settings: UestcSettings) -> Sample:
    """Video and motion of a row."""
    item = row.item
    assert item.video is not None
    assert item.motion is not None
    sample = load_sample(replace(item, motion=None))
    counts = read_counts(item.motion)
    rate_hz = settings.rate_hz or len(counts) / videos.duration_s(item.video)
    try:
        motion = as_motion(motion_of(counts, settings), rate_hz)
    except InputError as error:
        raise MediaError(f"{item.motion}: {error}") from error
    return replace(sample, motion=motion, source=item.source)


def read_counts(path: Path) -> NDArray[np.float64]:
    """A sensor file's raw counts ``(readings, 6)``.

    Raises:
        MediaError: missing, or not six numbers a line.
    """
    check_file(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [[float(cell) for cell in line[:6]] for line in csv.reader(file) if line]
    except (csv.Error, UnicodeDecodeError, ValueError) as error:
        raise MediaError(f"{path}: expected six numbers a line, but found something else ({error}).") from error
    if not lines or any(len(line) != 6 for line in lines):
        raise MediaError(f"{path}: expected six numbers a line, but some of its {len(lines)} lines have fewer.")
    return np.array(lines)


def motion_of(counts: NDArray[np.float64], settings: UestcSettings) -> NDArray[np.float32]:
    """Raw counts ``(readings, 6)`` as acceleration in g and turning in degrees a second, or summed up."""
    units = np.array([settings.counts_per_g] * 3 + [settings.counts_per_dps] * 3)
    values = median_filtered(counts / units, settings.median_width)
    if settings.gyroscope == "angle":
        values = np.concatenate([values[:, :3], summed_up(values[:, 3:])], axis=1)
    return values.astype(np.float32)


def median_filtered(values: NDArray[Any], width: int) -> NDArray[Any]:
    """Each reading ``(readings, channels)`` replaced by the median of ``width`` around it (zeros beyond the ends).

    Raises:
        InputError: an even width.
    """
    if width % 2 == 0:
        raise InputError(f"Expected an odd width of the median filter, but it is {width}; 5 is usual.")
    if width == 1:
        return values
    padded = np.pad(values, ((width // 2, width // 2), (0, 0)))
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, width, axis=0), axis=-1)  # type: ignore[no-any-return]


def summed_up(turning: NDArray[Any]) -> NDArray[Any]:
    """Turning ``(readings, 3)`` without its mean (the drift), added up by trapezes, from the first reading on."""
    steady = turning - turning.mean(axis=0)
    steps = (steady[1:] + steady[:-1]) / 2
    return steady[:1] + np.concatenate([np.zeros_like(steady[:1]), np.cumsum(steps, axis=0)])  # type: ignore[no-any-return]
