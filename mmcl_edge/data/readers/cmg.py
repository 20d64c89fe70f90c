"""Feature files of Uni-Code (the project haihuangcode/CMG): VGGish and VGG-19 features of VGGSound-AVEL clips.

Confirmed by the project's code::

    cmg/vggsound40k/data/vggsound-avel40k.csv                  category,video_id,split (train, val, test)
    cmg/vggsound40k/data/vggsoundCategories2Prompts.csv        label and a sentence of about ten words
    cmg/vggsound40k/feature/<audio|video|label>/zip/<video_id>.zip    one array in each, as a pickle

audio ``(10, 128)``, video ``(10, 7, 7, 512)``, label ``(10,)``: whether the event is there in each second. Sounds of
other lengths are brought to ten seconds as the project does: cut, or the last second repeated. As published the arrays
are pickles, which can run any program when they are read, so they are refused. Convert them once, in an environment
that may be thrown away, to ``<video_id>.npy`` or ``.npz`` (in ``zip/``, beside it, or inside the same zip): numpy reads
those without pickle. Not confirmed: the exact names above ``data/`` and ``feature/`` in the project's archive.

Features are no media, so this reader stands beside ``READERS``: it gives arrays, not samples.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmcl_edge.data.readers.index_files import Place
from mmcl_edge.data.readers.rows import Row
from mmcl_edge.data.readers.vggsound_avel import PROMPTS, TABLES, avel_rows
from mmcl_edge.errors import MediaError

SECONDS = 10
MAX_BYTES = 64 << 20
"""Largest array read; a clip's video features have 1 MB as float32, 2 MB as float64."""

_LAYOUT = "cmg/vggsound40k/data/vggsound-avel40k.csv and cmg/vggsound40k/feature/<audio|video>/<video_id>.npy"
_SOURCE = "the feature files of the project haihuangcode/CMG"
_PICKLES = (".pkl", ".pickle", ".pt", ".pth")
_CONVERT = (
    "convert it once, in an environment that may be thrown away, to an .npy of the same name; pickles can run any "
    "program when they are read, so they are never read here"
)


@dataclass(frozen=True, eq=False, slots=True)
class ClipFeatures:
    """Features of one clip, second by second.

    Attributes:
        audio: ``(10, 128)`` float32.
        video: ``(10, 7, 7, 512)`` float32.
        event: ``(10,)`` bool, seconds in which the event is seen and heard; ``None`` where the files are not there.
        text: the sentence of its class.
    """

    audio: NDArray[np.float32]
    video: NDArray[np.float32]
    event: NDArray[np.bool_] | None
    text: str


