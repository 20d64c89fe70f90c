"""Writing what the records say: docs/crossmodal.md with its pictures and tables, and one HTML file."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcl_edge.benchmark.crossmodal.board import Board
from mmcl_edge.benchmark.crossmodal.document import Document, markdown
from mmcl_edge.benchmark.crossmodal.page import page
from mmcl_edge.benchmark.crossmodal.records import read_runs, read_timings
from mmcl_edge.benchmark.crossmodal.tables import pairs_csv, summary_csv
from mmcl_edge.benchmark.crossmodal.targets import targets
from mmcl_edge.benchmark.figures import DARK, LIGHT, palette, standalone
from mmcl_edge.benchmark.report import check_extras, render
from mmcl_edge.benchmark.report_origin import facts_of
from mmcl_edge.fileio import write_atomic

TEMPLATE = "document.html.jinja"
PICTURES = "results"
PAGE = "crossmodal.md"


@dataclass(frozen=True, slots=True)
class PageFiles:
    """What was written, and the verdicts on it."""

    page: Path | None
    report: Path
    summary_csv: Path
    targets: tuple[tuple[str, ...], ...]


def write_page(folder: Path, docs: Path | None = None) -> PageFiles:
    """Write ``report.html``, ``summary.csv`` and ``pairs.csv`` beside the records, and the page into ``docs``.

    Each file appears whole or not at all; nothing is written before everything is worked out. The same records give
    the same files.

    Args:
        folder: with ``runs/*.json`` and, where they were taken, ``timings.json``.
        docs: where ``crossmodal.md`` goes, with its pictures and tables under ``results/``; ``None`` leaves it out.

    Raises:
        InputError: there is no record, one is broken, or two do not belong together.
        MissingExtraError: jinja2 or matplotlib is not installed.
        StorageError: a file cannot be written.
    """
    check_extras()
    board, timings = Board(read_runs(folder)), read_timings(folder)
    document = page(board, timings)
    html = report_html(document, facts_of([one.made_by for one in board.records]))
    summary, pairs = summary_csv(board), pairs_csv(board)
    write_atomic(folder / "summary.csv", summary)
    write_atomic(folder / "pairs.csv", pairs)
    write_atomic(folder / "report.html", html.encode())
    written = None
    if docs is not None:
        (docs / PICTURES).mkdir(parents=True, exist_ok=True)
        for picture in document.pictures:
            write_atomic(docs / PICTURES / f"{picture.name}.svg", standalone(picture.svg))
        write_atomic(docs / PICTURES / "crossmodal.csv", summary)
        write_atomic(docs / PICTURES / "crossmodal-pairs.csv.gz", gzip.compress(pairs, mtime=0))
        write_atomic(docs / PICTURES / "crossmodal.html", html.encode())
        written = docs / PAGE
        write_atomic(written, markdown(document, pictures=PICTURES).encode())
    return PageFiles(
        written, folder / "report.html", folder / "summary.csv", tuple(one.row for one in targets(board, timings))
    )


def report_html(document: Document, origin: Mapping[str, Any]) -> str:
    """The page as HTML that needs neither a network nor scripts."""
    from markupsafe import Markup

    return render(
        TEMPLATE,
        title=document.title,
        document=document,
        origin=origin,
        picture=Markup,
        light=palette(LIGHT),
        dark=palette(DARK),
    )
