"""Which pairs of a stage are learned from and which are held out, and which of those stay so for later stages.

Rules of ``divide_pairs``, in this order:

1. Pairs that show the same stay on one side: they share a caption, or the very same picture, sound and so on.
2. What was held out of the modality before stays so, if it comes again.
3. Each pair has a draw from 0 to 1, which follows from its captions (or, without words, its content) alone: not from a
   seed, a folder or its neighbours. Where nothing was held out before, the pairs of the lowest draws are: the share
   that the configuration says, three at least. Later, those that draw no more than that share, nor than the pairs held
   out before: so a folder that grew never has a pair held out that was learned from.
4. Where fewer than three different pairs would be left to learn from, none is held out: all are learned from, and what
   was held out of them before is no longer measured with (``judged_pairs``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from mmcl_edge.config import AdaptConfig, ReplayConfig
from mmcl_edge.data.crossmodal import PairSet, caption_key, carrier_of, relevance_groups
from mmcl_edge.learners.comet.reading import alone
from mmcl_edge.replay.buffer import sample_bytes
from mmcl_edge.runtime.replay_store import HeldPair, content_digest

LEAST_JUDGED = 3
"""Different pairs that there must be on a side: among fewer, everything is found."""


def divide_pairs(pairs: PairSet, config: AdaptConfig, old: Sequence[HeldPair]) -> tuple[PairSet, tuple[HeldPair, ...]]:
    """Pairs to learn from, and pairs to measure with (the rules stand in the module docstring).

    Args:
        pairs: of the stage.
        config: how many are held out, where nothing was before.
        old: what was held out of any modality before.
    """
    every = _as_pairs(pairs)
    groups = shown_alike(every)
    draw_of = _lowest(every, groups)
    before = _marks([one for one in old if one.modality == pairs.modality])
    again = {group for group, one in zip(groups, every, strict=True) if not before.isdisjoint(_marks_of(one))}
    limit = _limit(old, pairs)
    if limit is None:
        count = max(LEAST_JUDGED, round(config.holdout_fraction * len(draw_of)), len(again))
        held = set(sorted(draw_of, key=lambda group: (group not in again, draw_of[group]))[:count])
    else:
        held = again | {group for group, draw in draw_of.items() if draw <= min(limit, config.holdout_fraction)}
    if len(draw_of.keys() - held) < LEAST_JUDGED:
        return pairs, ()
    rows = [row for row, group in enumerate(groups) if group not in held]
    train = PairSet(
        pairs.modality,
        pairs.mediator,
        tuple(pairs.samples[row] for row in rows),
        tuple(pairs.captions[row] for row in rows),
    )
    return train, _in_order([one for group, one in zip(groups, every, strict=True) if group in held])


def judged_pairs(old: Sequence[HeldPair], train: PairSet, held: Sequence[HeldPair]) -> tuple[HeldPair, ...]:
    """What a stage is measured with: ``held``, and of ``old`` what was not learned from now and is not in ``held``."""
    learned = _marks(_as_pairs(train))
    anew = {(one.mediator, _content(one)) for one in held}

    def stays(one: HeldPair) -> bool:
        if one.modality != train.modality:
            return True
        return learned.isdisjoint(_marks_of(one)) and (one.mediator, _content(one)) not in anew

    return (*filter(stays, old), *held)


def kept_pairs(judged: Sequence[HeldPair], modality: str, config: AdaptConfig) -> tuple[HeldPair, ...]:
    """Held-out pairs for later stages: of ``modality`` so many, of the lowest draws, and within a budget in bytes."""
    mine: list[HeldPair] = []
    left = ReplayConfig().budget_bytes
    for pair in _in_order([one for one in judged if one.modality == modality]):
        size = sample_bytes(pair.sample)
        if len(mine) < config.holdout_pairs and size <= left:
            mine.append(pair)
            left -= size
    return (*(one for one in judged if one.modality != modality), *mine)


def shown_alike(pairs: Sequence[HeldPair]) -> tuple[int, ...]:
    """A number for each pair: those that share a caption or a content have the same (``relevance_groups``)."""
    return relevance_groups([_marks_of(one) for one in pairs])


def _as_pairs(pairs: PairSet) -> tuple[HeldPair, ...]:
    told = zip(pairs.samples, pairs.captions, strict=True)
    return tuple(HeldPair(sample, pairs.modality, pairs.mediator, captions) for sample, captions in told)


def _limit(old: Sequence[HeldPair], pairs: PairSet) -> float | None:
    """The largest draw of what these modalities held out before; ``None`` where they held out nothing.

    What was held out only because another mediator had held it out says nothing of draws.
    """
    of_modality = [one for one in old if one.modality == pairs.modality]
    others = _marks([one for one in of_modality if one.mediator != pairs.mediator])
    mine = [one for one in of_modality if one.mediator == pairs.mediator]
    groups = shown_alike(mine)
    lowest = _lowest(mine, groups)
    drawn = [lowest[group] for group, one in zip(groups, mine, strict=True) if others.isdisjoint(_marks_of(one))]
    return max(drawn, default=-1.0) if mine else None


def _in_order(pairs: Sequence[HeldPair]) -> tuple[HeldPair, ...]:
    """By draw, those that show the same together."""
    groups = shown_alike(pairs)
    lowest = _lowest(pairs, groups)
    keys = [(lowest[group], _draw(one), one.sample.source) for group, one in zip(groups, pairs, strict=True)]
    return tuple(pairs[row] for row in sorted(range(len(pairs)), key=keys.__getitem__))


def _lowest(pairs: Sequence[HeldPair], groups: Sequence[int]) -> dict[int, float]:
    """The lowest draw of each group."""
    found: dict[int, float] = {}
    for group, one in zip(groups, pairs, strict=True):
        draw = _draw(one)
        found[group] = min(found.get(group, draw), draw)
    return found


def _draw(pair: HeldPair) -> float:
    key = min(map(caption_key, pair.captions)) if pair.captions else _content(pair)
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / (1 << 48)


def _marks(pairs: Sequence[HeldPair]) -> set[str]:
    return {mark for one in pairs for mark in _marks_of(one)}


def _marks_of(pair: HeldPair) -> tuple[str, ...]:
    """What another pair must share to show the same."""
    return (*map(caption_key, pair.captions), f"content {_content(pair)}")


def _content(pair: HeldPair) -> str:
    return content_digest(alone(pair.sample, carrier_of(pair.modality)))
