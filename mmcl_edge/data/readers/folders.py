"""Any folder of files as a dataset: ``<name>/<split>/<class>/<files>``, or ``<name>/<class>/<files>``.

Files of one stem and folder form one sample (``data/items.py``). Where the folders directly below are all called
``train``, ``val`` (or ``valid``, ``validation``) and ``test``, they are the splits. Otherwise they are classes, and a
stable hash of the group draws the split: 70 % train, 10 % val, 20 % test. The group is what stands before ``--`` in the
file name (``walk3--0007.mp4`` belongs to the recording ``walk3``), or the whole name where there is none; a group is
never divided, also not between classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmcl_edge.data.items import MediaItem, pair_files, told_by
from mmcl_edge.data.readers.index_files import Place, hashed_split
from mmcl_edge.data.readers.rows import DatasetReader, IndexedReader, Row
from mmcl_edge.errors import InputError

PREFIX = "folders:"
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_SEPARATOR = "--"


def read_folders(root: Path, name: str = "folders") -> DatasetReader:
    """The folder ``root/name`` (the layout stands in the module docstring).

    Raises:
        InputError: the folder is not there, its name is a path, or it holds no class with files.
    """
    if not name or name in (".", "..") or "/" in name or "\\" in name:
        raise InputError(
            f"Expected the plain name of a folder in {root}, but {name!r} was asked for; use open_dataset."
        )
    place = Place(root / name, f"{name}/<split>/<class>/<files>, or {name}/<class>/<files>", "or record a dataset")
    if not place.folder.is_dir():
        raise place.missing(place.folder)
    rows = tuple(_rows(place.folder))
    if not rows:
        raise InputError(f"{place.folder} should hold files ({place.layout}), but it has none; add some.")
    return IndexedReader(f"{PREFIX}{name}", tuple(sorted(rows, key=lambda row: row.label)))


def _rows(folder: Path) -> Iterator[Row]:
    below = _folders(folder)
    if below and all(one.name in SPLIT_NAMES for one in below):
        for split in below:
            for label in _folders(split):
                yield from (_row(folder, item, SPLIT_NAMES[split.name]) for item in _items(label))
    else:
        for label in below:
            yield from (_row(folder, item, None) for item in _items(label))


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _items(folder: Path) -> tuple[MediaItem, ...]:
    files = told_by(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return pair_files(files, label=folder.name)


def _row(folder: Path, item: MediaItem, split: str | None) -> Row:
    group = item.stem.split(_SEPARATOR)[0] if _SEPARATOR in item.stem else item.stem
    place = item.files[0].parent.relative_to(folder).as_posix()
    return Row(f"{place}/{item.source}", item.label or "", split or hashed_split(group), group, "", item)
