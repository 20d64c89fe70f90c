"""Sets that were put together for this project's own measurements: ``av21``, ``digits`` and ``stamps``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmcl_edge.data.items import MediaItem
from mmcl_edge.data.readers.index_files import Place, broken_line, inner_path, plain, read_table
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


STAMP_MODALITIES = ("image", "sound", "speech_recorded", "speech_synth")
"""Columns of ``stamps`` that hold files, and the names of its domains; both kinds of speech say the caption."""


def read_stamps(root: Path) -> DatasetReader:
    """Pictures, sound effects and spoken captions with their captions, ``stamps/<path in index.csv>``.

    A row is one file: its domain is the column that names it, its id ``<stamp>/<column>``. Several pictures of one
    caption share one synthesised file, which is one row, called after the first of them. In retrieval, files whose
    caption is the same in lower case are each other's right answers (``crossmodal.relevance_groups``).

    Raises:
        InputError: the dataset is not there or its index is broken.
    """
    layout = "stamps/index.csv and the files it names, stamps/<image|sound|speech_recorded|speech_synth>/<file>"
    place = Place(root / "stamps", layout)
    path = place.file("index.csv")
    table = read_table(path, ("id", "category", "caption", "split", "group", *STAMP_MODALITIES))
    rows: dict[tuple[str, str], Row] = {}
    for column in STAMP_MODALITIES:
        for number, line in table:
            if line[column]:
                row = _stamp(place.folder, path, number, line, column)
                rows.setdefault((column, line[column]), row)
    return IndexedReader("stamps", tuple(rows.values()))


def _stamp(folder: Path, path: Path, number: int, line: dict[str, str], column: str) -> Row:
    name = plain(path, number, line["id"], "in the column 'id'")
    group = plain(path, number, line["group"], "in the column 'group'")
    if line["split"] not in ("train", "test") or not line["caption"]:
        raise broken_line(path, number, "a caption and a split (train or test)", f"it reads {','.join(line.values())}")
    file = folder / inner_path(path, number, line[column], f"in the column {column!r}")
    label, caption = line["category"], line["caption"]
    item = MediaItem(label, name, picture=file) if column == "image" else MediaItem(label, name, audio=file)
    return Row(f"{name}/{column}", label, line["split"], group, column, item, caption, (), (caption,))


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