@dataclass(frozen=True)
class FeatureFiles:
    """Rows of feature files, read when they are asked for."""

    folder: Path
    rows: tuple[Row, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the table."""
        return tuple(dict.fromkeys(row.label for row in self.rows))

    def load(self, row: Row) -> ClipFeatures:
        """The features of a row.

        Raises:
            MediaError: a file is missing, a pickle, too large, or no array of its shape.
        """
        video = self._array("video", row.id, lambda shape: shape == (SECONDS, 7, 7, 512), "(10, 7, 7, 512)")
        audio = self._array(
            "audio", row.id, lambda shape: len(shape) == 2 and shape[0] > 0 and shape[1] == 128, "(10, 128)"
        )
        event = None
        if (self.folder / "label").is_dir():
            event = (
                self._array("label", row.id, lambda shape: shape in ((10,), (10, 1), (1, 10)), "(10,)").ravel() > 0.5
            )
        return ClipFeatures(ten_seconds(audio), video, event, row.text or row.label)

    def _array(self, part: str, name: str, fits: Callable[[tuple[int, ...]], bool], shape: str) -> NDArray[np.float32]:
        path = _find(self.folder / part, name)
        array = _read(path)
        if not fits(array.shape) or array.dtype.kind not in "fiub":
            raise MediaError(f"{path}: expected numbers of shape {shape}, but found {array.dtype} {array.shape}.")
        values = array.astype(np.float32)
        if not np.isfinite(values).all():
            raise MediaError(f"{path}: expected finite numbers, but some are not; make the features anew.")
        return values


def read_cmg(root: Path) -> FeatureFiles:
    """The feature files below ``root/cmg`` (the layout stands in the module docstring).

    Raises:
        InputError: they are not there, or the table is broken.
    """
    base = root / "cmg"
    nested = base / "vggsound40k"
    folder = nested if nested.is_dir() else base
    place = Place(base, _LAYOUT, _SOURCE)
    prefix = f"{folder.relative_to(base).as_posix()}/data/" if folder != base else "data/"
    table = place.file(*(prefix + name for name in reversed(TABLES)))
    if not (folder / "feature").is_dir():
        raise place.missing(folder / "feature")
    return FeatureFiles(folder / "feature", tuple(avel_rows(table, table.with_name(PROMPTS), video=None)))


def ten_seconds(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(seconds, D)`` cut to ten, or with the last repeated up to ten."""
    short = max(0, SECONDS - len(values))
    return np.concatenate([values[:SECONDS], np.repeat(values[-1:], short, axis=0)])


def _find(folder: Path, name: str) -> Path:
    tried = [place / f"{name}{suffix}" for suffix in (".npy", ".npz", ".zip") for place in (folder, folder / "zip")]
    found = next((path for path in tried if path.is_file()), None)
    if found is not None:
        return found
    pickles = (place / f"{name}{suffix}" for suffix in (*_PICKLES, ".h5") for place in (folder, folder / "zip"))
    if (pickle := next((path for path in pickles if path.is_file()), None)) is not None:
        raise MediaError(f"{pickle}: expected an array that numpy reads without pickle, but it is none; {_CONVERT}.")
    raise MediaError(f"{tried[0]}: expected the features of {name}, but there is no such file; {_CONVERT}.")


def _read(path: Path) -> NDArray[np.generic]:
    if path.stat().st_size > MAX_BYTES:
        raise MediaError(f"{path}: expected at most {MAX_BYTES >> 20} MiB, but it is larger; it was not read.")
    try:
        data = path.read_bytes()
        return _array_of(path, data if path.suffix == ".npy" else _unzipped(path, data))
    except (ValueError, EOFError, OSError, NotImplementedError, zipfile.BadZipFile) as error:
        raise MediaError(f"{path}: expected an array, but it does not parse ({error}); make it again.") from error


def _unzipped(path: Path, data: bytes) -> bytes:
    """The one array inside a ``.zip`` or ``.npz``."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        arrays = [entry for entry in entries if entry.filename.endswith(".npy")]
        if not arrays and any(entry.filename.endswith(_PICKLES) for entry in entries):
            raise MediaError(f"{path}: expected an .npy inside, but it holds a pickle; {_CONVERT}.")
        if len(arrays) != 1:
            raise MediaError(f"{path}: expected one .npy inside, but found {len(arrays)}; {_CONVERT}.")
        if arrays[0].file_size > MAX_BYTES:
            raise MediaError(
                f"{path}: expected at most {MAX_BYTES >> 20} MiB inside, but it is larger; it was not read."
            )
        with archive.open(arrays[0]) as file:
            return file.read(MAX_BYTES + 1)


def _array_of(path: Path, data: bytes) -> NDArray[np.generic]:
    """The array of an ``.npy``; its header is looked at before anything of its size is made."""
    file = BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise MediaError(f"{path}: expected an array of numbers, but it holds pickled objects; {_CONVERT}.")
    if math.prod(shape) * dtype.itemsize > len(data):
        raise MediaError(f"{path}: expected an array of shape {shape}, but the file ends before it; make it again.")
    array: NDArray[np.generic] = np.load(BytesIO(data), allow_pickle=False)
    return array
