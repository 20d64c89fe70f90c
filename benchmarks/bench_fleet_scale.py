"""What a fleet costs at 10, 100, 1,000 and 10,000 devices: every stage from enrolment to a device's refresh.

A fleet with 256 bins in a folder; every device has a key of its own and uploads a signed pack of some 35 KB (a head, a
shared layer, and sums of an analytic head). Then, each timed, with its peak memory:

    enrol       one signed list of all devices
    upload      what the devices do themselves, together, on this one machine
    list        the inbox
    collect     every upload verified (keys, signatures, pieces, archive, all rules of a pack) and unpacked
    sums        contributions added, each once; compared with the sums over all samples
    merge       the whole merge command: packs verified, the linear mean, the sums, the result written
    evaluate    every pack asked the same 400 questions, in chunks that go through the engine; then the merged one
    publish     the merged pack in a channel
    targets     all packs as targets of their own, over the bins, in one change
    refresh     a new device: root to release, over a store that counts; then the same device again

    python benchmarks/bench_fleet_scale.py [--packs 10,100,1000,10000] [--engine process] [--compare 1000]
        [--rows docs/scale.jsonl] [--table FILE] [--picture docs/scale.svg]

Each size is a process of its own. Prints one JSON line a size, and one an engine for ``--compare``; ``--rows`` keeps
them, and ``--picture`` draws those that are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import psutil

from mmcl_edge.config import MethodConfig
from mmcl_edge.fleet.engines import as_finished, available_cores, in_chunks, in_order, open_engine
from mmcl_edge.fleet.layout import DEVICES_ROLE, DEVICES_TARGET, Device, Devices, Settings, Upload, dump, inbox_path
from mmcl_edge.fleet.store import Store, Version
from mmcl_edge.fleet.uploads import CHUNK_BYTES, UPLOAD_NAME, pieces, seal
from mmcl_edge.packs import PackContents, read_pack, write_pack

STAGES = ("enrol", "upload", "list", "collect", "sums", "merge", "evaluate", "publish", "targets", "refresh")
BINS = 256
BUNDLE = "a" * 64
CLASSES, WIDTH, HIDDEN = 20, 256, 12
FEATURES, SAMPLES = 32, 6
QUESTIONS, DOUBT = 400, 3.0
CHUNK = 50
OWN_DISKS = Path("/dev/shm")
"""Devices have disks of their own: what they write for themselves should not wait for this machine's."""


def main() -> None:
    arguments = parse()
    rows = []
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.engine, arguments.only, arguments.folder)), flush=True)
        return
    jobs = [(count, arguments.engine, "") for count in arguments.packs]
    jobs += [(arguments.compare, engine, "compare") for engine in ("process", "thread", "ray") if arguments.compare]
    for count, engine, only in jobs:
        rows.append(json.loads(child(count, engine, only, arguments.folder)))
        print(json.dumps(rows[-1]), flush=True)
    if arguments.full_width:
        rows.append(full_width())
        print(json.dumps(rows[-1]), flush=True)
    if arguments.rows:
        with arguments.rows.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        rows = [json.loads(line) for line in arguments.rows.read_text().splitlines()]
    scale = [row for row in rows if row["benchmark"] == "fleet_scale"]
    if arguments.table:
        arguments.table.write_text(table(scale))
    if arguments.picture:
        picture(scale, arguments.picture)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--packs", type=lambda text: [int(one) for one in text.split(",") if one], default="10,100,1000"
    )
    parser.add_argument("--engine", default="process", choices=("process", "thread", "ray"))
    parser.add_argument("--compare", type=int, default=0, help="compare the engines at this size")
    parser.add_argument("--full-width", action="store_true", help="also add sums of 2,048 features")
    parser.add_argument("--rows", type=Path, help="file that rows are added to")
    parser.add_argument("--table", type=Path, help="Markdown file with the rows that are kept")
    parser.add_argument("--picture", type=Path, help="SVG file")
    parser.add_argument("--folder", type=Path, help="for scratch: some 200 KB a pack")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def child(count: int, engine: str, only: str, folder: Path | None) -> str:
    command = [sys.executable, __file__, "--one", str(count), "--engine", engine, "--only", only]
    command += ["--folder", str(folder)] if folder else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{count} packs with {engine}: the measurement failed")
    return done.stdout.splitlines()[-1]


