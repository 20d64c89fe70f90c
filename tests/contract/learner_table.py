"""The one table of learners that the contract is checked on: the catalogue, and variants of the method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mmcl_edge.learners.catalogue import entry
from mmcl_edge.learners.mmcl import MmclLearner
from mmcl_edge.learners.persistence import contents_of, model_from_pack
from mmcl_edge.learners.protocol import Learner
from mmcl_edge.packs import read_pack, write_pack
from tests.learning import BACKBONES, config, host


@dataclass(frozen=True)
class Promise:
    """What a learner promises beyond what all do.

    Attributes:
        remembers: it still knows old classes after new ones; without, only the current ones.
        apart: it learns the classes of an experience apart from all others, so it is asked among them alone.
        memory: what bounds ``memory_bytes``: the replay budget, twice the model's size, or nothing (``grows``).
        balanced: its exemplars are spread evenly over the classes.
        epochs: it trains in epochs, whose losses fall.
        seeded: another seed gives another state.
        freezes: it freezes the most used experts of each block.
    """

    remembers: bool = True
    apart: bool = False
    memory: Literal["budget", "model", "grows"] = "budget"
    balanced: bool = False
    epochs: bool = True
    seeded: bool = True
    freezes: bool = False


@dataclass(frozen=True)
class Spec:
    """A learner by name: how to make one from a seed and a number of epochs, and what it promises.

    ``reopened`` makes the same one again from the pack that it stored in a folder.
    """

    name: str
    new: Callable[[int, int], Learner]
    promise: Promise
    reopened: Callable[[MmclLearner, Path], MmclLearner] | None = None


METHOD = Promise(balanced=True, freezes=True)
ANALYTIC = Promise(epochs=False, seeded=False)
CATALOGUE: dict[str, Promise] = {
    "mmcl": METHOD,
    **dict.fromkeys(
        (
            "mmcl-joint-vote",
            "mmcl-no-alignment",
            "mmcl-direct-alignment",
            "mmcl-no-preservation",
            "mmcl-no-distillation",
            "mmcl-no-sqrt",
            "mmcl-no-balance",
            "mmcl-specific",
            "mmcl-tokens",
        ),
        METHOD,
    ),
    "mmcl-no-freezing": replace(METHOD, freezes=False),
    "mmcl-dense": replace(METHOD, freezes=False),
    "mmcl-memory-0": replace(METHOD, remembers=False, apart=True, balanced=False),
    "mmcl-memory-half": METHOD,
    "mmcl-memory-double": METHOD,
    "er-votes": Promise(),
    "mmcl-analytic": ANALYTIC,
    "analytic-joint": replace(ANALYTIC, memory="grows"),
    "analytic-adapted": replace(ANALYTIC, seeded=True),
    "analytic-fused": ANALYTIC,
    "analytic-both": ANALYTIC,
    "analytic-means": ANALYTIC,
    "analytic-last": ANALYTIC,
    "av-cil": Promise(remembers=False, balanced=True),
    "l2p": Promise(remembers=False, apart=True),
    "dual-prompt": Promise(remembers=False, apart=True),
    "coda-prompt": Promise(remembers=False, apart=True),
    "simple-cil": Promise(epochs=False, seeded=False),
    "ranpac": Promise(epochs=False),
    "ranpac-frozen": Promise(epochs=False),
    "fine-tune": Promise(remembers=False),
    "joint": Promise(memory="grows"),
    "er": Promise(),
    "der": Promise(remembers=False),
    "der++": Promise(),
    "ewc": Promise(remembers=False, memory="grows"),
    "ewc-online": Promise(remembers=False, memory="model"),
    "lwf": Promise(remembers=False, apart=True),
    "icarl": Promise(balanced=True),
    "cope": Promise(balanced=True),
    "a-gem": Promise(remembers=False, balanced=True),
}
"""Every entry of the catalogue, and what it promises."""


def from_catalogue(name: str, **adapter: object) -> Callable[[int, int], Learner]:
    """Makes the learner called ``name`` in small, in the tests' own loop; ``adapter`` are changes of its shape."""

    def new(seed: int, epochs: int) -> Learner:
        chosen, small = entry(name), config(epochs, **adapter)
        return chosen.make(host(chosen.config(small).model_copy(update={"train": small.train}), seed))

    return new


def reopened(learner: MmclLearner, folder: Path) -> MmclLearner:
    """The learner after its model went through a pack."""
    facts = {"bundle_digest": "a" * 64, "parents": (), "sample_counts": {}, "evaluation": {}}
    contents = contents_of(learner.model, learner.config, labels=learner.labels, experiences=("one",), **facts)
    return MmclLearner(
        model_from_pack(read_pack(folder / write_pack(folder, contents)), BACKBONES),
        learner.config,
        preprocess=learner.preprocess,
        seed=learner.seed,
        labels=learner.labels,
        experiences=learner.experiences,
        buffer=learner.buffer,
    )


def variant(name: str, promise: Promise = METHOD, **adapter: object) -> Spec:
    """The method in one of its variants."""
    return Spec(name, from_catalogue("mmcl", **adapter), promise, reopened)


VARIANTS = (
    variant("mmcl inline", placement="inline"),
    variant("mmcl inline, token attention", placement="inline", attention="tokens"),
    variant("mmcl ladder"),
    variant("mmcl without freezing", replace(METHOD, freezes=False), freeze_experts=False),
)

SPECS = {
    spec.name: spec
    for spec in (*(Spec(name, from_catalogue(name), promise) for name, promise in CATALOGUE.items()), *VARIANTS)
}
"""Name to learner under test."""
