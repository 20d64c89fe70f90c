"""Sets that were put together for this project's own measurements: ``av21`` and ``digits``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmcl_edge.data.items import MediaItem
from mmcl_edge.data.readers.index_files import Place, plain, read_table
from mmcl_edge.data.readers.rows import DatasetReader, IndexedReader, Row


def read_av21(root: Path) -> DatasetReader:
    """Sound and photo pairs of 21 classes, ``av21/<split>/<class>/<id>.flac|.jpg``, in one domain.

    Raises:
        InputError: the dataset is not there or its index is broken.
    """
    folder = root / "av21"
    layout = "av21/index.csv and av21/<split>/<class>/<id>.flac and .jpg"
    table = _index(Place(folder, layout), ("id", "class", "split", "group"))
    rows = (
        _row(folder / line["split"] / line["class"], line, label=line["class"], group=line["group"]) for line in table
    )
    return IndexedReader("av21", tuple(rows))


def read_digits(root: Path) -> DatasetReader:
    """Spoken and written digits in six domains, ``digits/<domain>/<split>/<digit>/<id>.flac|.jpg``.

    Raises:
        InputError: the dataset is not there or its index is broken.
    """
    folder = root / "digits"
    layout = "digits/index.csv and digits/<domain>/<split>/<digit>/<id>.flac and .jpg"
    table = _index(Place(folder, layout), ("id", "digit", "domain", "split"))
    rows = (
        _row(folder / line["domain"] / line["split"] / line["digit"], line, label=line["digit"], group=line["id"])
        for line in table
    )
    return IndexedReader("digits", tuple(rows))


def _index(place: Place, columns: Sequence[str]) -> list[dict[str, str]]:
    path = place.file("index.csv")
    table = read_table(path, columns)
    return [
        {column: plain(path, number, value, f"in the column {column!r}") for column, value in line.items()}
        for number, line in table
    ]


def _row(folder: Path, line: dict[str, str], *, label: str, group: str) -> Row:
    name = line["id"]
    item = MediaItem(label, name, audio=folder / f"{name}.flac", picture=folder / f"{name}.jpg")
    return Row(name, label, line["split"], group, line.get("domain", ""), item)
