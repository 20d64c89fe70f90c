"""SimpleCIL: class means of frozen features, and nothing trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mmcl_edge.learners.frozen import FrozenEncoder, FrozenLearner
from mmcl_edge.learners.host import Host
from mmcl_edge.learners.protocol import MEMORY
from mmcl_edge.types import Sample


class SimpleCilLearner(FrozenLearner):
    r"""Nearest class mean by cosine (Zhou et al., Revisiting class-incremental learning, IJCV 2024, equation 4).

    .. math:: p_c = \frac{1}{n_c} \sum_{y_i = c} h(x_i), \qquad \text{logit}_c = s \cos(h(x), p_c)

    For several modalities h holds one unit vector each. One that a sample lacks counts neither in the mean of that
    modality nor in the length of the prototype that the sample is compared with. ``s`` is the host's
    ``cosine_scale``; it changes no ranking.
    """

    def __init__(self, host: Host) -> None:
        super().__init__(
            FrozenEncoder(host), host.config, preprocess=host.preprocess, seed=host.seed, features=host.features
        )
        self._sizes = list(self.encoder.pooled_dims.values())
        self.means = torch.zeros(0, sum(self._sizes))
        self.counts = torch.zeros(0, len(self._sizes))

    def learn(self, samples: Sequence[Sample]) -> None:
        """Fold samples into the means of their classes."""
        h, targets = self.embed(samples).double(), self.targets(samples).double()
        new = len(self.labels) - len(self.means)
        means = functional.pad(self.means, (0, 0, 0, new)).double()
        counts = functional.pad(self.counts, (0, 0, 0, new)).double()
        sums = means * self._spread(counts) + targets.T @ h
        counts = counts + targets.T @ self._present(h).double()
        self.means, self.counts = (sums / self._spread(counts).clamp_min(1)).float(), counts.float()

    def scores(self, h: Tensor) -> Tensor:
        """See ``FrozenLearner.scores``."""
        present = self._spread(self._present(h))  # (n, D)
        lengths = (present @ self.means.square().T).sqrt().clamp_min(1e-12)  # (n, C), of what can be compared
        cosines = functional.normalize(h, dim=1) @ self.means.T / lengths
        return self.config.head.cosine_scale * cosines

    def learned(self) -> dict[str, Tensor]:
        """``means`` ``(C, D)``."""
        return {"means": self.means}

    def memory(self) -> dict[str, Tensor]:
        """``counts`` ``(C, M)``: samples of each class that had each modality."""
        return {"counts": self.counts}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """See ``FrozenLearner.load``."""
        self.means, self.counts = tensors["means"], tensors[MEMORY + "counts"]

    def _present(self, h: Tensor) -> Tensor:
        """Which modalities the features ``(n, D)`` show, ``(n, M)`` of 0 and 1."""
        return torch.stack([part.any(dim=1) for part in h.split(self._sizes, dim=1)], dim=1).float()

    def _spread(self, values: Tensor) -> Tensor:
        """Values of modalities ``(n, M)`` to values of their features ``(n, D)``."""
        return values.repeat_interleave(torch.tensor(self._sizes), dim=1)
