"""Federated rounds against learning everything in one place: accuracy of the analytic head, non-IID, some devices late.

Every device has two classes of the dataset, no two devices share a sample. It learns its first class in one run of the
server and its second in another; a round closes when the quorum has answered, the rest comes late. The merged pack is
compared with the learner that saw, in one place and at once, the same samples, and with one run of ``adapt`` on all of
them (which holds other samples out). ``--through flower``
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
from mmcl_edge.data.clips import clipped
from mmcl_edge.data.datasets import Row, open_dataset, select
from mmcl_edge.data.streams import Experience
from mmcl_edge.data.task_folder import decode_task, read_task
from mmcl_edge.fleet.engines import open_engine
from mmcl_edge.fleet.rounds.device import take_part
from mmcl_edge.fleet.rounds.merging import PackMerge
from mmcl_edge.fleet.rounds.messages import Answer, Order
from mmcl_edge.fleet.rounds.server import RoundReport, Rounds
from mmcl_edge.learners.analytic.learner import AnalyticLearner
from mmcl_edge.learners.host import Host
from mmcl_edge.runtime.adapt import AdaptEvents, AdaptRequest, _Adaptation, adapt
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.replay_store import ReplayStore
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
    learned, same = same_samples(scratch, bundle, features, [scratch / "devices" / str(n) for n in range(len(held))])
    answers.append([same.labels[column] for column in same.predict(samples).argmax(dim=1).tolist()])
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
        "learned_from": learned,
        "federated_accuracy": round(accuracy[1], 4),
        "central_accuracy": round(accuracy[2], 4),
        "difference_points": round(100 * (accuracy[1] - accuracy[2]), 2),
        "same_answers": round(share(answers[1], answers[2]), 4),
        "central_adapt_accuracy": round(accuracy[0], 4),
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


def same_samples(scratch: Path, bundle: Bundle, features: Path, devices: list[Path]) -> tuple[int, AnalyticLearner]:
    """The learner that saw in one place, at once, what the devices have learned from; and how many samples that is.

    Every device holds samples out, and other ones than the central workspace does: without this, the two would be
    compared on what they happened to keep aside.
    """
    held = set()
    for root in devices:
        workspace = Workspace(root).open()
        kept = ReplayStore(workspace.replay_path).read(workspace.current_pack().name)
        held |= {(one.label, one.source) for one in kept.holdout}
    everything = Workspace(scratch / "central").open().task_folder("all")
    samples, _ = decode_task(
        read_task(everything, name="all", known_classes=(), min_samples=HOW.min_samples),
        max_frames=HOW.max_frames,
        transform=lambda sample: clipped(sample, HOW.clip_s),
    )
    train = [one for one in samples if (one.label, one.source) not in held]
    empty = new_workspace(scratch / "same", bundle, features)
    with_features = _Adaptation(empty, AdaptRequest("all", method=METHOD, adapt=HOW, threads=1), AdaptEvents())
    runtime, cache = with_features.runtime, with_features.features()  # the cache that adapt has filled
    learner = AnalyticLearner(Host(runtime.backbones, METHOD, runtime.preprocess, HOW.seed, cache))
    learner.observe(Experience("all", train, (), tuple(sorted({one.label for one in train}))))
    return len(train), learner


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
