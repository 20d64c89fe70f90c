"""Sums of the analytic head: added, not averaged, each contribution once. The one place where merging meets them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcl_edge.errors import MergeError
from mmcl_edge.fleet.merge.plan import SUMS
from mmcl_edge.fleet.merge.reading import Array, Source


def has_sums(source: Source) -> bool:
    """Whether a pack carries sums."""
    return any(name.startswith(SUMS) for name, _ in source.layout)


def merge_sums(
    sources: Sequence[Source], weights: Sequence[float], labels: Sequence[str]
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Tensors of the merged sums, and the facts for ``adapter_config.json``'s ``module``.

    Args:
        sources: verified packs; some may have no sums.
        weights: of each.
        labels: the merged classes.

    Raises:
        MergeError: the sums do not add up.
    """
    raise MergeError("Packs with analytic sums cannot be merged yet; merge packs of the other learners.")
