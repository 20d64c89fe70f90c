"""Whose samples a pack's sums hold: *addends*, so that packs that share some can be added without counting twice.

What one run of ``adapt`` adds is a *contribution*; the digest of its sums is its *atom*. A pack carries a list of
addends, each the sums over a set of atoms: the contributions that this device made since the last sync one by one, and
what came by sync or merge folded into one. Two packs with a common parent both hold the parent's addend; a merge takes
it once. So the merged sums are those of every sample that any pack has seen, each once, whatever the order of merging
and the grouping.

In a pack::

    adapter_config.json   module: {"addends": [{"id", "atoms": [...], "classes": [...]}, ...]}
    tensors               analytic.<id>.<head>.root | .cross | .counts
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor

from mmcl_edge.errors import InputError, PackError
from mmcl_edge.fileio import sha256_bytes
from mmcl_edge.learners.analytic.heads import Sums
from mmcl_edge.learners.analytic.statistics import RidgeStatistics
from mmcl_edge.packs import Pack
from mmcl_edge.packs.manifest import Name, validation_sentence
from mmcl_edge.types import FrozenModel

PREFIX = "analytic."
"""Names of tensors that belong to sums begin so."""
MODULE_KEY = "addends"
ID_LENGTH = 16
_Id = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
_PARTS = {"root", "cross", "counts"}
ROUNDING = 1e-3
"""Relative error that rounding to float32 can cause in the checks of a pack's sums."""


class _Entry(FrozenModel):
    id: _Id
    atoms: tuple[_Id, ...] = Field(min_length=1)
    classes: tuple[Name, ...] = Field(min_length=1)


_ENTRIES = TypeAdapter(tuple[_Entry, ...])


@dataclass(frozen=True, eq=False, slots=True)
class Addend:
    """The sums over some contributions.

    Attributes:
        atoms: ids of the contributions, sorted.
        classes: class names, one a column of the sums.
        sums: by head.
    """

    atoms: tuple[str, ...]
    classes: tuple[str, ...]
    sums: Sums

    @classmethod
    def of(cls, contribution: Sums, labels: Sequence[str]) -> Addend:
        """One contribution, whose columns are ``labels``; classes that none of its samples has are left out."""
        counts = torch.stack([one.counts for one in contribution.values()]).sum(dim=0)
        seen = [column for column in range(len(labels)) if counts[column] > 0]
        sums = {
            name: RidgeStatistics(one.root, one.cross[:, seen], one.counts[seen])
            for name, one in sorted(contribution.items())
        }
        classes = tuple(labels[column] for column in seen)
        values = [value for one in sums.values() for _, value in sorted(one.tensors().items())]
        content = b"".join(value.contiguous().numpy().tobytes() for value in values)
        return cls((sha256_bytes("\0".join(classes).encode() + b"\0" + content)[:ID_LENGTH],), classes, sums)

    @property
    def id(self) -> str:
        """Follows from the atoms."""
        return self.atoms[0] if len(self.atoms) == 1 else sha256_bytes(" ".join(self.atoms).encode())[:ID_LENGTH]

    @property
    def samples(self) -> int:
        """The most samples that one head has heard."""
        return max(round(float(one.counts.sum())) for one in self.sums.values())

    def placed(self, labels: Sequence[str]) -> Sums:
        """The sums with a column for each of ``labels``, which hold all of ``classes``."""
        columns = [labels.index(name) for name in self.classes]
        return {head: one.placed(columns, len(labels)) for head, one in self.sums.items()}


def total(addends: Sequence[Addend], labels: Sequence[str], empty: Sums) -> dict[str, RidgeStatistics]:
    """The sums of all addends, by head, with a column for each of ``labels``.

    Args:
        addends: no two of them with a common atom; added in the order of their ids, whatever the order given.
        labels: hold every class of theirs.
        empty: sums of no samples for every head, of any number of classes.

    Raises:
        InputError: sums of different sizes.
    """
    start = {head: one.placed((), len(labels)) for head, one in empty.items()}
    ordered = sorted(addends, key=lambda one: one.id)
    return {
        head: RidgeStatistics.total((one.placed(labels)[head] for one in ordered if head in one.sums), first)
        for head, first in start.items()
    }


def union(groups: Iterable[Sequence[Addend]]) -> list[Addend]:
    """Addends that hold every atom of all groups, each once: larger ones first, by id where equal.

    Raises:
        InputError: their heads have different sizes; or two addends overlap and neither holds the other, so that the
            common part cannot be counted once.
    """
    known = {one.id: one for group in groups for one in group}
    _check_sizes(known.values())
    chosen: list[Addend] = []
    covered: set[str] = set()
    left: list[Addend] = []
    for one in sorted(known.values(), key=lambda one: (-len(one.atoms), one.id)):
        atoms = set(one.atoms)
        if atoms <= covered:
            continue
        if atoms & covered:
            left.append(one)
            continue
        chosen.append(one)
        covered |= atoms
    partial = [one for one in left if not set(one.atoms) <= covered]
    if partial:
        raise InputError(
            f"Expected sums that are disjoint or hold one another, but {partial[0].id} shares "
            f"{len(set(partial[0].atoms) & covered)} of its {len(partial[0].atoms)} contributions with others; "
            "merge packs of the release that the devices have, or let this device sync and push again."
        )
    return chosen


