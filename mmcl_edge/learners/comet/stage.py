r"""Learning one stage: the pairs of the mediator and one new modality (METHODS 2.5), or of several (joint control).

What happens, in order:

1. ``enter``: modalities that are new get a front and a projection that starts at the ridge regression onto the
   mediator's vectors. The mediator's own starts at a fixed random rotation, which keeps its geometry.
2. Fresh experts are appended; the codebook starts with the first stage, and grows where it tells the new modality
   worse than the mediator.
3. Epochs over the pairs: the loss of ``StageLoss`` and a step, then the codebook's moving averages and resets.
4. ``leave``: experts freeze, near-equal codes are joined, and what pseudo-replay needs of the modalities is taken.

Everything random follows from the seed, the number of the stage and a name.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmcl_edge.config import CometConfig
from mmcl_edge.learners.comet.front import Front, ridge
from mmcl_edge.learners.comet.objective import Batch, StageLoss
from mmcl_edge.learners.comet.space import Branch, Space
from mmcl_edge.learners.protocol import OnProgress, Progress
from mmcl_edge.learners.randomness import generator_for
from mmcl_edge.replay.pseudo import CodeGaussians


@dataclass(frozen=True, slots=True)
class Pairs:
    """The frozen features of a pair set.

    Attributes:
        modality: the new one.
        mediator: the other.
        own: ``(n, d)``, of the new modality.
        text: ``(n, d')``, of the mediator.
        groups: ``(n,)`` int64: pairs with the same number show the same thing (equal captions).
    """

    modality: str
    mediator: str
    own: Tensor
    text: Tensor
    groups: Tensor


@dataclass(frozen=True, slots=True)
class StageFacts:
    """What a stage did: codes before and after, how many were added, joined and reset, and steps taken."""

    codes_before: int
    codes_added: int
    codes_joined: int
    codes_reset: int
    steps: int


def learn_stage(
    space: Space,
    sets: Sequence[Pairs],
    config: CometConfig,
    *,
    seed: int,
    stage: int,
    gaussians: dict[str, CodeGaussians],
    on_progress: OnProgress | None = None,
) -> StageFacts:
    """Learn ``sets`` (see the module docstring); ``space`` and ``gaussians`` are changed.

    Args:
        space: the shared space.
        sets: one pair set; several at once are the joint control.
        config: the method's.
        seed: of everything random.
        stage: its number, from 1.
        gaussians: of the modalities learned before, by name; those of this stage are put in.
        on_progress: called after every step.
    """
    earlier = {name for name in space.modalities if name not in {one.modality for one in sets}}
    enter(space, sets, config, seed=seed, stage=stage)
    if config.experts and (config.freeze_experts or stage == 1):
        space.cmoe.grow(config.experts, generator_for(seed, stage, "experts"))
    reads = [_Read(space, one) for one in sets]
    before, added = _codes_for(space, reads, config, generator_for(seed, stage, "codes"))
    reset = steps = 0
    if config.epochs:
        old = copy.deepcopy(space).requires_grad_(False)
        learning = {one.modality for one in sets} | _mediators(sets, config, stage)
        loss = StageLoss(
            space,
            old,
            config,
            earlier=earlier - {one.mediator for one in sets},
            gaussians=gaussians,
            sets=reads,
            generator=generator_for(seed, stage, "nets"),
            first=stage == 1,
        )
        reset, steps = _train(space, reads, loss, learning, config, seed, stage, on_progress)
    joined = leave(space, reads, config, gaussians)
    return StageFacts(before, added, joined, reset, steps)


def _mediators(sets: Sequence[Pairs], config: CometConfig, stage: int) -> set[str]:
    learns = config.train_mediator == "always" or (config.train_mediator == "first" and stage == 1)
    return {one.mediator for one in sets} if learns else set()


def enter(space: Space, sets: Sequence[Pairs], config: CometConfig, *, seed: int, stage: int) -> None:
    """Make branches of what is new (step 1 of the module docstring)."""
    for one in sets:
        if one.mediator not in space.modalities:
            every = torch.cat([other.text for other in sets if other.mediator == one.mediator])
            width = config.slots * config.dim
            turned = Front.turned(every, width, generator_for(0, "rotation", one.mediator))
            _branch(space, one.mediator, turned, config, seed)
            if config.start == "ridge":
                space.branch(one.mediator).start_at(torch.eye(width), torch.zeros(width))
        if one.modality not in space.modalities:
            _branch(space, one.modality, Front.fitted(one.own, config.front_dim), config, seed)
            if config.start == "ridge":
                branch = space.branch(one.modality)
                with torch.no_grad():
                    target = space(space.branch(one.mediator).read(one.text), one.mediator).flatten(1)
                    branch.start_at(*ridge(branch.read(one.own), target, config.ridge))


def _branch(space: Space, name: str, front: Front, config: CometConfig, seed: int) -> None:
    space.branches[name] = Branch(
        front,
        slots=config.slots,
        dim=config.dim,
        specific=config.specific_dim,
        hidden=config.hidden,
        generator=generator_for(seed, "branch", name),
    )


class _Read:
    """A pair set as the branches read it: ``x`` and ``text`` ``(n, P)``, groups ``(n,)``."""

    def __init__(self, space: Space, pairs: Pairs) -> None:
        self.modality, self.mediator, self.groups = pairs.modality, pairs.mediator, pairs.groups
        with torch.no_grad():
            self.x = space.branch(pairs.modality).read(pairs.own)
            self.text = space.branch(pairs.mediator).read(pairs.text)

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, index: Tensor) -> Batch:
        """Some of the pairs."""
        return Batch(self.modality, self.mediator, self.x[index], self.text[index], self.groups[index])


def _codes_for(
    space: Space, reads: Sequence[_Read], config: CometConfig, generator: torch.Generator
) -> tuple[int, int]:
    """Start the codebook, or let it grow (step 2); returns codes before and codes added."""
    book, before = space.codebook, len(space.codebook)
    with torch.no_grad():
        texts = torch.cat([space(one.text, one.mediator).flatten(0, 1) for one in reads])
        others = torch.cat([space(one.x, one.modality).flatten(0, 1) for one in reads])
    if not before:
        book.initialise(torch.cat([texts, others]), config.codes, generator)
        return 0, len(book)
    added, cap = 0, math.floor(config.expand_cap * config.codes)
    while config.expand and book.residual(others) > (1 + config.expand_margin) * book.residual(texts):
        new = book.expand(others, config.expand_codes, cap=cap, generator=generator)
        added += new
        if not new:
            break
    return before, added


def _train(
    space: Space,
    reads: Sequence[_Read],
    loss: StageLoss,
    learning: set[str],
    config: CometConfig,
    seed: int,
    stage: int,
    on_progress: OnProgress | None,
) -> tuple[int, int]:
    """Epochs (step 3); returns codes reset and steps."""
    space.requires_grad_(False)
    groups = _rates(space, learning, config)
    parameters = [weight for group in groups for weight in group["params"]]
    for one in parameters:
        one.requires_grad_(True)
    optimizer = torch.optim.Adam(groups, weight_decay=config.weight_decay, fused=True)
    per_epoch = sum(math.ceil(len(one) / config.batch_size) for one in reads)
    total, step, reset = per_epoch * config.epochs, 0, 0
    for epoch in range(1, config.epochs + 1):
        generator = generator_for(seed, stage, epoch)
        sums: dict[str, float] = {}
        for number, batch in enumerate(_batches(reads, config.batch_size, generator), start=1):
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * (1 + math.cos(math.pi * step / total)) / 2
            terms, views = loss(batch, generator)
            optimizer.zero_grad(set_to_none=True)
            sum(terms.values(), start=torch.zeros(())).backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
            optimizer.step()
            if config.space == "codes":
                space.codebook.update(views)
                pool = torch.cat([z for z, _ in views])
                reset += space.codebook.reset_dead(pool, patience=config.dead_after, generator=generator)
            step += 1
            sums = {name: sums.get(name, 0.0) + float(value.detach()) for name, value in terms.items()}
            if on_progress:
                means = {name: value / number for name, value in sums.items()}
                means["total"] = sum(means.values())
                on_progress(Progress(epoch, config.epochs, number, per_epoch, means))
    space.requires_grad_(False)
    return reset, step


def _rates(space: Space, learning: set[str], config: CometConfig) -> list[dict[str, Any]]:
    """Adam's groups: projections that start at the regression move less than what starts at random."""
    share = config.projection_rate if config.start == "ridge" else 1.0
    slow = [weight for name in sorted(learning) for weight in space.branch(name).project.parameters()]
    known = {id(weight) for weight in slow}
    others = [weight for weight in space.learning(learning) if id(weight) not in known]
    rates = [(others, config.learning_rate), (slow, share * config.learning_rate)]
    return [{"params": weights, "peak": rate} for weights, rate in rates if weights and rate]


def _batches(reads: Sequence[_Read], size: int, generator: torch.Generator) -> list[Batch]:
    """One epoch's batches, of several pair sets in a random order."""
    batches = [
        one.batch(part)
        for one in reads
        for part in torch.randperm(len(one), generator=generator).chunk(math.ceil(len(one) / size))
    ]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


@torch.no_grad()
def leave(space: Space, reads: Sequence[_Read], config: CometConfig, gaussians: dict[str, CodeGaussians]) -> int:
    """End a stage (step 4); returns how many codes were joined with others."""
    if config.freeze_experts:
        space.cmoe.freeze()
    book, before = space.codebook, len(space.codebook)
    where = book.settle(merge_cosine=config.merge_cosine)
    for name, known in gaussians.items():
        gaussians[name] = known.moved(where, len(book))
    for name, x in _by_modality(reads).items():
        branch = space.branch(name)
        own, z = branch.own(x), branch(x)
        branch.specific_mean, branch.specific_deviation = own.mean(dim=0), own.std(dim=0, correction=0)
        if config.pseudo_replay == "light":
            index = space.told(space.adapt(z)).index
            gaussians[name] = CodeGaussians.fitted(z.flatten(0, 1), index.flatten(), len(book))
    return before - len(book)


def _by_modality(reads: Sequence[_Read]) -> Mapping[str, Tensor]:
    found: dict[str, list[Tensor]] = {}
    for one in reads:
        found.setdefault(one.modality, []).append(one.x)
        found.setdefault(one.mediator, []).append(one.text)
    return {name: torch.cat(parts) for name, parts in found.items()}
