"""Merging many packs against ``mergekit-pytorch``: time, peak memory, and whether the results agree.

Packs of about 2 MB are made: one base, and others that differ from it by noise, as devices that were adapted from one
release do. Each contestant is a process of its own; they take turns, and the figure to trust is the ratio of a
turn; on a busy machine that of processor seconds.
Beside the linear mean (mergekit: ``linear``) stands TIES of density 0.2 (mergekit: ``ties``), both of equal weights.
mergekit reads tensors alone; ours also verifies every pack (digests, layout, finite values) and reads the result back.

    python benchmarks/bench_merge.py --peer ./mergekit-venv/bin/mergekit-pytorch [--packs 500] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file

from mmcl_edge.config import MethodConfig
from mmcl_edge.packs import Expert, PackContents, Parent, write_pack
from mmcl_edge.packs.manifest import TENSORS_NAME

TARGETS = {"mean": {"time_ratio": 0.3, "peak_mb": 300}, "ties": {"time_ratio": 0.25, "peak_mb": 600}}
DENSITY = 0.2
BLOCKS, EXPERTS, WIDTHS, RANK = 4, 8, {"audio": 24, "frames": 40}, 16
NOISE = 0.1
OURS = "from mmcl_edge.commands.merge import command; command()"


class Turn(NamedTuple):
    """Wall and processor seconds, and the peak of resident memory in MiB, of one process."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--peer", help="mergekit-pytorch; without it only ours is measured")
    made.add_argument("--packs", type=int, default=500)
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--methods", default="mean,ties,median", help="of mean, ties (with the peer) and median")
    made.add_argument("--folder", type=Path, help="where packs are made; default: a temporary folder")
    arguments = made.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        base, packs = make_packs(folder / "packs", arguments.packs)
        size = sum((pack / TENSORS_NAME).stat().st_size for pack in packs)
        for method in arguments.methods.split(","):
            peer = arguments.peer if method in TARGETS else None
            compare(method, base, packs, folder, arguments.rounds, peer, mean_mb=size / len(packs) / 1e6)


