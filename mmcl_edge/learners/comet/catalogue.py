"""``comet`` and its controls by name: one table, as ``learners.catalogue`` is for learners of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmcl_edge.config import CometConfig
from mmcl_edge.errors import InputError
from mmcl_edge.learners.comet.joint import JointCometLearner
from mmcl_edge.learners.comet.learner import CometLearner
from mmcl_edge.learners.host import Host

SEQUENTIAL: dict[str, Any] = {
    "pseudo_replay": "none",
    "freeze_experts": False,
    "train_mediator": "always",
    "expand": False,
    "settled_decay": 0.99,
}
"""Nothing holds what was learned before: the projection of the mediator, the experts and the codes go on learning."""
RANDOM: dict[str, Any] = {"start": "random", "epochs": 20, "learning_rate": 2e-3}
"""As in the paper: gradient alone leads modalities into the space, which takes more of it."""
MOVING: dict[str, Any] = {"train_mediator": "always"}
"""Where replay has something to hold: by default the mediator's projection is frozen after the first stage."""


@dataclass(frozen=True)
class CometEntry:
    """One learner of pair sets.

    Attributes:
        about: what it is, in a sentence.
        kind: ``method``, ``ablation`` or ``bound``.
        changes: fields of ``CometConfig`` that it sets.
        joint: whether it keeps all pairs and starts anew each time.
    """

    about: str
    kind: str = "ablation"
    changes: Mapping[str, Any] = field(default_factory=dict)
    joint: bool = False

    def config(self, base: CometConfig) -> CometConfig:
        """``base`` with this learner's changes."""
        return CometConfig.model_validate(base.model_dump() | dict(self.changes))

    def make(self, host: Host, base: CometConfig | None = None) -> CometLearner:
        """A new one on a host."""
        return (JointCometLearner if self.joint else CometLearner)(host, self.config(base or CometConfig()))


COMET: dict[str, CometEntry] = {
    "comet": CometEntry("The method: a shared codebook that modalities join through a mediator.", "method"),
    "comet-joint": CometEntry("All pairs so far at once, from scratch: the upper bound.", "bound", SEQUENTIAL, True),
    "comet-fine-tune": CometEntry("One pair set after the other, nothing held: the lower bound.", "bound", SEQUENTIAL),
    "comet-fine-tune-random": CometEntry(
        "The lower bound as the paper has it: projections start at random, too.",
        "bound",
        SEQUENTIAL | RANDOM,
    ),
    "comet-random": CometEntry("Projections start at random, as in the paper.", changes=RANDOM),
    "comet-ridge": CometEntry("The closed-form start alone: no step by gradient.", changes={"epochs": 0}),
    **{
        name + suffix: CometEntry(f"{about}{more}.", changes=start | changes)
        for suffix, more, start in (("", "", {}), ("-random", ", from a random start", RANDOM))
        for name, about, changes in (
            ("comet-generative", "Replay by decoders instead of Gaussians", {"pseudo_replay": "generative"}),
            ("comet-no-replay", "Without pseudo-modality replay", {"pseudo_replay": "none"}),
            ("comet-no-cmoe", "Without the CMoE-Adapter", {"experts": 0}),
            ("comet-shared-experts", "Two experts for all stages, none frozen", {"freeze_experts": False}),
            ("comet-fixed-codebook", "The codebook never grows", {"expand": False}),
        )
    },
    "comet-moving-random": CometEntry(
        "The mediator learns in every stage, held by replay alone; from a random start.", changes=RANDOM | MOVING
    ),
    "comet-moving-no-replay-random": CometEntry(
        "The mediator learns in every stage, without replay; from a random start.",
        changes=RANDOM | MOVING | {"pseudo_replay": "none"},
    ),
    "comet-joint-random": CometEntry("All pairs at once, from a random start.", "bound", SEQUENTIAL | RANDOM, True),
    "comet-continuous": CometEntry(
        "No codes: a continuous space by InfoNCE.", changes={"space": "continuous", "train_mediator": "first"}
    ),
    "comet-code-vectors": CometEntry("Embeddings told through the codes.", changes={"embedding": "codes"}),
}
"""Name to learner."""


def comet_entry(name: str) -> CometEntry:
    """The learner called ``name``.

    Raises:
        InputError: there is none.
    """
    if name not in COMET:
        raise InputError(f"Expected one of the learners {', '.join(COMET)}, but {name!r} was asked for.")
    return COMET[name]