def folded(addends: Sequence[Addend]) -> Addend:
    """One addend of all: its atoms and classes are theirs, its sums the total."""
    if len(addends) == 1:
        return addends[0]
    labels = sorted({name for one in addends for name in one.classes})
    heads = {head: sums for one in addends for head, sums in one.sums.items()}
    empty = {head: RidgeStatistics.empty(one.features, dtype=one.root.dtype) for head, one in sorted(heads.items())}
    return Addend(
        tuple(sorted(atom for one in addends for atom in one.atoms)), tuple(labels), total(addends, labels, empty)
    )


def stored(addends: Sequence[Addend]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name, and the facts for ``adapter_config.json``'s ``module``; the order of the addends is theirs."""
    tensors = {
        f"{PREFIX}{one.id}.{head}.{part}": value.contiguous()
        for one in addends
        for head, sums in one.sums.items()
        for part, value in sums.tensors().items()
    }
    entries = [{"id": one.id, "atoms": list(one.atoms), "classes": list(one.classes)} for one in addends]
    return tensors, {MODULE_KEY: entries}


def addends_of(pack: Pack, tensors: Mapping[str, Tensor] | None = None) -> list[Addend]:
    """What a pack's sums hold, checked: ids follow from atoms, no atom twice, sums that samples can have.

    Args:
        pack: any; one without sums has none.
        tensors: of the pack, where they are read already.

    Raises:
        PackError: a rule is broken.
    """
    try:
        entries = _ENTRIES.validate_python(pack.module.get(MODULE_KEY, ()))
    except ValidationError as error:
        raise _refuse(pack, validation_sentence(error)) from error
    own = {name: value for name, value in (tensors or pack.tensors()).items() if name.startswith(PREFIX)}
    found = [_read(pack, entry, own) for entry in entries]
    atoms = [atom for one in found for atom in one.atoms]
    if len(set(atoms)) != len(atoms):
        raise _refuse(pack, "a contribution is counted twice")
    if own:
        raise _refuse(pack, f"{sorted(own)[0]} belongs to no addend")
    return found


def _refuse(pack: Pack, problem: str) -> PackError:
    return PackError(f"The sums of the pack {pack.digest[:16]}... are malformed: {problem}; fetch it again.")


def _read(pack: Pack, entry: _Entry, own: dict[str, Tensor]) -> Addend:
    prefix = f"{PREFIX}{entry.id}."
    names = [name for name in own if name.startswith(prefix)]
    heads: dict[str, dict[str, Tensor]] = {}
    for name in names:
        head, _, part = name.removeprefix(prefix).rpartition(".")
        heads.setdefault(head, {})[part] = own.pop(name)
    known = set(pack.manifest.label_names)
    if len(set(entry.classes)) != len(entry.classes) or not set(entry.classes) <= known:
        raise _refuse(pack, f"the classes of {entry.id} are not among the pack's, each once")
    if not heads or any(set(parts) != _PARTS for parts in heads.values()):
        raise _refuse(pack, f"{entry.id} should have root, cross and counts for each head")
    sums = {head: _sums(pack, f"{entry.id}.{head}", parts, len(entry.classes)) for head, parts in sorted(heads.items())}
    addend = Addend(entry.atoms, entry.classes, sums)
    if addend.id != entry.id or list(entry.atoms) != sorted(set(entry.atoms)):
        raise _refuse(pack, f"the id {entry.id} does not follow from its contributions")
    return addend


def _sums(pack: Pack, name: str, parts: Mapping[str, Tensor], classes: int) -> RidgeStatistics:
    """Sums that real samples can have: the constant feature ties root, cross and counts together."""
    root, cross, counts = parts["root"], parts["cross"], parts["counts"]
    if root.ndim != 1 or cross.ndim != 2 or counts.shape != (classes,) or cross.shape[1] != classes:
        raise _refuse(pack, f"the shapes of {name} do not fit {classes} classes")
    if {root.dtype, cross.dtype, counts.dtype} != {torch.float32}:
        raise _refuse(pack, f"{name} should be float32")
    if not RidgeStatistics.is_triangle(len(root), len(cross)):
        raise _refuse(pack, f"the root of {name} has {len(root)} numbers, which is no triangle of {len(cross)} columns")
    sums = RidgeStatistics.from_tensors(parts)
    samples = float(counts.double().sum())
    if bool((counts < 0).any()) or bool((counts != counts.round()).any()):
        raise _refuse(pack, f"{name} counts samples that are no whole numbers")
    if len(sums.root) != min(samples, sums.features):
        raise _refuse(pack, f"{name} has {len(sums.root)} rows for {samples:g} samples")
    if not len(sums.root):
        return sums
    constant = abs(float(sums.root[0, 0]))
    if abs(constant**2 - samples) > ROUNDING * samples:
        raise _refuse(pack, f"the root of {name} is not that of {samples:g} samples")
    if bool(((cross[0] - counts).abs() > ROUNDING * counts + ROUNDING).any()):
        raise _refuse(pack, f"the sums of {name} by class do not add up to its counts")
    trace = float(sums.root.double().square().sum())
    if bool((cross.double().square().sum(dim=0) > (1 + ROUNDING) * counts.double() * trace).any()):
        raise _refuse(pack, f"the sums of {name} by class are larger than its samples allow")
    return sums


def _check_sizes(addends: Iterable[Addend]) -> None:
    """Refuse addends whose heads have different sizes."""
    sizes: dict[str, int] = {}
    for one in addends:
        for head, sums in one.sums.items():
            if sizes.setdefault(head, sums.features) != sums.features:
                raise InputError(
                    f"Expected sums of one size, but the head '{head}' has {sizes[head] - 1} features in one pack and "
                    f"{sums.features - 1} in another; devices that merge need equal budgets (replay.budget_bytes)."
                )
