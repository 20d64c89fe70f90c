"""Whose samples a pack's sums hold: *addends*, so that packs that share some can be added without counting twice.

What one run of ``adapt`` adds is a *contribution*; the digest of its sums is its *atom*. A pack carries a list of
addends, each the sums over a set of atoms: the contributions that this device made since the last sync one by one, and
what came by sync or merge folded into one. Two packs with a common parent both hold the parent's addend; a merge takes
it once. So the merged sums are those of every sample that any pack has seen, each once, whatever the order of merging
and the grouping.

In a pack::

    adapter_config.json   module: {"addends": [{"id", "contributions", "classes": [...]}, ...]}
    tensors               analytic.<id>.atoms                            (contributions, 8) uint8, ascending
                          analytic.<id>.<head>.root | .cross | .counts
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor

from mmcl_edge.errors import InputError, PackError
from mmcl_edge.fileio import sha256_bytes
from mmcl_edge.learners.analytic.heads import Sums
from mmcl_edge.learners.analytic.statistics import RidgeStatistics
from mmcl_edge.packs import Pack
from mmcl_edge.packs.manifest import Name, validation_sentence
from mmcl_edge.packs.tensors import SUMS_PREFIX
from mmcl_edge.types import FrozenModel

MODULE_KEY = "addends"
ID_LENGTH = 16
"""Hexadecimal digits of an id."""
ATOMS = "atoms"
_Id = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
_PARTS = {"root", "cross", "counts"}
ROUNDING = 1e-3
"""Relative error that rounding to float32 can cause in the checks of a pack's sums."""


class _Written(FrozenModel):
    """What ``adapter_config.json`` says of one addend."""

    id: _Id
    contributions: int = Field(ge=1)
    classes: tuple[Name, ...] = Field(min_length=1)


_ENTRIES = TypeAdapter(tuple[_Written, ...])


@dataclass(frozen=True, slots=True)
class Entry:
    """An addend without its sums: see ``Addend``."""

    id: str
    atoms: tuple[str, ...]
    classes: tuple[str, ...]


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
        found = cls.of_atoms((), labels, contribution)
        return cls((found.content_id(),), found.classes, found.sums)

    @classmethod
    def of_atoms(cls, atoms: Iterable[str], labels: Sequence[str], sums: Sums) -> Addend:
        """Sums whose columns are ``labels``; classes that none of their samples has are left out."""
        counts = torch.stack([one.counts for one in sums.values()]).sum(dim=0)
        seen = [column for column in range(len(labels)) if counts[column] > 0]
        kept = {
            head: RidgeStatistics(one.root, one.cross[:, seen], one.counts[seen]) for head, one in sorted(sums.items())
        }
        return cls(tuple(sorted(atoms)), tuple(labels[column] for column in seen), kept)

    @property
    def id(self) -> str:
        """Follows from the atoms."""
        return _id_of(self.atoms)

    def content_id(self) -> str:
        """The atom of a contribution with these sums, whatever the order of its classes and the case of their names."""
        order = sorted(range(len(self.classes)), key=lambda column: self.classes[column].casefold())
        names = "\0".join(self.classes[column].casefold() for column in order)
        sums = (
            RidgeStatistics(one.root, one.cross[:, order], one.counts[order]) for _, one in sorted(self.sums.items())
        )
        values = (value for one in sums for _, value in sorted(one.tensors().items()))
        content = b"".join(value.contiguous().numpy().tobytes() for value in values)
        return sha256_bytes(names.encode() + b"\0" + content)[:ID_LENGTH]

    def sample_counts(self) -> dict[str, int]:
        """Samples by class: the most that one head has heard."""
        counts = torch.stack([one.counts for one in self.sums.values()]).amax(dim=0)
        return {name: round(float(count)) for name, count in zip(self.classes, counts, strict=True)}

    def placed(self, labels: Sequence[str]) -> Sums:
        """The sums with a column for each of ``labels``, which hold all of ``classes``."""
        columns = [labels.index(name) for name in self.classes]
        return {head: one.placed(columns, len(labels)) for head, one in self.sums.items()}


