"""``mmcl-edge bench crossmodal``: learners of pair sets on tasks, resumable, and the page of what they gave."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmcl_edge.commands.console import Reporter, emit, json_option, progress, table

if TYPE_CHECKING:
    from mmcl_edge.benchmark.crossmodal.plan import CrossmodalSpec
    from mmcl_edge.benchmark.crossmodal.records import CrossmodalRecord

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command("crossmodal")
@click.option("--out", type=FOLDER, default=Path("bench/crossmodal"), show_default=True, help="Where records go.")
@click.option("--docs", type=FOLDER, metavar="DIR", help="Also write DIR/crossmodal.md and DIR/results/crossmodal*.")
@click.option("--tasks", metavar="A,B", help="Of stamps, av21, digits.  [default: all]")
@click.option("--learners", metavar="A,B", help="In place of each task's, as in comet,comet-joint.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, metavar="N", help="Seeds 0 to N-1.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Runs side by side.  [default: every core]")
@click.option("--data", type=FOLDER, metavar="DIR", help="Holds the datasets.  [MMCL_EDGE_DATA]")
@click.option("--bundle", type=FOLDER, metavar="DIR", help="With audio, frames and text.  [default: exported into OUT]")
@click.option("--page-only", is_flag=True, help="From the records that are there.")
@click.option("--no-timings", is_flag=True, help="Leave out stages from files and searches among 10,000 items.")
@json_option
def command(
    out: Path,
    docs: Path | None,
    tasks: str | None,
    learners: str | None,
    seeds: int,
    workers: int | None,
    data: Path | None,
    bundle: Path | None,
    page_only: bool,
    no_timings: bool,
    as_json: bool,
) -> None:
    """Compare learners of the shared space: retrieval across pairs seen and unseen, classes told across modalities.

    Each run (task, learner, order of stages, seed) leaves a JSON record under OUT/runs, named by the digest of its
    configuration. What is there is not run again, so what was interrupted goes on. Then OUT/report.html and the tables
    beside it are written.

    \b
    Examples:
      mmcl-edge bench crossmodal --data ./datasets --docs docs
      mmcl-edge bench crossmodal --data ./datasets --tasks stamps --learners comet,comet-joint --seeds 1
      mmcl-edge bench crossmodal --page-only --docs docs
    """  # noqa: D301
    from mmcl_edge.benchmark.crossmodal.report import write_page

    started, result = time.monotonic(), {"folder": str(out), "done": 0, "skipped": 0, "failed": []}
    if not page_only:
        with progress("Across modalities", quiet=as_json) as report:
            made = _run(out, tasks, learners, seeds, workers, data, bundle, no_timings, report)
        result |= made
    files = write_page(out, docs)
    result |= {
        "seconds": round(time.monotonic() - started, 1),
        "report": str(files.report),
        "page": None if files.page is None else str(files.page),
        "targets": [{"asked": asked, "found": found, "verdict": verdict} for asked, found, verdict in files.targets],
    }
    emit(result, as_json, _human)
    if result["failed"]:
        sys.exit(1)


def _run(
    out: Path,
    tasks: str | None,
    learners: str | None,
    seeds: int,
    workers: int | None,
    data: Path | None,
    bundle: Path | None,
    no_timings: bool,
    report: Reporter,
) -> dict[str, Any]:
    from mmcl_edge.benchmark.crossmodal.plan import plan
    from mmcl_edge.benchmark.crossmodal.records import read_timings, write_timings
    from mmcl_edge.benchmark.crossmodal.runner import run_plan
    from mmcl_edge.benchmark.place import Where
    from mmcl_edge.benchmark.report import check_extras
    from mmcl_edge.bundle import Bundle

    check_extras()
    plan("", tasks=_names(tasks), learners=_names(learners), seeds=seeds)  # refuses unknown names before an export
    place = bundle or _exported(out / "bundle", report)
    specs = plan(Bundle.open(place).digest, tasks=_names(tasks), learners=_names(learners), seeds=seeds)
    where = Where(out, place, data, _asked())
    if not no_timings and read_timings(out) is None:
        from mmcl_edge.benchmark.crossmodal.timings import take_timings

        report("stages from files, and searches")
        write_timings(out, take_timings(place, data, where.command))
    outcome = run_plan(
        specs,
        where,
        workers=workers or os.cpu_count() or 1,
        on_run=lambda spec, record, done, total: report(_line(spec, record), done, total),
        on_features=lambda done, total: report("frozen features", done, total),
    )
    return {"done": len(outcome.done), "skipped": len(outcome.skipped), "failed": list(outcome.failed.values())}


def _exported(place: Path, report: Reporter) -> Path:
    """The default backbones and text, exported once beside the records."""
    if not place.exists():
        from mmcl_edge.export.exporter import export_bundle

        report("bundle with audio, frames and text")
        export_bundle(place, text="minilm")
    return place


def _names(listed: str | None) -> list[str] | None:
    return None if listed is None else [name.strip() for name in listed.split(",") if name.strip()]


def _asked() -> str:
    """The command as it was typed, without folders of this machine."""
    return " ".join(["mmcl-edge", *(Path(part).name if os.sep in part else part for part in sys.argv[1:])])


def _line(spec: CrossmodalSpec, record: CrossmodalRecord | None) -> str:
    if record is None:
        return f"{spec}: failed"
    from mmcl_edge.benchmark.crossmodal.scores import SCORES

    seen, unseen = (SCORES[name].measure(record) or 0.0 for name in ("seen", "unseen"))
    return f"{spec}: seen {100 * seen:.1f} %, unseen {100 * unseen:.1f} %"


def _human(result: Mapping[str, Any]) -> str:
    lines = [f"{result['done']} runs made, {result['skipped']} were there already, in {result['seconds']:.0f} s."]
    lines += [f"Failed: {sentence}" for sentence in result["failed"]]
    rows = [(one["asked"], one["found"], one["verdict"]) for one in result["targets"]]
    places = [f"{name:<7}{result[name]}" for name in ("report", "page") if result[name]]
    return "\n".join([*lines, "", table(("asked", "found", ""), rows), "", *places])
