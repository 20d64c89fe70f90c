"""The teacher: what the model answered before an experience, on every sample that the experience trains on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmcl_edge.adapters.model import JOINT, Model, ModelOutput


@dataclass(frozen=True, slots=True)
class Teacher:
    """The previous model's answers on every sample of an experience.

    ``logits`` ``(n, C_old)`` of the joint representation, ``joint`` ``(n, J)``, ``z`` modality to ``(n, J)``.
    """

    logits: Tensor
    joint: Tensor
    z: Mapping[str, Tensor]

    def rows(self, index: Tensor) -> Teacher:
        """The answers on some samples."""
        return Teacher(self.logits[index], self.joint[index], {m: value[index] for m, value in self.z.items()})


class FlatOutput:
    """A model's output as one tensor a batch, and back: joint logits, joint, each modality's z (zero if absent)."""

    def __init__(self, model: Model) -> None:
        self._names = tuple(model.encoder.pooled_dims)
        self._classes = model.head.classes
        self._width = int(model.head.weight.shape[1])

    def flatten(self, output: ModelOutput) -> Tensor:
        """``(B, C + (1 + M) J)``."""
        blank = torch.zeros_like(output.joint)
        return torch.cat(
            [output.votes[JOINT], output.joint, *(output.z.get(name, blank) for name in self._names)], dim=1
        )

    def restore(self, flat: Tensor) -> Teacher:
        """What ``flatten`` put together, of any number of rows."""
        logits, joint, *z = flat.split([self._classes, self._width, *[self._width] * len(self._names)], dim=1)
        return Teacher(logits, joint, dict(zip(self._names, z, strict=True)))
