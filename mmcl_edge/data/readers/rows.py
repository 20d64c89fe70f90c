"""What every dataset reader gives: rows, classes, domains, and a row decoded when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from mmcl_edge.data.items import MediaItem
from mmcl_edge.data.media import load_sample
from mmcl_edge.types import Sample

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Row:
    """One example of a dataset, not decoded yet.

    Attributes:
        id: unique within the dataset.
        label: class name; empty in sets of captions, which have no classes.
        split: ``train``, ``val`` or ``test``, fixed by the dataset.
        group: rows of one group share a recording; validation folds keep groups whole.
        domain: name of the domain (speaker, condition), or ``""`` where there is only one.
        item: its files.
        text: what is said in it, or the first of what people wrote of it, where the dataset has that.
        labels: all its classes, where the dataset gives several; ``label`` is the first.
        captions: all that people wrote of it; ``text`` is the first.
    """

    id: str
    label: str
    split: str
    group: str
    domain: str
    item: MediaItem
    text: str | None = None
    labels: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()


class DatasetReader(Protocol):
    """What every dataset offers."""

    @property
    def name(self) -> str:
        """The dataset's name."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the index."""
        ...

    @property
    def domains(self) -> tuple[str, ...]:
        """Domain names in the order of the index."""
        ...

    @property
    def rows(self) -> tuple[Row, ...]:
        """Every row in the order of the index."""
        ...

    def load(self, row: Row) -> Sample:
        """Decode a row.

        Raises:
            MediaError: a file of it is missing or corrupt.
        """
        ...


def decode_row(row: Row) -> Sample:
    """The sample of a row whose files are media as they come; where the row has a text, with that one.

    Raises:
        MediaError: a file of it is missing or corrupt.
    """
    sample = load_sample(row.item)
    return sample if row.text is None else replace(sample, text=row.text)


@dataclass(frozen=True)
class IndexedReader:
    """A reader over rows that an index file listed; ``decode`` turns a row into its sample."""

    name: str
    rows: tuple[Row, ...]
    decode: Callable[[Row], Sample] = field(default=decode_row, repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the index; none in sets of captions."""
        return tuple(dict.fromkeys(row.label for row in self.rows if row.label))

    @property
    def domains(self) -> tuple[str, ...]:
        """Domain names in the order of the index."""
        return tuple(dict.fromkeys(row.domain for row in self.rows))

    def load(self, row: Row) -> Sample:
        """Decode a row.

        Raises:
            MediaError: a file of it is missing or corrupt.
        """
        return self.decode(row)


def select(
    rows: Iterable[Row],
    *,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    domains: Sequence[str] | None = None,
) -> tuple[Row, ...]:
    """The rows that fit every given condition, in their order."""
    return tuple(
        row
        for row in rows
        if (split is None or row.split == split)
        and (classes is None or row.label in classes)
        and (domains is None or row.domain in domains)
    )
