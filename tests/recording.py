"""Records of benchmark runs that look like real ones, made up by rule: the same arguments give the same record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmcl_edge.benchmark.metrics import routing_overlap
from mmcl_edge.benchmark.records import Confusion, Cost, RunRecord, key_of, write_record

SOUNDS = (
    "dog bark", "cat meow", "siren", "church bell", "violin", "flute", "chainsaw", "race car", "helicopter", "clock",
    "baby cry", "goat", "frying", "bus", "banjo", "horse", "rodents", "accordion", "shofar", "truck", "aeroplane",
)  # fmt: skip
LEARNERS = {
    # name: (accuracy when learned, share kept a step, persistent bytes, seconds, experts)
    "finetune": (0.95, 0.55, 0, 21.0, 0),
    "ewc": (0.90, 0.66, 9_400_000, 30.0, 0),
    "lwf": (0.90, 0.72, 4_700_000, 33.0, 0),
    "er": (0.92, 0.86, 2_100_000, 38.0, 0),
    "der++": (0.92, 0.88, 2_160_000, 55.0, 0),
    "ranpac": (0.86, 0.985, 41_000_000, 4.5, 0),
    "mmcl": (0.93, 0.95, 1_700_000, 96.0, 6),
    "joint": (0.95, 0.99, 64_000_000, 210.0, 0),
}
CONDITIONS = {"clean": 1.0, "audio_only": 0.8, "frames_only": 0.72, "noise_5db": 0.9, "blur": 0.94}


def record(learner: str = "mmcl", *, seed: int = 0, experiences: int = 7, **changes: Any) -> RunRecord:
    """A run of ``learner``; names outside ``LEARNERS`` behave like ``mmcl``.

    Args:
        learner: name.
        seed: shifts every accuracy a little.
        experiences: how many of three classes each.
        changes: fields of the record that are to be different.
    """
    learned, kept, stored, seconds, experts = LEARNERS.get(learner, LEARNERS["mmcl"])
    config = {"learner": learner, "seed": seed, "experiences": experiences, "stream": changes.get("stream", "made up")}
    random = np.random.default_rng([seed, experiences, *learner.encode()])
    classes = [tuple(_name(3 * step + number) for number in range(3)) for step in range(experiences)]
    clean = _matrix(
        random, experiences, learned, kept, ahead=0.0 if changes.get("scenario", "class") == "class" else 0.45
    )
    use = _use(random, experiences, experts) if experts else None
    fields = {
        "key": key_of(config),
        "suite": "standard",
        "stream": "made up",
        "scenario": "class",
        "learner": learner,
        "seed": seed,
        "config": config,
        "experiences": tuple(f"{first}, ..." for first, *_ in classes),
        "classes": classes,
        "test_counts": tuple(12 + 3 * (step % 3) for step in range(experiences)),
        "matrices": {name: _scaled(clean, share) for name, share in CONDITIONS.items()},
        "confusion": _confusion(random, [name for names in classes for name in names], clean[-1]),
        "expert_use": use,
        "routing_overlap": None if use is None else _rounded(routing_overlap(use)),
        "cost": _cost(random, stored, seconds, experiences),
        "made_by": {
            "command": "mmcl-edge bench run --suite standard",
            "versions": {"mmcl-edge": "0.1.0", "torch": "2.14.1", "python": "3.11"},
            "machine": "2 cores",
            "when": f"2026-11-0{1 + seed}T12:00:00Z",
        },
    }
    return RunRecord.model_validate({**fields, **changes})


def records(learners: Sequence[str] = tuple(LEARNERS), *, seeds: int = 3, **changes: Any) -> tuple[RunRecord, ...]:
    """Runs of all ``learners`` with seeds from 0."""
    return tuple(record(learner, seed=seed, **changes) for learner in learners for seed in range(seeds))


def write_benchmark(folder: Path) -> tuple[RunRecord, ...]:
    """A folder like that of a finished benchmark: a class-incremental stream and a domain-incremental one."""
    initial = tuple(0.05 for _ in range(4))
    others = records(
        ("finetune", "er", "mmcl"), experiences=4, stream="rooms", scenario="domain", initial=initial
    )  # fmt: skip
    every = (*records(stream="sounds, 5 pairs a class"), *others)
    for one in every:
        write_record(folder, one)
    return every


def _name(number: int) -> str:
    return SOUNDS[number] if number < len(SOUNDS) else f"sound {number + 1}"


def _matrix(random: np.random.Generator, count: int, learned: float, kept: float, *, ahead: float) -> list[list[float]]:
    start = np.clip(learned + random.normal(0, 0.03, count), 0, 1)
    rows = [[start[i] * kept ** (t - i) if i <= t else ahead for i in range(count)] for t in range(count)]
    noise = random.normal(0, 0.015, (count, count)) * (np.asarray(rows) > 0)
    return _rounded(np.clip(np.asarray(rows) + noise, 0, 1))


def _scaled(matrix: list[list[float]], share: float) -> list[list[float]]:
    return _rounded(np.asarray(matrix) * share)


def _use(random: np.random.Generator, count: int, experts: int) -> list[list[list[float]]]:
    """Four blocks; later blocks tell experiences apart more."""
    use = []
    for step in range(count):
        sharpness = [[3.0 * block * (expert == step % experts) for expert in range(experts)] for block in range(4)]
        weights = np.exp(np.asarray(sharpness) / 2 + random.normal(0, 0.4, (4, experts)))
        use.append(_rounded(weights / weights.sum(axis=1, keepdims=True)))
    return use


def _confusion(random: np.random.Generator, labels: list[str], last: list[float]) -> Confusion:
    counts = np.zeros((len(labels), len(labels)), int)
    for number in range(len(labels)):
        right = last[number // 3]
        share = np.full(len(labels), (1 - right) / (len(labels) - 1))
        share[number] = right
        counts[number] = random.multinomial(12, share)
    return Confusion(labels=tuple(labels), counts=tuple(tuple(int(one) for one in row) for row in counts))


def _cost(random: np.random.Generator, stored: int, seconds: float, count: int) -> Cost:
    times = tuple(round(seconds / count * float(one), 2) for one in random.uniform(0.9, 1.1, count))
    return Cost(
        trainable_parameters=1_180_000,
        persistent_bytes=stored,
        model_bytes=4_720_000,
        peak_rss_bytes=int(610_000_000 + stored),
        train_s=round(sum(times), 2),
        train_s_by_experience=times,
        predict_ms=round(float(random.uniform(0.4, 0.6)), 3),
    )


def _rounded(rows: Any) -> list[list[float]]:
    return [[round(float(one), 4) for one in row] for row in rows]