class Meter:
    """By stage: seconds, seconds of processor time, peak memory (MB).

    Processor time is that of this process and its workers together, and says what the work costs even where other
    programs keep the machine busy. The peak is of this process; workers come beside it.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self.peak_mb: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        Path("/proc/self/clear_refs").write_text("5")
        started, used = time.perf_counter(), processor_seconds()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 4)
        self.cpu_seconds[name] = round(processor_seconds() - used, 4)
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        self.peak_mb[name] = round(int(found[1]) / 1024, 1) if found else 0.0
        print(f"{name}: {self.seconds[name]} s", file=sys.stderr, flush=True)


def processor_seconds() -> float:
    """User and system time of this process and of its workers, those that ended included."""
    own = psutil.Process()
    times = [own.cpu_times(), *(worker.cpu_times() for worker in own.children(recursive=True))]
    return sum(one.user + one.system for one in times) + times[0].children_user + times[0].children_system


def measure(count: int, engine: str, only: str, folder: Path | None) -> dict:
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=folder) as name:
        found = compare(Path(name), count, engine) if only else everything(Path(name), count, engine)
    workers_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    facts = {"packs": count, "engine": engine, "cores": available_cores(), "load_1min": round(load, 1)}
    return {**facts, **found, "largest_worker_mb": round(workers_mb, 1)}


def everything(folder: Path, count: int, engine: str) -> dict:
    from mmcl_edge.fleet.inbox import collect, list_inbox
    from mmcl_edge.fleet.merge import MergeOptions, merge_packs
    from mmcl_edge.fleet.merge.sources import gather
    from mmcl_edge.fleet.merge.sums import merge_sums

    warm(0)
    meter, store = Meter(), Store.open(str(folder / "store"), create=True)
    fleet = new_fleet(store)
    signers = new_keys(count)
    with meter.stage("enrol"):
        enrol(fleet, signers)
    with open_engine("process") as executor:
        list(in_order(executor, warm, range(available_cores())))  # libraries are there before the clock runs
        with meter.stage("upload"):
            expected = upload_all(executor, folder, signers)
    with meter.stage("list"):
        listing = list_inbox(store)
    assert len(listing.entries) == count
    with meter.stage("collect"), open_engine("thread") as threads:
        findings = collect(store, fleet.view().devices(), folder / "out", bundle=BUNDLE, executor=threads)
    assert all(finding.status == "new" for finding in findings), [f for f in findings if f.status != "new"][:3]
    packs = [folder / "out" / finding.pack for finding in findings]
    with open_engine(engine) as executor:
        get_ready(executor)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            gathered = gather(packs, scratch=Path(scratch), executor=executor)
            labels = gathered.sources[0].labels
            with meter.stage("sums"):
                sums = merge_sums(gathered.sources, labels, watch=False)
            error = check_sums(sums.tensors, expected)
            del gathered, sums
        with meter.stage("merge"):
            merged = merge_packs(
                packs, folder / "merged", method="mean", executor=executor, options=MergeOptions(outliers=False)
            )
        with meter.stage("evaluate"):
            own = evaluate_all(executor, packs)
            together = accuracy_of(folder / "merged" / merged.digest)
    with meter.stage("publish"):
        fleet.publish(folder / "merged" / merged.digest, "stable")
    with meter.stage("targets"):
        fleet.publish_many(packs)
    with meter.stage("refresh"):
        refresh = refreshed(folder, str(folder / "store"))
    return {
        "benchmark": "fleet_scale",
        "seconds": meter.seconds,
        "cpu_seconds": meter.cpu_seconds,
        "peak_mb": meter.peak_mb,
        "pack_kb": round(sum(size_of(pack) for pack in packs[:100]) / min(count, 100) / 1e3, 1),
        "merged_kb": round(size_of(folder / "merged" / merged.digest) / 1e3, 1),
        "metadata": metadata_sizes(folder / "store" / "metadata"),
        "refresh": refresh,
        "sums_relative_error": error,
        "accuracy_of_a_pack": round(float(np.mean(own)), 4),
        "accuracy_merged": round(together, 4),
    }


def compare(folder: Path, count: int, engine: str) -> dict:
    """The stages that go through an engine."""
    from mmcl_edge.fleet.merge import MergeOptions, merge_packs

    signers, meter = new_keys(count), Meter()
    with open_engine("process") as executor:
        made = as_finished(executor, make_packs, [(folder / "packs", chunk) for chunk in chunks_of(signers)])
        packs = [pack for _, found in made for pack in found]
    options = MergeOptions(outliers=False)
    with ExitStack() as stack:
        with meter.stage("start"):
            executor = stack.enter_context(open_engine(engine))
            get_ready(executor)
        with meter.stage("merge"):
            merge_packs(packs, folder / "merged", method="mean", executor=executor, options=options)
        with meter.stage("evaluate"):
            evaluate_all(executor, packs)
    return {"benchmark": "fleet_engines", "seconds": meter.seconds, "peak_mb": meter.peak_mb}


# The fleet


def new_fleet(store: Store):
    from securesystemslib.signer import CryptoSigner

    from mmcl_edge.fleet.repository import Repository, utc_now
    from mmcl_edge.fleet.roles import Ceremony, first_root
    from mmcl_edge.fleet.signers import HeldSigners, sign

    root, release, online = (CryptoSigner.generate_ed25519() for _ in range(3))
    signers, settings = HeldSigners((root, release, online)), Settings(bins=BINS)
    ceremony = Ceremony((root.public_key,), 1, (release.public_key,), (online.public_key,))
    metadata = first_root(ceremony, utc_now(), settings.lifetimes)
    sign(metadata, ceremony.root, signers)
    return Repository.create(store, signers, metadata, settings=settings)


def new_keys(count: int) -> list[bytes]:
    """Private keys, one a device."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return [Ed25519PrivateKey.generate().private_bytes_raw() for _ in range(count)]


