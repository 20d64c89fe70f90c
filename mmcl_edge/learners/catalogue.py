"""Every learner by name: the method, its ablations, the analytic learner and the baselines, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mmcl_edge.config import MethodConfig
from mmcl_edge.errors import InputError
from mmcl_edge.learners.baselines.av_cil import AvCilLearner
from mmcl_edge.learners.baselines.ranpac import RanPacLearner
from mmcl_edge.learners.baselines.simple_cil import SimpleCilLearner
from mmcl_edge.learners.host import Host
from mmcl_edge.learners.mmcl import MmclLearner
from mmcl_edge.learners.protocol import Learner
from mmcl_edge.learners.trained import TrainedLearner


@dataclass(frozen=True)
class Entry:
    """One learner.

    Attributes:
        make: a new one on a host.
        about: what it is, in a sentence, with its source.
        changes: fields of ``MethodConfig`` that it sets, ``section.field`` to value (an ablation is this alone).
        kind: ``method``, ``ablation``, ``baseline`` or ``bound``.
    """

    make: Callable[[Host], Learner]
    about: str
    kind: str = "baseline"
    changes: Mapping[str, Any] = field(default_factory=dict)

    def config(self, base: MethodConfig) -> MethodConfig:
        """``base`` with this learner's changes."""
        values = base.model_dump()
        for name, value in self.changes.items():
            section, part = name.split(".")
            values[section][part] = value
        return MethodConfig.model_validate(values)


def on_host(kind: Callable[..., TrainedLearner], host: Host, **settings: Any) -> TrainedLearner:
    """A learner of class ``kind`` with a new model of the host."""
    return kind(
        host.model(), host.config, preprocess=host.preprocess, seed=host.seed, features=host.features, **settings
    )


def trained(kind: Callable[..., TrainedLearner], **settings: Any) -> Callable[[Host], Learner]:
    """``Entry.make`` of a learner that trains by gradient; ``settings`` are its own hyperparameters."""
    return partial(on_host, kind, **settings)


LEARNERS: dict[str, Entry] = {
    "mmcl": Entry(trained(MmclLearner), "The method of paper 1, reconstructed.", "method"),
    "av-cil": Entry(
        AvCilLearner, "Audio-guided visual attention, kept alike by distillation (Pian et al., ICCV 2023)."
    ),
    "simple-cil": Entry(SimpleCilLearner, "Class means of frozen features, by cosine (Zhou et al., IJCV 2024)."),
    "ranpac": Entry(
        partial(RanPacLearner, tune=True),
        "Ridge regression on random features, adapters tuned on the first experience (McDonnell et al., NeurIPS 2023).",
    ),
    "ranpac-frozen": Entry(RanPacLearner, "RanPAC on frozen features, without its first-session adaptation."),
}
"""Name to learner."""


def entry(name: str) -> Entry:
    """The learner called ``name``.

    Raises:
        InputError: there is none.
    """
    if name not in LEARNERS:
        raise InputError(f"Expected one of the learners {', '.join(LEARNERS)}, but {name!r} was asked for.")
    return LEARNERS[name]
