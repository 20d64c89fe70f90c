"""Learners on frozen features: what they share beside the backbones, and the features themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmcl_edge.adapters.encoder import Encoder, Encoding, LadderEncoder, LadderFeatures
from mmcl_edge.config import MethodConfig
from mmcl_edge.data.streams import Experience
from mmcl_edge.errors import InputError
from mmcl_edge.learners.batching import run_in_batches
from mmcl_edge.learners.features import FeatureCache, PreparedSamples
from mmcl_edge.learners.host import Host
from mmcl_edge.learners.protocol import MEMORY, LearnerState, OnProgress, Preprocess, Progress
from mmcl_edge.learners.trained import TrainedLearner, tensor_bytes
from mmcl_edge.types import Sample

TUNED = "tuned."
"""Prefix of the tuner's tensors in ``state_dict``."""


class FrozenEncoder(LadderEncoder):
    """The backbones' own features, and nothing trained: the ladder without its side network.

    Keeps what the ladder keeps, so both share a feature store. ``features="all"`` puts the mean input of every block
    beside the normalised output, as it does for every learner.
    """

    def __init__(self, host: Host) -> None:
        depth = min(one.depth for one in host.backbones.values())
        config = host.config.adapter
        blocks = nn.ModuleList([nn.Identity() for _ in range(depth)])
        super().__init__(
            host.backbones, blocks, dim=0, tokens=config.ladder_tokens, all_blocks=config.features == "all"
        )

    def forward(self, batch: LadderFeatures, generator: torch.Generator | None = None) -> Encoding:
        """Pooled features ``(B, D_m)`` of a batch."""
        pooled = {}
        for name, output in batch.output.items():
            means = [normal(block[name]).mean(dim=1) for block in batch.blocks] if self.all_blocks else []
            pooled[name] = torch.cat([normal(output), *means], dim=1)
        return Encoding(pooled, batch.present, ())


def normal(x: Tensor) -> Tensor:
    """Vectors of mean 0 and variance 1."""
    return functional.layer_norm(x, x.shape[-1:])


def unit_parts(encoding: Encoding, dims: Mapping[str, int]) -> Tensor:
    """Features of all modalities as one vector ``(B, sum of D_m)``: each of length 1, zero where it is absent."""
    some = next(iter(encoding.pooled.values()))
    parts = []
    for name, dim in dims.items():
        value = encoding.pooled.get(name, some.new_zeros(len(some), dim))
        here = encoding.present.get(name, torch.zeros(len(some), dtype=torch.bool))
        parts.append(functional.normalize(value, dim=1) * here[:, None])
    return torch.cat(parts, dim=1)


class FrozenLearner(ABC):
    """A learner that looks at every sample once and changes no weight by gradient.

    Args:
        encoder: gives the features; whatever it is, it is frozen while this learner asks it.
        config: byte budget and batch size.
        preprocess: sample to tensors.
        seed: of everything random.
        features: keeps features of samples.
        tuner: first-session adaptation (RanPAC's phase 1): it learns the first experience, and is frozen afterwards.
    """

    def __init__(
        self,
        encoder: Encoder,
        config: MethodConfig,
        *,
        preprocess: Preprocess,
        seed: int,
        features: FeatureCache,
        tuner: TrainedLearner | None = None,
    ) -> None:
        self.encoder = encoder
        self.config = config
        self.preprocess = preprocess
        self.seed = seed
        self.features = features
        self.tuner = tuner
        self.experiences = 0
        self._labels: list[str] = []

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits' columns."""
        return tuple(self._labels)

    def observe(self, experience: Experience, on_progress: OnProgress | None = None) -> None:
        """Learn one experience from one look at its samples."""
        self.features.store.release()
        self.experiences += 1
        if self.tuner is not None and self.experiences == 1:
            self.tuner.observe(experience, on_progress)
        known = list(self._labels)
        self._labels += [name for name in experience.classes if name not in self._labels]
        try:
            self.learn(experience.train)
        except InputError:
            self._labels, self.experiences = known, self.experiences - 1
            raise
        if on_progress:
            on_progress(Progress(1, 1, 1, 1, {}))

    def predict(self, samples: Sequence[Sample]) -> Tensor:
        """Logits ``(len(samples), C)``."""
        return self.scores(self.embed(samples))

    def prepare(self, samples: Sequence[Sample]) -> PreparedSamples:
        """See ``Learner.prepare``."""
        return PreparedSamples(samples, preprocess=self.preprocess, encoder=self.encoder, cache=self.features)

    def embed(self, samples: Sequence[Sample]) -> Tensor:
        """Features h ``(n, D)`` of samples: see ``unit_parts``."""
        encoder = self.encoder
        return run_in_batches(
            self.prepare(samples),
            lambda batch: unit_parts(encoder(batch), encoder.pooled_dims),
            encoder=encoder,
            batch_size=self.config.train.batch_size,
        )

    def targets(self, samples: Sequence[Sample]) -> Tensor:
        """One-hot classes ``(n, C)`` of labelled samples."""
        columns = torch.tensor([self._labels.index(sample.label or "") for sample in samples])
        return functional.one_hot(columns, len(self._labels)).float()

    def state_dict(self) -> dict[str, Tensor]:
        """See ``Learner.state_dict``."""
        persists = {MEMORY + name: value for name, value in self.memory().items()}
        return {name: value.detach().clone() for name, value in (self.learned() | self._tuned() | persists).items()}

    def _tuned(self) -> dict[str, Tensor]:
        return {} if self.tuner is None else {TUNED + name: value for name, value in self.tuner.state_dict().items()}

    def state(self) -> LearnerState:
        """See ``Learner.state``."""
        tuned = None if self.tuner is None else self.tuner.state()
        facts = {} if tuned is None else {"tuned_labels": list(tuned.labels), **tuned.facts}
        return LearnerState(self.state_dict(), self.labels, self.experiences, facts=facts)

    def load_state(self, state: LearnerState) -> None:
        """See ``Learner.load_state``."""
        self._labels, self.experiences = list(state.labels), state.experiences
        if self.tuner is not None:
            own = {n.removeprefix(TUNED): v for n, v in state.tensors.items() if n.startswith(TUNED)}
            labels = tuple(state.facts["tuned_labels"])
            self.tuner.load_state(LearnerState(own, labels, min(1, state.experiences), facts=state.facts))
        self.load({name: value.clone() for name, value in state.tensors.items()})

    @property
    def memory_bytes(self) -> int:
        """See ``Learner.memory_bytes``."""
        return tensor_bytes(self.memory().values())

    @property
    def trainable_parameters(self) -> int:
        """See ``Learner.trainable_parameters``."""
        return sum(value.numel() for value in (self.learned() | self._tuned()).values())

    # What a method decides

    @abstractmethod
    def learn(self, samples: Sequence[Sample]) -> None:
        """Take in labelled samples; their classes are among ``labels``. Where it refuses, nothing has changed."""

    @abstractmethod
    def scores(self, h: Tensor) -> Tensor:
        """Features ``(n, D)`` to logits ``(n, C)``."""

    @abstractmethod
    def learned(self) -> dict[str, Tensor]:
        """Tensors that predicting needs."""

    @abstractmethod
    def memory(self) -> dict[str, Tensor]:
        """Tensors that persist beside them, so that learning can go on."""

    @abstractmethod
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what ``state_dict`` gave (the labels are back already)."""
