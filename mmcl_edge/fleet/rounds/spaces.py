"""Whether two packs hold the same shared space. Rounds leave it as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmcl_edge.packs import Pack
from mmcl_edge.packs.spaces import SPACE_KEY
from mmcl_edge.packs.tensors import SPACE_PREFIX

if TYPE_CHECKING:
    import torch


def same_space(one: Pack, other: Pack | None) -> bool:
    """Whether the space of ``one`` has the configuration, the facts and the values of that of ``other``, or both none.

    Raises:
        PackError: a file changed since it was read.
    """
    if other is None:
        return one.config.space is None and one.space() is None
    if (one.config.space, one.module.get(SPACE_KEY)) != (other.config.space, other.module.get(SPACE_KEY)):
        return False
    mine, theirs = _tensors(one), _tensors(other)
    return mine.keys() == theirs.keys() and all(value.equal(theirs[name]) for name, value in mine.items())


def _tensors(pack: Pack) -> dict[str, torch.Tensor]:
    if pack.space() is None:
        return {}
    return {name: value for name, value in pack.tensors().items() if name.startswith(SPACE_PREFIX)}
