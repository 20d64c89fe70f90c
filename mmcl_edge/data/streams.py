"""Streams: the experiences a learner meets one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmcl_edge.errors import InputError
from mmcl_edge.types import Sample

TRAIN = "train"
TEST = "test"


@dataclass(frozen=True, eq=False, slots=True)
class Experience:
    """A new batch of labelled data.

    Attributes:
        name: unique within its stream.
        train: what is learned from.
        test: what measures it; never of the classes or domains of another experience.
        classes: class names in it, in the stream's order.
    """

    name: str
    train: Sequence[Sample]
    test: Sequence[Sample]
    classes: tuple[str, ...]


def class_incremental(
    samples_by_split: Mapping[str, Sequence[Sample]], *, classes_per_experience: int, class_order: Sequence[str]
) -> tuple[Experience, ...]:
    """Each experience brings new classes: the next ``classes_per_experience`` of ``class_order``.

    Args:
        samples_by_split: ``train`` and ``test`` samples; those of classes outside ``class_order`` are left out.
        classes_per_experience: how many classes at a time; the last experience takes what is left.
        class_order: class names, without repetition.

    Raises:
        InputError: a count below 1, a repeated class, or a class without training samples.
    """
    if classes_per_experience < 1 or len(set(class_order)) != len(class_order):
        raise InputError(
            f"Expected different classes, at least 1 an experience, but found {list(class_order)} and "
            f"{classes_per_experience}; name each class once."
        )
    train, test = _by_label(samples_by_split[TRAIN]), _by_label(samples_by_split.get(TEST, ()))
    groups = [
        tuple(class_order[start : start + classes_per_experience])
        for start in range(0, len(class_order), classes_per_experience)
    ]
    return tuple(
        Experience(f"classes_{number}", _gather(train, group, required=True), _gather(test, group), group)
        for number, group in enumerate(groups)
    )


def domain_incremental(
    samples_by_domain: Mapping[str, Mapping[str, Sequence[Sample]]], *, domain_order: Sequence[str]
) -> tuple[Experience, ...]:
    """Each experience brings the same classes in a new domain.

    Args:
        samples_by_domain: domain name to its ``train`` and ``test`` samples.
        domain_order: domain names in the order they are met.

    Raises:
        InputError: a domain has no training samples.
    """
    experiences = []
    for domain in domain_order:
        splits = samples_by_domain.get(domain, {})
        train = tuple(splits.get(TRAIN, ()))
        if not train:
            raise InputError(f"Expected training samples of the domain {domain!r}, but there are none.")
        experiences.append(Experience(f"domain_{domain}", train, tuple(splits.get(TEST, ())), tuple(_by_label(train))))
    return tuple(experiences)


def shuffled(names: Sequence[str], *, generator: np.random.Generator) -> tuple[str, ...]:
    """``names`` in an order drawn from ``generator``: a class or domain order by seed."""
    return tuple(names[index] for index in generator.permutation(len(names)))


def _by_label(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.label is None:
            raise InputError(f"Expected a class for every sample, but {sample.source or 'one'} has none; label it.")
        groups.setdefault(sample.label, []).append(sample)
    return dict(sorted(groups.items()))


def _gather(
    by_label: Mapping[str, Sequence[Sample]], classes: Sequence[str], *, required: bool = False
) -> tuple[Sample, ...]:
    missing = [label for label in classes if required and not by_label.get(label)]
    if missing:
        raise InputError(f"Expected training samples of the classes {missing}, but there are none; leave them out.")
    return tuple(sample for label in classes for sample in by_label.get(label, ()))
