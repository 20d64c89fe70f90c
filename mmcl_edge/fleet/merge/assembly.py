"""The manifest of a merged pack: what its parents say, made one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from mmcl_edge.config import MethodConfig
from mmcl_edge.errors import MergeError
from mmcl_edge.fleet.merge.experts import Union
from mmcl_edge.fleet.merge.labels import Labels
from mmcl_edge.fleet.merge.reading import Array, Source
from mmcl_edge.fleet.merge.sharing import Shared
from mmcl_edge.fleet.merge.sources import lead_of, with_classes
from mmcl_edge.fleet.merge.sums import MergedSums
from mmcl_edge.packs import PackContents, Parent
from mmcl_edge.packs.spaces import SPACE_KEY

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
    shared: Shared | None = None,
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
        shared: the merged space, where there is one.

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
    first, classed = lead_of(sources), with_classes(sources)
    if len(set(map(_training, {source.config for source in classed}))) > 1:
        notes += ("The packs were trained with different settings; those of one of them are recorded.",)
    fields = {
        "config": first.method.model_copy(update={"space": shared.config if shared else None}),
        "bundle_digest": first.bundle_digest,
        "labels": labels.names,
        "experts": union.experts(),
        "parents": tuple(parents),
        "version": 1 + max(source.version for source in everyone),
        "sample_counts": sums.sample_counts if sums else _counts(sources, base, labels),
        "experiences": tuple(dict.fromkeys(name for source in everyone for name in source.experiences)),
        "privacy": privacy,
        "minimum_runtime": max((source.minimum_runtime for source in everyone), key=_numbers),
        "module": (sums.module if sums else _module(classed)) | (shared.module if shared else {}),
    }
    return Facts(fields, notes + (sums.notes if sums else ()) + (shared.notes if shared else ()))


def _training(config: str) -> MethodConfig:
    return MethodConfig.model_validate_json(config).model_copy(update={"space": None})


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
    """What rebuilds the packs' module, their shared space aside."""
    found: dict[str, Any] | None = None
    for text, source in {source.module: source for source in reversed(sources)}.items():
        own = {name: value for name, value in json.loads(text).items() if name != SPACE_KEY}
        if found is not None and own != found:
            raise MergeError(
                f"Expected packs of one module, but {sources[-1].digest[:16]}... and {source.digest[:16]}... describe "
                "theirs differently (adapter_config.json); merge packs of one learner."
            )
        found = own
    return found or {}
