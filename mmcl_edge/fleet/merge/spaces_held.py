"""Shared spaces as merging sees them: facts in memory, tensors read when they are asked for, contents by digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmcl_edge.fleet.merge.reading import Source, opened, tensor
from mmcl_edge.learners.comet.storage import StoredSpace
from mmcl_edge.packs.tensors import SPACE_PREFIX

MOST_TIMES = 10.0
"""What a space claims of itself (pairs, usage) counts up to so many times the middle claim of all."""
ANSWERING = ("mean", "basis", "project.weight", "project.bias")
"""Tensors of a branch that lead into the space; the others serve learning, and change with every stage."""


@dataclass(frozen=True, eq=False)
class HeldSpace:
    """A space and what is said of it from outside.

    Attributes:
        digest: of the pack that holds it: spaces are gone through in this order.
        weight: its share, 0 or more.
        stored: the space; its tensors may be read anew each time.
    """

    digest: str
    weight: float
    stored: StoredSpace

    @property
    def modalities(self) -> tuple[str, ...]:
        """Learned, mediators included."""
        return self.stored.facts.modalities

    def pairs(self, modality: str) -> int:
        """Training pairs that it claims to have seen."""
        return self.stored.facts.pairs.get(modality, 0)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose names begin with ``prefix``, without it."""
        tensors = self.stored.tensors
        return {name.removeprefix(prefix): tensors[name] for name in sorted(tensors) if name.startswith(prefix)}

    def branch(self, modality: str) -> dict[str, Tensor]:
        """The tensors of a modality's branch."""
        return self.part(f"branches.{modality}.")

    def answers(self, modality: str) -> str:
        """Digest of what a modality's branch answers with: its front and projection."""
        at = f"branches.{modality}."
        return content_of({name: self.stored.tensors[at + name] for name in ANSWERING})

    def content(self, prefix: str = "") -> str:
        """Digest of the tensors whose names begin with ``prefix``."""
        return content_of(self.part(prefix))


class PackTensors(Mapping[str, Tensor]):
    """Tensors of the space in a verified pack, by name, read from its file each time.

    Args:
        source: the pack.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._entries = {
            name.removeprefix(SPACE_PREFIX): entry for name, entry in source.layout if name.startswith(SPACE_PREFIX)
        }

    def __getitem__(self, name: str) -> Tensor:
        with opened(self.source) as handle:
            return torch.from_numpy(tensor(handle, self.source, self._entries[name]).copy())

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def content_of(tensors: Mapping[str, Tensor]) -> str:
    """Digest of names, shapes and bits."""
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.contiguous().numpy().tobytes())
    return found.hexdigest()


def bounded(claims: Sequence[float], times: float = MOST_TIMES) -> list[float]:
    """Claims of 0 or more, none above so many ``times`` the lower median: one who claims all cannot be all."""
    known = sorted(claims)
    limit = times * max(known[(len(known) - 1) // 2], 1e-12)
    return [min(claim, limit) for claim in claims]


def shares(claims: Sequence[float]) -> list[float]:
    """The same as shares of 1; equal ones where all are 0."""
    total = sum(claims)
    return [claim / total for claim in claims] if total > 0 else [1 / len(claims)] * len(claims)
