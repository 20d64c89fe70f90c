"""``mmcl-edge bench run``: learners on streams, resumable."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mmcl_edge.commands.console import emit, json_option, progress, table
from mmcl_edge.errors import InputError


@click.command("run")
@click.argument("suite", metavar="SUITE")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where records go.  [default: bench/SUITE]")
@click.option("--learners", metavar="A,B", help="In place of the suite's ('mmcl-edge bench run list' shows them).")
@click.option("--seeds", type=click.IntRange(min=1), metavar="N", help="Seeds 0 to N-1.  [default: the suite's]")
@click.option("--streams", metavar="TEXT", help="Only streams whose name holds this.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Runs side by side.  [default: every core]")
@click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="Holds the datasets.  [MMCL_EDGE_DATA]")
@click.option("--bundle", type=click.Path(path_type=Path), metavar="DIR", help="A bundle.  [default: the workspace's]")
@json_option
def command(
    suite: str,
    out: Path | None,
    learners: str | None,
    seeds: int | None,
    streams: str | None,
    workers: int | None,
    data: Path | None,
    bundle: Path | None,
    as_json: bool,
) -> None:
    """Run learners on the streams of SUITE: results, ablations, validation, online.

    Each run (learner, stream, seed) leaves a JSON record with its accuracy matrix under DIR/runs, named by the digest
    of its configuration. What is there is not run again, so an interrupted suite goes on. 'list' as SUITE
    shows suites and learners.

    \b
    Examples:
      mmcl-edge bench run list
      mmcl-edge bench run results --data ./datasets --out results
      mmcl-edge bench run results --learners mmcl,er --seeds 3 --streams "5 pairs"
    """  # noqa: D301
    if suite == "list":
        emit(_catalogue(), as_json, _list)
        return
    from mmcl_edge.benchmark.place import Where
    from mmcl_edge.benchmark.runner import plan, run_suite
    from mmcl_edge.benchmark.suites import find_suite
    from mmcl_edge.bundle import Bundle

    started = time.monotonic()
    found = find_suite(suite)
    place = _bundle(bundle)
    names = [name.strip() for name in learners.split(",")] if learners else None
    specs = plan(found, Bundle.open(place).digest, learners=names, seeds=None if seeds is None else range(seeds))
    specs = [spec for spec in specs if streams is None or streams in spec.stream.name]
    if not specs:
        raise InputError(f"Expected a stream whose name holds {streams!r}, but the suite {suite!r} has none.")
    folder = out or Path("bench") / suite
    where = Where(folder, place, data, _asked())
    with progress("Benchmark", quiet=as_json) as report:
        outcome = run_suite(
            specs,
            where,
            workers=workers or os.cpu_count() or 1,
            on_run=lambda spec, record, done, total: report(_line(spec, record), done, total),
            on_features=lambda done, total: report("frozen features", done, total),
        )
    result = {
        "suite": suite,
        "folder": str(folder),
        "done": len(outcome.done),
        "skipped": len(outcome.skipped),
        "failed": list(outcome.failed.values()),
        "seconds": round(time.monotonic() - started, 1),
    }
    emit(result, as_json, _human)
    if outcome.failed:
        sys.exit(1)


def _bundle(bundle: Path | None) -> Path:
    if bundle is not None:
        return bundle
    from mmcl_edge.runtime.workspace import Workspace

    return Workspace().open().bundle_path


def _asked() -> str:
    """The command as it was typed, without folders of this machine."""
    return " ".join(["mmcl-edge", *(Path(part).name if os.sep in part else part for part in sys.argv[1:])])


def _line(spec: Any, record: Any) -> str:
    name = f"{spec.stream.name}: {spec.learner}, seed {spec.seed}"
    if record is None:
        return f"{name}: failed"
    from mmcl_edge.benchmark.metrics import final_accuracy

    return f"{name}: {100 * final_accuracy(record.matrix, record.test_counts):.1f} % in {record.cost.train_s:.0f} s"


def _catalogue() -> dict[str, Any]:
    from mmcl_edge.benchmark.suites import SUITES
    from mmcl_edge.learners.catalogue import LEARNERS

    return {
        "suites": {name: one.about for name, one in SUITES.items()},
        "learners": {name: {"kind": one.kind, "about": one.about} for name, one in LEARNERS.items()},
    }


def _list(result: Mapping[str, Any]) -> str:
    learners = [(name, one["kind"], one["about"]) for name, one in result["learners"].items()]
    return "\n\n".join(
        (table(("suite", "what"), result["suites"].items()), table(("learner", "kind", "what"), learners))
    )


def _human(result: Mapping[str, Any]) -> str:
    lines = [f"{result['done']} runs made, {result['skipped']} were there already, in {result['seconds']:.0f} s."]
    lines += [f"Failed: {sentence}" for sentence in result["failed"]]
    return "\n".join([*lines, f"Next: mmcl-edge bench report {result['folder']}"])
