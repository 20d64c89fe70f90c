"""The analytic learner: closed-form heads on frozen features. No gradient, no replay, no order, no forgetting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mmcl_edge.adapters.model import ModelOutput
from mmcl_edge.config import MethodConfig
from mmcl_edge.errors import InputError
from mmcl_edge.learners.analytic.heads import EvidenceHeads, Heads, Sums
from mmcl_edge.learners.analytic.moments import Blocks, Kind, MomentEncoder
from mmcl_edge.learners.analytic.statistics import RidgeStatistics
from mmcl_edge.learners.batching import run_in_batches
from mmcl_edge.learners.confidence import Answers
from mmcl_edge.learners.frozen import FrozenLearner
from mmcl_edge.learners.host import Host
from mmcl_edge.learners.mmcl import MmclLearner
from mmcl_edge.learners.protocol import MEMORY, LearnerState
from mmcl_edge.learners.trained import tensor_bytes
from mmcl_edge.replay.buffer import sample_bytes
from mmcl_edge.types import Sample


class AnalyticLearner(FrozenLearner):
    r"""Ridge heads, one a modality, whose evidence adds up (RanPAC's statistics, MMAL's modality-wise heads; ours).

    .. math:: \text{logits}(x) = \sum_{m \in \text{present}} e^m(h^m(x) P^m)

    ``h`` are moments of every frozen block (``MomentEncoder``), P a fixed random subspace, e see ``Evidence``. The
    heads read one modality each, so a broken one cannot spoil the features of another, and a missing one is just not
    heard. All that is learned are sums: the result is the ridge regression on everything seen, whatever the order and
    however it was spread over devices. The projection follows from a fixed seed and M, and M from the budget and the
    number of heads: devices whose sums are to fit together need equal budgets.

    Args:
        host: gives backbones and budget.
        heads: ``modalities``; or one on all features side by side, zero where one is absent (``fused``); or ``both``.
        moments: what is read of each block.
        blocks: which are read: every one and the output, or the output alone.
        adapt: first-session adaptation: train the method's adapters on the first experience, freeze them, and put
            each modality's adapted representation beside its moments.
    """

    def __init__(
        self,
        host: Host,
        *,
        heads: Heads = "modalities",
        moments: Sequence[Kind] = ("mean", "max"),
        blocks: Blocks = "all",
        adapt: bool = False,
    ) -> None:
        common: dict[str, Any] = {"preprocess": host.preprocess, "seed": host.seed, "features": host.features}
        tuner = MmclLearner(host.model(), _without_freezing(host.config), **common) if adapt else None
        encoder = MomentEncoder(host.backbones, kinds=moments, blocks=blocks)
        super().__init__(encoder, host.config, **common, tuner=tuner)
        extra = host.config.head.joint_dim if adapt else 0
        self._dims = {name: dim + extra for name, dim in sorted(encoder.pooled_dims.items())}
        self.heads = EvidenceHeads(self._dims, heads=heads, budget_bytes=host.config.replay.budget_bytes)
        self.contribution: Sums = self.heads.sums

    def embed(self, samples: Sequence[Sample]) -> Tensor:
        """``(n, sum of D_m + M)``: features of each modality, zero where absent, then who is there (0 or 1)."""
        size = self.config.train.batch_size
        encoder = self.encoder
        assert isinstance(encoder, MomentEncoder)
        moments = run_in_batches(self.prepare(samples), encoder.rows, encoder=encoder, batch_size=size)
        if self.tuner is None:
            return moments
        adapted = self.tuner.forward(self.tuner.prepare(samples), self._adapted)
        *parts, here = moments.split([*(self.encoder.pooled_dims[name] for name in self._dims), len(self._dims)], dim=1)
        pairs = zip(parts, adapted.chunk(len(self._dims), dim=1), strict=True)
        return torch.cat([*(part for pair in pairs for part in pair), here], dim=1)

    def _adapted(self, output: ModelOutput) -> Tensor:
        """Each modality's normalised representation, side by side; zero where absent."""
        blank = torch.zeros_like(output.joint)
        parts = [functional.layer_norm(output.z.get(name, blank), blank.shape[-1:]) for name in self._dims]
        here = [output.present.get(name, blank[:, 0]) for name in self._dims]
        return torch.cat([part * one[:, None] for part, one in zip(parts, here, strict=True)], dim=1)

    def learn(self, samples: Sequence[Sample]) -> None:
        """Add the samples to the sums of every head that hears them; solve.

        Raises:
            InputError: with so many classes the sums do not fit into the budget.
        """
        own, classes = self.heads.counted(self.embed(samples), self.targets(samples)), len(self.labels)
        known = {name: sums.placed(range(sums.classes), classes) for name, sums in self.sums.items()}
        found = {name: sums.merged(own[name]) if len(own[name].root) else sums for name, sums in known.items()}
        taken = sum(tensor_bytes(sums.tensors().values()) for sums in found.values())
        if taken > self.config.replay.budget_bytes:
            raise InputError(
                f"Expected sums for {classes} classes within {self.config.replay.budget_bytes} bytes, but they take "
                f"{taken}; raise replay.budget_bytes before the first experience."
            )
        self.heads.put(found)
        self.contribution = own

    @property
    def sums(self) -> Sums:
        """The sums of everything seen, by head; ``contribution`` holds those of the last experience alone."""
        return self.heads.sums

    def resume(self, labels: Sequence[str], sums: Sums, *, experiences: int) -> None:
        """Go on from sums with a column for each of ``labels``.

        Raises:
            InputError: they are of other heads, or of another M.
        """
        self.heads.put(sums)
        self._labels, self.experiences = list(labels), experiences

    def answers(self, samples: Sequence[Sample]) -> Answers:
        """Logits and right classes of samples; -1 for a class it does not know. There is no joint representation."""
        index = {label: column for column, label in enumerate(self.labels)}
        target = torch.tensor([index.get(sample.label or "", -1) for sample in samples])
        return Answers(self.predict(samples), torch.zeros(len(samples), 0), target)

    def scores(self, h: Tensor) -> Tensor:
        """See ``FrozenLearner.scores``: the evidence of every head that hears the sample, summed."""
        return self.heads.scores(h, len(self.labels))

    def learned(self) -> dict[str, Tensor]:
        """Each head's weights ``(M, C)``; they follow from the sums."""
        return {f"{name}.weights": head.weights.float() for name, head in self.heads.answering.items()}

    def memory(self) -> dict[str, Tensor]:
        """Each head's sums: the triangular root of G, Q and the samples of each class, in float32."""
        return {f"{name}.{part}": value for name, one in self.sums.items() for part, value in one.tensors().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """See ``FrozenLearner.load``."""
        found = {}
        for name in self.sums:
            prefix = f"{MEMORY}{name}."
            own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            found[name] = RidgeStatistics.from_tensors(own)
        self.heads.put(found)


class JointAnalyticLearner(AnalyticLearner):
    """The same, told everything at once: it keeps all samples, beside any budget, and starts anew on all of them."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._everything: list[Sample] = []

    def learn(self, samples: Sequence[Sample]) -> None:
        """Learn all samples so far as one experience."""
        self._everything += samples
        self.heads.put(self.heads.empty(0))
        super().learn(self._everything)

    def state(self) -> LearnerState:
        """See ``Learner.state``; every sample is an exemplar."""
        return replace(super().state(), exemplars=tuple(self._everything))

    def load_state(self, state: LearnerState) -> None:
        """See ``Learner.load_state``."""
        super().load_state(state)
        self._everything = list(state.exemplars)

    @property
    def memory_bytes(self) -> int:
        """See ``Learner.memory_bytes``; the samples count, and no budget holds them."""
        return super().memory_bytes + sum(map(sample_bytes, self._everything))


def _without_freezing(config: MethodConfig) -> MethodConfig:
    """A tuner meets one experience: nothing has to be kept from a second."""
    return config.model_copy(update={"adapter": config.adapter.model_copy(update={"freeze_experts": False})})
