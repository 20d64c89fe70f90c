"""Index files of datasets: found or explained, parsed, and no name in them trusted before it was looked at."""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from mmcl_edge.data.readers.rows import Row
from mmcl_edge.errors import InputError

DATA_VARIABLE = "MMCL_EDGE_DATA"
TRAIN_SHARE, VAL_SHARE = 0.7, 0.1
MAX_TEXT_BYTES = 64 << 20
"""Of an index file: those of the largest datasets have some ten million."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a dataset belongs and where it comes from, for the sentence that says so.

    Attributes:
        folder: the dataset's own folder.
        layout: which files go where in it.
        source: what to download, by the name of its project.
    """

    folder: Path
    layout: str
    source: str = ""

    def file(self, *names: str) -> Path:
        """The first of the index files ``names`` that is there.

        Raises:
            InputError: none is; the message says what to download and where to put it.
        """
        for name in names:
            if (self.folder / name).is_file():
                return self.folder / name
        raise self.missing(self.folder / names[0])

    def missing(self, path: Path) -> InputError:
        """The sentence for a dataset that is not there."""
        name = self.folder.name
        fetch = f"download {self.source} and put it there" if self.source else "put it there"
        return InputError(
            f"Expected the dataset {name!r} in {self.folder} ({self.layout}), but {path} is not there; "
            f"{fetch}, or point {DATA_VARIABLE} at the folder that holds {name}/."
        )


def read_text(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """A whole index file.

    Raises:
        InputError: it is not UTF-8, or larger than ``max_bytes``.
    """
    size = path.stat().st_size
    if size > max_bytes:
        raise InputError(
            f"{path} should be a text of at most {max_bytes:,} bytes, but it has {size:,}, so it was not read; is it "
            "another file under this name?"
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} should be text in UTF-8, but it does not parse ({error}); save it as UTF-8."
        ) from error


def read_lines(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> list[tuple[int, str]]:
    """Line number and text of every line that is not blank.

    Raises:
        InputError: the file is not UTF-8, or larger than ``max_bytes``.
    """
    lines = read_text(path, max_bytes=max_bytes).splitlines()
    return [(n, line.strip()) for n, line in enumerate(lines, start=1) if line.strip()]


def read_table(
    path: Path, columns: Sequence[str], *, delimiter: str = ",", header: bool = True, strict: bool = False
) -> list[tuple[int, dict[str, str]]]:
    """Line number and the wanted ``columns`` of every line of a CSV table.

    Args:
        path: the table.
        columns: their names; without a header, what the columns are, in order.
        delimiter: between cells.
        header: whether the first line names the columns.
        strict: refuse quotes that do not fit, instead of reading on to the next.

    Raises:
        InputError: not UTF-8, too large, no table, or a line that lacks one of ``columns``.
    """
    try:
        names = None if header else list(columns)
        text = StringIO(read_text(path), newline="")
        reader = csv.DictReader(text, fieldnames=names, delimiter=delimiter, strict=strict)
        lines = [(reader.line_num, line) for line in reader]
    except csv.Error as error:
        raise InputError(f"{path} should be a CSV table, but it does not parse ({error}); correct it.") from error
    return [(number, _wanted(path, number, line, columns)) for number, line in lines]


def _wanted(path: Path, number: int, line: Mapping[str, str | None], columns: Sequence[str]) -> dict[str, str]:
    found = {}
    for column in columns:
        value = line.get(column)
        if value is None:
            raise broken_line(path, number, f"a column {column!r}", "it has none")
        found[column] = value.strip()
    return found


def plain(path: Path, number: int, value: str, what: str) -> str:
    """``value``, if it can be the name of one file or folder.

    Raises:
        InputError: empty, a path, or not printable.
    """
    if not value or value in (".", "..") or "/" in value or "\\" in value or not value.isprintable():
        raise broken_line(path, number, f"a plain name {what}", f"it is {value!r}")
    return value


def inner_path(path: Path, number: int, value: str, what: str) -> str:
    """``value``, if it is the relative path of a file inside the dataset's folder, with ``/`` between its parts.

    Raises:
        InputError: empty, absolute, leading out, or not printable.
    """
    parts = value.split("/")
    if "\\" in value or not value.isprintable() or any(part in ("", ".", "..") for part in parts):
        raise broken_line(path, number, f"a relative path {what}", f"it is {value!r}")
    return value


def whole(path: Path, number: int, value: str, what: str) -> int:
    """``value`` as a number of whole seconds, from 0.

    Raises:
        InputError: it is none.
    """
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e6:
        raise broken_line(path, number, f"a number of seconds {what}", f"it is {value!r}")
    return int(seconds)


def broken_line(path: Path, number: int, expected: str, found: str) -> InputError:
    """The sentence for a line that cannot be read."""
    return InputError(
        f"{path}, line {number}: expected {expected}, but {found}; restore the index that came with the dataset."
    )


def class_list(path: Path) -> tuple[str, ...] | None:
    """The classes that ``classes.txt`` names, one a line, in its order; ``None`` where there is no such file.

    Raises:
        InputError: a class is named twice, or none is.
    """
    if not path.is_file():
        return None
    names = tuple(line for _, line in read_lines(path))
    if not names or len(set(names)) != len(names):
        raise InputError(f"{path} should name each class once, one a line, but it names {len(names)}; correct it.")
    return names


def in_class_order(rows: Iterable[Row], classes: Sequence[str] | None) -> tuple[Row, ...]:
    """The rows of ``classes`` in that order of classes; all of them, as they are, for ``None``."""
    if classes is None:
        return tuple(rows)
    rank = {name: number for number, name in enumerate(classes)}
    return tuple(sorted((row for row in rows if row.label in rank), key=lambda row: rank[row.label]))


def whose_files_are_there(rows: Sequence[Row], place: Place) -> tuple[Row, ...]:
    """Rows whose files exist: sets of public videos lose some with time, which is told and no error.

    Raises:
        InputError: not one row has its files.
    """
    there = tuple(row for row in rows if all(path.is_file() for path in row.item.files))
    if rows and not there:
        raise place.missing(rows[0].item.files[0])
    if len(there) < len(rows):
        _log.warning(
            "%s: %d of %d files are not there and are left out.", place.folder, len(rows) - len(there), len(rows)
        )
    return there


def hashed_split(group: str) -> str:
    """70 % ``train``, 10 % ``val``, 20 % ``test``, by the name of the group alone: the same for ever."""
    position = int.from_bytes(hashlib.sha256(group.encode()).digest()[:4], "big") / 2**32
    return "train" if position < TRAIN_SHARE else "val" if position < TRAIN_SHARE + VAL_SHARE else "test"
