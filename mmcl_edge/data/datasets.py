"""Datasets behind one reader protocol: a list of rows, and a row decoded when it is asked for.

A reader is opened by ``open_dataset(name, root)``; ``root`` (or the environment's ``MMCL_EDGE_DATA``) is the folder
that holds the dataset's own folder. A new dataset is one more module in ``readers/`` and one more entry in ``READERS``;
``folders:NAME`` reads any folder of class folders.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from mmcl_edge.data.readers.audiocaps import read_audiocaps
from mmcl_edge.data.readers.ave import AVE_CIL_TASKS, AVE_SUPER_CLASSES, read_ave, read_ave_dil
from mmcl_edge.data.readers.built import STAMP_MODALITIES, read_av21, read_digits, read_stamps
from mmcl_edge.data.readers.clotho import read_clotho
from mmcl_edge.data.readers.cmg import read_cmg
from mmcl_edge.data.readers.flickr8k import read_flickr8k
from mmcl_edge.data.readers.folders import PREFIX, read_folders
from mmcl_edge.data.readers.index_files import DATA_VARIABLE
from mmcl_edge.data.readers.kinetics_sounds import read_kinetics_sounds
from mmcl_edge.data.readers.rows import DatasetReader, IndexedReader, Row, select
from mmcl_edge.data.readers.samsemo import read_samsemo
from mmcl_edge.data.readers.uestc_mmea import UestcSettings, read_uestc_mmea
from mmcl_edge.data.readers.vggsound import read_vggsound100
from mmcl_edge.data.readers.vggsound_avel import read_vggsound_avel
from mmcl_edge.errors import InputError

__all__ = [
    "AVE_CIL_TASKS",
    "AVE_SUPER_CLASSES",
    "DATA_VARIABLE",
    "READERS",
    "STAMP_MODALITIES",
    "DatasetReader",
    "IndexedReader",
    "Row",
    "UestcSettings",
    "open_dataset",
    "read_cmg",
    "read_folders",
    "read_uestc_mmea",
    "select",
]

READERS: dict[str, Callable[[Path], DatasetReader]] = {
    "av21": read_av21,
    "digits": read_digits,
    "stamps": read_stamps,
    "folders": read_folders,
    "ave": read_ave,
    "ave_dil": read_ave_dil,
    "kinetics_sounds": read_kinetics_sounds,
    "vggsound100": read_vggsound100,
    "uestc_mmea": read_uestc_mmea,
    "samsemo": read_samsemo,
    "audiocaps": read_audiocaps,
    "clotho": read_clotho,
    "flickr8k": read_flickr8k,
    "vggsound_avel": read_vggsound_avel,
}
"""Name of a dataset to what opens it under a root folder."""


def open_dataset(name: str, root: Path | None = None) -> DatasetReader:
    """Open a dataset.

    Args:
        name: one of ``READERS``, or ``folders:NAME`` for the folder ``NAME``.
        root: the folder that holds the dataset's folder; ``None`` takes the environment's ``MMCL_EDGE_DATA``.

    Raises:
        InputError: no such dataset, no root, or the dataset is not there; the message says what belongs where.
    """
    if name not in READERS and not name.startswith(PREFIX):
        raise InputError(
            f"Expected one of the datasets {', '.join(READERS)}, or {PREFIX}NAME, but {name!r} was asked for."
        )
    if root is None and not os.environ.get(DATA_VARIABLE):
        raise InputError(
            f"The dataset {name!r} needs a folder to read from, but none was given; "
            f"pass one, or set {DATA_VARIABLE} to the folder that holds {name.removeprefix(PREFIX)}/."
        )
    place = root or Path(os.environ[DATA_VARIABLE])
    return read_folders(place, name.removeprefix(PREFIX)) if name.startswith(PREFIX) else READERS[name](place)
