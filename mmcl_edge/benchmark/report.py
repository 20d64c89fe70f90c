"""The report: one HTML file that needs neither a network nor scripts, and the tables beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from mmcl_edge.benchmark.columns import COSTS, METRICS
from mmcl_edge.benchmark.figures import DARK, LIGHT, Pen, check_matplotlib, palette
from mmcl_edge.benchmark.gather import Stream, gather
from mmcl_edge.benchmark.records import RunRecord, read_records
from mmcl_edge.benchmark.report_origin import origin_of
from mmcl_edge.benchmark.report_stream import view_of
from mmcl_edge.benchmark.summaries import Summary, summarise_stream
from mmcl_edge.benchmark.tables import summary_json, write_csv
from mmcl_edge.errors import MissingExtraError
from mmcl_edge.fileio import pretty_json, write_atomic

TEMPLATE = "report.html.jinja"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where a report and its tables lie, and what they say."""

    report: Path
    summary_json: Path
    summary_csv: Path
    matrices_csv: Path
    runs: int
    summaries: tuple[Summary, ...]


def write_report(folder: Path, *, out: Path | None = None) -> ReportFiles:
    """Read the records of ``folder`` and write ``report.html``, ``summary.json``, ``summary.csv``, ``matrices.csv``.

    Each file appears whole or not at all; nothing is written before everything is worked out.

    Args:
        folder: of a benchmark, with ``runs/*.json``.
        out: where the report goes instead of ``folder / "report.html"``.

    Raises:
        InputError: there is no record, or one is broken, or two cannot be compared.
        MissingExtraError: jinja2 or matplotlib is not installed.
        StorageError: a file cannot be written.
    """
    check_extras()
    records = read_records(folder)
    summaries = tuple(one for stream in gather(records) for one in summarise_stream(stream))
    page = render_report(records).encode("utf-8")
    paths = out or folder / "report.html", folder / "summary.json"
    tables = write_csv(folder, records, summaries)
    write_atomic(paths[1], pretty_json({"schema_version": SCHEMA_VERSION, "summaries": summary_json(summaries)}))
    write_atomic(paths[0], page)
    return ReportFiles(*paths, *tables, runs=len(records), summaries=summaries)


def render_report(records: Sequence[RunRecord]) -> str:
    """The report as the text of an HTML page; the same records give the same text.

    Raises:
        InputError: two records cannot be compared.
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    check_extras()
    streams = gather(records)
    pens = pens_of(streams)
    return render(
        TEMPLATE,
        title=f"Benchmark: {', '.join(sorted({stream.suite for stream in streams}))}",
        streams=[view_of(stream, pens, number=number + 1) for number, stream in enumerate(streams)],
        runs=len(records),
        learners=len(pens),
        seeds=len({record.seed for record in records}),
        metrics=METRICS,
        costs=COSTS,
        light=palette(LIGHT),
        dark=palette(DARK),
        origin=origin_of(records),
        records=[record for stream in streams for record in stream.records],
    )


def pens_of(streams: Sequence[Stream]) -> dict[str, Pen]:
    """How each learner is drawn, the same in every stream, in the order of names."""
    names = sorted({learner for stream in streams for learner in stream.runs})
    return {name: Pen(number) for number, name in enumerate(names)}


def check_extras() -> None:
    """Refuse early what could not be rendered.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "The report needs jinja2, but it is missing; run: pip install 'mmcl-edge[bench]'"
        ) from error
    check_matplotlib()


def render(template: str, **values: Any) -> str:
    """Fill a template of this package; every value is escaped but the pictures, which are ``Markup``."""
    import jinja2

    rules = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    rules.filters["minus"] = lambda number: "-" if number == "-" else number.replace("-", "\N{MINUS SIGN}")
    return rules.get_template(template).render(values)


def _template(name: str) -> str:
    return resources.files(__package__ or "mmcl_edge.benchmark").joinpath(name).read_text(encoding="utf-8")
