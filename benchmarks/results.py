"""Everything in docs/results.md: run the suites ``results`` and ``ablations``, then write tables, pictures and page.

What was run before is not run again. One command: ``make results``.

    python benchmarks/results.py [--out bench/results] [--data DIR] [--bundle DIR] [--workers N] [--page-only]
"""

from __future__ import annotations

import argparse
import gzip
import os
import sys
import time
from pathlib import Path

from results_page import page, picture

from mmcl_edge.benchmark.gather import gather
from mmcl_edge.benchmark.place import Where
from mmcl_edge.benchmark.records import read_records
from mmcl_edge.benchmark.report import write_report
from mmcl_edge.benchmark.runner import plan, run_suite
from mmcl_edge.benchmark.suites import PROMPTS, find_suite
from mmcl_edge.benchmark.summaries import summarise
from mmcl_edge.benchmark.tables import matrices_csv, summary_csv
from mmcl_edge.bundle import Bundle
from mmcl_edge.export.exporter import export_bundle
from mmcl_edge.fileio import write_atomic

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
SUITES = ("results", "ablations", "online")
COMMAND = "make results"


def main() -> None:
    arguments = parse()
    failed = 0 if arguments.page_only else run(arguments)
    write_page(arguments.out, arguments.docs)
    sys.exit(1 if failed else 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="records and features")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where results.md and results/ go")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds av21 and digits")
    parser.add_argument("--bundle", type=Path, help="an exported bundle; default: export one beside the records")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--suites", default=",".join(SUITES))
    parser.add_argument("--page-only", action="store_true", help="from the records that are there")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> int:
    """Make every record that is missing; returns how many runs failed."""
    bundle = arguments.bundle or arguments.out / "bundle"
    if not bundle.exists():
        export_bundle(bundle)
    digest, where = Bundle.open(bundle).digest, Where(arguments.out, bundle, arguments.data, COMMAND)
    specs = [spec for name in arguments.suites.split(",") for spec in plan(find_suite(name), digest)]
    specs = list({spec.key: spec for spec in specs}.values())
    specs.sort(key=lambda spec: spec.learner in PROMPTS)  # they take as long as all others together
    started = time.monotonic()

    def told(spec, record, done: int, total: int) -> None:
        what = "failed" if record is None else f"{record.cost.train_s:.0f} s"
        gone = time.monotonic() - started
        print(f"{done}/{total} [{gone:.0f} s] {spec.stream.name}: {spec.learner}, seed {spec.seed}: {what}", flush=True)

    def features(done: int, total: int) -> None:
        print(f"frozen features {done}/{total} [{time.monotonic() - started:.0f} s]", flush=True)

    outcome = run_suite(specs, where, workers=arguments.workers, on_run=told, on_features=features)
    for sentence in outcome.failed.values():
        print(f"failed: {sentence}")
    return len(outcome.failed)


def write_page(folder: Path, docs: Path) -> None:
    """docs/results.md, and beside it the tables and pictures it quotes; the HTML report stays with the records."""
    records = read_records(folder)
    target = docs / "results"
    target.mkdir(parents=True, exist_ok=True)
    write_atomic(target / "summary.csv", summary_csv(summarise(records)))
    write_atomic(target / "matrices.csv.gz", gzip.compress(matrices_csv(records), mtime=0))
    streams = gather(records)
    for stream in streams:
        name, made = picture(stream, streams)
        write_atomic(target / name, made)
    write_atomic(docs / "results.md", page(streams).encode())
    write_report(folder)


if __name__ == "__main__":
    main()
