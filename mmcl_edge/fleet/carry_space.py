"""Modalities that a device learned and a released shared space does not know, merged into it.

Rules, in this order; where one fails, nothing is merged:

1. Both packs hold a space, and that of the device knows modalities that the other does not.
2. Mediators that both have lead into the space by the same map, to the bit: then what they told meets there.
3. The device's space is cut down to those modalities and its mediators, so that the branches of the release stay as
   they are, and so do its settings; codes and experts are united (``fleet.merge.spaces``).

Experts of both serve every modality then, so embeddings move a little: on the stamps, in three orders, by 0.01 at most
(one minus cosine), and the mean recall of a pair of modalities by between -2.2 and 0.8 points; one answer among its 20
test sounds is 0.8 (``benchmarks/bench_space_size.py``). The health check measures what it costs the device.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace

from mmcl_edge.errors import MergeError
from mmcl_edge.fleet.merge.spaces import merge_spaces
from mmcl_edge.fleet.merge.spaces_held import HeldSpace
from mmcl_edge.learners.comet.storage import StoredSpace, space_of
from mmcl_edge.learners.protocol import MEMORY
from mmcl_edge.packs import Pack

logger = logging.getLogger(__name__)

_BRANCHES = "branches."


def merged_space(release: Pack, current: Pack) -> StoredSpace | None:
    """The space of ``release`` with what that of ``current`` knows beyond it; ``None`` where a rule fails.

    Raises:
        PackError: a space is malformed.
    """
    released, own = space_of(release), space_of(current)
    if released is None or own is None:
        return None
    known = released.facts.modalities
    new = [name for name in own.facts.modalities if name not in known]
    if not new:
        return None
    theirs = HeldSpace(release.digest, 1.0, released)
    mine = HeldSpace(current.digest, 1.0, reduced_to(own, {*new, *own.facts.mediators}))
    common = [name for name in own.facts.mediators if name in known]
    if not common or any(theirs.answers(name) != mine.answers(name) for name in common):
        logger.warning("%s cannot be put into the released space, which has other mediators", ", ".join(new))
        return None
    try:
        merged = merge_spaces([theirs, mine]).stored
    except MergeError as error:
        logger.warning("%s cannot be put into the released space: %s", ", ".join(new), error)
        return None
    stages = tuple(dict.fromkeys((*released.facts.stages, *own.facts.stages)))
    in_order = merged.facts.model_copy(update={"modalities": (*known, *new), "stages": stages})
    return replace(merged, config=released.config, facts=in_order)


def reduced_to(stored: StoredSpace, modalities: Collection[str]) -> StoredSpace:
    """``stored`` without the branches and the memory of other ``modalities``; its mediators are among them."""
    facts = stored.facts
    kept = facts.model_copy(
        update={
            "modalities": tuple(name for name in facts.modalities if name in modalities),
            "pairs": {name: count for name, count in facts.pairs.items() if name in modalities},
        }
    )
    tensors = {
        name: value
        for name, value in stored.tensors.items()
        if not name.startswith((_BRANCHES, MEMORY)) or name.split(".")[1] in modalities
    }
    return StoredSpace(stored.config, tensors, kept).checked()
