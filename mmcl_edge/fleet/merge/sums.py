"""Sums of the analytic head: added, not averaged, each contribution once. The one place where merging meets them.

What the packs hold is told by their ``adapter_config.json`` and the names of contributions; which addends are added
follows from that alone (``addends.disjoint``). Their sums are read and added one by one, so the memory does not depend
on the number of packs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmcl_edge.errors import InputError, IntegrityError, MergeError
from mmcl_edge.fleet.merge.reading import Array, Source, opened, read_bytes, tensor
from mmcl_edge.fleet.merge.sum_outliers import Means, class_means, misplaced
from mmcl_edge.packs.tensors import SUMS_PREFIX

if TYPE_CHECKING:
    from mmcl_edge.learners.analytic.addends import Addend, Entry
    from mmcl_edge.learners.analytic.statistics import RidgeStatistics


@dataclass(frozen=True)
class MergedSums:
    """The result.

    Attributes:
        tensors: of the merged sums.
        module: the facts for ``adapter_config.json``.
        sample_counts: samples by class.
        notes: sentences on addends that were left out for what they claim.
        misplaced: digest of a pack whose contribution is an outlier, to pairs (its class, the class that lies there).
    """

    tensors: dict[str, Array]
    module: dict[str, Any]
    sample_counts: dict[str, int]
    misplaced: dict[str, tuple[tuple[str, str], ...]]
    notes: tuple[str, ...] = ()


def has_sums(source: Source) -> bool:
    """Whether a pack carries sums."""
    return any(name.startswith(SUMS_PREFIX) for name, _ in source.layout)


def merge_sums(
    sources: Sequence[Source], labels: Sequence[str], *, watch: bool = True, leave_out: bool = False
) -> MergedSums:
    """The sums of every contribution of all packs, each once, as one addend.

    Weights do not count here: a contribution is in the sums, whole, or it is not.

    Args:
        sources: verified packs; some may have no sums.
        labels: the merged classes; a pack's class is the one that differs from it in case at most.
        watch: look for contributions whose classes are misplaced (``sum_outliers``).
        leave_out: leave those out.

    Raises:
        MergeError: two packs' sums overlap in part, or are of different sizes.
        PackError: the sums of a pack are malformed.
    """
    from mmcl_edge.learners.analytic.addends import Addend, stored

    try:
        chosen, notes = _chosen([one for source in sources for one in _told(source)], labels, leave_out=leave_out)
        far = misplaced({one.id: one.means(labels) for one in chosen}) if watch or leave_out else {}
        if leave_out:
            chosen = [one for one in chosen if one.id not in far]
        heads = sorted({head for one in chosen for head in one.heads()})
        sums = {head: _total(chosen, head, labels) for head in heads}
    except InputError as error:
        raise error if isinstance(error, MergeError | IntegrityError) else MergeError(str(error)) from error
    atoms = sorted(atom for one in chosen for atom in one.atoms)
    merged = Addend.of_atoms(atoms, labels, sums)
    tensors, module = stored([merged])
    values = {name: value.numpy() for name, value in tensors.items()}
    found = {source.digest: far[one.id] for source in sources for one in _told(source) if one.id in far}
    return MergedSums(values, module, merged.sample_counts(), found, tuple(notes))


@dataclass(frozen=True)
class _Held:
    """An addend in a file."""

    entry: Entry
    source: Source

    @property
    def id(self) -> str:
        return self.entry.id

    @property
    def atoms(self) -> tuple[str, ...]:
        return self.entry.atoms

    @property
    def prefix(self) -> str:
        return f"{SUMS_PREFIX}{self.id}."

    def heads(self) -> set[str]:
        from mmcl_edge.learners.analytic.addends import heads_of

        return heads_of(self.id, (name for name, _ in self.source.layout))

    def content(self) -> str:
        """Digest of its tensors as they lie in the file."""
        found = hashlib.sha256()
        with opened(self.source) as handle:
            for name, entry in self.source.layout:
                if name.startswith(self.prefix):
                    found.update(read_bytes(handle, self.source.begin + entry.begin, entry.end - entry.begin))
        return found.hexdigest()

    def addend(self, labels: Sequence[str]) -> Addend:
        """With its sums, under its classes' merged names."""
        from mmcl_edge.learners.analytic.addends import Addend

        merged = {name.casefold(): name for name in labels}
        names = tuple(merged[name.casefold()] for name in self.entry.classes)
        return Addend(self.atoms, names, {head: self.read(head) for head in sorted(self.heads())})

    def means(self, labels: Sequence[str]) -> list[Means]:
        """Where its classes lie under each head, under their merged names."""
        merged = {name.casefold(): name for name in labels}
        names, found = [merged[name.casefold()] for name in self.entry.classes], []
        for head in sorted(self.heads()):
            sums = self.read(head)
            found.append(class_means(sums.cross.double().numpy(), sums.counts.double().numpy(), names, head=head))
        return found

    def read(self, head: str) -> RidgeStatistics:
        """The sums of one head, checked."""
        from mmcl_edge.learners.analytic.addends import sums_of

        wanted = f"{self.prefix}{head}."
        names = [name for name, _ in self.source.layout if name.startswith(wanted)]
        with _tensors(self.source) as read:
            return sums_of(self.source.digest, self.entry, {name: read(name) for name in names})[head]


