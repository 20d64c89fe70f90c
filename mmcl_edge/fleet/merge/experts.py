"""The experts of the merged pack: the union of all parents', each once.

Rules, for each block, performed in this order:

1. Experts of one id are one expert. If some parent has it frozen it is frozen, and its content is that of the first
   parent whose tensors have the digest that the id states; a parent whose tensors have another is an *impostor*, unless
   it is stored in fewer bits, where nobody can tell.
2. An expert that is not frozen and that several parents have is merged by the method; what one parent has is carried.
3. A carried expert that is alike to one before it (cosine over all its tensors above a threshold) is folded into that,
   unless fewer would stay than a sample is served by. Of a frozen one and one that learns, the frozen one stays.
4. Frozen ones come first; ids and owners stay.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mmcl_edge.errors import PackError
from mmcl_edge.fleet.merge.reading import Array, Source, opened, tensor
from mmcl_edge.packs import Expert

ALIKE = 0.999
"""Cosine above which two experts are one."""
ROWS = 256
_CONTENT_ID = re.compile(r"b\d+-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Folded:
    """An expert that was dropped because ``kept`` is alike."""

    block: int
    kept: str
    dropped: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Placed:
    """One expert of the merged pack.

    Attributes:
        expert: id, block, frozen flag, owner.
        origin: the source its tensors are carried from; ``None`` where they are merged.
        rows: source to the position of its router row among that source's experts of the block.
    """

    expert: Expert
    origin: int | None
    rows: dict[int, int]


@dataclass(frozen=True)
class Union:
    """All experts, block by block, frozen ones first in each; what was folded; ``(source, expert id)`` impostors."""

    blocks: dict[int, list[Placed]] = field(default_factory=dict)
    folded: list[Folded] = field(default_factory=list)
    impostors: list[tuple[int, str]] = field(default_factory=list)

    def experts(self) -> tuple[Expert, ...]:
        """Their manifest entries."""
        return tuple(placed.expert for block in sorted(self.blocks) for placed in self.blocks[block])


def prefix(block: int, expert: str) -> str:
    """What the names of an expert's tensors begin with."""
    return f"blocks.{block}.experts.{expert}."


def unite(sources: Sequence[Source], *, active: int, alike: float = ALIKE) -> Union:
    """The union of the experts of ``sources``.

    Args:
        sources: verified packs.
        active: experts that serve one sample; no block is folded below that.
        alike: cosine above which two experts are one; above 1 nothing is folded.

    Raises:
        PackError: a pack lacks tensors of an expert that its manifest names.
    """
    union = Union()
    for block, claims in sorted(_claims(sources).items()):
        placed = [_place(block, claim, sources, union.impostors) for claim in claims.values()]
        placed.sort(key=lambda one: not one.expert.frozen)  # stable: otherwise in the order they were met
        kept = _folded(placed, sources, union.folded, active=active, alike=alike)
        union.blocks[block] = kept
    return union


Claims = list[tuple[int, Expert, int]]
"""Who has an expert: source, its entry there, its position among that source's experts of the block."""


def _claims(sources: Sequence[Source]) -> dict[int, dict[str, Claims]]:
    found: dict[int, dict[str, Claims]] = defaultdict(lambda: defaultdict(list))
    for number, source in enumerate(sources):
        seen: dict[int, int] = defaultdict(int)
        for expert in source.experts:
            found[expert.block][expert.id].append((number, expert, seen[expert.block]))
            seen[expert.block] += 1
    return found


def _place(block: int, claims: Claims, sources: Sequence[Source], impostors: list[tuple[int, str]]) -> Placed:
    rows = {number: position for number, _, position in claims}
    frozen = [(number, expert) for number, expert, _ in claims if expert.frozen]
    if not frozen:
        number, expert, _ = claims[0]
        return Placed(expert, number if len(claims) == 1 else None, rows)
    liars: list[int] = []
    for number, expert in frozen:
        if not sources[number].exact:
            continue
        if _genuine(sources[number], block, expert.id):
            impostors += [(liar, expert.id) for liar in liars]
            return Placed(expert, number, {one: row for one, row in rows.items() if one not in liars})
        liars.append(number)
    number, expert = frozen[0]  # nobody has the content that the id states, or all hold it in fewer bits
    return Placed(expert, number, rows)


def _genuine(source: Source, block: int, expert: str) -> bool:
    """Whether the tensors have the digest that the id states (``ExpertBank``); ids of another form state none."""
    if not _CONTENT_ID.fullmatch(expert):
        return True
    digest = hashlib.sha256()
    for name, value in _tensors(source, block, expert):
        if value.dtype != np.float32:
            return False
        digest.update(name.encode() + value.tobytes())
    return expert == f"b{block}-{digest.hexdigest()[:12]}"


def _tensors(source: Source, block: int, expert: str) -> Iterator[tuple[str, Array]]:
    """The expert's tensors by name (``<modality>.<part>``), sorted."""
    start = prefix(block, expert)
    found = [(name.removeprefix(start), entry) for name, entry in source.layout if name.startswith(start)]
    if not found:
        raise PackError(
            f"The pack {source.digest[:16]}... should hold tensors of its expert {expert} of block {block}, but holds "
            "none; export it anew."
        )
    with opened(source) as handle:
        for name, entry in sorted(found):
            yield name, tensor(handle, source, entry)


def _folded(
    placed: list[Placed], sources: Sequence[Source], folded: list[Folded], *, active: int, alike: float
) -> list[Placed]:
    carried = [number for number, one in enumerate(placed) if one.origin is not None]
    if alike > 1 or len(carried) < 2:
        return placed
    units = _directions([placed[number] for number in carried], sources)
    spare = len(placed) - active
    into: dict[int, int] = {}
    for number, other, cosine in _pairs(units, alike):
        if spare <= 0:
            break
        if number in into or other in into:
            continue
        into[number] = other
        spare -= 1
        one, two = placed[carried[other]], placed[carried[number]]
        folded.append(Folded(one.expert.block, one.expert.id, two.expert.id, round(cosine, 6)))
    for number, other in into.items():
        one = placed[carried[other]]
        placed[carried[other]] = replace(one, rows={**placed[carried[number]].rows, **one.rows})
    dropped = {carried[number] for number in into}
    return [one for number, one in enumerate(placed) if number not in dropped]


def _directions(placed: Sequence[Placed], sources: Sequence[Source]) -> Array:
    """Unit vectors ``(e, d)`` of experts, float32; those of another size than the first are zero: like nothing."""
    vectors = []
    for one in placed:
        assert one.origin is not None
        parts = [value.ravel() for _, value in _tensors(sources[one.origin], one.expert.block, one.expert.id)]
        vectors.append(np.concatenate(parts).astype(np.float32))
    size = vectors[0].size
    stack = np.stack([vector if vector.size == size else np.zeros(size, np.float32) for vector in vectors])
    lengths = np.linalg.norm(stack.astype(np.float64), axis=1)
    return np.asarray(stack / np.where(lengths > 0, lengths, np.inf)[:, None].astype(np.float32))


def _pairs(units: Array, alike: float) -> Iterator[tuple[int, int, float]]:
    """Pairs ``(later, earlier, cosine)`` that are alike, each later one with the earliest first."""
    for start in range(0, len(units), ROWS):
        cosines = units[start : start + ROWS] @ units[: start + ROWS].T
        for row, column in np.argwhere(cosines > alike):
            if column < start + row:
                yield int(start + row), int(column), min(1.0, float(cosines[row, column]))
