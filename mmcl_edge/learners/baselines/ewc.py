"""Elastic weight consolidation: weights that mattered are held where they were.

Kirkpatrick et al. (PNAS 2017) keep the weights and their importance of every experience; Schwarz et al. (ICML 2018)
add the importance up and keep one pair. No exemplars: what persists is those pairs, as large as the trainable weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmcl_edge.adapters.model import Model, ModelOutput
from mmcl_edge.config import MethodConfig
from mmcl_edge.learners.baselines.expert_rows import apart, together
from mmcl_edge.learners.baselines.fine_tune import FineTuneLearner
from mmcl_edge.learners.experience_run import ExperienceRun

FISHER, ANCHOR = "fisher", "anchor"


def elastic_penalty(theta: Tensor, fisher: Tensor, anchor: Tensor) -> Tensor:
    r""":math:`\sum_t \sum_i F_{t,i} (\theta_i - \theta^*_{t,i})^2`.

    Args:
        theta: ``(n,)``.
        fisher: ``(t, n)``, F of each pair.
        anchor: ``(t, n)``, the weights that F belongs to.
    """
    return (fisher * (theta - anchor).square()).sum()


def flat(values: Mapping[str, Tensor]) -> Tensor:
    """All values as one vector, in the order of their names."""
    return torch.cat([values[name].flatten() for name in sorted(values)])


class EwcLearner(FineTuneLearner):
    """Cross-entropy on current samples, and the elastic penalty. Fresh experts and new rows of the head have F = 0.

    F is the empirical Fisher information: the mean, over an experience's samples one by one, of the squared gradient
    of ``log p(y|x)`` at the true label, without router noise or hidden modalities.

    Args:
        model: see ``TrainedLearner``.
        config: see ``TrainedLearner``.
        weight: lambda of the penalty.
        online: keep one pair, F added up and the last weights, instead of one pair an experience.
        decay: gamma, what remains of the old F when a new one is added (``online``).
        p_factor: multiply each sample's squares by ``p(y|x)``, as the implementation in Mammoth does.
        common: see ``TrainedLearner``.
    """

    def __init__(
        self,
        model: Model,
        config: MethodConfig,
        *,
        weight: float = 10.0,
        online: bool = False,
        decay: float = 1.0,
        p_factor: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(model, config, **common)
        self.weight = weight
        self.online = online
        self.decay = decay
        self.p_factor = p_factor
        self.pairs: list[dict[str, dict[str, Tensor]]] = []
        self._held: dict[str, Tensor] = {}

    def start(self, run: ExperienceRun) -> None:
        """Shape every pair as the parameters are now."""
        self._held = {
            kind: _rows([together(self.model, pair[kind]) for pair in self.pairs]) for kind in (FISHER, ANCHOR)
        }

    def losses(self, run: ExperienceRun, output: ModelOutput, index: Tensor) -> dict[str, Tensor]:
        """Cross-entropy, and after the first experience the weighted penalty."""
        terms = super().losses(run, output, index)
        if self.pairs:
            theta = flat(run.parameters())
            terms["elastic"] = self.weight * elastic_penalty(theta, self._held[FISHER], self._held[ANCHOR])
        return terms

    def settle(self, run: ExperienceRun) -> None:
        """Measure the importance of the weights, and hold them."""
        fisher = self.fisher(run)
        if self.online and self.pairs:
            old = together(self.model, self.pairs.pop()[FISHER])
            fisher = {name: self.decay * old[name] + value for name, value in fisher.items()}
        self.pairs.append({FISHER: apart(self.model, fisher), ANCHOR: apart(self.model, run.parameters())})

    def fisher(self, run: ExperienceRun) -> dict[str, Tensor]:
        """F of every parameter, by name."""
        parameters, encoder = run.parameters(), self.model.encoder
        total = [torch.zeros_like(value) for value in parameters.values()]
        for number in range(run.current):
            logits = self.model(encoder.collate([run.prepared[number]])).logits
            log_p = logits.log_softmax(dim=1)[0, run.labels[number]]
            gradients = torch.autograd.grad(log_p, list(parameters.values()), materialize_grads=True)
            factor = float(log_p.detach().exp()) if self.p_factor else 1.0
            for value, gradient in zip(total, gradients, strict=True):
                value.addcmul_(gradient, gradient, value=factor / run.current)
        return dict(zip(parameters, total, strict=True))

    def memory(self) -> dict[str, Tensor]:
        """Every pair, by number, kind and the name that lasts."""
        return {
            f"{number}.{kind}.{name}": value
            for number, pair in enumerate(self.pairs)
            for kind, values in pair.items()
            for name, value in values.items()
        }

    def load_memory(self, tensors: Mapping[str, Tensor]) -> None:
        """See ``TrainedLearner.load_memory``."""
        parsed = {tuple(key.split(".", 2)): value for key, value in tensors.items()}
        self.pairs = [{FISHER: {}, ANCHOR: {}} for _ in {number for number, _, _ in parsed}]
        for (number, kind, name), value in parsed.items():
            self.pairs[int(number)][kind][name] = value


def _rows(values: Sequence[Mapping[str, Tensor]]) -> Tensor:
    return torch.stack([flat(one) for one in values]) if values else torch.zeros(0, 0)
