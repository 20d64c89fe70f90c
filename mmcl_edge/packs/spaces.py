"""What a pack says of its shared space, for people: read without torch, and believed nothing.

``learners.comet.storage`` checks a space before it is used. Here, what is malformed is left out.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmcl_edge.errors import IntegrityError
from mmcl_edge.fileio import read_bounded
from mmcl_edge.packs.manifest import CONFIG_NAME, MAX_BYTES
from mmcl_edge.packs.names import check_name
from mmcl_edge.packs.precision import plain_name
from mmcl_edge.packs.tensors import SPACE_PREFIX

SPACE_KEY = "space"
"""Of the facts of a shared space, in a pack's ``module``."""


@dataclass(frozen=True, slots=True)
class SpaceSummary:
    """What a shared space is made of.

    Attributes:
        modalities: in the order in which they joined.
        mediators: those that told others.
        codes: rows of the codebook.
        experts: of the CMoE-Adapter.
        stages: names of what was learned.
        pairs: training pairs seen, by modality.
    """

    modalities: tuple[str, ...]
    mediators: tuple[str, ...]
    codes: int
    experts: int
    stages: tuple[str, ...]
    pairs: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """The attributes, as a JSON object."""
        return asdict(self)

    def rows(self) -> list[tuple[str, Any]]:
        """Names and values, for tables."""
        pairs = ", ".join(f"{name} {count}" for name, count in sorted(self.pairs.items()))
        return [
            ("modalities", ", ".join(self.modalities) or "none"),
            ("mediators", ", ".join(self.mediators) or "none"),
            ("codes", self.codes),
            ("experts of the space", self.experts),
            ("stages", ", ".join(self.stages) or "none"),
            ("training pairs", pairs or "none"),
        ]


def modalities_in(folder: Path) -> tuple[str, ...]:
    """Modalities that the pack in ``folder`` says it knows, for listings: none of its files is verified."""
    try:
        raw = json.loads(read_bounded(folder / CONFIG_NAME, MAX_BYTES[CONFIG_NAME]))
    except (OSError, IntegrityError, ValueError, RecursionError):
        return ()
    module = raw.get("module") if isinstance(raw, dict) else None
    found = space_summary(module, {}) if isinstance(module, dict) else None
    return () if found is None else found.modalities


def space_summary(module: Mapping[str, Any], shapes: Mapping[str, Collection[int]]) -> SpaceSummary | None:
    """What ``module`` and the tensors say of a shared space; ``None`` where they say nothing.

    Args:
        module: of a pack.
        shapes: stored names to shapes of its tensors.
    """
    lengths = {plain_name(name): tuple(shape)[:1] for name, shape in shapes.items() if name.startswith(SPACE_PREFIX)}
    if SPACE_KEY not in module and not lengths:
        return None
    found = module.get(SPACE_KEY)
    facts: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    pairs = facts.get("pairs")
    return SpaceSummary(
        modalities=_names(facts.get("modalities")),
        mediators=_names(facts.get("mediators")),
        codes=sum(lengths.get(f"{SPACE_PREFIX}codebook.codes", ())),
        experts=sum(sum(lengths.get(f"{SPACE_PREFIX}cmoe.{part}", ())) for part in ("route", "frozen_route")),
        stages=_names(facts.get("stages")),
        pairs={name: pairs[name] for name in _names(list(pairs)) if type(pairs[name]) is int}
        if isinstance(pairs, Mapping)
        else {},
    )


def _names(value: Any) -> tuple[str, ...]:
    return tuple(one for one in value if isinstance(one, str) and _is_name(one)) if isinstance(value, list) else ()


def _is_name(text: str) -> bool:
    try:
        return check_name(text) == text
    except ValueError:
        return False
