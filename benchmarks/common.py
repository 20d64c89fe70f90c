"""What the benchmark programs share: turns by turns, medians and ratios, one JSON line a row, a pair and its peer.

Machines are noisy and shared, so a time stands beside the time of its peer, taken in turns in one process, and the
figure to trust is the ratio: the median over the rounds of (ours / peer), each taken within one round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from pairs import DEFAULT_PAIR, PAIRS

from mmcl_edge.adapters.model import Model, build_model
from mmcl_edge.bundle import Bundle
from mmcl_edge.config import MethodConfig
from mmcl_edge.export.exporter import export_bundle
from mmcl_edge.learners.persistence import contents_of
from mmcl_edge.packs import write_pack
from mmcl_edge.types import SAMPLE_RATE_HZ, Backbone, Sample

LABELS = tuple(f"class {number}" for number in range(9))


def parser(description: str) -> argparse.ArgumentParser:
    """Options that every program has."""
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    made.add_argument("--bundle", type=Path, help="an exported bundle of the default pair; default: export one")
    made.add_argument("--rounds", type=int, default=7, help="turns that each contestant gets")
    return made


@contextlib.contextmanager
def scratch_bundle(path: Path | None, *, pair: str = DEFAULT_PAIR) -> Iterator[tuple[Path, Bundle]]:
    """A scratch folder, and the bundle in ``path`` or a new one of the pair."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder), Bundle.open(path) if path else export_bundle(Path(folder) / "bundle", **PAIRS[pair])


def take_turns(
    contestants: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    repeats: int,
    before: Mapping[str, Callable[[], None]],
    patience_s: float = 3.0,
) -> dict[str, list[float]]:
    """Median milliseconds of each contestant in each round.

    Args:
        contestants: name to what is timed.
        rounds: turns that each gets.
        repeats: timed calls in a turn, after two that are not.
        before: name to what is done at the start of its turn (thread settings).
        patience_s: a turn ends early after so long, with no less than one timed call.
    """
    medians: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            before.get(name, lambda: None)()
            medians[name].append(_turn(call, repeats, patience_s))
    return medians


def _turn(call: Callable[[], object], repeats: int, patience_s: float) -> float:
    call()
    call()
    times: list[float] = []
    while not times or (len(times) < repeats and sum(times) < 1e3 * patience_s):
        times.append(milliseconds(call))
    return statistics.median(times)


def milliseconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)


def summary(values: list[float]) -> dict[str, float]:
    """Median, least and greatest of the rounds."""
    return {
        "median_ms": round(statistics.median(values), 2),
        "min_ms": round(min(values), 2),
        "max_ms": round(max(values), 2),
    }


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Median over the rounds of ours / theirs."""
    return round(statistics.median(one / other for one, other in zip(ours, theirs, strict=True)), 3)


def best_peer(medians: Mapping[str, list[float]], prefix: str) -> str:
    """The fastest of the peers whose names begin so: each setting was tried, the better one counts."""
    names = [name for name in medians if name.startswith(prefix)]
    return min(names, key=lambda name: statistics.median(medians[name]))


def report(benchmark: str, **fields: object) -> None:
    """Print one row, with the facts of the machine that bear on it."""
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "load_1min": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    print(json.dumps({"benchmark": benchmark, **fields, **machine}), flush=True)


def new_model(backbones: Mapping[str, Backbone], method: MethodConfig) -> Model:
    """The default model with nine classes; equal weights whatever the backbones are made of."""
    model = build_model(method.adapter, method.head, backbones, generator=torch.Generator().manual_seed(0))
    model.head.grow(len(LABELS), torch.Generator().manual_seed(1))
    return model


def new_pack(folder: Path, bundle: Bundle, model: Model, method: MethodConfig) -> Path:
    """A pack of ``model`` in ``folder``."""
    contents = contents_of(
        model,
        method,
        bundle_digest=bundle.digest,
        labels=LABELS,
        parents=(),
        sample_counts={},
        experiences=(),
        evaluation={},
    )
    return folder / write_pack(folder, contents)


def example(number: int = 0, *, side: int = 256, duration_s: float = 5.0) -> Sample:
    """A sound and one picture."""
    rng = np.random.default_rng(number)
    sound = rng.uniform(-0.3, 0.3, round(duration_s * SAMPLE_RATE_HZ)).astype(np.float32)
    return Sample(sound, rng.integers(0, 256, (1, side, side, 3), dtype=np.uint8), LABELS[number % len(LABELS)])
