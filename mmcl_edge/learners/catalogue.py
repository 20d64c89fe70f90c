"""Every learner by name: the method, its ablations, the analytic learner and the baselines, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mmcl_edge.config import MethodConfig
from mmcl_edge.errors import InputError
from mmcl_edge.learners.baselines.a_gem import AGemLearner
from mmcl_edge.learners.baselines.av_cil import AvCilLearner
from mmcl_edge.learners.baselines.cope import CopeLearner
from mmcl_edge.learners.baselines.der import DerLearner, DerPlusPlusLearner
from mmcl_edge.learners.baselines.er import ErLearner
from mmcl_edge.learners.baselines.ewc import EwcLearner
from mmcl_edge.learners.baselines.fine_tune import FineTuneLearner
from mmcl_edge.learners.baselines.icarl import IcarlLearner
from mmcl_edge.learners.baselines.joint import JointLearner
from mmcl_edge.learners.baselines.lwf import LwfLearner
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
    "fine-tune": Entry(trained(FineTuneLearner), "New samples alone: the lower bound.", "bound"),
    "joint": Entry(
        JointLearner.on, "All samples so far, from scratch, under no byte budget: the upper bound.", "bound"
    ),
    "er": Entry(trained(ErLearner), "Replay of a reservoir (Chaudhry et al., 2019)."),
    "der": Entry(trained(DerLearner), "Replay of exemplars' own logits (Buzzega et al., NeurIPS 2020)."),
    "der++": Entry(trained(DerPlusPlusLearner), "DER and replay of labels (Buzzega et al., NeurIPS 2020)."),
    "ewc": Entry(trained(EwcLearner), "A quadratic hold on each experience's weights (Kirkpatrick et al., PNAS 2017)."),
    "ewc-online": Entry(trained(EwcLearner, online=True), "EWC with one pair of tensors (Schwarz et al., ICML 2018)."),
    "lwf": Entry(trained(LwfLearner), "Distillation on the new samples (Li and Hoiem, TPAMI 2018)."),
    "icarl": Entry(trained(IcarlLearner), "Herded exemplars, sigmoids, nearest mean (Rebuffi et al., CVPR 2017)."),
    "cope": Entry(trained(CopeLearner), "Slow prototypes and their proxies (De Lange and Tuytelaars, ICCV 2021)."),
    "a-gem": Entry(trained(AGemLearner), "Gradients that exemplars do not oppose (Chaudhry et al., ICLR 2019)."),
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
