"""Which number of the merged pack comes from where, before any number is read.

A *unit* is a tensor of the result, or one row of it where rows belong to classes (the head's) or to experts (the
router's). Units that one pack has are copied from there. Units that several have become *coordinates* of one long
vector, in the order of the result's tensors, and coordinates that the same packs hold form a *group* that a method may
treat alike. A *piece* is a run of values in a pack's file that are neighbours in that vector too.

Rules, performed in this order:

1. Tensors of a calibration (``confidence.``) are left out: the merged model was never calibrated. Sums (``analytic.``)
   are added elsewhere (``sums``), and shared spaces (``space.``) merged elsewhere (``spaces``).
2. Experts are those of the union, rows of the router follow them, rows of the head follow the classes.
3. Every holder of a unit has it in one shape.
4. What is not a real number is copied from the first that has it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from mmcl_edge.errors import MergeError
from mmcl_edge.fleet.merge.experts import Union
from mmcl_edge.fleet.merge.labels import Labels
from mmcl_edge.fleet.merge.reading import REAL, Array, Source, out_dtype
from mmcl_edge.packs.confidence import PREFIX as CONFIDENCE
from mmcl_edge.packs.tensors import DTYPES, SPACE_PREFIX, SUMS_PREFIX

Grouping = Literal["part", "tensor"]
_BLOCK = re.compile(r"blocks\.(\d+)\.(?:router|experts\.([^.]+)\.(.+))")
Key = tuple[str, int]
"""A unit: name of the tensor of the result, and the row, or -1 for the whole tensor."""


class Raw(NamedTuple):
    """A unit as one pack holds it: where its bytes begin among the values, their dtype, their number, their shape."""

    key: Key
    begin: int
    dtype: str
    length: int
    shape: tuple[int, ...]


class Piece(NamedTuple):
    """``length`` values of ``dtype`` at byte ``begin`` of a pack's values are coordinates from ``place`` on."""

    begin: int
    dtype: str
    length: int
    place: int
    group: int


class Copy(NamedTuple):
    """``length`` values of ``dtype`` at byte ``begin`` go to the flat ``place`` of the tensor ``name``."""

    begin: int
    dtype: str
    length: int
    name: str
    place: int


@dataclass(frozen=True, slots=True)
class Group:
    """Coordinates that the same packs hold: ``holders`` are numbers of sources, ``size`` is how many coordinates."""

    name: str
    holders: tuple[int, ...]
    has_base: bool
    size: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor of the result."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Plan:
    """What ``plan`` found.

    Attributes:
        slots: tensors of the result, by name.
        groups: of coordinates.
        size: number of coordinates.
        runs: ``(tensor, flat place there, coordinate, count)``: where coordinates go.
        pieces: of each source; packs of one kind share a tuple.
        copies: of each source.
        base: pieces of the base, if there is one.
    """

    slots: dict[str, Slot]
    groups: tuple[Group, ...]
    size: int
    runs: tuple[tuple[str, int, int, int], ...]
    pieces: tuple[tuple[Piece, ...], ...]
    copies: tuple[tuple[Copy, ...], ...]
    base: tuple[Piece, ...] = ()

    def empty(self) -> dict[str, Array]:
        """The result's tensors, flat, before anything is in them."""
        return {name: np.zeros(math.prod(slot.shape), slot.dtype) for name, slot in self.slots.items()}


@dataclass
class _Unit:
    """A unit; ``holders`` are the *kinds* that have it. Packs that hold the same units at the same bytes are a kind."""

    shape: tuple[int, ...]
    dtypes: set[str] = field(default_factory=set)
    holders: dict[int, Raw] = field(default_factory=dict)