def signer_of(key: bytes):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import CryptoSigner

    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(key))


def enrol(fleet, keys: Sequence[bytes]) -> None:
    from mmcl_edge.packs.keys import PublicKey

    made, devices = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"), []
    for number, private in enumerate(keys):
        name, key = f"device-{number}", signer_of(private).public_key
        public = PublicKey(name=name, keyid=key.keyid, public=key.keyval["public"], made=made)
        devices.append(Device(name=name, key=public))
    commit = fleet.commit(fleet.view())
    commit.document(DEVICES_ROLE, DEVICES_TARGET, dump(Devices(devices=tuple(devices))))
    commit.write()


# The devices


def chunks_of(keys: Sequence[bytes]) -> list[tuple[int, Sequence[bytes]]]:
    return [(CHUNK * number, chunk) for number, chunk in enumerate(in_chunks(keys, CHUNK))]


def warm(number: int) -> int:
    """Load what the work needs, once a worker."""
    contents_of(number)
    time.sleep(0.5)  # so that the other workers take the other calls
    return number


def get_ready(executor) -> None:
    """Workers are there, and have loaded what reading packs needs, before the clock runs."""
    list(in_order(executor, look_around, range(2 * available_cores())))


def look_around(number: int) -> None:
    import safetensors.numpy  # noqa: F401

    import mmcl_edge.fleet.merge  # noqa: F401

    time.sleep(0.3)  # so that the other workers take the other calls


def upload_all(executor, folder: Path, keys: Sequence[bytes]) -> np.ndarray:
    """Every device makes, signs and uploads its pack; returns the Gram matrix of all their features."""
    jobs = [(folder, chunk) for chunk in chunks_of(keys)]
    return sum(gram for _, gram in as_finished(executor, upload_some, jobs))


def upload_some(job: tuple[Path, tuple[int, Sequence[bytes]]]) -> np.ndarray:
    from mmcl_edge.packs.archive import write_archive
    from mmcl_edge.packs.signing import sign_pack

    folder, (first, keys) = job
    store, total = Store.open(str(folder / "store")), np.zeros((FEATURES, FEATURES))
    with tempfile.TemporaryDirectory(dir=OWN_DISKS if OWN_DISKS.is_dir() else folder) as name:
        for number, private in enumerate(keys, start=first):
            contents, gram = contents_of(number)
            pack, signer = Path(name) / write_pack(Path(name), contents), signer_of(private)
            sign_pack(pack, signer)
            write_archive(pack, Path(name) / "archive")
            archive = (Path(name) / "archive").read_bytes()
            parts = list(pieces(archive, CHUNK_BYTES))
            upload = Upload(
                keyid=signer.public_key.keyid,
                pack=pack.name,
                version=1,
                bundle=BUNDLE,
                archive_sha256=sha256(archive),
                size_bytes=len(archive),
                chunk_bytes=CHUNK_BYTES,
                counter=1,
            )
            for piece, data in parts:
                store.create(inbox_path(upload.keyid, upload.pack, piece), data)
            store.put(inbox_path(upload.keyid, upload.pack, UPLOAD_NAME), seal(upload, signer))
            shutil.rmtree(pack)
            total += gram
    return total


def make_packs(job: tuple[Path, tuple[int, Sequence[bytes]]]) -> list[Path]:
    folder, (first, keys) = job
    return [folder / write_pack(folder, contents_of(first + number)[0]) for number in range(len(keys))]


def sha256(data: bytes) -> str:
    from mmcl_edge.fileio import sha256_bytes

    return sha256_bytes(data)


