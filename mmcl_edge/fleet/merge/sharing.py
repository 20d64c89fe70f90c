"""Packs that hold a shared space, among those that are merged: which do, and what the result holds.

Torch is imported where some do, and only there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmcl_edge.fleet.merge.arithmetic import Floats
from mmcl_edge.fleet.merge.reading import Array, Source
from mmcl_edge.packs.spaces import SPACE_KEY
from mmcl_edge.packs.tensors import SPACE_PREFIX

if TYPE_CHECKING:
    from mmcl_edge.config import CometConfig
    from mmcl_edge.fleet.merge.spaces_held import HeldSpace


@dataclass(frozen=True, slots=True)
class ModalityFigures:
    """What became of a modality.

    Attributes:
        modality: its name.
        combined: whether branches that differ were combined; else it is as the packs have it.
        packs: digests of the packs whose branch is in it.
        pairs: training pairs in it.
    """

    modality: str
    combined: bool
    packs: tuple[str, ...]
    pairs: int


@dataclass(frozen=True, slots=True)
class SpaceFigures:
    """What became of shared spaces.

    Attributes:
        packs: how many held one.
        modalities: each of the result.
        codes: in the result.
        codes_matched: of them, those that several have.
        codes_joined: that joined their nearest for want of room.
        experts: in the result, frozen.
        experts_folded: that became one with others that are alike, or for want of room.
    """

    packs: int
    modalities: tuple[ModalityFigures, ...]
    codes: int
    codes_matched: int
    codes_joined: int
    experts: int
    experts_folded: int


@dataclass(frozen=True)
class Shared:
    """The merged space, as a pack holds it.

    Attributes:
        config: of the method.
        tensors: by their names in a pack.
        module: its entry in the pack's ``module``.
        figures: what became of what.
        looks: a part, the packs that hold several of it, and the scalar products of what they hold.
        notes: sentences on what a reader should know.
    """

    config: CometConfig
    tensors: dict[str, Array]
    module: dict[str, Any]
    figures: SpaceFigures
    looks: tuple[tuple[str, tuple[str, ...], Floats], ...]
    notes: tuple[str, ...]


def has_space(source: Source) -> bool:
    """Whether a pack carries a shared space."""
    return any(name.startswith(SPACE_PREFIX) for name, _ in source.layout)


def merge_shared(sources: Sequence[Source], weights: Array, base: Source | None, method: str) -> Shared | None:
    """The shared spaces of ``sources`` as one; ``None`` where there is none.

    Args:
        sources: verified packs, some of which may hold a space.
        weights: of each, ``(n,)``.
        base: the pack that all come from, if it is known.
        method: see ``spaces.merge_spaces``.

    Raises:
        MergeError: they cannot be one.
        PackError: a file changed since it was verified.
    """
    held = [(source, float(weight)) for source, weight in zip(sources, weights, strict=True) if has_space(source)]
    if not held:
        return None
    from mmcl_edge.fleet.merge.spaces import merge_spaces

    looks: list[tuple[str, tuple[str, ...], Floats]] = []
    merged = merge_spaces(
        [_held(source, weight) for source, weight in held],
        base=_held(base, 0.0) if base is not None and has_space(base) else None,
        method=method,
        look=lambda part, digests, products: looks.append((part, tuple(digests), products)),
    )
    stored = merged.stored
    return Shared(
        config=stored.config,
        tensors={name: value.numpy() for name, value in stored.tensors_in_pack().items()},
        module=stored.module(),
        figures=merged.figures,
        looks=tuple(looks),
        notes=merged.notes,
    )


def _held(source: Source, weight: float) -> HeldSpace:
    from mmcl_edge.fleet.merge.spaces_held import HeldSpace, PackTensors
    from mmcl_edge.learners.comet.storage import SpaceFacts, StoredSpace

    config = source.method.space
    assert config is not None  # verified
    facts = SpaceFacts.model_validate(json.loads(source.module)[SPACE_KEY])
    return HeldSpace(source.digest, weight, StoredSpace(config, PackTensors(source), facts))
