"""Runs the benchmark programs and writes docs/performance.jsonl and, from it, docs/performance.md.

One bundle of the default pair is exported and shared. The rows of a program that ran replace those it had; what did
not run keeps its rows, or stays ``not measured``.

    python benchmarks/run.py [--all] [--only NAME,...] [--quick] [--bundle DIR] [--data DIR] [--out DIR] [--page-only]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import commit, facts
from page import FACTS, FAILED, page

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
ROWS_NAME, PAGE_NAME = "performance.jsonl", "performance.md"
DATA = HERE.parents[1] / "shared" / "data"


@dataclass(frozen=True, slots=True)
class Job:
    """A program and its arguments.

    Attributes:
        name: of its section.
        program: file name.
        arguments: always.
        quick: added with ``--quick``.
        own_bundle: it exports another pair than the default one.
        needs_data: it takes ``--data``.
        longer: only with ``--all`` or by name.
    """

    name: str
    program: str
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] = ("--rounds", "2")
    own_bundle: bool = False
    needs_data: bool = False
    longer: bool = False


_FEW = ("--rounds", "2", "--repeats", "3", "--singles", "30", "--compile-timeout-s", "0")
JOBS = (
    Job("startup", "bench_startup.py"),
    Job("predict", "bench_predict.py", quick=_FEW),
    Job("fused", "bench_fused.py", quick=("--rounds", "2", "--repeats", "3")),
    Job("adapt_step", "bench_adapt_step.py", quick=("--rounds", "1", "--repeats", "1", "--batches", "4")),
    Job("ladder_cache", "bench_ladder_cache.py", quick=("--samples", "12", "--epochs", "3")),
    Job("memory", "bench_memory.py", quick=("--rounds", "1", "--calls", "500", "--warm-up", "100")),
    Job("predict-vit-tiny", "bench_predict.py", ("--pair", "vit-tiny", "--rounds", "5"), quick=_FEW, own_bundle=True),
    Job(
        "predict-vit-base",
        "bench_predict.py",
        ("--pair", "vit-base", "--rounds", "5", "--singles", "100"),
        quick=_FEW,
        own_bundle=True,
        longer=True,
    ),
    Job("adapt_av21", "bench_adapt_av21.py", quick=("--classes", "3"), needs_data=True, longer=True),
    Job("confidence", "bench_confidence.py", quick=("--classes", "3"), needs_data=True, longer=True),
    Job("ranges", "bench_ranges.py", quick=("--rounds", "2"), needs_data=True, longer=True),
)


def main() -> int:
    arguments = parse()
    jobs = [] if arguments.page_only else chosen(arguments.only, everything=arguments.all)
    revision, rows, failed = commit(), read_rows(arguments.out / ROWS_NAME), False
    with tempfile.TemporaryDirectory() as folder:
        bundle = arguments.bundle or Path(folder) / "bundle"
        if not arguments.bundle and any(not job.own_bundle for job in jobs):
            export(bundle)
        for job in jobs:
            made = list(run(job, bundle, arguments, revision))
            failed = failed or made[-1]["benchmark"] == FAILED
            rows = merged(rows, job.name, made)
            write(rows, arguments.out)
    write(rows, arguments.out)
    return int(failed)


def export(bundle: Path) -> None:
    """Make the default bundle, in a process of its own."""
    command = [sys.executable, "-m", "mmcl_edge.commands.main", "export", "--out", str(bundle)]
    subprocess.run(command, check=True, stdout=sys.stderr)


def parse() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--all", action="store_true", help="also ViT-B and the programs that need av21")
    options.add_argument("--only", default="", help=f"names among {', '.join(job.name for job in JOBS)}")
    options.add_argument("--quick", action="store_true", help="few rounds: to see that everything runs")
    options.add_argument("--bundle", type=Path, help="an exported bundle of the default pair; default: export one")
    options.add_argument("--data", type=Path, default=DATA, help="folder that holds av21")
    options.add_argument("--out", type=Path, default=DOCS, help="folder of the page and its rows")
    options.add_argument("--timeout-s", type=float, default=3600.0, help="for each program")
    options.add_argument("--page-only", action="store_true", help="write the page from the rows that are there")
    return options.parse_args()


def chosen(only: str, *, everything: bool) -> list[Job]:
    """The jobs to run.

    Raises:
        SystemExit: a name is unknown.
    """
    names = [name for name in only.split(",") if name]
    unknown = sorted(set(names) - {job.name for job in JOBS})
    if unknown:
        raise SystemExit(f"No such program: {', '.join(unknown)}; choose among {', '.join(job.name for job in JOBS)}.")
    return [job for job in JOBS if job.name in names or (not names and (everything or not job.longer))]


def run(job: Job, bundle: Path, arguments: argparse.Namespace, revision: str) -> Iterator[dict[str, Any]]:
    """Rows of one program, printed as they come; the last one is ``failed`` if it did not end well."""
    if job.needs_data and not (arguments.data / "av21").is_dir():
        yield {"benchmark": FAILED, "job": job.name, "reason": "the data are not here"}
        return
    yield {"benchmark": FACTS, "job": job.name} | facts(revision)
    command = ["timeout", str(arguments.timeout_s), sys.executable, str(HERE / job.program), *job.arguments]
    command += job.quick if arguments.quick else ()
    command += () if job.own_bundle else ("--bundle", str(bundle))
    command += ("--data", str(arguments.data)) if job.needs_data else ()
    print(f"{job.name}: {job.program}", file=sys.stderr, flush=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            row = parsed(line)
            if row is not None:
                yield row | {"job": job.name}
    if process.returncode != 0:
        reason = "it took too long" if process.returncode == 124 else f"it ended with exit code {process.returncode}"
        yield {"benchmark": FAILED, "job": job.name, "reason": reason}


def parsed(line: str) -> dict[str, Any] | None:
    """A row, or ``None`` for any other line."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "benchmark" in row else None


def merged(rows: Sequence[dict[str, Any]], job: str, made: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """``rows`` with those of ``job`` replaced, in the order of the page."""
    order = {one.name: number for number, one in enumerate(JOBS)}
    together = [row for row in rows if row["job"] != job] + list(made)
    return sorted(together, key=lambda row: order.get(row["job"], len(order)))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows kept; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Rows and page."""
    (folder / ROWS_NAME).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / PAGE_NAME).write_text(page(rows))


if __name__ == "__main__":
    sys.exit(main())