def _chosen(held: Sequence[_Held], labels: Sequence[str], *, leave_out: bool) -> tuple[list[_Held], list[str]]:
    """Addends that hold every contribution once, none of which claims what it does not hold; and what was left out.

    Raises:
        MergeError: one does, and is not to be left out.
    """
    from mmcl_edge.learners.analytic.addends import ClaimError, disjoint

    left, notes = _genuine(held), list[str]()
    while True:
        try:
            chosen = sorted(disjoint(left), key=lambda one: one.id)
            for one in chosen:
                _check_claims(one, held, labels)
            return chosen, notes
        except ClaimError as error:
            culprit = next(one for one in left if one.id == error.id)
            sentence = f"The sums {error.id} of the pack {culprit.source.digest[:16]}... at {culprit.source.path}"
            if not leave_out:
                raise MergeError(f"{sentence} cannot be added: {error}") from error
            notes.append(f"{sentence} were left out: they claim contributions that they do not hold alone.")
            left = [one for one in left if one is not culprit]


def _genuine(held: Sequence[_Held]) -> list[_Held]:
    """One of each id: of those that differ in their bytes, the one that most packs have."""
    by_id: dict[str, list[_Held]] = {}
    for one in held:
        by_id.setdefault(one.id, []).append(one)
    found = []
    for same in by_id.values():
        if len(same) == 1 or len(same[0].atoms) == 1:  # a contribution's id follows from its sums
            found.append(same[0])
            continue
        contents: dict[str, list[_Held]] = {}
        for one in same:
            contents.setdefault(one.content(), []).append(one)
        found.append(min(contents.items(), key=lambda item: (-len(item[1]), item[0]))[1][0])
    return found


def _check_claims(big: _Held, held: Sequence[_Held], labels: Sequence[str]) -> None:
    from mmcl_edge.learners.analytic.addends import check_holds, disjoint

    atoms = set(big.atoms)
    covered = [one for one in held if one.id != big.id and set(one.atoms) <= atoms]
    if covered:
        check_holds(big.addend(labels), [one.addend(labels) for one in disjoint(covered)])


@contextmanager
def _tensors(source: Source) -> Iterator[Callable[[str], Any]]:
    """Reads tensors of a pack by name; ``None`` for a name that it does not have."""
    import torch

    entries = source.entries()
    with opened(source) as handle:

        def read(name: str) -> Any:
            entry = entries.get(name)
            return None if entry is None else torch.from_numpy(tensor(handle, source, entry).copy())

        yield read


def _told(source: Source) -> list[_Held]:
    from mmcl_edge.learners.analytic.addends import entries_of

    with _tensors(source) as read:
        found = entries_of(source.digest, json.loads(source.module), source.labels, read)
    return [_Held(one, source) for one in found]


def _total(chosen: Sequence[_Held], head: str, labels: Sequence[str]) -> RidgeStatistics:
    from mmcl_edge.learners.analytic.statistics import RidgeStatistics

    place = {name.casefold(): column for column, name in enumerate(labels)}
    holding = [one for one in chosen if head in one.heads()]
    first = holding[0].read(head)

    def parts() -> Iterator[RidgeStatistics]:
        for number, one in enumerate(holding):
            sums = one.read(head) if number else first
            yield sums.placed([place[name.casefold()] for name in one.entry.classes], len(labels))

    empty = RidgeStatistics.empty(first.features, len(labels), dtype=first.root.dtype)
    return RidgeStatistics.total(parts(), empty)
