"""L2P, DualPrompt and CODA-Prompt: frozen backbones, learned prompts, no exemplars.

One policy for the family: cross-entropy over the classes of the experience alone (old logits are masked), no replay,
no teacher; prompts and head learn, nothing else does: the modalities' features lie side by side under the head.

Differences from the papers. Exported segments are opaque, so a prompt is tokens at a segment's input instead of a
prefix of its keys and values (DualPrompt, CODA-Prompt), and stays in the sequence after the last prompted segment.
Only backbones whose number of tokens is free get prompts; the others give frozen features. Optimiser and schedule are
the host's. So is the head, by cosine: over masked classes a linear one, as published, loses the balance between
experiences (validation folds of av21's training pairs, frozen features, two folds: 0.71 and 0.77 against 0.46 and
0.40). What remains as published stands below (layers, loop, pull) and in ``prompt_pools``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmcl_edge.adapters.heads import GrowingHead
from mmcl_edge.adapters.model import Model, ModelOutput
from mmcl_edge.learners.baselines.prompt_encoder import PromptEncoder, sites_of
from mmcl_edge.learners.baselines.prompt_pools import CodaPool, DualPool, L2pPool
from mmcl_edge.learners.experience_run import ExperienceRun
from mmcl_edge.learners.host import Host
from mmcl_edge.learners.protocol import LearnerState
from mmcl_edge.learners.randomness import generator_for
from mmcl_edge.learners.trained import TrainedLearner

L2P_LAYERS = (0,)
GENERAL_LAYERS, EXPERT_LAYERS = (0, 1), (2, 3, 4)
CODA_LAYERS = (0, 1, 2, 3, 4)
"""Where the papers' prompts enter; of a shorter backbone, the layers that it has."""
LOOP = {"train.learning_rate": 1.875e-3, "train.epochs": 5, "train.min_steps": 0}
"""L2P's learning rate and epochs in the PILOT toolbox, for the whole family (there DualPrompt's and CODA-Prompt's rate
is 1e-3, and CODA-Prompt has 20 epochs)."""
PULL = 0.1
"""Weight of the keys' attraction to the queries they serve (L2P, DualPrompt)."""
OWN = "encoder."


class SideBySide(nn.Module):
    """Features of all modalities as one vector, each of length 1, zero where it is absent."""

    def __init__(self, dims: Mapping[str, int]) -> None:
        super().__init__()
        self.dims = dict(dims)

    def forward(self, pooled: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Features ``(B, D_m)`` and presence ``(B,)`` to unit vectors by name and ``(B, sum of D_m)``."""
        z = {name: functional.normalize(x, dim=1) * present[name][:, None] for name, x in pooled.items()}
        rows = len(next(iter(z.values())))
        return z, torch.cat([z.get(name, torch.zeros(rows, dim)) for name, dim in self.dims.items()], dim=1)


class PromptLearner(TrainedLearner):
    """A learner of prompts; see the module docstring.

    Args:
        host: gives backbones, loop and seed.
        pool: makes the pool for a number of query features and a generator.
    """

    replay_draws = 0

    def __init__(self, host: Host, pool: Callable[[Host, int, torch.Generator], L2pPool | DualPool | CodaPool]) -> None:
        width = sum(one.output_features.dim for one in host.backbones.values())
        self.pool = pool(host, width, generator_for(host.seed, "prompts"))
        all_blocks = host.config.adapter.features == "all"
        self.encoder = PromptEncoder(host.backbones, self.pool, all_blocks=all_blocks)
        dims, shape = self.encoder.pooled_dims, host.config.head
        head = GrowingHead(sum(dims.values()), kind=shape.classifier, scale=shape.cosine_scale)
        model = Model(self.encoder, SideBySide(dims), head)
        super().__init__(model, host.config, preprocess=host.preprocess, seed=host.seed, features=host.features)
        self._queries = torch.zeros(0, width)

    def start(self, run: ExperienceRun) -> None:
        """Collect the queries, which never change (keys learn from whole ones, whatever a batch hides)."""
        encoder = self.encoder
        self._queries = torch.cat([encoder.query(encoder.collate([one])) for one in run.prepared])

    def losses(self, run: ExperienceRun, output: ModelOutput, index: Tensor) -> dict[str, Tensor]:
        """Cross-entropy over the experience's classes, and the attraction of keys where the pool has one."""
        columns = torch.tensor([self.labels.index(name) for name in run.experience.classes])
        place = torch.full((len(self.labels),), -1).index_copy(0, columns, torch.arange(len(columns)))
        smoothing = self.config.train.label_smoothing
        masked = functional.cross_entropy(
            output.logits[:, columns], place[run.labels[index]], label_smoothing=smoothing
        )
        attraction = self.pool.attraction(self._queries[index])
        return {"classification": masked} | ({} if attraction is None else {"attraction": -PULL * attraction})

    def state_dict(self) -> dict[str, Tensor]:
        """See ``Learner.state_dict``; the pool under ``encoder.``."""
        own = {OWN + name: value.detach().clone() for name, value in self.encoder.state_dict().items()}
        return super().state_dict() | own

    def load_state(self, state: LearnerState) -> None:
        """See ``Learner.load_state``."""
        own = {name.removeprefix(OWN): value for name, value in state.tensors.items() if name.startswith(OWN)}
        rest = {name: value for name, value in state.tensors.items() if not name.startswith(OWN)}
        super().load_state(replace(state, tensors=rest))
        for _ in range(state.experiences):
            self.pool.grow(torch.Generator())
        self.encoder.load_state_dict(own)

    @property
    def trainable_parameters(self) -> int:
        """See ``Learner.trainable_parameters``."""
        return super().trainable_parameters + sum(value.numel() for value in self.encoder.parameters())

    def _grow(self, classes: Sequence[str]) -> None:
        super()._grow(classes)
        self.pool.grow(generator_for(self.seed, self.experiences, "prompts"))


def l2p(host: Host) -> PromptLearner:
    """L2P (Wang et al., Learning to prompt for continual learning, CVPR 2022)."""
    return PromptLearner(host, lambda h, width, g: L2pPool(sites_of(h.backbones, L2P_LAYERS), width, generator=g))


def dual_prompt(host: Host) -> PromptLearner:
    """DualPrompt (Wang et al., ECCV 2022)."""

    def pool(host: Host, width: int, generator: torch.Generator) -> DualPool:
        depth = min(one.depth for one in host.backbones.values())
        general = GENERAL_LAYERS[: depth // 2]
        expert = [layer for layer in (*GENERAL_LAYERS, *EXPERT_LAYERS) if layer not in general]
        sites = sites_of(host.backbones, general), sites_of(host.backbones, expert)
        return DualPool(*sites, width, generator=generator)

    return PromptLearner(host, pool)


def coda_prompt(host: Host) -> PromptLearner:
    """CODA-Prompt (Smith et al., CVPR 2023); its orthogonality penalty has weight 0, as in the PILOT toolbox."""
    return PromptLearner(host, lambda h, width, _: CodaPool(sites_of(h.backbones, CODA_LAYERS), width))
