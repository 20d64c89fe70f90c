"""Clotho: sounds of 15 to 30 seconds, each with five captions (Drossos et al., ICASSP 2020).

Confirmed by the authors' repository and those who use the set: the three tables with the columns
``file_name,caption_1,...,caption_5``, and archives that unpack to folders named after the split::

    clotho/clotho_captions_<development|validation|evaluation>.csv    or in clotho/clotho_csv_files/
    clotho/<development|validation|evaluation>/<file_name>            or in clotho/clotho_audio_files/

Version 1 has no validation part. The parts are train, val and test here. Assumed: every sound is a recording of its own
(the tables name none), so that each is a group. Sounds that are not there are left out, and counted in the log.
"""

from __future__ import annotations

from pathlib import Path

from mmcl_edge.data.readers.captioned import caption_row
from mmcl_edge.data.readers.index_files import Place, broken_line, plain, read_table, whose_files_are_there
from mmcl_edge.data.readers.rows import DatasetReader, IndexedReader, Row

_SPLITS = {"development": "train", "validation": "val", "evaluation": "test"}
_CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))
_LAYOUT = "clotho/clotho_captions_<development|validation|evaluation>.csv and clotho/<the same>/<file_name>"
_SOURCE = "Clotho (the tables and unpacked archives of its Zenodo record 3490684)"


def read_clotho(root: Path) -> DatasetReader:
    """Clotho, one row a sound with its five captions (the layout stands in the module docstring).

    Raises:
        InputError: the dataset is not there, a table is broken, or not one sound is there.
    """
    place = Place(root / "clotho", _LAYOUT, _SOURCE)
    tables = {part: _table(place, part) for part in _SPLITS if part == "development" or _has(place, part)}
    rows = [row for part, table in tables.items() for row in _rows(place, part, table)]
    return IndexedReader("clotho", whose_files_are_there(rows, place))


def _names(part: str) -> tuple[str, str]:
    name = f"clotho_captions_{part}.csv"
    return name, f"clotho_csv_files/{name}"


def _has(place: Place, part: str) -> bool:
    return any((place.folder / name).is_file() for name in _names(part))


def _table(place: Place, part: str) -> Path:
    return place.file(*_names(part))


def _rows(place: Place, part: str, table: Path) -> list[Row]:
    nested = place.folder / "clotho_audio_files" / part
    folder = nested if nested.is_dir() else place.folder / part
    rows = []
    for number, line in read_table(table, ("file_name", *_CAPTIONS)):
        name = plain(table, number, line["file_name"], "of a sound")
        captions = [line[column] for column in _CAPTIONS if line[column]]
        if not captions:
            raise broken_line(table, number, "a caption", "every one is empty")
        stem = f"{part}/{Path(name).stem}"
        rows.append(caption_row(stem, _SPLITS[part], stem, captions, audio=folder / name))
    return rows
