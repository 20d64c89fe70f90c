"""Dark experience replay (Buzzega et al., NeurIPS 2020): exemplars are replayed with the logits they once had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mmcl_edge.adapters.model import Model, ModelOutput
from mmcl_edge.config import MethodConfig
from mmcl_edge.learners.baselines.draws import parts
from mmcl_edge.learners.baselines.er import ErLearner
from mmcl_edge.learners.experience_run import ExperienceRun
from mmcl_edge.replay.buffer import ReplayBuffer


def stored_logit_error(logits: Tensor, stored: Tensor, widths: Tensor) -> Tensor:
    """Mean squared difference from stored logits, over the classes that each sample's logits had when stored.

    Args:
        logits: ``(B, C)``.
        stored: ``(B, C_s)``, ``C_s <= C``.
        widths: ``(B,)``, how many columns of each row of ``stored`` count, at least 1.
    """
    compared = torch.arange(stored.shape[1]) < widths[:, None]
    return (logits[:, : stored.shape[1]] - stored)[compared].square().mean()


class DerLearner(ErLearner):
    """Cross-entropy on current samples, and the squared difference of exemplars' logits from stored ones.

    The paper stores the logits of the moment at which a sample enters the reservoir, amid its training; here samples
    enter at the end of their experience, so theirs are the finished model's. The head grows: only the columns that were
    there are compared, so nothing holds newer columns down on old samples, as a head of all classes from the start
    would: over many classes DER forgets here what DER++ keeps. A row of logits, padded to all classes, counts among the
    bytes of its sample.

    Args:
        model: see ``TrainedLearner``.
        config: see ``TrainedLearner``.
        alpha: weight of the squared difference; the paper's range is 0.1 to 1 (0.3 on Split CIFAR-100).
        common: see ``TrainedLearner``.
    """

    def __init__(self, model: Model, config: MethodConfig, *, alpha: float = 0.3, **common: Any) -> None:
        super().__init__(model, config, **common)
        self.alpha = alpha
        self.stored = torch.zeros(0, 0)
        self.widths = torch.zeros(0, dtype=torch.int64)

    def losses(self, run: ExperienceRun, output: ModelOutput, index: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of the current samples, and, with exemplars, the weighted squared difference."""
        own, *draws = parts(run, index)
        terms = {"classification": run.classification(output.logits[own], index[own])}
        if draws:
            rows = index[draws[0]] - run.current
            error = stored_logit_error(output.logits[draws[0]], self.stored[rows], self.widths[rows])
            terms["stored logits"] = self.alpha * error
        return terms

    def remember(self, run: ExperienceRun) -> ReplayBuffer:
        """What the reservoir keeps, and its logits."""
        logits = self.forward(run.prepared, self.scores)[: run.current]  # type: ignore[arg-type]
        classes = logits.shape[1]
        stored = torch.cat([functional.pad(self.stored, (0, classes - self.stored.shape[1])), logits])
        widths = torch.cat([self.widths, torch.full((run.current,), classes)])
        offered = self.offered(run)
        places = self.drawn(offered, extra_bytes=stored.itemsize * classes + widths.itemsize)
        self.stored, self.widths = stored[places], widths[places]
        return ReplayBuffer(tuple(offered[place] for place in places))

    def memory(self) -> dict[str, Tensor]:
        """The logits, and how many of each row count."""
        return super().memory() | {"logits": self.stored, "widths": self.widths}

    def load_memory(self, tensors: Mapping[str, Tensor]) -> None:
        """See ``TrainedLearner.load_memory``."""
        super().load_memory(tensors)
        self.stored, self.widths = tensors["logits"], tensors["widths"]


class DerPlusPlusLearner(DerLearner):
    """DER, and the cross-entropy of exemplars drawn independently of those whose logits are compared.

    Args:
        model: see ``TrainedLearner``.
        config: see ``TrainedLearner``.
        beta: weight of that cross-entropy; the paper's range is 0.5 to 1.
        common: see ``DerLearner``.
    """

    replay_draws = 2

    def __init__(self, model: Model, config: MethodConfig, *, beta: float = 0.5, **common: Any) -> None:
        super().__init__(model, config, **common)
        self.beta = beta

    def losses(self, run: ExperienceRun, output: ModelOutput, index: Tensor) -> dict[str, Tensor]:
        """DER's, and the weighted cross-entropy of the second draw."""
        terms = super().losses(run, output, index)
        draws = parts(run, index)[1:]
        if draws:
            terms["replay"] = self.beta * run.classification(output.logits[draws[1]], index[draws[1]])
        return terms
