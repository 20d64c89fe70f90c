"""Class-incremental learning on av21 with everything at its default: the accuracy and time that README quotes.

The first classes of the index in experiences of three, taught through ``adapt`` as a device does it (task folders,
held-out samples, acceptance rule, packs), measured on the test pairs through ``Runtime``. One JSON line a placement.

    python benchmarks/bench_adapt_av21.py [--bundle DIR] [--classes 9] [--seeds 0] [--placements inline,ladder]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from mmcl_edge.benchmark.metrics import average_accuracy, final_accuracy, forgetting
from mmcl_edge.bundle import Bundle
from mmcl_edge.config import AdaptConfig, AdapterConfig, MethodConfig
from mmcl_edge.data.datasets import Row, open_dataset, select
from mmcl_edge.export.exporter import export_bundle
from mmcl_edge.runtime.adapt import AdaptRequest, adapt
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.workspace import Workspace

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def main() -> None:
    arguments = parse()
    reader = open_dataset("av21", arguments.data)
    classes = list(dict.fromkeys(row.label for row in reader.rows))[: arguments.classes]
    groups = [classes[i : i + 3] for i in range(0, len(classes), 3)]
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Bundle.open(arguments.bundle) if arguments.bundle else export_bundle(Path(scratch) / "bundle")
        for placement in arguments.placements.split(","):
            for seed in map(int, arguments.seeds.split(",")):
                home = Path(scratch) / f"{placement}-{seed}"
                print(json.dumps(measure(home, bundle, reader, groups, placement, seed)), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds av21")
    parser.add_argument("--bundle", type=Path, help="an exported bundle; default: export one")
    parser.add_argument("--classes", type=int, default=9)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--placements", default="inline,ladder")
    return parser.parse_args()


def measure(home: Path, bundle: Bundle, reader, groups: list[list[str]], placement: str, seed: int) -> dict:
    workspace = Workspace(home).create()
    workspace.install_bundle(bundle.path)
    method = MethodConfig(adapter=AdapterConfig(placement=placement))
    seconds, matrix, accepted = [], [], []
    for number, group in enumerate(groups):
        name = f"classes_{number}"
        for row in select(reader.rows, split="train", classes=group):
            copy_pair(row, workspace.task_folder(name) / row.label)
        started = time.perf_counter()
        report = adapt(workspace, AdaptRequest(name, method=method, adapt=AdaptConfig(seed=seed, tolerance=1.0)))
        seconds.append(time.perf_counter() - started)
        accepted.append(report.after["old"])
        matrix.append(test(workspace, reader, groups))
    counts = [len(select(reader.rows, split="test", classes=group)) for group in groups]
    return {
        "benchmark": "adapt_av21",
        "placement": placement,
        "seed": seed,
        "classes": sum(map(len, groups)),
        "test_pairs": sum(counts),
        "final_accuracy": round(final_accuracy(matrix, counts), 4),
        "average_accuracy": round(average_accuracy(matrix, counts), 4),
        "forgetting": round(forgetting(matrix), 4),
        "accuracy_matrix": [[round(value, 4) for value in row] for row in matrix],
        "seconds_per_experience": [round(value, 1) for value in seconds],
        "median_seconds_per_experience": round(statistics.median(seconds), 1),
        "total_seconds": round(sum(seconds), 1),
        "old_classes_after": accepted,
    }


def copy_pair(row: Row, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in row.item.files:
        shutil.copy(path, folder / path.name)


def test(workspace: Workspace, reader, groups: list[list[str]]) -> list[float]:
    with Runtime.open(workspace.bundle_path, workspace.current_pack()) as runtime:
        return [share(runtime, reader, select(reader.rows, split="test", classes=group)) for group in groups]


def share(runtime: Runtime, reader, rows) -> float:
    answers = runtime.predict_batch([reader.load(row) for row in rows])
    return sum(answer.label == row.label for answer, row in zip(answers, rows, strict=True)) / len(rows)


if __name__ == "__main__":
    main()
