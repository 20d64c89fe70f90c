"""Flickr8k: 8,091 pictures with five captions each (Hodosh, Young and Hockenmaier, JAIR 2013).

Confirmed by many who use the set: two ways it is passed on, both read here::

    flickr8k/Flickr8k.token.txt                           <file>#<0 to 4>, a tab, the caption; or in Flickr8k_text/
    flickr8k/Flickr_8k.<train|dev|test>Images.txt         the split, one file a line; or in Flickr8k_text/
    flickr8k/Flicker8k_Dataset/<file>                     (the archive's own spelling) or Flickr8k_Dataset/

    flickr8k/captions.txt                                 image,caption
    flickr8k/Images/<file>                                or images/

With the lists, the split is theirs (train, dev as val, test: 6,000, 1,000 and 1,000), and pictures that none of them
names are left out. Without them, a stable hash of the file name draws it. The captions name one picture that is in no
archive; what is not there is left out, and counted in the log.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from mmcl_edge.data.readers.captioned import caption_row
from mmcl_edge.data.readers.index_files import (
    Place,
    broken_line,
    hashed_split,
    plain,
    read_lines,
    whose_files_are_there,
)
from mmcl_edge.data.readers.rows import DatasetReader, IndexedReader

_TOKENS = ("Flickr8k.token.txt", "Flickr8k_text/Flickr8k.token.txt")
_TABLE = "captions.txt"
_LISTS = {"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"}
_FOLDERS = ("Images", "images", "Flicker8k_Dataset", "Flickr8k_Dataset")
_LAYOUT = (
    "flickr8k/captions.txt and flickr8k/Images/, or flickr8k/Flickr8k.token.txt, Flickr_8k.<train|dev|test>Images.txt "
    "and flickr8k/Flicker8k_Dataset/"
)
_SOURCE = "Flickr8k (pictures and text archives)"


def read_flickr8k(root: Path) -> DatasetReader:
    """Flickr8k, one row a picture with its captions (the layouts stand in the module docstring).

    Raises:
        InputError: the dataset is not there, an index is broken, or not one picture is there.
    """
    place = Place(root / "flickr8k", _LAYOUT, _SOURCE)
    path = place.file(_TABLE, *_TOKENS)
    captions: dict[str, list[str]] = {}
    for name, caption in _commas(path) if path.name == _TABLE else _tokens(path):
        captions.setdefault(name, []).append(caption)
    folder = next((place.folder / name for name in _FOLDERS if (place.folder / name).is_dir()), place.folder / "Images")
    splits = _splits(place)
    rows = [
        caption_row(
            Path(name).stem,
            hashed_split(name) if splits is None else splits[name],
            name,
            said,
            picture=folder / name,
        )
        for name, said in captions.items()
        if splits is None or name in splits
    ]
    return IndexedReader("flickr8k", whose_files_are_there(rows, place))


def _tokens(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in read_lines(path):
        key, tab, caption = line.partition("\t")
        name, hash_sign, _ = key.rpartition("#")
        if not (tab and hash_sign and caption.strip()):
            raise broken_line(path, number, "<file>#<number>, a tab and a caption", f"it reads {line[:80]!r}")
        yield plain(path, number, name, "of a picture"), caption.strip()


def _commas(path: Path) -> Iterator[tuple[str, str]]:
    """Lines of ``captions.txt``: quoted where whoever wrote them quoted, and with bare commas in others."""
    for number, line in read_lines(path)[1:]:
        name, *rest = next(csv.reader([line]))
        caption = ",".join(rest).strip()
        if not caption:
            raise broken_line(path, number, "image,caption", f"it reads {line[:80]!r}")
        yield plain(path, number, name.strip(), "of a picture"), caption


def _splits(place: Place) -> dict[str, str] | None:
    """File to split, where the three lists are there."""
    folders = (place.folder, place.folder / "Flickr8k_text")
    home = next((folder for folder in folders if (folder / _LISTS["train"]).is_file()), None)
    if home is None:
        return None
    splits: dict[str, str] = {}
    for split, name in _LISTS.items():
        path = Place(home, place.layout, place.source).file(name)
        for number, line in read_lines(path):
            if splits.setdefault(plain(path, number, line, "of a picture"), split) != split:
                raise broken_line(path, number, "a picture of one split", f"{line} is in {splits[line]} too")
    return splits
