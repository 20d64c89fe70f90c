"""What this device learned since its last sync, put on top of a release that does not hold it yet.

What is carried, in this order:

1. Classes. Of sums on both sides, the device's own contributions that the release lacks stand beside the released ones
   (``analytic``). A release that knows no classes gets the device's, whole. Adapters cannot be added to others: there
   the health check keeps the pack in use until a release knows its classes.
2. The shared space. A release without one gets the device's, whole. Where the device knows modalities that the release
   does not, those alone are merged into the released space (``fleet.carry_space``), if both have the same mediators.
   Else the release's stays as it is, and the health check keeps the pack in use until a release knows its modalities.

The result is a child of both. Where sums were added, it was never calibrated nor evaluated, and says neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmcl_edge.fleet.carry_space import merged_space
from mmcl_edge.learners.analytic.addends import Addend, addends_of, stored, union
from mmcl_edge.learners.comet.storage import holds_space, space_of
from mmcl_edge.learners.persistence import beside
from mmcl_edge.packs import Pack, PackContents, next_version
from mmcl_edge.packs.spaces import SPACE_KEY
from mmcl_edge.packs.tensors import SPACE_PREFIX
from mmcl_edge.runtime.holdout import FIGURE

if TYPE_CHECKING:
    import torch

CARRY = "carry"
"""Method of both parents of such a pack."""


def carried(release: Pack, current: Pack | None) -> PackContents | None:
    """``release`` with what ``current`` holds and it lacks; ``None`` where it lacks nothing that can be carried.

    Raises:
        PackError: the sums or the space of a pack are malformed.
        InputError: they do not fit together.
    """
    if current is None:
        return None
    sums = _sums(release, current)
    classes = current if _has_classes(current) and not _has_classes(release) else release
    space = current if holds_space(current) and not holds_space(release) else release
    merged = merged_space(release, current)
    if sums is None and classes is release and space is release and merged is None:
        return None
    contents = _classes_of(classes, release, current) if sums is None else sums
    if merged is not None:
        return beside(contents, merged)
    space_of(space)
    return _with_space(contents, space)


def _has_classes(pack: Pack) -> bool:
    return pack.config.learner != "none"


def _sums(release: Pack, current: Pack) -> PackContents | None:
    """Rule 1 for sums; ``None`` where the release holds all of them, or one of the two has none."""
    if {release.config.learner, current.config.learner} != {"analytic"}:
        return None
    released, own = addends_of(release), addends_of(current)
    together = union([released, own])
    known = {atom for one in released for atom in one.atoms}
    new = [one for one in together if not set(one.atoms) <= known]
    if not new:
        return None
    labels = list(release.manifest.label_names)
    labels += [
        name for name in current.manifest.label_names if name not in labels and any(name in one.classes for one in new)
    ]
    tensors, module = stored(together)
    return PackContents(
        tensors=tensors,
        module=module,
        config=release.config,
        bundle_digest=release.manifest.bundle_digest,
        labels=tuple(labels),
        parents=(release.as_parent(method=CARRY), current.as_parent(method=CARRY)),
        version=next_version([release, current]),
        sample_counts=_counts(release, new),
        experiences=tuple(dict.fromkeys((*release.manifest.experiences, *current.manifest.experiences))),
        privacy=release.manifest.privacy,
        minimum_runtime=_newest(release, current),
    )


def _counts(release: Pack, new: list[Addend]) -> dict[str, int]:
    counts = dict(release.manifest.sample_counts)
    for one in new:
        for name, count in one.sample_counts().items():
            counts[name] = counts.get(name, 0) + count
    return counts


def _classes_of(owner: Pack, release: Pack, current: Pack) -> PackContents:
    """The classes of ``owner`` as they are, in a child of both packs."""
    manifest = owner.manifest
    return PackContents(
        tensors=_tensors(owner, of_space=False),
        module={name: value for name, value in owner.module.items() if name != SPACE_KEY},
        config=owner.config,
        bundle_digest=manifest.bundle_digest,
        labels=manifest.label_names,
        experts=manifest.experts,
        parents=(release.as_parent(method=CARRY), current.as_parent(method=CARRY)),
        version=next_version([release, current]),
        sample_counts=manifest.sample_counts,
        experiences=manifest.experiences,
        privacy={**current.manifest.privacy, **release.manifest.privacy},
        minimum_runtime=_newest(release, current),
        evaluation=_figures(owner, of_space=False),
        confidence=manifest.confidence,
    )


def _with_space(contents: PackContents, owner: Pack) -> PackContents:
    """``contents`` with the shared space of ``owner`` as it is, or without where that has none."""
    facts = {SPACE_KEY: owner.module[SPACE_KEY]} if SPACE_KEY in owner.module else {}
    return replace(
        contents,
        tensors={**contents.tensors, **_tensors(owner, of_space=True)},
        module={**contents.module, **facts},
        config=contents.config.model_copy(update={"space": owner.config.space}),
        evaluation={**contents.evaluation, **_figures(owner, of_space=True)},
    )


def _tensors(pack: Pack, *, of_space: bool) -> dict[str, torch.Tensor]:
    """One part of the tensors, in the forms that they are stored in."""
    return {name: value for name, value in pack.stored_tensors().items() if name.startswith(SPACE_PREFIX) == of_space}


def _figures(pack: Pack, *, of_space: bool) -> Mapping[str, Any]:
    return {name: value for name, value in pack.evaluation.items() if name.startswith(FIGURE) == of_space}


def _newest(*packs: Pack) -> str:
    """The newest of the releases that the packs need at least."""
    return max((pack.manifest.minimum_runtime for pack in packs), key=lambda one: tuple(map(int, one.split("."))))
