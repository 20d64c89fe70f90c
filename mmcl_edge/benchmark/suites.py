"""Suites: which streams, which learners, which seeds, under one budget."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mmcl_edge.config import AdapterConfig, HeadConfig, MethodConfig, ReplayConfig
from mmcl_edge.data.conditions import CONDITIONS
from mmcl_edge.errors import InputError
from mmcl_edge.types import FrozenModel

BUDGET_BYTES = 16 << 20
"""What every learner may keep beside its model."""

BENCH_METHOD = MethodConfig(
    adapter=AdapterConfig(placement="ladder"),
    head=HeadConfig(),
    replay=ReplayConfig(exemplars=100_000, budget_bytes=BUDGET_BYTES),
)
"""The common host: the ladder, whose frozen features are worked out once for all learners; bytes bound the replay."""


class StreamSpec(FrozenModel):
    """One stream of experiences, but for what the seed draws.

    The seed draws the order of classes or domains, which training samples a class has, and whatever the learner draws.
    """

    name: str = Field(description="As tables call it.")
    dataset: str
    scenario: Literal["class", "domain", "task"] = "class"
    classes_per_experience: int = Field(3, ge=1, description="Of class- and task-incremental streams.")
    pairs: int | None = Field(None, ge=1, description="Training samples of each class; None: all.")
    test: Literal["test", "validation"] = Field(
        "test",
        description="What is measured on. validation: a part of train by whole groups, and the rest is trained on. "
        "Every choice is made there; test is for reporting.",
    )
    online: bool = Field(False, description="One pass over the data of each experience.")
    conditions: tuple[str, ...] = Field((), description="Measured beside clean test samples.")
    seeds: tuple[int, ...] = (0, 1, 2)
    learners: tuple[str, ...] | None = Field(None, description="Names in the catalogue; None: the suite's.")

    def method(self, base: MethodConfig) -> MethodConfig:
        """``base`` for this stream."""
        if not self.online:
            return base
        return base.model_copy(update={"train": base.train.model_copy(update={"epochs": 1, "min_steps": 0})})


class Suite(FrozenModel):
    """Streams and learners that belong together."""

    name: str
    about: str
    streams: tuple[StreamSpec, ...]
    learners: tuple[str, ...]
    method: MethodConfig = BENCH_METHOD


BASELINES = (
    "fine-tune", "ewc", "ewc-online", "lwf", "icarl", "er", "der", "der++", "cope", "a-gem", "av-cil",
    "simple-cil", "ranpac-frozen", "ranpac", "joint",
)  # fmt: skip
QUICK = (
    "fine-tune", "ewc-online", "lwf", "icarl", "er", "der++", "cope", "simple-cil", "ranpac-frozen", "joint",
)  # fmt: skip
"""The baselines of streams that only sharpen a comparison."""
PROMPTS = ("l2p", "dual-prompt", "coda-prompt")
OURS = ("mmcl", "mmcl-analytic", "analytic-joint")
ABLATIONS = (
    "mmcl-no-alignment", "mmcl-direct-alignment", "mmcl-no-preservation", "mmcl-no-distillation", "mmcl-no-sqrt",
    "mmcl-no-balance", "mmcl-no-freezing", "mmcl-joint-vote", "er-votes", "mmcl-specific", "mmcl-dense", "mmcl-tokens",
    "mmcl-memory-0", "mmcl-memory-half", "mmcl-memory-double", "analytic-fused", "analytic-both", "analytic-means",
    "analytic-last", "analytic-adapted",
)  # fmt: skip
_EVERY = tuple(CONDITIONS)
_MISSING = ("audio_only", "frames_only")


def _av21(pairs: int | None, **changes: Any) -> StreamSpec:
    name = f"av21, {pairs} pairs a class" if pairs else "av21, all pairs"
    fields = {"name": name, "dataset": "av21", "pairs": pairs, "conditions": _EVERY} | changes
    return StreamSpec.model_validate(fields)


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            name="results",
            about="The tables of docs/results.md: av21 with 5, 10 and all pairs a class, digits by speaker.",
            streams=(
                _av21(5, seeds=(0, 1, 2, 3, 4)),
                _av21(None),
                StreamSpec(name="digits, 6 speakers", dataset="digits", scenario="domain", conditions=_MISSING),
                _av21(10),
                StreamSpec(
                    name="digits, 2 pairs a digit and speaker",
                    dataset="digits",
                    scenario="domain",
                    pairs=2,
                    conditions=_MISSING,
                    learners=(*OURS, *QUICK),
                ),
                _av21(None, learners=PROMPTS),
            ),
            learners=(*OURS, *BASELINES),
        ),
        Suite(
            name="ablations",
            about="The method with one part changed at a time, on av21 with all pairs.",
            streams=(_av21(None, conditions=()),),
            learners=("mmcl", "mmcl-analytic", *ABLATIONS),
        ),
        Suite(
            name="validation",
            about="What choices are made on: av21 and digits, measured on a part of train.",
            streams=(
                _av21(5, test="validation", conditions=()),
                _av21(None, test="validation", conditions=()),
                StreamSpec(name="digits, 6 speakers", dataset="digits", scenario="domain", test="validation"),
            ),
            learners=("mmcl", "mmcl-analytic", "er"),
        ),
        Suite(
            name="online",
            about="One pass over av21, and with the task known at test.",
            streams=(
                _av21(None, name="av21, one pass", online=True, conditions=()),
                _av21(None, name="av21, task known", scenario="task", conditions=()),
            ),
            learners=("mmcl", "mmcl-analytic", "fine-tune", "er", "der++", "ewc"),
        ),
    )
}
"""Name to suite."""


def find_suite(name: str) -> Suite:
    """The suite called ``name``.

    Raises:
        InputError: there is none.
    """
    if name not in SUITES:
        raise InputError(f"Expected one of the suites {', '.join(SUITES)}, but {name!r} was asked for.")
    return SUITES[name]
