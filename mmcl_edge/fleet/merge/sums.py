"""Sums of the analytic head: added, not averaged, each contribution once. The one place where merging meets them.

What the packs hold is told by their ``adapter_config.json`` and the names of contributions; which addends are added
follows from that alone (``addends.disjoint``). Their sums are read and added one by one, so the memory does not depend
on the number of packs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmcl_edge.errors import InputError, IntegrityError, MergeError
from mmcl_edge.fleet.merge.reading import Array, Source, opened, tensor
from mmcl_edge.fleet.merge.sum_outliers import Means, class_means, misplaced
from mmcl_edge.packs.tensors import SUMS_PREFIX

if TYPE_CHECKING:
    from mmcl_edge.learners.analytic.addends import Entry
    from mmcl_edge.learners.analytic.statistics import RidgeStatistics


@dataclass(frozen=True)
class MergedSums:
    """The result.

    Attributes:
        tensors: of the merged sums.
        module: the facts for ``adapter_config.json``.
        sample_counts: samples by class.
        misplaced: digest of a pack whose contribution is an outlier, to pairs (its class, the class that lies there).
    """

    tensors: dict[str, Array]
    module: dict[str, Any]
    sample_counts: dict[str, int]
    misplaced: dict[str, tuple[tuple[str, str], ...]]


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
    from mmcl_edge.learners.analytic.addends import Addend, disjoint, stored

    told = (one for source in sources for one in _told(source))
    try:
        chosen = sorted(disjoint(told), key=lambda one: one.id)
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
    return MergedSums(values, module, merged.sample_counts(), found)


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
