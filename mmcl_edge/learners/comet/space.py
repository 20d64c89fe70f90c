r"""The shared space: what leads a modality into it, adapts it there, tells it by codes, and back.

.. math:: z^m = W_m x^m + b_m, \quad y = \sqrt{T} \frac{CMoE(\hat z)}{|CMoE(\hat z)|}, \quad e_t = nearest(y_t)

x are frozen features (``Front``), W_m a matrix for each modality, T slots of width D tell one sample. Both z and y are
brought to length sqrt(T), so that a regression's shrunken guess and the text it guesses meet at the same codes.

In the base, slots are ten seconds of a video, which sound and picture share. A picture and its caption, or a caption
and a voice that reads it, share no such axis, so slots are T learned views of features pooled over the whole sample:
view t of every modality regresses on view t of the mediator, which makes them comparable place by place, as cross-CPC
and code matching need. Several codes a sample also tell more apart than one would: L^T instead of L.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmcl_edge.adapters.cmoe import CMoEAdapter
from mmcl_edge.adapters.codebook import Codebook, Quantized
from mmcl_edge.config import CometConfig
from mmcl_edge.learners.comet.front import Front


class Branch(nn.Module):
    """One modality's own part: projection into the space, what only it says, and the way back.

    Args:
        front: what it reads.
        slots: T.
        dim: D.
        specific: S, width of what only this modality says.
        hidden: of the decoder.
        generator: draws the weights.
    """

    mean: Tensor
    basis: Tensor
    specific_mean: Tensor
    specific_deviation: Tensor

    def __init__(
        self, front: Front, *, slots: int, dim: int, specific: int, hidden: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.slots, self.dim = slots, dim
        self.register_buffer("mean", front.mean.clone())
        self.register_buffer("basis", front.basis.clone())
        self.register_buffer("specific_mean", torch.zeros(specific))
        self.register_buffer("specific_deviation", torch.ones(specific))
        width = front.basis.shape[1]
        self.project = linear(width, slots * dim, generator)
        self.specific = linear(width, specific, generator)
        self.decoder = nn.Sequential(
            linear(slots * dim + specific, hidden, generator), nn.ReLU(), linear(hidden, width, generator)
        )

    def read(self, h: Tensor) -> Tensor:
        """Frozen features ``(n, d)`` to what the branch reads, ``(n, P)``."""
        return Front(self.mean, self.basis)(h)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, P)`` to vectors ``(n, T, D)`` of length sqrt(T) in all."""
        return on_sphere(self.project(x).unflatten(1, (self.slots, self.dim)))

    def own(self, x: Tensor) -> Tensor:
        """What only this modality says, ``(n, P)`` to ``(n, S)``."""
        return functional.relu(self.specific(x))

    def decode(self, codes: Tensor, own: Tensor) -> Tensor:
        """Codes ``(n, T, D)`` and what only this modality says ``(n, S)`` back to ``(n, P)``."""
        found: Tensor = self.decoder(torch.cat([codes.flatten(1), own], dim=1))
        return found

    def start_at(self, weight: Tensor, offset: Tensor) -> None:
        """Put the projection at ``weight (P, T D)`` and ``offset (T D,)``."""
        with torch.no_grad():
            self.project.weight.copy_(weight.T)
            self.project.bias.copy_(offset)


class Prediction(nn.Module):
    """Cross-CPC's part with weights: a summary of slots 1..t (LSTM) tells slot t + 1 of the other modality.

    With a single slot, that slot tells the other's.
    """

    def __init__(self, slots: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.slots = slots
        self.summary = nn.LSTM(dim, dim, batch_first=True, device="meta").to_empty(device="cpu")  # nothing is drawn
        for weight in self.summary.parameters():
            nn.init.uniform_(weight, -1 / math.sqrt(dim), 1 / math.sqrt(dim), generator=generator)
        self.next = linear(dim, dim, generator)

    def forward(self, y: Tensor) -> Tensor:
        """``(B, T, D)`` to predictions ``(B, max(1, T - 1), D)`` for ``targets`` of the other modality."""
        told: Tensor = self.next(self.summary(y if self.slots == 1 else y[:, :-1])[0])
        return told

    def targets(self, y: Tensor) -> Tensor:
        """The slots ``(B, max(1, T - 1), D)`` that are predicted."""
        return y if self.slots == 1 else y[:, 1:]


class Club(nn.Module):
    """CLUB's q: mean and log-variance of the shared vectors ``(n, K)`` given what only one modality says ``(n, S)``."""

    def __init__(self, specific: int, shared: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.trunk = linear(specific, hidden, generator)
        self.mean = linear(hidden, shared, generator)
        self.log_variance = linear(hidden, shared, generator)

    def forward(self, own: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (within -1 and 1), each ``(n, K)``."""
        hidden = functional.relu(self.trunk(own))
        return self.mean(hidden), self.log_variance(hidden).tanh()


class Space(nn.Module):
    """Branches, CMoE-Adapter, codebook, and the predictor of cross-CPC."""

    def __init__(self, config: CometConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.slots, self.dim = config.slots, config.dim
        self.branches = nn.ModuleDict()
        self.cmoe = CMoEAdapter(config.dim, rank=config.rank, active=config.active_experts, noise=config.router_noise)
        self.codebook = Codebook(
            config.dim,
            decay=config.decay,
            settled_decay=config.settled_decay,
            temperature=config.code_temperature,
        )
        self.prediction = Prediction(config.slots, config.dim, generator)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that joined, in order."""
        return tuple(self.branches)

    def branch(self, modality: str) -> Branch:
        """The branch of a modality that joined."""
        found = self.branches[modality]
        assert isinstance(found, Branch)
        return found

    def adapt(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Vectors ``(B, T, D)`` through the CMoE-Adapter; a generator turns the gate's noise on."""
        return on_sphere(self.cmoe(z, generator))

    def forward(self, x: Tensor, modality: str, generator: torch.Generator | None = None) -> Tensor:
        """What a modality's branch reads, ``(B, P)``, to continuous vectors y ``(B, T, D)``."""
        return self.adapt(self.branch(modality)(x), generator)

    def told(self, y: Tensor) -> Quantized:
        """Vectors ``(B, T, D)`` told by codes."""
        found: Quantized = self.codebook(y)
        return found

    def learning(self, modalities: set[str]) -> Iterator[nn.Parameter]:
        """What learns in a stage: branches of ``modalities``, experts that are not frozen, the predictor."""
        for name in self.modalities:
            if name in modalities:
                yield from self.branches[name].parameters()
        yield from self.cmoe.parameters()
        yield from self.prediction.parameters()


def on_sphere(z: Tensor) -> Tensor:
    """``(B, T, D)`` brought to length sqrt(T) over all slots together."""
    return functional.normalize(z.flatten(1), dim=1).view_as(z) * math.sqrt(z.shape[1])


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with torch's usual start, drawn from ``generator``."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer
