"""Does memory grow with the number of predictions, and what does sharing the weights between sessions save?

Growth: one process calls ``Runtime.predict`` many times on samples of several lengths; after a warm-up the resident
memory is read at a hundred places. The row gives the slope of the least-squares line in KiB per 1,000 calls, and its
standard error. (Deviations of neighbouring readings are alike, so the error is rather too small: a slope within it
is no growth, one of a few errors need not be any.)

Sessions: what opening every graph that training runs (forward and VJP) adds to a fresh process: ``shared`` as the
runtime opens them (weights stay in one file that is mapped), ``private`` with the weights inside each graph, opened by
ONNX Runtime with its usual settings. Anonymous memory is what cannot be dropped; resident memory also counts pages of
mapped files.

    python benchmarks/bench_memory.py [--bundle DIR] [--calls 10000] [--rounds 3]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import monolith
import onnx
import onnxruntime as ort
from common import example, new_model, new_pack, parser, report, scratch_bundle
from figures import slope
from memory import give_back_free_memory, memory_kib

from mmcl_edge.bundle import Bundle
from mmcl_edge.config import MethodConfig
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.segments import open_backbones
from mmcl_edge.runtime.sessions import Graph, SessionFactory
from mmcl_edge.runtime.threads import ThreadPlan

READINGS = 100
TARGETS = {"slope_in_standard_errors": 2.0}
WAYS = ("shared", "private")


def main() -> None:
    options = parser(__doc__)
    options.set_defaults(rounds=3)
    options.add_argument("--calls", type=int, default=10_000, help="predictions after the warm-up")
    options.add_argument("--warm-up", type=int, default=500, help="predictions before the first reading")
    options.add_argument("--open-as", choices=WAYS, help="(internal) print what opening sessions adds")
    options.add_argument("--private", type=Path, help="(internal) folder of graphs that hold their weights")
    arguments = options.parse_args()
    if arguments.open_as:
        print(json.dumps(opening(arguments.open_as, Bundle.open(arguments.bundle), arguments.private)))
        return
    with scratch_bundle(arguments.bundle) as (folder, bundle):
        growth(bundle, folder / "packs", arguments.calls, arguments.warm_up)  # first: nothing was freed before it
        sessions(bundle, folder / "private", arguments.rounds)


def growth(bundle: Bundle, folder: Path, calls: int, warm_up: int) -> None:
    """Print the row of the long run."""
    readings: dict[str, list[int]] = {"Rss": [], "Anonymous": []}
    with Runtime.open(bundle, provider="cpu") as runtime:
        runtime.load_pack(new_pack(folder, bundle, new_model(runtime.backbones, MethodConfig()), MethodConfig()))
        samples = cycle([example(0), example(1, duration_s=1.0), example(2, side=480, duration_s=2.4)])
        predict_times(runtime, samples, warm_up)
        step = max(1, calls // READINGS)
        for _ in range(READINGS):
            predict_times(runtime, samples, step)
            for name, value in memory_kib().items():
                readings[name].append(value)
    lines = {name: slope([i * step / 1000 for i in range(READINGS)], values) for name, values in readings.items()}
    report(
        "memory_growth",
        predictions=READINGS * step,
        resident_mib=round(readings["Rss"][0] / 1024, 1),
        resident_growth_kib=readings["Rss"][-1] - readings["Rss"][0],
        anonymous_growth_kib=readings["Anonymous"][-1] - readings["Anonymous"][0],
        slope_kib_per_1000=round(lines["Rss"].value, 2),
        standard_error=round(lines["Rss"].standard_error, 2),
        anonymous_slope_kib_per_1000=round(lines["Anonymous"].value, 2),
        slope_in_standard_errors=round(min(999.0, lines["Rss"].in_standard_errors), 2),
        targets=TARGETS,
    )


def predict_times(runtime: Runtime, samples, count: int) -> None:
    for _ in range(count):
        sample = next(samples)
        runtime.predict(sample.audio, sample.frames)


def sessions(bundle: Bundle, folder: Path, rounds: int) -> None:
    """Print the row of what sessions hold, from fresh processes in turns."""
    write_private(bundle, folder)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            words = ["--open-as", way, "--bundle", str(bundle.path), "--private", str(folder)]
            done = subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE)
            found[way].append(json.loads(done.stdout))
    rows = {
        way: {name: statistics.median(one[name] for one in each) for name in each[0]} for way, each in found.items()
    }
    spread = {
        way: [min(values), max(values)]
        for way, values in ((way, [one["anonymous_mib"] for one in each]) for way, each in found.items())
    }
    report(
        "memory_sessions",
        **rows,
        anonymous_spread_mib=spread,
        anonymous_ratio=round(rows["shared"]["anonymous_mib"] / rows["private"]["anonymous_mib"], 3),
        resident_ratio=round(rows["shared"]["resident_mib"] / rows["private"]["resident_mib"], 3),
    )


def graphs(bundle: Bundle) -> list[Graph]:
    """Every graph that training runs."""
    factory = SessionFactory(ThreadPlan.for_machine(), provider="cpu")
    return [graph for one in open_backbones(bundle, factory).values() for graph in one.graphs(training=True)]


def write_private(bundle: Bundle, folder: Path) -> None:
    """The same graphs, each with its weights inside."""
    folder.mkdir(parents=True)
    for number, graph in enumerate(graphs(bundle)):
        onnx.save(onnx.load(graph.path), str(folder / f"{number:03d}.onnx"))


def opening(way: str, bundle: Bundle, folder: Path) -> dict[str, float]:
    """What opening the sessions adds to this process."""
    lazily, before = graphs(bundle), memory_kib()
    if way == "shared":
        held = [graph.session for graph in lazily]
    else:
        options = monolith.session_options(monolith.SETTINGS["no_spin"])
        held = [ort.InferenceSession(str(path), options) for path in sorted(folder.glob("*.onnx"))]
    give_back_free_memory()
    after = memory_kib()
    added = {name: round((after[name] - before[name]) / 1024, 1) for name in after}
    return {"sessions": len(held), "anonymous_mib": added["Anonymous"], "resident_mib": added["Rss"]}


if __name__ == "__main__":
    main()
