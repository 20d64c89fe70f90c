"""``mmcl-edge bench report``: tables and one HTML page of what was run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmcl_edge.commands.console import emit, json_option, table

if TYPE_CHECKING:
    from mmcl_edge.benchmark.report import ReportFiles


@click.command("report")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the page goes.  [default: DIR/report.html]",
)
@json_option
def command(folder: Path, out: Path | None, as_json: bool) -> None:
    """Make tables and one HTML page of what 'mmcl-edge bench run' left in DIR.

    The page needs no network and no scripts: open it in any browser, or send it by mail. Beside it lie summary.csv
    (a line a learner), matrices.csv (every accuracy measured) and summary.json. The same runs give the same files.

    \b
    Examples:
      mmcl-edge bench report bench/results
      mmcl-edge bench report bench/results --out report.html
      mmcl-edge bench report bench/results --json
    """  # noqa: D301
    from mmcl_edge.benchmark.report import write_report

    emit(_result(write_report(folder, out=out)), as_json, _human)


def _result(files: ReportFiles) -> dict[str, Any]:
    from mmcl_edge.benchmark.tables import summary_json

    paths = ("report", "summary_json", "summary_csv", "matrices_csv")
    return {
        **{name: click.format_filename(getattr(files, name)) for name in paths},
        "runs": files.runs,
        "summaries": summary_json(files.summaries),
    }


def _human(result: Mapping[str, Any]) -> str:
    streams: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in result["summaries"]:
        streams.setdefault((one["suite"], one["stream"]), []).append(one)
    blocks = [_stream_table(f"{suite}: {stream}", found) for (suite, stream), found in streams.items()]
    places = [f"{name:<10} {result[key]}" for name, key in _PLACES.items()]
    return "\n\n".join([*blocks, "\n".join(places)])


_PLACES = {"page": "report", "summary": "summary_csv", "matrices": "matrices_csv", "JSON": "summary_json"}


def _stream_table(title: str, summaries: list[Mapping[str, Any]]) -> str:
    header = ("learner", "seeds", "final %", "average %", "forgetting", "kept", "training")
    return f"{title}\n{table(header, map(_row, summaries))}"


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    from mmcl_edge.benchmark.intervals import Interval
    from mmcl_edge.benchmark.tables import cost_text, percent

    values = (one["metrics"][name] for name in ("final_accuracy", "average_accuracy", "forgetting"))
    costs = (cost_text(name, one["costs"][name]) for name in ("persistent_bytes", "train_s"))
    return (one["learner"], str(len(one["seeds"])), *(percent(Interval(**value)) for value in values), *costs)
