"""Every learner by name: the method, its ablations, the analytic learner and the baselines, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mmcl_edge.config import MethodConfig
from mmcl_edge.errors import InputError
from mmcl_edge.learners.analytic.learner import AnalyticLearner, JointAnalyticLearner
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
from mmcl_edge.learners.baselines.prompts import LOOP, coda_prompt, dual_prompt, l2p
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


def ablation(about: str, **changes: Any) -> Entry:
    """The method with fields of its configuration changed: ``loss__align_weight=0.0``."""
    fields = {name.replace("__", "."): value for name, value in changes.items()}
    return Entry(trained(MmclLearner), about, "ablation", {"head.voters": "all"} | fields)


HALF_BYTES = 8 << 20

LEARNERS: dict[str, Entry] = {
    "mmcl": Entry(
        trained(MmclLearner),
        "The method of paper 1, reconstructed; every modality votes.",
        "method",
        {"head.voters": "all"},
    ),
    "mmcl-joint-vote": Entry(
        trained(MmclLearner), "Only the joint representation is classified, as in the paper.", "ablation"
    ),
    "er-votes": Entry(trained(ErLearner), "ER with every modality voting.", "ablation", {"head.voters": "all"}),
    "mmcl-analytic": Entry(
        AnalyticLearner, "Closed-form heads, one a modality, on moments of every frozen block (ours).", "method"
    ),
    "analytic-joint": Entry(JointAnalyticLearner, "mmcl-analytic told everything at once.", "bound"),
    "analytic-adapted": Entry(
        partial(AnalyticLearner, adapt=True),
        "With adapters trained on the first experience.",
        "ablation",
        {"head.voters": "all"},
    ),
    "analytic-fused": Entry(
        partial(AnalyticLearner, heads="fused"), "One head on both modalities' features.", "ablation"
    ),
    "analytic-both": Entry(partial(AnalyticLearner, heads="both"), "A fused head beside the others.", "ablation"),
    "analytic-means": Entry(partial(AnalyticLearner, moments=("mean",)), "Means alone, no maxima.", "ablation"),
    "analytic-last": Entry(
        partial(AnalyticLearner, moments=("mean",), blocks="last"), "Means of the last features alone.", "ablation"
    ),
    "mmcl-no-alignment": ablation("Without the alignment loss.", loss__align_weight=0.0),
    "mmcl-direct-alignment": ablation("Modalities aligned to each other.", loss__align_target="direct"),
    "mmcl-no-preservation": ablation("Without the preservation loss.", loss__preserve_weight=0.0),
    "mmcl-no-distillation": ablation("Without distillation.", loss__distill_weight=0.0),
    "mmcl-no-sqrt": ablation("Distillation not scaled by the root of the step.", loss__distill_scale="none"),
    "mmcl-no-balance": ablation("Plain cross-entropy instead of the balanced softmax.", loss__balance=False),
    "mmcl-no-freezing": ablation("No expert is frozen.", adapter__freeze_experts=False),
    "mmcl-specific": ablation("Modality-specific adapters: no attention across.", adapter__attention="none"),
    "mmcl-tokens": ablation("Attention token to token instead of latents.", adapter__attention="tokens"),
    "mmcl-dense": ablation(
        "All experts serve every sample; none is frozen.",
        adapter__experts=8,
        adapter__active_experts=8,
        adapter__freeze_experts=False,
    ),
    "mmcl-memory-0": ablation("No exemplars.", replay__budget_bytes=0),
    "mmcl-memory-half": ablation("Half the bytes.", replay__budget_bytes=HALF_BYTES),
    "mmcl-memory-double": ablation("Twice the bytes.", replay__budget_bytes=4 * HALF_BYTES),
    "av-cil": Entry(
        AvCilLearner, "Audio-guided visual attention, kept alike by distillation (Pian et al., ICCV 2023)."
    ),
    "l2p": Entry(l2p, "Prompts from a pool, chosen by key (Wang et al., CVPR 2022).", changes=LOOP),
    "dual-prompt": Entry(
        dual_prompt, "A general prompt and one for each experience (Wang et al., ECCV 2022).", changes=LOOP
    ),
    "coda-prompt": Entry(coda_prompt, "Prompts as attention over components (Smith et al., CVPR 2023).", changes=LOOP),
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
    "der++": Entry(
        trained(DerPlusPlusLearner, alpha=0.1, beta=1.0), "DER and replay of labels (Buzzega et al., NeurIPS 2020)."
    ),
    "ewc": Entry(
        trained(EwcLearner, weight=1e5),
        "A quadratic hold on each experience's weights (Kirkpatrick et al., PNAS 2017).",
    ),
    "ewc-online": Entry(
        trained(EwcLearner, weight=1e5, online=True), "EWC with one pair of tensors (Schwarz et al., ICML 2018)."
    ),
    "lwf": Entry(
        trained(LwfLearner, alpha=5.0, own_classes=True), "Distillation on the new samples (Li and Hoiem, TPAMI 2018)."
    ),
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
