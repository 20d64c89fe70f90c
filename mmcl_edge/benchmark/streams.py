"""A stream of experiences from a spec, a dataset and a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mmcl_edge.benchmark.suites import StreamSpec
from mmcl_edge.data.datasets import Row
from mmcl_edge.data.streams import TEST, TRAIN, Experience, class_incremental, domain_incremental, shuffled
from mmcl_edge.errors import InputError
from mmcl_edge.types import Sample

VALIDATION = 0.3
"""Share of each class's (and domain's) training samples that validation takes, by whole groups."""

Splits = dict[str, list[Row]]


def build_stream(spec: StreamSpec, rows: Sequence[Row], seed: int, samples: Mapping[str, Sample]) -> list[Experience]:
    """The experiences of ``spec`` with this seed.

    Args:
        spec: the stream.
        rows: of its dataset.
        seed: draws orders and samples.
        samples: id of a row to its decoded sample.

    Raises:
        InputError: the dataset has no domains to go by, or a part has no training or test samples.
    """
    found = _experiences(spec, rows, np.random.default_rng([seed, 21]), samples)
    untested = [one.name for one in found if not one.test]
    if untested:
        raise InputError(
            f"Expected test samples of every experience, but {untested} have none; add some to the dataset."
        )
    return found


def _experiences(
    spec: StreamSpec, rows: Sequence[Row], rng: np.random.Generator, samples: Mapping[str, Sample]
) -> list[Experience]:
    if spec.scenario == "domain":
        return _by_domain(spec, rows, rng, samples)
    order = shuffled(sorted({row.label for row in rows}), generator=rng)
    splits = _chosen(spec, rows, rng)
    decoded = {split: [samples[row.id] for row in chosen] for split, chosen in splits.items()}
    return list(class_incremental(decoded, classes_per_experience=spec.classes_per_experience, class_order=order))


def _by_domain(
    spec: StreamSpec, rows: Sequence[Row], rng: np.random.Generator, samples: Mapping[str, Sample]
) -> list[Experience]:
    domains = sorted({row.domain for row in rows})
    if len(domains) < 2:
        raise InputError(f"Expected several domains in {spec.dataset!r}, but it has one; choose another scenario.")
    order = shuffled(domains, generator=rng)
    found = {}
    for domain in order:
        splits = _chosen(spec, [row for row in rows if row.domain == domain], rng)
        found[domain] = {split: [samples[row.id] for row in chosen] for split, chosen in splits.items()}
    return list(domain_incremental(found, domain_order=order))


def _chosen(spec: StreamSpec, rows: Sequence[Row], rng: np.random.Generator) -> Splits:
    """Training and test rows, class by class: validation taken out first, then the pairs drawn."""
    chosen: Splits = {TRAIN: [], TEST: []}
    for label in sorted({row.label for row in rows}):
        own = [row for row in rows if row.label == label]
        train, test = [row for row in own if row.split == TRAIN], [row for row in own if row.split == TEST]
        if spec.test == "validation":
            train, test = _held_out(train, rng)
        if spec.pairs is not None:
            train = [train[i] for i in sorted(rng.permutation(len(train))[: spec.pairs])]
        chosen[TRAIN] += train
        chosen[TEST] += test
    return chosen


def _held_out(rows: list[Row], rng: np.random.Generator) -> tuple[list[Row], list[Row]]:
    """Rows to train on and to validate with, groups whole; a class of one group is cut in two."""
    groups = sorted({row.group for row in rows})
    held: set[str] = set()
    for index in rng.permutation(len(groups)):
        if sum(row.group in held for row in rows) >= VALIDATION * len(rows):
            break
        held.add(groups[index])
    train, test = [row for row in rows if row.group not in held], [row for row in rows if row.group in held]
    if train:
        return train, test
    half = len(rows) // 2
    return rows[:half], rows[half:]
