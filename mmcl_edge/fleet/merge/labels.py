"""Label maps of several packs made one: a class is its name's id, whatever row it has on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmcl_edge.fleet.merge.reading import Source


@dataclass(frozen=True, slots=True)
class Clash:
    """Names that differ in case alone, and so cannot be two classes of one pack: ``kept`` stands for all."""

    kept: str
    others: tuple[str, ...]


@dataclass(frozen=True)
class Labels:
    """The classes of the merged pack.

    Attributes:
        names: in the order of the head's rows.
        clashes: names that were taken for one class.
    """

    names: tuple[str, ...]
    clashes: tuple[Clash, ...]

    def rows(self, labels: Sequence[str]) -> list[int]:
        """The row of the merged head of each of a pack's ``labels``."""
        place = {name.casefold(): row for row, name in enumerate(self.names)}
        return [place[name.casefold()] for name in labels]


def reconcile(sources: Sequence[Source], base: Source | None = None) -> Labels:
    """One label map: the base's classes first, then as the packs bring them.

    Equal ids (equal NFC names) are one class. Of names that differ in case alone, that of the most samples stands.
    """
    samples: dict[str, int] = {}
    order: dict[str, list[str]] = {}
    for source in (*([base] if base else ()), *sources):
        counts = dict(source.sample_counts)
        for name in source.labels:
            spellings = order.setdefault(name.casefold(), [])
            if name not in spellings:
                spellings.append(name)
            samples[name] = samples.get(name, 0) + counts.get(name, 0)
    kept = {key: min(names, key=lambda name: (-samples[name], name)) for key, names in order.items()}
    clashes = (
        Clash(kept[key], tuple(sorted(name for name in names if name != kept[key])))
        for key, names in order.items()
        if len(names) > 1
    )
    return Labels(tuple(kept[key] for key in order), tuple(clashes))
