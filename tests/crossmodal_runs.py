"""Records of cross-modal runs, made up by rule: what a test asks for is what they say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from mmcl_edge.benchmark.crossmodal.records import (
    CODES,
    VECTORS,
    ColdStage,
    CrossmodalRecord,
    Found,
    Stage,
    Timings,
    Told,
)
from mmcl_edge.benchmark.crossmodal.tasks import TASKS
from mmcl_edge.benchmark.records import key_of, write_record

CHANCE, LUCK = 0.1, 0.2


def cross_run(
    learner: str = "comet",
    *,
    task: str = "stamps",
    order: Sequence[str] | None = None,
    seed: int = 0,
    seen: float = 0.5,
    unseen: float = 0.4,
    by_codes: float = 0.0,
    forgets: float = 0.0,
    across: float = 0.6,
    joint: bool = False,
    bundle: str = "b" * 64,
    **changes: Any,
) -> CrossmodalRecord:
    """A run whose every recall of seen pairs is ``seen``, of unseen ones ``unseen``.

    Args:
        learner: name.
        task: name.
        order: of stages; the task's first.
        seed: of the run.
        seen: recall of pairs with text.
        unseen: of others.
        by_codes: added to both where codes are compared.
        forgets: share of the first pair's recall that is gone after the last stage.
        across: accuracy of classes across modalities; that of the same modality is 0.9.
        joint: whether only the last stage is there.
        bundle: digest.
        changes: fields of every stage that are to be different.
    """
    stages = tuple(order or TASKS[task].orders[0])
    config = {"bundle": bundle, "task": task, "learner": learner, "order": list(stages), "seed": seed}
    made = [
        _stage(stages, step, seen, unseen, by_codes, forgets, across, changes) for step in range(1, len(stages) + 1)
    ]
    return CrossmodalRecord(
        key=key_of(config),
        task=task,
        learner=learner,
        order=stages,
        seed=seed,
        config=config,
        test_counts={"text": 30, **{name: 20 for name in stages}},
        stages=tuple(made[-1:] if joint else made),
        made_by={"command": "mmcl-edge bench crossmodal", "seconds": 12.0, "machine": {"cores": 2}},
    )


def _stage(
    order: Sequence[str],
    step: int,
    seen: float,
    unseen: float,
    by_codes: float,
    forgets: float,
    across: float,
    changes: dict[str, Any],
) -> Stage:
    known = ("text", *order[:step])
    kept = 1 - forgets if step == len(order) else 1.0

    def recall(query: str, gallery: str) -> float:
        if "text" not in (query, gallery):
            return unseen
        return seen * (kept if order[0] in (query, gallery) else 1.0)

    fields = {
        "modality": order[step - 1],
        "pairs": 40,
        "train_s": 2.0 * step,
        "steps": 10,
        "codes": 12,
        "codes_added": 0,
        "codes_joined": 0,
        "codes_reset": 0,
        "experts": 2 * step,
        "perplexity": 8.0,
        "shared": 0.75,
        "residual": dict.fromkeys(known, 0.5),
        "memory_bytes": 1000,
        "space_bytes": 5_000_000,
        "found": tuple(_found(known, recall, by_codes)),
        "told": tuple(_told(known, across)),
    }
    return Stage.model_validate(fields | changes)


def _found(known: Sequence[str], recall: Any, by_codes: float) -> Iterator[Found]:
    for query, gallery in permutations(known, 2):
        for by, more in ((VECTORS, 0.0), (CODES, by_codes)):
            value = recall(query, gallery) + more
            figures = {"R@1": value - 0.05, "R@5": value, "R@10": value + 0.05, "median_rank": 3.0, "mrr": value}
            chance = {"R@1": CHANCE, "R@5": CHANCE, "R@10": CHANCE, "median_rank": 9.0, "mrr": CHANCE}
            luck = dict.fromkeys(figures, LUCK)
            yield Found(
                query=query, gallery=gallery, by=by, figures=figures, chance=chance, luck=luck, queries=20,
                gallery_size=30,
            )  # fmt: skip


def _told(known: Sequence[str], across: float) -> Iterator[Told]:
    for test in known[1:]:
        for by in (VECTORS, CODES):
            for train in known[1:]:
                accuracy = 0.9 if train == test else across
                for how in ("nearest_mean", "linear"):
                    told = {"train": train, "test": test, "how": how, "by": by, "accuracy": accuracy, "chance": CHANCE}
                    yield Told.model_validate(told)
            yield Told(train="text", test=test, how="name", by=by, accuracy=across, chance=CHANCE)


def cross_runs(learner: str, values: Sequence[float], *, name: str = "seen", **fields: Any) -> list[CrossmodalRecord]:
    """A run a value, with seeds from 0; ``name`` takes the value."""
    return [cross_run(learner, seed=seed, **{name: value}, **fields) for seed, value in enumerate(values)]


def timings(*, stage_s: float = 20.0, search_ms: float = 0.3) -> Timings:
    """Timings that reach what was asked, unless told otherwise."""
    return Timings(
        cold=(ColdStage(modality="image", pairs=500, seconds=stage_s),),
        search_items=10_000,
        search_dim=384,
        search_ms=search_ms,
        search_p95_ms=2 * search_ms,
        made_by={"machine": {"cores": 2}},
    )


def write_all(folder: Path, records: Sequence[CrossmodalRecord]) -> Path:
    """Store records; returns the folder."""
    for record in records:
        write_record(folder, record)
    return folder
