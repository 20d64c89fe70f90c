"""Range calibration of the default pair on av21: size, time and accuracy of int8, and of training through it.

The first classes of the index are taught in experiences of three as ``bench_adapt_av21.py`` teaches them, once on the
float bundle and once on an int8 bundle that was made before anything was learned. Ranges, sensitive nodes and the
speed of each graph come from training pairs; test pairs are looked at once for each figure. One JSON line a row:

* ``ranges_graphs``: for each backbone size, time (float and int8 in turns) and signal-to-noise of its graphs.
* ``ranges_accuracy``: one pack with the float bundle and with its int8 version on test pairs; ``Runtime.predict`` of
  both in turns.
* ``ranges_training``: accuracy of what was learned on the int8 bundle, beside that learned on the float one.

    python benchmarks/bench_ranges.py [--bundle DIR] [--work DIR] [--placements ladder,inline] [--method minmax]
    python benchmarks/bench_ranges.py --placements= --method entropy    # graphs alone
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from bench_adapt_av21 import DATA, measure, share
from common import example, ratio, report, summary, take_turns

from mmcl_edge.bundle import Bundle
from mmcl_edge.calibration.ranges import RangesReport, quantize_bundle
from mmcl_edge.calibration.samples import divide
from mmcl_edge.calibration.settings import RangesConfig
from mmcl_edge.data.datasets import open_dataset, select
from mmcl_edge.export.exporter import export_bundle
from mmcl_edge.packs import read_pack
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.workspace import Workspace

TARGETS = {"accuracy_loss": 0.005, "size_ratio": 0.3, "latency_ratio": 0.65}


def main() -> None:
    arguments = parse()
    reader = open_dataset("av21", arguments.data)
    classes = list(dict.fromkeys(row.label for row in reader.rows))[: arguments.classes]
    config = RangesConfig(method=arguments.method, per_channel=not arguments.per_tensor)
    place = nullcontext(arguments.work) if arguments.work else tempfile.TemporaryDirectory()
    with place as scratch:
        work = Path(scratch)
        bundle = Bundle.open(arguments.bundle) if arguments.bundle else export_bundle(work / "bundle")
        report_graphs(calibrated(work / "int8", bundle, reader, classes, None, config))
        for placement in filter(None, arguments.placements.split(",")):
            plain = taught(work / f"float-{placement}", bundle, reader, classes, placement, arguments.seed)
            compare(work, plain, bundle, reader, classes, placement, config, arguments.rounds)
            int8 = Bundle.open(work / "int8")
            learned = taught(work / f"int8-{placement}", int8, reader, classes, placement, arguments.seed)
            report_training(plain, learned, reader, classes, placement)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds av21")
    parser.add_argument("--bundle", type=Path, help="a float bundle; default: export one")
    parser.add_argument("--work", type=Path, help="keep what is taught there, and use what is there; default: scratch")
    parser.add_argument("--classes", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=7, help="turns that each contestant gets")
    parser.add_argument("--placements", default="ladder,inline")
    parser.add_argument("--method", default="minmax", choices=["minmax", "entropy", "percentile"])
    parser.add_argument("--per-tensor", action="store_true")
    return parser.parse_args()


def taught(home: Path, bundle: Bundle, reader, classes: list[str], placement: str, seed: int) -> Workspace:
    """A workspace that has learned the classes on ``bundle``."""
    if not (home / "current").exists():
        groups = [classes[i : i + 3] for i in range(0, len(classes), 3)]
        measure(home, bundle, reader, groups, placement, seed)
    return Workspace(home).open()


def calibrated(
    out: Path, bundle: Bundle, reader, classes: list[str], pack: Path | None, config: RangesConfig
) -> RangesReport:
    """The int8 version of ``bundle`` in ``out``, from training pairs."""
    shutil.rmtree(out, ignore_errors=True)
    samples = [reader.load(row) for row in select(reader.rows, split="train", classes=classes)]
    data = divide(samples, bundle.manifest, config, labelled=True)
    return quantize_bundle(bundle, data, out, pack=None if pack is None else read_pack(pack), config=config)


def report_graphs(done: RangesReport) -> None:
    for modality in (*done.bundle.manifest.modalities, None):
        graphs = [one for one in done.record.graphs if modality in (one.modality, None)]
        timed = [(one, done.speeds[one.graph]) for one in graphs if one.graph in done.speeds]
        float_ms = sum(speed.float_ms for _, speed in timed)
        report(
            "ranges_graphs",
            backbone=modality or "both",
            size_ratio=round(sum(one.size_bytes for one in graphs) / sum(one.float_size_bytes for one in graphs), 3),
            latency_ratio=round(sum(s.int8_ms if one.int8 else s.float_ms for one, s in timed) / float_ms, 3),
            snr_db={one.graph: one.snr_db for one in graphs if one.int8},
            left_float={one.graph: one.reason or one.float_nodes for one in graphs if not one.int8 or one.float_nodes},
            graph_latency_ratios={one.graph: round(speed.ratio, 3) for one, speed in timed},
            method=done.record.method,
            per_channel=done.record.per_channel,
            int8_support=done.int8_support,
            targets=TARGETS,
        )


def compare(
    work: Path,
    plain: Workspace,
    bundle: Bundle,
    reader,
    classes: list[str],
    placement: str,
    config: RangesConfig,
    rounds: int,
) -> None:
    """One pack with both bundles."""
    pack, out = plain.current_pack(), work / f"calibrated-{placement}"
    done = calibrated(out, bundle, reader, classes, pack, config)
    rows, sample = select(reader.rows, split="test", classes=classes), example(side=64, duration_s=4.0)
    pairs = [reader.load(row) for row in rows]
    with Runtime.open(bundle, pack, "cpu") as ours, Runtime.open(out, pack, "cpu") as theirs:
        answers = [[one.label for one in runtime.predict_batch(pairs)] for runtime in (ours, theirs)]
        contestants = {
            name: partial(runtime.predict, sample.audio, sample.frames)
            for name, runtime in (("float", ours), ("int8", theirs))
        }
        times = take_turns(contestants, rounds=rounds, repeats=15, before={})
    right = [sum(one == row.label for one, row in zip(labels, rows, strict=True)) / len(rows) for labels in answers]
    report(
        "ranges_accuracy",
        placement=placement,
        test_pairs=len(rows),
        float_accuracy=round(right[0], 4),
        int8_accuracy=round(right[1], 4),
        loss=round(right[0] - right[1], 4),
        same_answers=round(sum(one == other for one, other in zip(*answers, strict=True)) / len(rows), 4),
        train_accuracy=[round(done.trial.float_accuracy, 4), round(done.steps[-1].accuracy, 4)],
        float_nodes=done.steps[-1].float_nodes,
        predict={name: summary(values) for name, values in times.items()},
        predict_latency_ratio=ratio(times["int8"], times["float"]),
        targets=TARGETS,
    )


def report_training(plain: Workspace, learned: Workspace, reader, classes: list[str], placement: str) -> None:
    """Learned through float and through int8, each tested on its own bundle, and the second on the float one too."""
    rows = select(reader.rows, split="test", classes=classes)
    found = {}
    for name, bundle, pack in (
        ("float", plain.bundle_path, plain.current_pack()),
        ("int8", learned.bundle_path, learned.current_pack()),
        ("int8_tested_on_float", plain.bundle_path, learned.current_pack()),
    ):
        with Runtime.open(bundle, pack, "cpu") as runtime:
            found[name] = round(share(runtime, reader, rows), 4)
    report("ranges_training", placement=placement, test_pairs=len(rows), final_accuracy=found)


if __name__ == "__main__":
    main()
