"""What made the runs of a report: the ``made_by`` of their records, each fact once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmcl_edge.benchmark.records import RunRecord

MOST_VALUES = 6


def origin_of(records: Sequence[RunRecord]) -> dict[str, tuple[str, ...]]:
    """Every fact that the records know about how they were made, with each value it has, sorted.

    Nested facts are named with dots (``versions.torch``). Of more than ``MOST_VALUES`` values (times, say) only the
    first and last are given.
    """
    return facts_of([record.made_by for record in records])


def facts_of(made_by: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """The same of any records' ``made_by``."""
    found: dict[str, set[str]] = {}
    for one in made_by:
        for name, value in _facts(one):
            found.setdefault(name, set()).add(value)
    return {name: _few(sorted(values)) for name, values in sorted(found.items())}


def _facts(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _facts(inner, f"{before}{name}.")
        elif isinstance(inner, list | tuple):
            yield f"{before}{name}", " ".join(str(one) for one in inner)
        else:
            yield f"{before}{name}", str(inner)


def _few(values: list[str]) -> tuple[str, ...]:
    if len(values) <= MOST_VALUES:
        return tuple(values)
    return values[0], f"... ({len(values) - 2} more)", values[-1]