class Planner:
    """Makes the plan of one set of packs, experts and classes.

    Args:
        sources: verified packs.
        labels: the merged classes.
        union: the merged experts.
        base: the pack that all come from, if the method needs one.
    """

    def __init__(self, sources: Sequence[Source], labels: Labels, union: Union, base: Source | None = None) -> None:
        self.sources, self.labels, self.union, self.base = sources, labels, union, base
        self._kinds: dict[tuple[Raw, ...], int] = {}
        self._members: list[list[int]] = []  # sources of each kind
        self._position = {
            (block, number, row): position
            for block, placed in union.blocks.items()
            for position, one in enumerate(placed)
            for number, row in one.rows.items()
        }
        self._own = {(block, one.expert.id): one for block, placed in union.blocks.items() for one in placed}
        self._row_tensors = self._find_row_tensors()

    def plan(self, grouping: Grouping = "part") -> Plan:
        """The plan, with coordinates grouped by part of the model, or by tensor.

        Raises:
            MergeError: packs hold one unit in several shapes, or lack a row of the result.
        """
        units = self._units()
        slots = self._slots(units)
        keys = sorted(units)
        shared = [key for key in keys if self._several(units[key]) and units[key].dtypes <= REAL]
        base = {raw.key: raw for raw in self._raws(len(self.sources), self.base)} if self.base else {}
        for key in [key for key in base if key in units and base[key].shape != units[key].shape]:
            raise self._shapes(key, self.base, base[key].shape, units[key].shape)
        places, groups, group_of = self._groups(shared, units, base, grouping)
        rows = {name: math.prod(slot.shape[1:]) for name, slot in slots.items()}
        copies: list[list[Copy]] = [[] for _ in self.sources]
        for key in keys:
            if key not in places:
                kind, raw = min(units[key].holders.items(), key=lambda item: self._members[item[0]][0])
                number = self._members[kind][0]
                start = max(key[1], 0) * rows[key[0]]
                copies[number].append(Copy(raw.begin, raw.dtype, raw.length, key[0], start))
        runs = tuple(
            (key[0], max(key[1], 0) * rows[key[0]], places[key], math.prod(units[key].shape)) for key in shared
        )
        return Plan(
            slots=slots,
            groups=groups,
            size=sum(group.size for group in groups),
            runs=runs,
            pieces=tuple(self._pieces(places, group_of)),
            copies=tuple(map(tuple, copies)),
            base=_joined([raw for key, raw in base.items() if key in places], places, group_of),
        )

    def _find_row_tensors(self) -> set[str]:
        """Tensors of the head that have one row a class in every pack that holds them."""
        everyone = [*self.sources, *([self.base] if self.base else [])]
        found: dict[str, bool] = {}
        for layout, classes in {(source.layout, len(source.labels)) for source in everyone}:
            for name, entry in layout:
                if name.startswith("head."):
                    fits = bool(entry.shape) and entry.shape[0] == classes
                    found[name] = found.get(name, True) and fits
        return {name for name, fits in found.items() if fits}

    def _raws(self, number: int, source: Source | None) -> list[Raw]:
        """What a pack holds of the result; ``number`` is its place among the sources (one past the end: the base)."""
        if source is None:
            return []
        found: list[Raw] = []
        for name, entry in source.layout:
            if name.startswith((CONFIDENCE, SUMS_PREFIX, SPACE_PREFIX)):
                continue
            match = _BLOCK.fullmatch(name)
            if match and match[2] is None:
                rows = self._router_rows(number, source, int(match[1]))
            elif match:
                own = self._own.get((int(match[1]), match[2]))
                if own is None or (own.origin is not None and own.origin != number):
                    continue
                rows = None
            elif name in self._row_tensors:
                rows = list(self.labels.rows(source.labels))
            else:
                rows = None
            width = DTYPES[entry.dtype].itemsize
            if rows is None:
                found.append(Raw((name, -1), entry.begin, entry.dtype, (entry.end - entry.begin) // width, entry.shape))
                continue
            if not entry.shape or entry.shape[0] != len(rows):
                raise MergeError(
                    f"Expected one row of {name} for each of {len(rows)} experts or classes of the pack "
                    f"{source.digest[:16]}..., but its shape is {entry.shape}; export it anew."
                )
            count = math.prod(entry.shape[1:])
            found += [
                Raw((name, row), entry.begin + i * count * width, entry.dtype, count, entry.shape[1:])
                for i, row in enumerate(rows)
                if row >= 0
            ]
        return found

    def _router_rows(self, number: int, source: Source, block: int) -> list[int]:
        """The row of the merged router of each of a pack's experts; -1 where another of its rows stands there."""
        own = [expert for expert in source.experts if expert.block == block]
        if number < len(self.sources):
            return [self._position.get((block, number, i), -1) for i in range(len(own))]
        place = {one.expert.id: position for position, one in enumerate(self.union.blocks.get(block, []))}
        return [place.get(expert.id, -1) for expert in own]

    def _units(self) -> dict[Key, _Unit]:
        units: dict[Key, _Unit] = {}
        for number, source in enumerate(self.sources):
            raws = tuple(self._raws(number, source))
            kind = self._kinds.setdefault(raws, len(self._kinds))
            if kind < len(self._members):
                self._members[kind].append(number)
                continue
            self._members.append([number])
            for raw in raws:
                unit = units.setdefault(raw.key, _Unit(raw.shape))
                if unit.shape != raw.shape:
                    raise self._shapes(raw.key, source, raw.shape, unit.shape)
                unit.dtypes.add(raw.dtype)
                unit.holders[kind] = raw
        return units

    def _several(self, unit: _Unit) -> bool:
        """Whether more than one pack has it."""
        return sum(len(self._members[kind]) for kind in unit.holders) > 1

    def _shapes(self, key: Key, source: Source | None, found: tuple[int, ...], other: tuple[int, ...]) -> MergeError:
        digest = "" if source is None else source.digest[:16]
        return MergeError(
            f"Expected {key[0]} in one shape in all packs, but it is {found} in {digest}... and {other} in others; "
            "merge packs of one configuration."
        )

    def _slots(self, units: Mapping[Key, _Unit]) -> dict[str, Slot]:
        rows: dict[str, list[int]] = {}
        for name, row in units:
            rows.setdefault(name, []).append(row)
        slots = {}
        for name, found in rows.items():
            parts = [units[name, row] for row in found]
            dtype = out_dtype(set().union(*(part.dtypes for part in parts)))
            if found == [-1]:
                slots[name] = Slot(name, parts[0].shape, dtype)
                continue
            match = _BLOCK.fullmatch(name)
            count = len(self.union.blocks[int(match[1])]) if match else len(self.labels.names)
            if sorted(found) != list(range(count)):
                raise MergeError(
                    f"Expected {count} rows of {name}, but the packs bring {len(found)}; merge packs of one "
                    "configuration."
                )
            slots[name] = Slot(name, (count, *parts[0].shape), dtype)
        return slots

    def _groups(
        self, shared: Sequence[Key], units: Mapping[Key, _Unit], base: Mapping[Key, Raw], grouping: Grouping
    ) -> tuple[dict[Key, int], tuple[Group, ...], dict[Key, int]]:
        numbers: dict[tuple[str, tuple[int, ...], bool], int] = {}  # by part, kinds that hold it, and the base
        sizes: list[int] = []
        places, group_of, place = {}, {}, 0
        for key in shared:
            count = math.prod(units[key].shape)
            identity = (self._part(key, grouping), tuple(units[key].holders), key in base)
            number = numbers.setdefault(identity, len(numbers))
            if number == len(sizes):
                sizes.append(0)
            sizes[number] += count
            places[key], group_of[key] = place, number
            place += count
        groups = tuple(
            Group(part, tuple(sorted(one for kind in kinds for one in self._members[kind])), in_base, sizes[number])
            for (part, kinds, in_base), number in numbers.items()
        )
        return places, groups, group_of

    def _part(self, key: Key, grouping: Grouping) -> str:
        name, row = key
        if row >= 0 and name in self._row_tensors:
            return f"class {self.labels.names[row]}" if grouping == "part" else f"{name}[{self.labels.names[row]}]"
        if grouping == "tensor":
            return name if row < 0 else f"{name}[{row}]"
        parts = name.split(".")
        return ".".join(parts[:2]) if parts[0] == "blocks" else parts[0]

    def _pieces(self, places: Mapping[Key, int], group_of: Mapping[Key, int]) -> list[tuple[Piece, ...]]:
        found: list[tuple[Piece, ...]] = [()] * len(self.sources)
        for raws, kind in self._kinds.items():
            pieces = _joined([raw for raw in raws if raw.key in places], places, group_of)
            for number in self._members[kind]:
                found[number] = pieces
        return found


def _joined(raws: Sequence[Raw], places: Mapping[Key, int], group_of: Mapping[Key, int]) -> tuple[Piece, ...]:
    """Pieces of units in the order of their coordinates; neighbours of one group are one piece."""
    found: list[Piece] = []
    for raw in sorted(raws, key=lambda raw: places[raw.key]):
        piece = Piece(raw.begin, raw.dtype, raw.length, places[raw.key], group_of[raw.key])
        last = found[-1] if found else None
        if (
            last is not None
            and (last.dtype, last.group) == (piece.dtype, piece.group)
            and last.begin + last.length * DTYPES[last.dtype].itemsize == piece.begin
            and last.place + last.length == piece.place
        ):
            found[-1] = last._replace(length=last.length + piece.length)
        else:
            found.append(piece)
    return tuple(found)
