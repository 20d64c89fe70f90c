"""What this device learned since its last sync, put on top of a release that does not hold it yet.

Sums add up, so nothing a device learned is lost while it waits for its upload to be merged: the released sums and the
device's own contributions that the release lacks stand side by side in one pack, a child of both. Adapters cannot be
added so; there the health check keeps the pack in use until a release knows its classes.
"""

from __future__ import annotations

from mmcl_edge.learners.analytic.addends import Addend, addends_of, stored, union
from mmcl_edge.packs import Pack, PackContents, next_version

CARRY = "carry"
"""Method of both parents of such a pack."""


def carried(release: Pack, current: Pack | None) -> PackContents | None:
    """``release`` with the contributions of ``current`` that it lacks; ``None`` where it lacks none, or has no sums.

    The result was never calibrated nor evaluated, and says neither.

    Raises:
        PackError: the sums of a pack are malformed.
        InputError: they do not fit together.
    """
    if current is None or {release.config.learner, current.config.learner} != {"analytic"}:
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
    )


def _counts(release: Pack, new: list[Addend]) -> dict[str, int]:
    counts = dict(release.manifest.sample_counts)
    for one in new:
        for name, count in one.sample_counts().items():
            counts[name] = counts.get(name, 0) + count
    return counts
