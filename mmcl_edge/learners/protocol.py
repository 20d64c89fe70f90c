"""What every learner promises: the method, its ablations and the baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from mmcl_edge.adapters.inputs import Item
from mmcl_edge.data.streams import Experience
from mmcl_edge.learners.features import PreparedSamples
from mmcl_edge.types import Sample

Preprocess = Callable[[Sample], Item]
"""Turns a decoded sample into the tensors that the backbones take (the runtime provides it)."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands: ``epoch`` of ``epochs``, ``step`` of ``steps`` in it, mean losses by name so far."""

    epoch: int
    epochs: int
    step: int
    steps: int
    losses: Mapping[str, float]


OnProgress = Callable[[Progress], None]


MEMORY = "memory."
"""Prefix of tensors in ``state_dict`` that persist beside the model."""


@dataclass(frozen=True, slots=True)
class LearnerState:
    """Everything that a learner knows between experiences.

    Attributes:
        tensors: what ``state_dict`` gives.
        labels: classes seen.
        experiences: how many were learned.
        exemplars: samples kept.
        facts: what else it must know, as plain JSON values.
    """

    tensors: Mapping[str, Tensor]
    labels: tuple[str, ...]
    experiences: int
    exemplars: Sequence[Sample] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


class Learner(Protocol):
    """Learns experiences one after the other; answers over all classes seen so far."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits' columns."""
        ...

    def observe(self, experience: Experience, on_progress: OnProgress | None = None) -> None:
        """Learn one experience from its ``train`` samples."""
        ...

    def predict(self, samples: Sequence[Sample]) -> Tensor:
        """Logits ``(len(samples), C)``."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Everything learned, as named tensors; under ``memory.`` what persists beside the model."""
        ...

    def state(self) -> LearnerState:
        """All that ``load_state`` needs to make a new learner of the same kind go on as this one would."""
        ...

    def load_state(self, state: LearnerState) -> None:
        """Go on from ``state``; the learner is a new one, made as the other was."""
        ...

    def prepare(self, samples: Sequence[Sample]) -> PreparedSamples:
        """Samples as this learner keeps them for training: what no adapter reaches."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Bytes that must survive between experiences beside the model: exemplars, statistics, Fisher information."""
        ...

    @property
    def trainable_parameters(self) -> int:
        """Numbers that learning may change, or has changed."""
        ...
