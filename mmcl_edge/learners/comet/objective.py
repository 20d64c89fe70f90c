r"""The loss of a stage: Uni-Code's terms on the current pairs, and pseudo-modality replay of earlier modalities.

.. math:: L = L_{recon} + L_{commit} + L_{cpc} + L_{cmcm} + L_{MI} (+ L_{contrast}) + \lambda L_{PMR}

with the weights of ``CometConfig``. PMR asks two things of what an earlier modality would have said of the current
texts: that it keeps its distribution over the codes as the stage found them, and that it matches the new modality. The
mediator is an earlier modality too, and its real data is here: it keeps its distribution likewise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mmcl_edge.adapters.codebook import Quantized
from mmcl_edge.config import CometConfig
from mmcl_edge.learners.comet.space import Club, Space
from mmcl_edge.losses import crossmodal as losses
from mmcl_edge.replay.pseudo import CodeGaussians, Generator

CLUB_RATE = 1e-3
"""Adam's rate of CLUB's own likelihood steps [S]."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some pairs of a set: ``x`` of the modality, ``text`` of the mediator, both ``(B, P)``; ``groups (B,)``."""

    modality: str
    mediator: str
    x: Tensor
    text: Tensor
    groups: Tensor


class PairSource(Protocol):
    """What the loss asks of a pair set before the stage begins."""

    modality: str
    mediator: str
    text: Tensor


@dataclass(frozen=True, slots=True)
class _Side:
    """One modality of a batch: what was read ``(B, P)``, vectors ``(B, T, D)``, their codes."""

    name: str
    x: Tensor
    y: Tensor
    told: Quantized