def make_packs(folder: Path, count: int) -> tuple[Path, list[Path]]:
    """A base, in a folder of its own, and ``count`` packs adapted from it."""
    rng = np.random.default_rng(0)
    start = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes().items()}
    base = folder.parent / "base" / write_pack(folder.parent / "base", contents(start))
    packs = []
    for _ in range(count):
        tensors = {
            name: (value + NOISE * rng.standard_normal(value.shape, dtype=np.float32)).astype(np.float32)
            for name, value in start.items()
        }
        packs.append(folder / write_pack(folder, contents(tensors, base.name)))
    return base, packs


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes as the default method has them, on narrow backbones."""
    found: dict[str, tuple[int, ...]] = {"head.weight": (8, 256)}
    for block in range(BLOCKS):
        found[f"blocks.{block}.router"] = (EXPERTS, sum(WIDTHS.values()) + len(WIDTHS))
        for expert in range(EXPERTS):
            for modality, width in WIDTHS.items():
                parts = {"down": (RANK, width), "bias": (RANK,), "up": (RANK, width), "latents": (8, RANK)}
                for part, shape in parts.items():
                    found[f"blocks.{block}.experts.b{block}-fresh-{expert}.{modality}.{part}"] = shape
    found |= {"fusion.mlp.0.weight": (512, 514), "fusion.mlp.0.bias": (512,)}
    found |= {"fusion.mlp.2.weight": (256, 512), "fusion.mlp.2.bias": (256,)}
    return found


def contents(tensors: dict[str, np.ndarray], parent: str | None = None) -> PackContents:
    return PackContents(
        tensors=tensors,
        config=MethodConfig(),
        bundle_digest="a" * 64,
        labels=tuple(f"class {number}" for number in range(8)),
        experts=tuple(Expert(id=f"b{b}-fresh-{e}", block=b) for b in range(BLOCKS) for e in range(EXPERTS)),
        parents=() if parent is None else (Parent(digest=parent),),
        version=1 if parent is None else 2,
        sample_counts={f"class {number}": 10 for number in range(8)},
    )


def compare(
    method: str, base: Path, packs: list[Path], folder: Path, rounds: int, peer: str | None, *, mean_mb: float
) -> None:
    """Turns of both; one row."""
    turns: dict[str, list[Turn]] = {"ours": [], "mergekit": []}
    results: dict[str, Path] = {}
    for _ in range(rounds):
        out = folder / "ours"
        turns["ours"].append(measured(ours(method, base, packs[0].parent, out)))
        results["ours"] = next(path for path in out.iterdir() if not path.name.startswith(".")) / TENSORS_NAME
        if peer is not None:
            config = folder / "merge.yaml"
            config.write_text(json.dumps(theirs(method, base, packs)))  # JSON is YAML
            shutil.rmtree(folder / "theirs", ignore_errors=True)
            turns["mergekit"].append(measured([peer, str(config), str(folder / "theirs")]))
            results["mergekit"] = next((folder / "theirs").glob("*.safetensors"))
    row: dict[str, object] = {"packs": len(packs), "pack_mb": round(mean_mb, 2), "method": method}
    for name, values in turns.items():
        if values:
            row[f"{name}_s"] = round(statistics.median(turn.wall_s for turn in values), 2)
            row[f"{name}_cpu_s"] = round(statistics.median(turn.cpu_s for turn in values), 2)
            row[f"{name}_peak_mb"] = round(statistics.median(turn.peak_mb for turn in values))
    if turns["mergekit"]:
        pairs = list(zip(turns["ours"], turns["mergekit"], strict=True))
        row["time_ratio"] = round(statistics.median(one.wall_s / other.wall_s for one, other in pairs), 3)
        row["cpu_ratio"] = round(statistics.median(one.cpu_s / other.cpu_s for one, other in pairs), 3)
        row |= difference(results["ours"], results["mergekit"])
        row["targets"] = TARGETS[method]
    load = round(os.getloadavg()[0], 1)
    print(
        json.dumps({"benchmark": "merge", **row, "cores": len(os.sched_getaffinity(0)), "load_1min": load}), flush=True
    )
    shutil.rmtree(folder / "ours")


def ours(method: str, base: Path, packs: Path, out: Path) -> list[str]:
    words = [sys.executable, "-c", OURS, str(packs), "--method", method, "--out", str(out), "--json", "--no-outliers"]
    return [*words, "--base", str(base), "--density", str(DENSITY)]


def theirs(method: str, base: Path, packs: list[Path]) -> dict[str, object]:
    models = [{"model": str(pack / TENSORS_NAME), "parameters": {"weight": 1.0}} for pack in packs]
    if method == "mean":
        return {"merge_method": "linear", "models": models, "dtype": "float32"}
    parameters = {"density": DENSITY, "normalize": True}
    start = str(base / TENSORS_NAME)
    return {"merge_method": "ties", "models": models, "base_model": start, "parameters": parameters, "dtype": "float32"}


def measured(command: list[str]) -> Turn:
    """What a process took."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command[:3])} ended with {process.returncode}:\n{errors.decode()[-2000:]}")
    turn = Turn(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
    print(f"{Path(command[0]).name}: {turn}", file=sys.stderr, flush=True)
    return turn


def difference(one: Path, other: Path) -> dict[str, float]:
    """The largest absolute difference of any value, and how many of a million differ by more than 1e-5.

    TIES keeps the k largest entries of a task vector. Where several are equally large around the k-th, mergekit keeps
    some of them and ours all, so that single values differ.
    """
    mine, peer = load_file(one), load_file(other)
    if mine.keys() != peer.keys():
        raise SystemExit(f"The results hold different tensors: {sorted(mine.keys() ^ peer.keys())[:3]}")
    away = np.concatenate([np.abs(mine[name].astype(np.float64) - peer[name]).ravel() for name in mine])
    return {"largest_difference": float(away.max()), "differing_ppm": round(1e6 * float((away > 1e-5).mean()), 2)}


if __name__ == "__main__":
    main()
