"""Kinetics-Sounds: the classes of Kinetics-400 that can be seen and heard (Arandjelovic and Zisserman, ICCV 2017).

Layout: Kinetics' own annotation files, reduced to the wanted classes or with a list of them beside::

    kinetics_sounds/train.csv, val.csv (or validate.csv), test.csv     label,youtube_id,time_start,time_end,...
    kinetics_sounds/classes.txt                                        optional: one class a line, in class order
    kinetics_sounds/<split>/<class>/<youtube id>_<start, six digits>_<end, six digits>.mp4

There are lists of 30 to 34 classes in use (AV-CIL takes 30); none ships here, so the classes are those of
``classes.txt`` or, without it, those of the annotation. Videos that are no longer to be had are left out, and counted
in the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmcl_edge.data.items import MediaItem
from mmcl_edge.data.readers.index_files import (
    Place,
    class_list,
    in_class_order,
    plain,
    read_table,
    whole,
    whose_files_are_there,
)
from mmcl_edge.data.readers.rows import DatasetReader, IndexedReader, Row

_FILES = {"train": ("train.csv",), "val": ("val.csv", "validate.csv"), "test": ("test.csv",)}
_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
_LAYOUT = (
    "kinetics_sounds/train.csv, val.csv, test.csv and "
    "kinetics_sounds/<split>/<class>/<youtube id>_<start>_<end>.mp4, seconds in six digits"
)
_SOURCE = (
    "the annotation of Kinetics-400 (Google DeepMind, or the CVD Foundation's copy) and its videos of these classes"
)


def read_kinetics_sounds(root: Path) -> DatasetReader:
    """Kinetics-Sounds in one domain (the layout stands in the module docstring).

    Raises:
        InputError: the dataset is not there, an annotation is broken, or not one video is there.
    """
    place = Place(root / "kinetics_sounds", _LAYOUT, _SOURCE)
    rows = [row for split in _FILES for row in _rows(place, split)]
    chosen = in_class_order(rows, class_list(place.folder / "classes.txt"))
    return IndexedReader("kinetics_sounds", whose_files_are_there(chosen, place))


def _rows(place: Place, split: str) -> Iterator[Row]:
    path = place.file(*_FILES[split])
    for number, line in read_table(path, _COLUMNS):
        label = plain(path, number, line["label"], "of a class")
        video = plain(path, number, line["youtube_id"], "of a video")
        start_s, end_s = (whole(path, number, line[name], f"in {name!r}") for name in ("time_start", "time_end"))
        stem = f"{video}_{start_s:06d}_{end_s:06d}"
        item = MediaItem(label, stem, video=place.folder / split / label / f"{stem}.mp4")
        yield Row(stem, label, split, video, "", item)
