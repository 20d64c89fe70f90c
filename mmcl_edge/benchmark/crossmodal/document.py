"""A page as plain data: sections with paragraphs, tables and pictures, for Markdown and for HTML alike."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from mmcl_edge.benchmark.crossmodal.scores import NOTHING, SCORES, Unit, unit_text
from mmcl_edge.benchmark.intervals import Interval
from mmcl_edge.benchmark.tables import NONE

WIDTH = 120


@dataclass(frozen=True, slots=True)
class Table:
    """Cells are plain text; the first column names the row."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def wordy(self, column: int) -> bool:
        """Whether a column holds words rather than figures."""
        return any(re.match(r"[^\d-]", row[column]) and row[column] != NOTHING for row in self.rows)


@dataclass(frozen=True, slots=True)
class Picture:
    """``name`` is the file's, without extension; ``svg`` an element that stands in a page."""

    name: str
    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page; ``anchor`` is unique on it."""

    title: str
    anchor: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A page; ``files`` says in Markdown what lies beside it."""

    title: str
    files: str
    lead: tuple[str, ...]
    sections: tuple[Section, ...]

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Those of every section."""
        return tuple(picture for section in self.sections for picture in section.pictures)


def interval_text(value: Interval | None, unit: Unit = "percent") -> str:
    """``43.7 ± 1.2`` in the unit; ``-`` where there is none."""
    if value is None:
        return NONE
    if unit == "bytes" or not value.half_width:
        spread = f" ± {unit_text(unit, 0)}" if unit == "percent" and value.half_width is not None else ""
        return unit_text(unit, value.mean) + spread
    number, spread = unit_text(unit, value.mean), unit_text(unit, value.half_width)
    return f"{number.removesuffix(' s')} ± {spread}"


def score_text(name: str, value: Interval | None) -> str:
    """A figure of ``SCORES`` with its interval."""
    return interval_text(value, SCORES[name].unit)


def markdown(document: Document, *, pictures: str) -> str:
    """The page in Markdown; ``pictures`` is the folder of its pictures as the page names it."""
    parts = [f"# {document.title}", _wrapped(document.files), *map(_wrapped, document.lead)]
    for section in document.sections:
        parts += [f"## {section.title}", *map(_wrapped, section.text)]
        for picture in section.pictures:
            parts += [f"![{picture.title}]({pictures}/{picture.name}.svg)", *([picture.note] if picture.note else [])]
        for table in section.tables:
            parts += [f"### {table.title}"] if table.title else []
            parts += [_wrapped(table.note)] if table.note else []
            parts.append(markdown_rows(table))
    return "\n\n".join(parts) + "\n"


def _wrapped(text: str) -> str:
    """Paragraphs and list items in lines that an editor shows whole."""
    filled = [
        textwrap.wrap(line, WIDTH, break_on_hyphens=False, break_long_words=False, subsequent_indent=indent)
        for line in text.split("\n")
        for indent in ("  " if line.startswith("- ") else "",)
    ]
    return "\n".join(line for lines in filled for line in lines)


def markdown_rows(table: Table) -> str:
    """A table as Markdown; nothing a cell holds may end it."""
    rule = ["---" if table.wordy(column) or not column else "---:" for column in range(len(table.header))]
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in (table.header, rule, *table.rows))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