def truth() -> np.ndarray:
    """Rows of the head that everyone would learn from enough samples, ``(CLASSES, WIDTH)``."""
    return np.random.default_rng(0).normal(size=(CLASSES, WIDTH)).astype(np.float32)


def contents_of(number: int) -> tuple[PackContents, np.ndarray]:
    """The pack of one device, which knows two classes well; and the Gram matrix of the features that it has seen."""
    import torch

    from mmcl_edge.learners.analytic.addends import Addend, stored
    from mmcl_edge.learners.analytic.statistics import RidgeStatistics

    rng = np.random.default_rng([1, number])
    labels, own = [f"class {one:02}" for one in range(CLASSES)], [number % CLASSES, (number + 1) % CLASSES]
    doubt = np.full((CLASSES, 1), DOUBT, np.float32)
    doubt[own] = DOUBT / 3
    head = truth() + doubt * rng.normal(size=(CLASSES, WIDTH)).astype(np.float32)
    features = np.concatenate([np.ones((SAMPLES, 1)), rng.normal(size=(SAMPLES, FEATURES - 1))], axis=1)
    targets = np.eye(2)[np.arange(SAMPLES) % 2]
    sums = RidgeStatistics.empty(FEATURES, 2, dtype=torch.float32).add(
        torch.from_numpy(features), torch.from_numpy(targets)
    )
    tensors, module = stored([Addend.of({"audio": sums}, [labels[one] for one in own])])
    tensors |= {
        "head.weight": torch.from_numpy(head),
        "fusion.mlp.0.weight": torch.from_numpy(rng.normal(size=(HIDDEN, WIDTH)).astype(np.float32)),
    }
    counts = {labels[one]: SAMPLES // 2 for one in own}
    contents = PackContents(
        tensors=tensors,
        config=MethodConfig(),
        bundle_digest=BUNDLE,
        labels=tuple(labels),
        sample_counts=counts,
        experiences=("home",),
        module=module,
    )
    return contents, features.T @ features


# The admin


def check_sums(tensors: dict[str, np.ndarray], expected: np.ndarray) -> float:
    """Largest relative error of the merged Gram matrix."""
    packed = next(value for name, value in tensors.items() if name.endswith(".root")).astype(np.float64)
    root = np.zeros((FEATURES, FEATURES))
    rows, columns = np.triu_indices(FEATURES)
    root[rows[: len(packed)], columns[: len(packed)]] = packed
    error = float(np.abs(root.T @ root - expected).max() / np.abs(expected).max())
    assert error < 1e-5, error
    return error


def evaluate_all(executor, packs: Sequence[Path]) -> list[float]:
    chunks = list(in_chunks(list(packs), CHUNK))
    return [one for found in in_order(executor, accuracies_of, chunks) for one in found]


def accuracies_of(packs: Sequence[Path]) -> list[float]:
    return [accuracy_of(pack) for pack in packs]


def accuracy_of(folder: Path) -> float:
    """Share of questions that the pack's head answers rightly; the pack is verified first."""
    from safetensors.numpy import load_file

    from mmcl_edge.packs.manifest import TENSORS_NAME

    pack = read_pack(folder)
    head = load_file(pack.path / TENSORS_NAME)["head.weight"]
    rng, right = np.random.default_rng(2), np.arange(QUESTIONS) % CLASSES
    questions = 4 * truth()[right] / np.sqrt(WIDTH) + rng.normal(size=(QUESTIONS, WIDTH)).astype(np.float32)
    return float(((questions @ head.T).argmax(axis=1) == right).mean())


def full_width(features: int = 2049, devices: int = 1000, samples: int = 17, regions: int = 20) -> dict:
    """Processor seconds of adding sums as real packs have them, one head: of devices, and of whole regions."""
    import torch

    from mmcl_edge.learners.analytic.statistics import RidgeStatistics

    torch.set_num_threads(1)
    generator, empty = torch.Generator().manual_seed(0), RidgeStatistics.empty(features, CLASSES, dtype=torch.float32)
    columns = torch.arange(2 * features) % CLASSES

    def sums(count: int) -> RidgeStatistics:
        return empty.add(torch.randn(count, features, generator=generator), torch.eye(CLASSES)[columns[:count]])

    found = {}
    for name, count, size in (("devices", devices, samples), ("regions", regions, 2 * features)):
        parts = [sums(size) for _ in range(min(count, 20))]
        started = time.process_time()
        RidgeStatistics.total((parts[number % len(parts)] for number in range(count)), empty)
        found[name] = {"added": count, "samples_each": size, "cpu_seconds": round(time.process_time() - started, 2)}
    return {"benchmark": "fleet_full_width", "features": features, **found}


# The new device


class Counting(Store):
    """A store that counts what is read."""

    requests, bytes_read = 0, 0

    def read(self, path: str, max_bytes: int) -> Version:
        """See ``Store.read``."""
        self.requests += 1
        found = super().read(path, max_bytes)
        self.bytes_read += len(found.data)
        return found


def refreshed(folder: Path, url: str) -> dict:
    from mmcl_edge.fleet.client import FleetClient, first_root, pin

    trust, found = folder / "trust", {}
    pin(trust, first_root(Store.open(url)))
    for name in ("cold", "warm"):
        store = Counting.open(url)
        started = time.perf_counter()
        client = FleetClient(trust, store)
        client.refresh()
        release = client.release("stable")
        found[name] = {"ms": milliseconds(started), "requests": store.requests, "bytes": store.bytes_read}
    store.requests = store.bytes_read = 0
    started = time.perf_counter()
    file = client.fetch(release.archive, folder / "archive", max_bytes=1 << 30)
    found["fetch"] = {"ms": milliseconds(started), "requests": store.requests, "bytes": store.bytes_read}
    found["fetch"]["of_it_archive"] = file.stat().st_size
    return found


def milliseconds(started: float) -> float:
    return round(1e3 * (time.perf_counter() - started), 1)


def metadata_sizes(folder: Path) -> dict[str, int]:
    """Bytes of the newest metadata by role; of the bins their median."""
    newest: dict[str, tuple[int, int]] = {}
    for path in folder.iterdir():
        version, role = re.fullmatch(r"(?:(\d+)\.)?(.+)\.json", path.name).groups()
        newest[role] = max(newest.get(role, (0, 0)), (int(version or 0), path.stat().st_size))
    bins = sorted(size for role, (_, size) in newest.items() if role.startswith("bins-"))
    found = {role: size for role, (_, size) in sorted(newest.items()) if not role.startswith("bins-")}
    devices = sum(path.stat().st_size for path in newest_devices(folder.parent))
    return {**found, "bin_median": bins[len(bins) // 2], "bins_total": sum(bins), "devices.json": devices}


def newest_devices(store: Path) -> list[Path]:
    found = sorted((store / "targets").glob("*.devices.json"), key=lambda path: path.stat().st_mtime)
    return found[-1:]


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


# The page


def table(rows: Sequence[dict]) -> str:
    """Seconds by stage and size, and the largest memory, as Markdown."""
    last = {row["packs"]: row for row in rows}
    sizes = sorted(last)
    lines = [["stage: seconds (of them processor time)", *(f"{size:,}" for size in sizes)], ["---"] * (1 + len(sizes))]
    for stage in STAGES:
        pairs = [[last[size][kind][stage] for kind in ("seconds", "cpu_seconds")] for size in sizes]
        lines.append([stage, *(f"{seconds_text(wall)} ({seconds_text(used)})" for wall, used in pairs)])
    lines.append(["peak MB, `collect`", *(f"{last[size]['peak_mb']['collect']:.0f}" for size in sizes)])
    lines.append(["peak MB, `merge`", *(f"{last[size]['peak_mb']['merge']:.0f}" for size in sizes)])
    lines.append(["accuracy, a pack", *(f"{last[size]['accuracy_of_a_pack']:.2f}" for size in sizes)])
    lines.append(["accuracy, merged", *(f"{last[size]['accuracy_merged']:.2f}" for size in sizes)])
    lines.append(["load when begun", *(f"{last[size]['load_1min']:.1f}" for size in sizes)])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def seconds_text(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def picture(rows: Sequence[dict], file: Path) -> None:
    """Processor seconds of every stage, and milliseconds of it a device, over the number of devices; logarithmic."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "scale"
    from matplotlib import pyplot as plt

    last = {row["packs"]: row for row in rows}
    sizes = sorted(last)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharex=True)
    for stage in STAGES:
        seconds = [max(0.01, last[size]["cpu_seconds"][stage]) for size in sizes]  # the clock ticks in hundredths
        axes[0].plot(sizes, seconds, marker="o", label=stage)
        axes[1].plot(sizes, [1e3 * one / size for one, size in zip(seconds, sizes, strict=True)], marker="o")
    axes[0].set_ylabel("seconds of processor time")
    axes[1].set_ylabel("milliseconds a device")
    for axis in axes:
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("devices (one pack each)")
        axis.grid(True, alpha=0.3)
    axes[0].legend(fontsize=8, ncol=2)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
