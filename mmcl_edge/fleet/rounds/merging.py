"""How a round's packs become one: ``fleet.merge``, with the weights of the round."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from mmcl_edge.fleet.merge import Evaluate, MergeOptions, merge_packs


@dataclass(frozen=True)
class PackMerge:
    """Merges the packs of a round.

    Attributes:
        method: of ``merge_packs``; the mean is federated averaging.
        evaluate: right answers of a pack, by class; ``None`` measures nothing and refuses nothing.
        tolerance: accuracy that a pack's classes may lose.
        executor: where packs are read; ``None`` is here.
    """

    method: str = "mean"
    evaluate: Evaluate | None = None
    tolerance: float = 0.02
    executor: Executor | None = None

    def __call__(self, packs: Sequence[Path], weights: Sequence[float], out: Path) -> str:
        """See ``server.Merge``."""
        return merge_packs(
            packs,
            out,
            method=self.method,
            weights=weights,
            evaluate=self.evaluate,
            tolerance=self.tolerance,
            options=MergeOptions(outliers=False),
            executor=self.executor,
        ).digest
