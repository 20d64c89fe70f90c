"""What every learner promises: the method, its ablations and the baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mmcl_edge.adapters.inputs import Item
from mmcl_edge.data.streams import Experience
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
        """Everything learned, as named tensors."""
        ...