def _id_of(atoms: Sequence[str]) -> str:
    return atoms[0] if len(atoms) == 1 else sha256_bytes(" ".join(atoms).encode())[:ID_LENGTH]


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
        InputError: their heads have different sizes; or (``ClaimError``) see ``disjoint`` and ``check_holds``.
    """
    every = [one for group in groups for one in group]
    _check_sizes(every)
    found = disjoint(every)
    for big in found:
        covered = [one for one in every if one is not big and set(one.atoms) <= set(big.atoms)]
        if covered:
            check_holds(big, disjoint(covered))
    return found


def check_holds(big: Addend, parts: Sequence[Addend]) -> None:
    r"""That ``big``, which claims the contributions of ``parts``, can hold their sums: else somebody's would be lost.

    What is left when the parts are taken away must be sums that samples can have: of no class fewer than none, and by
    the inequality of Cauchy and Schwarz :math:`|Q_c|^2 \le n_c \, tr(G)`.

    Args:
        big: an addend.
        parts: disjoint addends whose atoms it claims.

    Raises:
        ClaimError: it cannot hold them.
    """
    labels = sorted({name for one in (big, *parts) for name in one.classes})
    whole = big.placed(labels)
    placed = [one.placed(labels) for one in parts]
    for head in sorted({head for one in placed for head in one}):
        sums = [one[head] for one in placed if head in one]
        if head not in whole:
            raise ClaimError(big.id)
        counts = whole[head].counts.double() - sum(one.counts.double() for one in sums)
        cross = whole[head].cross.double() - sum(one.cross.double() for one in sums)
        trace = float(whole[head].root.double().square().sum())
        rest = trace - sum(float(one.root.double().square().sum()) for one in sums)
        slack = ROUNDING * trace
        bound = counts.clamp_min(0) * max(rest, 0.0) + ROUNDING * slack * whole[head].counts.double().clamp_min(1)
        if bool((counts < 0).any()) or rest < -slack or bool((cross.square().sum(dim=0) > bound).any()):
            raise ClaimError(big.id)


class ClaimError(InputError):
    """An addend claims contributions that it does not hold, or shares some with another.

    Attributes:
        id: of the addend.
    """

    def __init__(self, id_: str, problem: str = "claims contributions of others that its sums do not hold") -> None:
        super().__init__(
            f"Expected sums that are disjoint or hold one another, but {id_} {problem}; merge packs of the release "
            "that the devices have, or let this device sync and push again."
        )
        self.id = id_


class Counted(Protocol):
    """Something that holds the sums of some contributions, or tells where they are."""

    @property
    def id(self) -> str:
        """Follows from the atoms."""
        ...

    @property
    def atoms(self) -> tuple[str, ...]:
        """Ids of the contributions, sorted."""
        ...


AnyCounted = TypeVar("AnyCounted", bound=Counted)


def disjoint(held: Iterable[AnyCounted]) -> list[AnyCounted]:
    """Of ``held``, those that hold every atom of all, each once: larger ones first, by id where equal.

    Raises:
        ClaimError: two overlap and neither holds the other, so that the common part cannot be counted once.
    """
    known = {one.id: one for one in held}
    chosen: list[AnyCounted] = []
    covered: set[str] = set()
    left: list[AnyCounted] = []
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
        shared = len(set(partial[0].atoms) & covered)
        raise ClaimError(partial[0].id, f"shares {shared} of its {len(partial[0].atoms)} contributions with others")
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
    tensors = {atoms_name(one.id): _packed(one.atoms) for one in addends}
    tensors |= {
        f"{SUMS_PREFIX}{one.id}.{head}.{part}": value.contiguous()
        for one in addends
        for head, sums in one.sums.items()
        for part, value in sums.tensors().items()
    }
    entries = [{"id": one.id, "contributions": len(one.atoms), "classes": list(one.classes)} for one in addends]
    return tensors, {MODULE_KEY: entries}


def atoms_name(addend: str) -> str:
    """Name of the tensor that holds the atoms of an addend."""
    return f"{SUMS_PREFIX}{addend}.{ATOMS}"


def _packed(atoms: Sequence[str]) -> Tensor:
    return torch.frombuffer(bytearray.fromhex("".join(atoms)), dtype=torch.uint8).reshape(-1, ID_LENGTH // 2)


def heads_of(addend: str, names: Iterable[str]) -> set[str]:
    """Heads of whose sums an addend has tensors among ``names``."""
    prefix = f"{SUMS_PREFIX}{addend}."
    own = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
    return {name.rpartition(".")[0] for name in own if name != ATOMS}


def addends_of(pack: Pack) -> list[Addend]:
    """What a pack's sums hold, checked; a pack without sums has none.

    Raises:
        PackError: a rule of ``entries_of`` or ``sums_of`` is broken, a contribution's sums are not those that it is
            named by, or a tensor belongs to no addend.
    """
    tensors = {name: value for name, value in pack.tensors().items() if name.startswith(SUMS_PREFIX)}
    entries = entries_of(pack.digest, pack.module, pack.manifest.label_names, tensors.get)
    found = [Addend(one.atoms, one.classes, sums_of(pack.digest, one, tensors)) for one in entries]
    for one in found:
        if len(one.atoms) == 1 and one.content_id() != one.id:
            raise _refuse(pack.digest, f"the sums of {one.id} are not those of the contribution that it names")
    known = {f"{SUMS_PREFIX}{one.id}.{head}.{part}" for one in found for head in one.sums for part in _PARTS}
    known |= {atoms_name(one.id) for one in found}
    if set(tensors) != known:
        raise _refuse(pack.digest, f"{min(set(tensors) - known)} belongs to no addend")
    return found


def contributions(pack: Pack) -> set[str]:
    """Atoms of all that a pack's sums hold; empty where it has no sums.

    Raises:
        PackError: see ``entries_of``.
    """
    entries = entries_of(pack.digest, pack.module, pack.manifest.label_names, pack.tensors().get)
    return {atom for one in entries for atom in one.atoms}


def entries_of(
    digest: str, module: Mapping[str, Any], labels: Iterable[str], tensor: Callable[[str], Tensor | None]
) -> tuple[Entry, ...]:
    """What the pack ``digest`` says of its addends.

    Args:
        digest: of the pack.
        module: of its ``adapter_config.json``.
        labels: its classes.
        tensor: gives one of its tensors by name, ``None`` where it has none of that name.

    Raises:
        PackError: ids do not follow from atoms, a contribution is counted twice, or a class is none of the pack's.
    """
    try:
        written = _ENTRIES.validate_python(module.get(MODULE_KEY, ()))
    except ValidationError as error:
        raise _refuse(digest, validation_sentence(error)) from error
    known, entries = set(labels), []
    for one in written:
        if len(set(one.classes)) != len(one.classes) or not set(one.classes) <= known:
            raise _refuse(digest, f"the classes of {one.id} are not among the pack's, each once")
        packed = tensor(atoms_name(one.id))
        if packed is None or packed.dtype != torch.uint8 or packed.shape != (one.contributions, ID_LENGTH // 2):
            raise _refuse(digest, f"{one.id} does not name its {one.contributions} contributions")
        atoms = tuple(bytes(row).hex() for row in packed.tolist())
        if list(atoms) != sorted(set(atoms)) or one.id != _id_of(atoms):
            raise _refuse(digest, f"the id {one.id} does not follow from its contributions")
        entries.append(Entry(one.id, atoms, one.classes))
    every = [atom for one in entries for atom in one.atoms]
    if len(set(every)) != len(every):
        raise _refuse(digest, "a contribution is counted twice")
    return tuple(entries)


def sums_of(digest: str, entry: Entry, tensors: Mapping[str, Tensor]) -> Sums:
    """The sums of one addend, by head, out of the pack's tensors.

    Raises:
        PackError: they are incomplete, or no samples have such sums.
    """
    prefix = f"{SUMS_PREFIX}{entry.id}."
    heads = {
        head: {part: tensors[f"{prefix}{head}.{part}"] for part in _PARTS if f"{prefix}{head}.{part}" in tensors}
        for head in heads_of(entry.id, tensors)
    }
    if not heads or any(set(parts) != _PARTS for parts in heads.values()):
        raise _refuse(digest, f"{entry.id} should have root, cross and counts for each head")
    return {
        head: _sums(digest, f"{entry.id}.{head}", parts, len(entry.classes)) for head, parts in sorted(heads.items())
    }


def _refuse(digest: str, problem: str) -> PackError:
    return PackError(f"The sums of the pack {digest[:16]}... are malformed: {problem}; fetch it again.")


def _sums(digest: str, name: str, parts: Mapping[str, Tensor], classes: int) -> RidgeStatistics:
    """Sums that real samples can have: the constant feature ties root, cross and counts together."""
    root, cross, counts = parts["root"], parts["cross"], parts["counts"]
    if root.ndim != 1 or cross.ndim != 2 or counts.shape != (classes,) or cross.shape[1] != classes:
        raise _refuse(digest, f"the shapes of {name} do not fit {classes} classes")
    if {root.dtype, cross.dtype, counts.dtype} != {torch.float32}:
        raise _refuse(digest, f"{name} should be float32")
    if not RidgeStatistics.is_triangle(len(root), len(cross)):
        raise _refuse(
            digest, f"the root of {name} has {len(root)} numbers, which is no triangle of {len(cross)} columns"
        )
    sums = RidgeStatistics.from_tensors(parts)
    samples = float(counts.double().sum())
    if bool((counts < 0).any()) or bool((counts != counts.round()).any()):
        raise _refuse(digest, f"{name} counts samples that are no whole numbers")
    if len(sums.root) != min(samples, sums.features):
        raise _refuse(digest, f"{name} has {len(sums.root)} rows for {samples:g} samples")
    if not len(sums.root):
        return sums
    constant = abs(float(sums.root[0, 0]))
    if abs(constant**2 - samples) > ROUNDING * samples:
        raise _refuse(digest, f"the root of {name} is not that of {samples:g} samples")
    if bool(((cross[0] - counts).abs() > ROUNDING * counts + ROUNDING).any()):
        raise _refuse(digest, f"the sums of {name} by class do not add up to its counts")
    trace = float(sums.root.double().square().sum())
    if bool((cross.double().square().sum(dim=0) > (1 + ROUNDING) * counts.double() * trace).any()):
        raise _refuse(digest, f"the sums of {name} by class are larger than its samples allow")
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