class StageLoss:
    """See the module docstring.

    Args:
        space: what learns.
        old: the same as it was when the stage began, for replay.
        config: weights.
        earlier: modalities whose pseudo data is replayed.
        gaussians: of them, for light replay.
        sets: the stage's pair sets.
        generator: draws the weights of CLUB's nets.
        first: whether nothing was learned before: there is nothing to keep.
    """

    def __init__(
        self,
        space: Space,
        old: Space,
        config: CometConfig,
        *,
        earlier: set[str],
        gaussians: Mapping[str, CodeGaussians],
        sets: Sequence[PairSource],
        generator: torch.Generator,
        first: bool,
    ) -> None:
        self.space, self.old, self.config = space, old, config
        replayed = config.space == "codes" and config.pseudo_replay != "none" and config.replay_weight > 0
        self.keeps = replayed and not first
        self.replays = {name: self._replayer(name, gaussians) for name in sorted(earlier)} if self.keeps else {}
        names = sorted({name for one in sets for name in (one.modality, one.mediator)})
        shared = config.slots * config.dim
        self.clubs = {name: Club(config.specific_dim, shared, config.hidden, generator) for name in names}
        nets = [one for club in self.clubs.values() for one in club.parameters()]
        self.club_optimizer = torch.optim.Adam(nets, lr=CLUB_RATE, fused=True)

    def _replayer(self, name: str, gaussians: Mapping[str, CodeGaussians]) -> CodeGaussians | Generator:
        if self.config.pseudo_replay == "light":
            return gaussians[name]
        branch = self.old.branch(name)
        return Generator(
            branch.decode, branch, self.old.codebook.codes, branch.specific_mean, branch.specific_deviation
        )

    def __call__(
        self, batch: Batch, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
        """The weighted terms by name, and what the codebook's update wants: vectors ``(B T, D)`` and the other side's.

        Args:
            batch: pairs.
            generator: draws the gate's noise and the replayed vectors.
        """
        config = self.config
        same = batch.groups[:, None] == batch.groups[None, :]
        a, b = self._side(batch.mediator, batch.text, generator), self._side(batch.modality, batch.x, generator)
        terms: dict[str, Tensor] = {}
        if config.contrast_weight or config.space == "continuous":
            told = losses.info_nce(a.y.flatten(1), b.y.flatten(1), temperature=config.contrast_temperature, same=same)
            terms["contrast"] = (config.contrast_weight or 1.0) * told
        if config.space == "continuous":
            return terms, []
        terms |= self._shared(a, b, same) | self._specific((a, b))
        if self.keeps:
            terms["replay"] = config.replay_weight * self._replay(a, b, same, generator)
        views = [(p.y.detach().flatten(0, 1), q.y.detach().flatten(0, 1)) for p, q in ((a, b), (b, a))]
        return {name: value for name, value in terms.items() if value.requires_grad}, views

    def _side(self, name: str, x: Tensor, generator: torch.Generator) -> _Side:
        y = self.space(x, name, generator)
        return _Side(name, x, y, self.space.told(y))

    def _shared(self, a: _Side, b: _Side, same: Tensor) -> dict[str, Tensor]:
        """What both sides must agree on: commitment, cross-CPC, code matching."""
        config, predict = self.config, self.space.prediction
        terms = {}
        for one, other in ((a, b), (b, a)):
            terms[f"commitment {one.name}"] = losses.commitment(
                one.y, one.told.codes, other.told.codes, weight=config.commitment_weight
            )
        if config.cpc_weight:
            both = [
                losses.cross_cpc(
                    predict(one.y), predict.targets(other.y), temperature=config.cpc_temperature, same=same
                )
                for one, other in ((a, b), (b, a))
            ]
            terms["cpc"] = config.cpc_weight * torch.stack(both).mean()
        if config.matching_weight:
            p, q = a.told.probabilities, b.told.probabilities
            terms["matching"] = config.matching_weight * losses.code_matching(p, q, same=same)
        return terms

    def _specific(self, sides: Sequence[_Side]) -> dict[str, Tensor]:
        """What codes and the modality's own part say together, and that they do not say it twice."""
        config, terms = self.config, {}
        for one in sides:
            branch = self.space.branch(one.name)
            own = branch.own(one.x)
            if config.reconstruction_weight:
                passed = one.y + (one.told.codes - one.y).detach()  # straight through: the gradient is y's
                decoded = branch.decode(passed, own)
                scale = one.x.square().mean().detach().clamp_min(1e-8)
                terms[f"reconstruction {one.name}"] = (
                    config.reconstruction_weight * losses.reconstruction(decoded, one.x) / scale
                )
            if config.club_weight:
                terms[f"club {one.name}"] = config.club_weight * self._club(one, own)
        return terms

    def _club(self, one: _Side, own: Tensor) -> Tensor:
        club, shared = self.clubs[one.name], one.y.flatten(1)
        for _ in range(self.config.club_steps):
            self.club_optimizer.zero_grad(set_to_none=True)
            mean, log_variance = club(own.detach())
            unlikely = -losses.gaussian_log_likelihood(mean, log_variance, shared.detach())
            unlikely.backward()
            self.club_optimizer.step()
        for weight in club.parameters():
            weight.requires_grad_(False)
        mean, log_variance = club(own)
        bound = losses.club(mean, log_variance, shared)
        for weight in club.parameters():
            weight.requires_grad_(True)
        return bound / shared.shape[1]

    def _replay(self, a: _Side, b: _Side, same: Tensor, generator: torch.Generator) -> Tensor:
        """Pseudo-modality replay: see the module docstring."""
        with torch.no_grad():
            before = self.old.told(self.old(a.x, a.name))
        terms = [losses.consistency(before.probabilities, a.told.probabilities)]
        for replayer in self.replays.values():
            z = replayer.draw(before.index, generator)
            with torch.no_grad():
                kept = self.old.told(self.old.adapt(z)).probabilities
            now = self.space.told(self.space.adapt(z, generator)).probabilities
            terms += [
                losses.consistency(kept, now),
                losses.code_matching(now, b.told.probabilities, same=same) * self.config.matching_weight,
            ]
        return torch.stack(terms).sum() / max(1, len(self.replays))
