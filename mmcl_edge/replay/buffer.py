"""The exemplar buffer: class-balanced, random selection, bounded in number and bytes.

Rule (paper 1's predecessor [P]: random, balanced): with C classes and room for n exemplars every class may keep
``floor(n / C)``, the first ``n mod C`` classes one more. When classes arrive, old ones give up exemplars from the
end of their random order, so that what is kept is always a random subset, and a subset of what was kept before.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmcl_edge.types import Sample


def sample_bytes(sample: Sample) -> int:
    """Bytes that an exemplar takes: sound as 16-bit, pixels as 8-bit, motion as 32-bit, text as UTF-8."""
    audio = 0 if sample.audio is None else 2 * len(sample.audio)
    frames = 0 if sample.frames is None else sample.frames.size
    motion = 0 if sample.motion is None else 4 * sample.motion.size
    return audio + frames + motion + len((sample.text or "").encode())


@dataclass(frozen=True, slots=True)
class ReplayBuffer:
    """Exemplars in a stable order: classes in the order they came, each class in its own random order."""

    exemplars: tuple[Sample, ...] = ()

    def __len__(self) -> int:
        return len(self.exemplars)

    @property
    def size_bytes(self) -> int:
        """Bytes of all exemplars."""
        return sum(map(sample_bytes, self.exemplars))

    def by_class(self) -> dict[str, list[Sample]]:
        """Class name to its exemplars, in order."""
        groups: dict[str, list[Sample]] = {}
        for sample in self.exemplars:
            groups.setdefault(sample.label or "", []).append(sample)
        return groups

    def updated(self, new: Sequence[Sample], *, capacity: int, budget_bytes: int, seed: int) -> ReplayBuffer:
        """The buffer after an experience.

        Args:
            new: the experience's training samples, labelled.
            capacity: exemplars in all.
            budget_bytes: bytes in all; the balanced capacity shrinks until it holds.
            seed: draws the new samples' order.
        """
        return self.extended(_shuffled(new, seed), capacity=capacity, budget_bytes=budget_bytes)

    def extended(self, ranked: Mapping[str, list[Sample]], *, capacity: int, budget_bytes: int) -> ReplayBuffer:
        """The buffer after an experience whose samples somebody ranked: class to samples, those to keep first."""
        groups = _merge(self.by_class(), ranked)
        sizes = range(1, min(capacity, sum(map(len, groups.values()))) + 1)
        fits = bisect_right(sizes, budget_bytes, key=lambda size: sum(map(sample_bytes, _balanced(groups, size))))
        return ReplayBuffer(tuple(_balanced(groups, fits)))


def _shuffled(samples: Sequence[Sample], seed: int) -> dict[str, list[Sample]]:
    groups = ReplayBuffer(tuple(samples)).by_class()
    rng = np.random.default_rng(seed)
    return {label: [group[i] for i in rng.permutation(len(group))] for label, group in groups.items()}


def _merge(old: Mapping[str, list[Sample]], new: Mapping[str, list[Sample]]) -> dict[str, list[Sample]]:
    """Old exemplars and new samples of one class alternate, so that a class seen twice keeps both domains."""
    merged = {}
    for label in dict.fromkeys([*old, *new]):
        one, other = old.get(label, []), new.get(label, [])
        pairs = [sample for pair in zip(one, other, strict=False) for sample in pair]
        shared = min(len(one), len(other))
        merged[label] = [*pairs, *one[shared:], *other[shared:]]
    return merged


def _balanced(groups: Mapping[str, list[Sample]], capacity: int) -> list[Sample]:
    """At most ``capacity`` samples, spread evenly; room that a small class leaves goes to the others."""
    quota = dict.fromkeys(groups, 0)
    while capacity > 0:
        open_classes = [label for label in groups if quota[label] < len(groups[label])]
        if not open_classes:
            break
        for label in open_classes[:capacity]:
            quota[label] += 1
        capacity -= min(capacity, len(open_classes))
    return [sample for label, group in groups.items() for sample in group[: quota[label]]]
