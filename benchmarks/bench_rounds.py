"""Federated rounds against learning everything in one place: accuracy of the analytic head, non-IID, some devices late.

Every device has two classes of the dataset, no two devices share a sample. It learns its first class in one run of the
server and its second in another; a round closes when the quorum has answered, the rest comes late. ``--through flower``
runs a Flower simulation (extra ``federated``, an environment of its own), ``--through process`` the same rounds on a
pool of processes, without messages. Prints one JSON line.

    python benchmarks/bench_rounds.py --bundle DIR [--dataset digits] [--clients 50] [--quorum 0.8] [--through flower]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from mmcl_edge.bundle import Bundle
from mmcl_edge.config import AdaptConfig, MethodConfig
from mmcl_edge.data.datasets import Row, open_dataset, select
from mmcl_edge.fleet.engines import open_engine
from mmcl_edge.fleet.rounds.device import take_part
from mmcl_edge.fleet.rounds.merging import PackMerge
from mmcl_edge.fleet.rounds.messages import Answer, Order
from mmcl_edge.fleet.rounds.server import RoundReport, Rounds
from mmcl_edge.runtime.adapt import AdaptRequest, adapt
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.workspace import Workspace

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
METHOD = MethodConfig(learner="analytic")
HOW = AdaptConfig(tolerance=1.0)
TASKS = ("first", "second")


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        print(json.dumps(measure(arguments, Path(scratch))), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--quorum", type=float, default=0.8, help="share of answers that closes a round")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--through", choices=("flower", "process"), default="flower")
    parser.add_argument(
        "--features", type=Path, help="folder of frozen features to use and to fill; default: a new one"
    )
    parser.add_argument("--scratch", type=Path, help="folder for a gigabyte")
    return parser.parse_args()


def measure(arguments: argparse.Namespace, scratch: Path) -> dict:
    bundle = Bundle.open(arguments.bundle)
    reader = open_dataset(arguments.dataset, arguments.data)
    train, test = (select(reader.rows, split=split) for split in ("train", "test"))
    classes = sorted({row.label for row in train})
    features, clock = arguments.features or scratch / "features", {}

    started = time.perf_counter()
    central = new_workspace(scratch / "central", bundle, features.absolute())
    for row in train:
        copy(row, central.task_folder("all"))
    adapt(central, AdaptRequest("all", method=METHOD, adapt=HOW, threads=1))
    clock["central"] = time.perf_counter() - started

    started = time.perf_counter()
    held = divide(train, classes, arguments.clients)
    for number, rows in enumerate(held):
        workspace = new_workspace(scratch / "devices" / str(number), bundle, features.absolute())
        for task, label in zip(TASKS, sorted({row.label for row in rows}), strict=True):
            for row in rows:
                if row.label == label:
                    copy(row, workspace.task_folder(task))
    clock["copy"] = time.perf_counter() - started

    started, reports = time.perf_counter(), []
    for task in TASKS:
        rounds = Rounds(scratch / "server", bundle=bundle.family, method=METHOD, adapt=HOW, merge=PackMerge())
        through = {"flower": through_flower, "process": through_process}[arguments.through]
        reports += through(arguments, rounds, scratch / "devices", task)
    clock["rounds"] = time.perf_counter() - started

    started = time.perf_counter()
    samples = [reader.load(row) for row in test]
    answers = [labels_of(bundle, pack, samples) for pack in (central.current_pack(), rounds.pack)]
    clock["test"] = time.perf_counter() - started
    accuracy = [share(found, [row.label for row in test]) for found in answers]
    merged = [entry for report in reports for entry in report.merged.values()]
    return {
        "benchmark": "rounds",
        "dataset": arguments.dataset,
        "through": arguments.through,
        "clients": arguments.clients,
        "classes": len(classes),
        "classes_per_client": 2,
        "train_pairs": len(train),
        "test_pairs": len(test),
        "central_accuracy": round(accuracy[0], 4),
        "federated_accuracy": round(accuracy[1], 4),
        "difference_points": round(100 * (accuracy[1] - accuracy[0]), 2),
        "same_answers": round(share(*answers), 4),
        "rounds": [
            {
                "round": report.round,
                "merged": len(report.merged),
                "late": sum(age > 0 for _, age in report.merged.values()),
                "refused": sorted(set(report.refused.values())),
                "rejected": report.rejected,
            }
            for report in reports
        ],
        "answers_merged": len(merged),
        "answers_late": sum(age > 0 for _, age in merged),
        "seconds": {name: round(value, 1) for name, value in clock.items()},
        "load_1min": round(os.getloadavg()[0], 1),
    }


def new_workspace(root: Path, bundle: Bundle, features: Path) -> Workspace:
    """A workspace whose bundle and cached features are links: fifty copies would say nothing more."""
    workspace = Workspace(root).create()
    (root / "bundles" / bundle.digest).symlink_to(bundle.path.resolve())
    (root / "bundle").symlink_to(f"bundles/{bundle.digest}")
    features.mkdir(exist_ok=True)
    shutil.rmtree(root / "features")
    (root / "features").symlink_to(features)
    return workspace


def divide(rows: list[Row], classes: list[str], clients: int) -> list[list[Row]]:
    """Rows of each client: two neighbouring classes, shared evenly among those who have the class."""
    wanted = [[classes[(number + step) % len(classes)] for step in (0, 1)] for number in range(clients)]
    held: list[list[Row]] = [[] for _ in range(clients)]
    for label in classes:
        owners = [number for number in range(clients) if label in wanted[number]]
        for position, row in enumerate(row for row in rows if row.label == label):
            held[owners[position % len(owners)]].append(row)
    return held


def copy(row: Row, folder: Path) -> None:
    target = folder / row.label
    target.mkdir(parents=True, exist_ok=True)
    for path in row.item.files:
        shutil.copy(path, target / path.name)


def through_process(arguments: argparse.Namespace, rounds: Rounds, devices: Path, task: str) -> list[RoundReport]:
    """Whoever is not among the quorum answers after the round is closed."""
    order = rounds.order()
    with open_engine("process", workers=arguments.workers) as executor:
        jobs = [executor.submit(one_device, devices / str(number), order, task) for number in range(arguments.clients)]
        in_time = round(arguments.quorum * len(jobs))
        return [receive(rounds, jobs[:in_time]), *([receive(rounds, jobs[in_time:])] if jobs[in_time:] else [])]


def one_device(root: Path, order: Order, task: str) -> Answer:
    return take_part(Workspace(root).open(), order, task=task, threads=1)


def receive(rounds: Rounds, jobs: list) -> RoundReport:
    for number, job in enumerate(jobs):
        rounds.receive(job.result(), sender=str(number))
        print(f"round {rounds.number}: {rounds.arrived} answers", file=sys.stderr, flush=True)
    return rounds.close()


def through_flower(arguments: argparse.Namespace, rounds: Rounds, devices: Path, task: str) -> list[RoundReport]:
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    from mmcl_edge.fleet.rounds.flower_device import carry_out
    from mmcl_edge.fleet.rounds.flower_strategy import MergeStrategy, Pace

    strategy = MergeStrategy(rounds, Pace(quorum=arguments.quorum, least_nodes=arguments.clients))
    server, client = ServerApp(), ClientApp()
    settings = {"workspaces": str(devices), "task": task, "threads": 1}

    def train(message, context):
        return carry_out(message, {**settings, **context.node_config})

    def run(grid, context):
        strategy.start(grid, num_rounds=1)

    client.train()(train)
    server.main()(run)
    run_simulation(
        server,
        client,
        num_supernodes=arguments.clients,
        backend_config={
            "init_args": {"num_cpus": arguments.workers, "object_store_memory": 256 << 20},
            "client_resources": {"num_cpus": 1},
        },
    )
    return strategy.reports


def labels_of(bundle: Bundle, pack: Path, samples: list) -> list[str]:
    with Runtime.open(bundle.path, pack) as runtime:
        return [answer.label for answer in runtime.predict_batch(samples)]


def share(found: list[str], expected: list[str]) -> float:
    return sum(one == other for one, other in zip(found, expected, strict=True)) / len(expected)


if __name__ == "__main__":
    main()
