"""The manifest of a merged pack: what its parents say, made one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from mmcl_edge.errors import MergeError
from mmcl_edge.fleet.merge.experts import Union
from mmcl_edge.fleet.merge.labels import Labels
from mmcl_edge.fleet.merge.reading import Array, Source
from mmcl_edge.fleet.merge.sums import MergedSums
from mmcl_edge.packs import PackContents, Parent

if TYPE_CHECKING:
    import torch

BASE = "base"
"""Method of a parent that task vectors were counted from."""


@dataclass(frozen=True)
class Facts:
    """Everything of a merged pack but its tensors and figures, and sentences on what could not be kept."""

    fields: Mapping[str, Any]
    notes: tuple[str, ...]

    def contents(self, tensors: Mapping[str, Array], evaluation: Mapping[str, Any]) -> PackContents:
        """What ``write_pack`` takes."""
        values = cast("Mapping[str, torch.Tensor]", tensors)
        return PackContents(tensors=values, evaluation=dict(evaluation), **self.fields)


def facts(
    sources: Sequence[Source],
    shares: Sequence[float],
    *,
    method: str,
    base: Source | None,
    labels: Labels,
    union: Union,
    sums: MergedSums | None = None,
) -> Facts:
    """The manifest's fields.

    Args:
        sources: the parents.
        shares: their weights, which sum to 1.
        method: recorded with each parent.
        base: what task vectors were counted from, recorded as a parent of weight 0.
        labels: the merged classes.
        union: the merged experts.
        sums: the merged sums, where there are some; they know how many samples are in them.

    Raises:
        MergeError: the parents' modules differ.
    """
    parents = [
        Parent(digest=one.digest, weight=share, method=method) for one, share in zip(sources, shares, strict=True)
    ]
    if base is not None and base.digest not in {one.digest for one in sources}:
        parents.append(Parent(digest=base.digest, weight=0.0, method=BASE))
    everyone = [*sources, *([base] if base else [])]
    privacy, notes = _privacy(sources)
    first = sources[0]
    if len({_training(source) for source in sources}) > 1:
        notes += ("The packs were trained with different settings; those of one of them are recorded.",)
    fields = {
        "config": first.method,
        "bundle_digest": first.bundle_digest,
        "labels": labels.names,
        "experts": union.experts(),
        "parents": tuple(parents),
        "version": 1 + max(source.version for source in everyone),
        "sample_counts": sums.sample_counts if sums else _counts(sources, base, labels),
        "experiences": tuple(dict.fromkeys(name for source in everyone for name in source.experiences)),
        "privacy": privacy,
        "minimum_runtime": max((source.minimum_runtime for source in everyone), key=_numbers),
        "module": sums.module if sums else _module(sources),
    }
    return Facts(fields, notes + (sums.notes if sums else ()))


def _training(source: Source) -> str:
    return source.config


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in release.split("."))


def _counts(sources: Sequence[Source], base: Source | None, labels: Labels) -> dict[str, int]:
    """Training samples by class: those of the base once, and what each pack added to them."""
    start = _by_class(base, labels) if base else {}
    total = dict(start)
    for source in sources:
        for name, count in _by_class(source, labels).items():
            total[name] = total.get(name, 0) + max(0, count - start.get(name, 0))
    return dict(sorted(total.items()))


def _by_class(source: Source, labels: Labels) -> dict[str, int]:
    names = [name for name, _ in source.sample_counts]
    return {labels.names[row]: count for row, (_, count) in zip(labels.rows(names), source.sample_counts, strict=True)}


def _privacy(sources: Sequence[Source]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Settings that were in force in every pack."""
    every = [dict(source.privacy) for source in sources]
    kept = {name: value for name, value in every[0].items() if all(one.get(name, ...) == value for one in every)}
    lost = sorted({name for one in every for name in one} - set(kept))
    if not lost:
        return kept, ()
    return kept, (f"Privacy settings that the packs do not share are not recorded: {', '.join(lost)}.",)


def _module(sources: Sequence[Source]) -> dict[str, Any]:
    for source in sources:
        if source.module != sources[0].module:
            raise MergeError(
                f"Expected packs of one module, but {sources[0].digest[:16]}... and {source.digest[:16]}... describe "
                "theirs differently (adapter_config.json); merge packs of one learner."
            )
    found: dict[str, Any] = json.loads(sources[0].module)
    return found
