"""Which learners run on which tasks, in which orders of stages, with which seeds; what each is there to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mmcl_edge.benchmark.crossmodal.tasks import TASKS, Order, task_spec
from mmcl_edge.benchmark.records import key_of
from mmcl_edge.benchmark.runner import version_of
from mmcl_edge.benchmark.transfer import RIDGE
from mmcl_edge.config import CometConfig
from mmcl_edge.learners.comet.catalogue import comet_entry

SEEDS = 3
BOUNDS = ("comet-joint", "comet-fine-tune", "comet-fine-tune-random")
_BESIDE = (
    *BOUNDS,
    "comet",
    "comet-ridge",
    "comet-random",
    "comet-continuous",
    "comet-no-replay",
    "comet-no-cmoe",
    "comet-fixed-codebook",
)
LEARNERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "stamps": (
            *_BESIDE,
            "comet-no-replay-random",
            "comet-generative",
            "comet-generative-random",
            "comet-moving-random",
            "comet-moving-no-replay-random",
            "comet-no-cmoe-random",
            "comet-fixed-codebook-random",
        ),
        "av21": _BESIDE,
        "digits": _BESIDE,
    }
)
"""Task to the learners that run on it: parts from a random start are told apart on ``stamps`` alone."""


@dataclass(frozen=True)
class CrossmodalSpec:
    """One run: a learner on a task, in one order of stages, with a seed.

    Attributes:
        task: one of ``TASKS``.
        learner: one of ``learners.comet.catalogue.COMET``.
        order: of the stages.
        seed: of everything random.
        config: what the key is made of.
    """

    task: str
    learner: str
    order: Order
    seed: int
    config: dict[str, Any]

    @property
    def key(self) -> str:
        """The digest that names the run's record."""
        return key_of(self.config)

    def __str__(self) -> str:
        return f"{self.task} ({', '.join(self.order)}): {self.learner}, seed {self.seed}"


def plan(
    bundle_digest: str,
    *,
    tasks: Sequence[str] | None = None,
    learners: Sequence[str] | None = None,
    seeds: int = SEEDS,
    config: CometConfig | None = None,
) -> list[CrossmodalSpec]:
    """Every run, each once.

    Args:
        bundle_digest: of the backbones.
        tasks: names in ``TASKS``; all where ``None``.
        learners: names in the catalogue, in place of each task's.
        seeds: 0 to ``seeds - 1``; each learns in every order of the task.
        config: what the learners change; the defaults where ``None``.

    Raises:
        InputError: an unknown task or learner.
    """
    base, found = config or CometConfig(), []
    for task in tasks or tuple(TASKS):
        for order in task_spec(task).orders:
            for seed in range(seeds):
                found += [
                    _spec(bundle_digest, task, learner, order, seed, base) for learner in learners or LEARNERS[task]
                ]
    return list({spec.key: spec for spec in found}.values())


def _spec(bundle: str, task: str, learner: str, order: Order, seed: int, base: CometConfig) -> CrossmodalSpec:
    entry = comet_entry(learner)
    config = {
        "bundle": bundle,
        "task": task,
        "learner": learner,
        "order": list(order),
        "seed": seed,
        "joint": entry.joint,
        "comet": entry.config(base).model_dump(mode="json"),
        "version": version_of("mmcl-edge"),
        "ridge": RIDGE,
    }
    return CrossmodalSpec(task, learner, order, seed, config)
