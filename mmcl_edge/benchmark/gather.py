"""From the records of a benchmark to its streams: grouped, ordered, and refused where they cannot be compared.

Rules, in order:
1. A record holds text and finite numbers, at least one experience, positive test counts, and shares from 0 to 1.
2. A stream (suite and name) has one number of experiences and one scenario, whatever the seed.
3. A learner has one run a seed; two configurations under one name would be one mean of two things.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmcl_edge.benchmark.metrics import Matrix
from mmcl_edge.benchmark.records import Rows, RunRecord
from mmcl_edge.errors import InputError
from mmcl_edge.fileio import canonical_json

JOINT = "joint"
"""Name of the learner that trains on everything seen together."""
BOUNDS = frozenset({JOINT, "analytic-joint"})
"""Learners that are told everything at once: upper bounds, never called the best."""

_SLACK = 1e-3
"""Sums of rounded shares may leave 0 to 1 by so much."""

Runs = Mapping[int, RunRecord]
"""Seed to run, in the order of seeds."""


@dataclass(frozen=True, slots=True)
class Stream:
    """All runs on one stream: learner to its runs, in the order of names."""

    suite: str
    name: str
    scenario: str
    experiences: tuple[str, ...]
    runs: Mapping[str, Runs]

    @property
    def records(self) -> tuple[RunRecord, ...]:
        """Every run, by learner and seed."""
        return tuple(record for runs in self.runs.values() for record in runs.values())


def gather(records: Iterable[RunRecord]) -> tuple[Stream, ...]:
    """The streams of ``records``, by suite and name.

    Raises:
        InputError: the records break a rule above.
    """
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        _check(record)
        groups.setdefault((record.suite, record.stream), []).append(record)
    return tuple(_stream(groups[key]) for key in sorted(groups))


def _stream(records: Sequence[RunRecord]) -> Stream:
    first = records[0]
    runs: dict[str, dict[int, RunRecord]] = {}
    for record in sorted(records, key=lambda one: (one.learner, one.seed)):
        _check_same(first, record)
        others = runs.setdefault(record.learner, {})
        if record.seed in others:
            raise InputError(
                f"Expected one run of {record.learner!r} on {record.stream!r} with seed {record.seed}, but found "
                f"{others[record.seed].key} and {record.key}, made with other settings; move one of them away."
            )
        others[record.seed] = record
    return Stream(first.suite, first.stream, first.scenario, _experiences(records), runs)


def _experiences(records: Sequence[RunRecord]) -> tuple[str, ...]:
    """Names in the order they are learned; an order that follows from the seed leaves only numbers."""
    found = {record.experiences for record in records}
    if len(found) == 1:
        return found.pop()
    return tuple(f"experience {number + 1}" for number in range(len(records[0].experiences)))


def _check_same(first: RunRecord, record: RunRecord) -> None:
    mine, theirs = (len(record.experiences), record.scenario), (len(first.experiences), first.scenario)
    if mine != theirs:
        raise InputError(
            f"Expected runs of one stream {record.stream!r}, but {record.key} has {mine[0]} experiences "
            f"({mine[1]}-incremental) and {first.key} {theirs[0]} ({theirs[1]}-incremental); move one of them away."
        )


def _check(record: RunRecord) -> None:
    if not _is_plain(record):
        _refuse(record, "finite numbers and whole letters")
    if not record.experiences or min(record.test_counts) < 1:
        _refuse(record, "at least one experience, each with test samples")
    if not all(-_SLACK <= value <= 1 + _SLACK for value in _shares(record)):
        _refuse(record, "shares from 0 to 1")
    for name, rows in _square(record):
        if not _is_square(rows, len(record.experiences)):
            _refuse(record, f"{len(record.experiences)} values for each experience in {name}")
    if not _is_square(record.confusion.counts, len(record.confusion.labels)):
        _refuse(record, "a square confusion matrix with one row a label")
    if record.expert_use is not None and not _is_even(record.expert_use, len(record.experiences)):
        _refuse(record, "expert use of the same blocks and experts for each experience")


def _is_plain(record: RunRecord) -> bool:
    """Whether the record could be stored: no number is infinite or none, no letter is half of one."""
    try:
        canonical_json(record.model_dump())
    except ValueError:
        return False
    return True


def _shares(record: RunRecord) -> Iterator[float]:
    for rows in (*record.matrices.values(), record.routing_overlap or ()):
        for row in rows:
            yield from row
    yield from record.initial or ()
    for blocks in record.expert_use or ():
        for block in blocks:
            yield from block


def _square(record: RunRecord) -> Iterator[tuple[str, Matrix]]:
    count = len(record.experiences)
    if record.routing_overlap is not None:
        yield "routing_overlap", record.routing_overlap
    if record.initial is not None:
        yield "initial", (record.initial,) * count


def _is_square(rows: Rows | Matrix | Sequence[Sequence[int]], count: int) -> bool:
    return len(rows) == count and all(len(row) == count for row in rows)


def _is_even(use: Sequence[Matrix], count: int) -> bool:
    shapes = {tuple(len(block) for block in blocks) for blocks in use}
    return len(use) == count and len(shapes) == 1 and all(shape and min(shape) for shape in shapes)


def _refuse(record: RunRecord, expected: str) -> None:
    raise InputError(
        f"The run {record.key} ({record.learner!a}, seed {record.seed}) should hold {expected}, but it does not; "
        "remove its record and run again."
    )
