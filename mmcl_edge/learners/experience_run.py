"""The training loop of one experience, one epoch at a time, with everything a checkpoint needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mmcl_edge.adapters.model import Model, ModelOutput
from mmcl_edge.config import MethodConfig
from mmcl_edge.data.streams import Experience
from mmcl_edge.learners.protocol import OnProgress, Progress
from mmcl_edge.learners.randomness import generator_for
from mmcl_edge.learners.teacher import Teacher
from mmcl_edge.losses import functional as losses


class Objective(Protocol):
    """What is minimised: a learner, seen from its loop."""

    def losses(self, run: ExperienceRun, output: ModelOutput, index: Tensor) -> dict[str, Tensor]:
        """The weighted terms of the total loss by name, on the samples ``index`` of ``run``."""
        ...

    def adjust(self, run: ExperienceRun) -> None:
        """Called after each backward pass: may change gradients."""
        ...


class ExperienceRun:
    """Training state of one experience. ``prepared`` holds the current samples first, then the exemplars."""

    def __init__(
        self,
        model: Model,
        config: MethodConfig,
        *,
        objective: Objective,
        experience: Experience,
        prepared: Sequence[Any],
        labels: Tensor,
        teacher: Teacher | None,
        seed: int,
        step: int,
        epochs: int,
        replay_draws: int = 1,
    ) -> None:
        self.model = model
        self.config = config
        self.objective = objective
        self.experience = experience
        self.prepared = prepared
        self.labels = labels
        self.teacher = teacher
        self.seed = seed
        self.step = step
        self.epochs = epochs
        self.replay_draws = replay_draws
        self.epoch = 0
        self.log_prior = self._log_prior()
        train = config.train
        self.optimizer = torch.optim.AdamW(
            self.parameters().values(), lr=train.learning_rate, weight_decay=train.weight_decay, fused=True
        )

    def _log_prior(self) -> Tensor | None:
        """Log of each class's share of the batches (up to a constant), current samples and exemplars together."""
        if not self.config.loss.balance:
            return None
        classes = self.model.head.classes
        own = torch.bincount(self.labels[: self.current], minlength=classes) / self.current
        exemplars = len(self.labels) - self.current
        drawn = min(self.config.train.batch_size, exemplars) / self.config.train.batch_size
        replay = drawn * torch.bincount(self.labels[self.current :], minlength=classes) / max(1, exemplars)
        share = own + replay
        return torch.where(share > 0, share.clamp_min(1e-6).log(), losses.ABSENT)

    @property
    def current(self) -> int:
        """How many of ``prepared`` are the experience's own samples."""
        return len(self.experience.train)

    def train_epoch(self, on_progress: OnProgress | None = None) -> dict[str, float]:
        """One pass over the current samples; returns the epoch's mean losses by name."""
        generator = generator_for(self.seed, self.step, "epoch", self.epoch)
        batches = self._batches(generator)
        sums: dict[str, float] = {}
        for number, index in enumerate(batches):
            self._set_rate((self.epoch * len(batches) + number) / (self.epochs * len(batches)))
            for name, value in self.train_step(index, generator).items():
                sums[name] = sums.get(name, 0.0) + value
            if on_progress:
                means = {name: value / (number + 1) for name, value in sums.items()}
                on_progress(Progress(self.epoch + 1, self.epochs, number + 1, len(batches), means))
        self.epoch += 1
        return {name: value / len(batches) for name, value in sums.items()}

    def train_step(self, index: Tensor, generator: torch.Generator) -> dict[str, float]:
        """One optimizer step on the samples ``index``; returns the losses by name."""
        encoder = self.model.encoder
        batch = self._drop_modalities(encoder.collate([self.prepared[int(i)] for i in index]), generator)
        terms = self.objective.losses(self, self.model(batch, generator), index)
        total = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad()
        total.backward()
        self.objective.adjust(self)
        torch.nn.utils.clip_grad_norm_(self.parameters().values(), self.config.train.gradient_clip)
        self.optimizer.step()
        return {name: float(value.detach()) for name, value in terms.items()} | {"total": float(total.detach())}

    def classification(self, logits: Tensor, index: Tensor, *, log_prior: Tensor | None = None) -> Tensor:
        """The loop's cross-entropy of the samples ``index``, with its label smoothing."""
        smoothing = self.config.train.label_smoothing
        return losses.classification(logits, self.labels[index], log_prior=log_prior, label_smoothing=smoothing)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that changes from epoch to epoch, as named tensors."""
        state = {"epoch": torch.tensor(self.epoch)}
        for name, parameter in self.parameters().items():
            state[f"parameter/{name}"] = parameter.detach()
            for key, value in self.optimizer.state[parameter].items():
                state[f"optimizer/{key}/{name}"] = value
        for number, block in enumerate(self.model.blocks):
            state[f"usage/{number}"] = block.usage
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what ``state_dict`` gave, on a run begun from the same parent."""
        self.epoch = int(state["epoch"])
        for name, parameter in self.parameters().items():
            with torch.no_grad():
                parameter.copy_(state[f"parameter/{name}"])
            keys = {key.split("/")[1] for key in state if key.startswith("optimizer/") and key.endswith(f"/{name}")}
            self.optimizer.state[parameter] = {key: state[f"optimizer/{key}/{name}"].clone() for key in sorted(keys)}
        for number, block in enumerate(self.model.blocks):
            block.usage.copy_(state[f"usage/{number}"])

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Everything that learns, by name."""
        return {name: value for name, value in self.model.named_parameters() if value.numel()}

    def _batches(self, generator: torch.Generator) -> list[Tensor]:
        """Index batches: shuffled current samples, each batch with as many exemplars a draw, none of them twice."""
        own = torch.randperm(self.current, generator=generator).split(self.config.train.batch_size)
        exemplars = len(self.prepared) - self.current

        def draw(count: int) -> Tensor:
            return self.current + torch.randperm(exemplars, generator=generator)[:count]

        return [torch.cat([one, *(draw(len(one)) for _ in range(self.replay_draws))]) for one in own]

    def _drop_modalities(self, batch: Any, generator: torch.Generator) -> Any:
        """Hide one random modality of some samples that have several, so that each modality learns to stand alone."""
        present = self.model.encoder.presence(batch)
        chance = self.config.head.modality_dropout
        if len(present) < 2 or chance == 0:
            return batch
        matrix = torch.stack(list(present.values()), dim=1)  # (B, M)
        scores = torch.rand(matrix.shape, generator=generator).masked_fill(~matrix, -1.0)
        victim = torch.nn.functional.one_hot(scores.argmax(dim=1), matrix.shape[1]).bool()
        chosen = (torch.rand(len(matrix), generator=generator) < chance) & (matrix.sum(dim=1) > 1)
        hidden = victim & chosen[:, None]
        return self.model.encoder.hide(batch, {name: hidden[:, m] for m, name in enumerate(present)})

    def _set_rate(self, done: float) -> None:
        """Linear warm-up over the first 5 % of the steps, then cosine to zero."""
        warm = min(1.0, (done + 1e-3) / 0.05)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.train.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * done))
