"""Which spaces bring experts that move what others know: experts serve every modality, whoever brought them.

Rules, performed in this order:

1. Judged is by the base; without one, of ``LEAST_JUDGES`` spaces or more, by each of the first ``MOST_JUDGES`` of the
   others, of which the median counts. Fewer cannot tell who is odd.
2. A judge draws samples from its codes by their usage, each as long as any vector of the space, and adapts them by its
   own experts, and by those and the ones that a space brings beside them.
3. A space *meddles* where that moves them by more than ``MOVES`` on average (one minus cosine). Honest experts of other
   modalities move embeddings by 0.006 at most (``moved`` in ``benchmarks/bench_merge_spaces.py``).
4. Where most meddle, by other judges than the base, nobody is odd.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional

from mmcl_edge.adapters.cmoe import PARTS, CMoEAdapter
from mmcl_edge.fleet.merge.spaces_experts import Expert, named
from mmcl_edge.fleet.merge.spaces_held import HeldSpace

MOVES = 0.05
LEAST_JUDGES = 4
MOST_JUDGES = 5
PROBES = 32
"""Samples that a judge draws."""


def meddling(spaces: Sequence[HeldSpace], base: HeldSpace | None) -> dict[str, float]:
    """Digest of each space that meddles, to how far it moves what others know (the rules stand above)."""
    if base is None and len(spaces) < LEAST_JUDGES:
        return {}
    judges = [_Judge(one) for one in ([base] if base else spaces[: MOST_JUDGES + 1])]
    moved = {
        one.digest: median([judge.moved_by(one) for judge in judges if base or judge.space is not one][:MOST_JUDGES])
        for one in spaces
    }
    found = {digest: value for digest, value in moved.items() if value > MOVES}
    return found if base or 2 * len(found) < len(spaces) else {}


class _Judge:
    """A space that is asked how far others move what it knows."""

    def __init__(self, space: HeldSpace) -> None:
        self.space, self.config = space, space.stored.config
        self.own = named(space, {})
        self.probes = self._probes()
        self.before = self._adapted([*self.own.values()])

    def moved_by(self, other: HeldSpace) -> float:
        """One minus the cosine, on average, of samples before and after the experts of ``other`` came."""
        new = [expert for name, expert in named(other, self.own).items() if name not in self.own]
        if not new:
            return 0.0
        cosine = functional.cosine_similarity(self.before, self._adapted([*self.own.values(), *new]))
        return float((1 - cosine.nan_to_num(-1.0)).mean())

    def _probes(self) -> Tensor:
        codes, counts = (self.space.stored.tensors[f"codebook.{part}"] for part in ("codes", "counts"))
        slots, generator = self.config.slots, torch.Generator().manual_seed(0)
        usage = counts.double().clamp_min(1e-9)
        rows = torch.multinomial(usage, PROBES * slots, replacement=True, generator=generator)
        drawn: Tensor = functional.normalize(codes[rows].view(PROBES, -1), dim=1) * float(slots) ** 0.5
        return drawn.view(PROBES, slots, -1)

    def _adapted(self, experts: Sequence[Expert]) -> Tensor:
        if not experts:
            return self.probes.flatten(1)
        config = self.config
        adapter = CMoEAdapter(config.dim, rank=config.rank, active=config.active_experts, noise=0.0)
        adapter.put({part: torch.stack([one[part] for one in experts]) for part in PARTS}, frozen=len(experts))
        with torch.no_grad():
            adapted: Tensor = adapter(self.probes)
        return adapted.flatten(1)
