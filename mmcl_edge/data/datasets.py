"""Datasets behind one reader protocol: a list of rows, and a row decoded when it is asked for.

A reader is opened by ``open_dataset(name, root)``; ``root`` (or the environment's ``MMCL_EDGE_DATA``) is the folder
that holds the dataset's own folder. A new dataset is one more entry in ``READERS``.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mmcl_edge.data.media import MediaItem, load_sample
from mmcl_edge.errors import InputError
from mmcl_edge.types import Sample

DATA_VARIABLE = "MMCL_EDGE_DATA"


@dataclass(frozen=True, slots=True)
class Row:
    """One example of a dataset, not decoded yet.

    Attributes:
        id: unique within the dataset.
        label: class name.
        split: ``train`` or ``test``, fixed by the dataset.
        group: rows of one group share a recording; validation folds keep groups whole.
        domain: name of the domain (speaker, condition), or ``""`` where there is only one.
        item: its files.
    """

    id: str
    label: str
    split: str
    group: str
    domain: str
    item: MediaItem


class DatasetReader(Protocol):
    """What every dataset offers."""

    @property
    def name(self) -> str:
        """The dataset's name."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the index."""
        ...

    @property
    def domains(self) -> tuple[str, ...]:
        """Domain names in the order of the index."""
        ...

    @property
    def rows(self) -> tuple[Row, ...]:
        """Every row in the order of the index."""
        ...

    def load(self, row: Row) -> Sample:
        """Decode a row.

        Raises:
            MediaError: a file of it is missing or corrupt.
        """
        ...


@dataclass(frozen=True)
class IndexedReader:
    """A reader over rows that an index file listed."""

    name: str
    rows: tuple[Row, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the index."""
        return tuple(dict.fromkeys(row.label for row in self.rows))

    @property
    def domains(self) -> tuple[str, ...]:
        """Domain names in the order of the index."""
        return tuple(dict.fromkeys(row.domain for row in self.rows))

    def load(self, row: Row) -> Sample:
        """Decode a row.

        Raises:
            MediaError: a file of it is missing or corrupt.
        """
        return load_sample(row.item)


def select(
    rows: Iterable[Row],
    *,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    domains: Sequence[str] | None = None,
) -> tuple[Row, ...]:
    """The rows that fit every given condition, in their order."""
    return tuple(
        row
        for row in rows
        if (split is None or row.split == split)
        and (classes is None or row.label in classes)
        and (domains is None or row.domain in domains)
    )


def open_dataset(name: str, root: Path | None = None) -> DatasetReader:
    """Open a dataset.

    Args:
        name: one of ``READERS``.
        root: the folder that holds the dataset's folder; ``None`` takes the environment's ``MMCL_EDGE_DATA``.

    Raises:
        InputError: no such dataset, no root, or the dataset is not there; the message says what belongs where.
    """
    if name not in READERS:
        raise InputError(f"Expected one of the datasets {', '.join(READERS)}, but {name!r} was asked for.")
    if root is None and not os.environ.get(DATA_VARIABLE):
        raise InputError(
            f"The dataset {name!r} needs a folder to read from, but none was given; "
            f"pass one, or set {DATA_VARIABLE} to the folder that holds {name}/."
        )
    return READERS[name](root or Path(os.environ[DATA_VARIABLE]))


def read_av21(root: Path) -> DatasetReader:
    """Sound and photo pairs of 21 classes, ``av21/<split>/<class>/<id>.flac|.jpg``, in one domain.

    Raises:
        InputError: the dataset is not there or its index is broken.
    """
    folder = root / "av21"
    layout = "av21/index.csv and av21/<split>/<class>/<id>.flac and .jpg"
    table = _index(folder, ("id", "class", "split", "group"), layout)
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
    table = _index(folder, ("id", "digit", "domain", "split"), layout)
    rows = (
        _row(folder / line["domain"] / line["split"] / line["digit"], line, label=line["digit"], group=line["id"])
        for line in table
    )
    return IndexedReader("digits", tuple(rows))


READERS: dict[str, Callable[[Path], DatasetReader]] = {"av21": read_av21, "digits": read_digits}
"""Name of a dataset to what opens it under a root folder."""


def _row(place: Path, line: dict[str, str], *, label: str, group: str) -> Row:
    name = line["id"]
    item = MediaItem(label, name, audio=place / f"{name}.flac", picture=place / f"{name}.jpg")
    return Row(name, label, line["split"], group, line.get("domain", ""), item)


def _index(folder: Path, columns: Sequence[str], layout: str) -> list[dict[str, str]]:
    path = folder / "index.csv"
    if not path.is_file():
        raise InputError(
            f"Expected the dataset {folder.name!r} in {folder} ({layout}), but {path} is not there; "
            f"put it there, or point {DATA_VARIABLE} at the folder that holds {folder.name}/."
        )
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path} should be a CSV table in UTF-8, but it does not parse ({error}).") from error
    for number, line in enumerate(lines, start=2):
        _check_line(path, number, {column: line.get(column) for column in columns})
    return lines


def _check_line(path: Path, number: int, values: dict[str, str | None]) -> None:
    for column, value in values.items():
        if not value or "/" in value or "\\" in value or value in (".", ".."):
            raise InputError(
                f"{path}, line {number}: expected a plain name in the column {column!r}, but it is {value!r}; "
                "restore the index that came with the dataset."
            )
