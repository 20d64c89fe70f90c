"""Pairs across modalities: what a user calls them, which backbone carries each, and the set that one stage learns from.

A *modality* is what a user names (speech), a *carrier* the kind of backbone that reads it (audio). A *pair* holds the
*mediator* (text, by default) and one other modality; a *pair set* is many pairs of one modality: one stage of learning.

Rules of ``pair_set``, performed in this order:
1. The modality and the mediator are known, and are not the same.
2. There is at least one sample, and as many entries of captions as samples, where captions are given.
3. Every sample holds its modality, and the mediator.
4. No caption is empty, and each has something to read: letters, digits or signs, not only blanks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from mmcl_edge.data.items import Kind
from mmcl_edge.errors import InputError, TaskDataError
from mmcl_edge.types import AUDIO, FRAMES, MOTION, TEXT, Sample

CARRIER: Mapping[str, str] = MappingProxyType(
    {"text": TEXT, "image": FRAMES, "video": FRAMES, "sound": AUDIO, "speech": AUDIO, "motion": MOTION}
)
"""Modality to the part of a ``Sample``, and the backbone of a bundle, that carries it.

Speech and sound share the audio backbone, pictures and videos that of frames; each has projections of its own.
"""

MODALITIES = tuple(CARRIER)
MEDIATOR = "text"
"""The modality that every pair set holds, unless another is named."""

KINDS: Mapping[str, tuple[Kind, ...]] = MappingProxyType(
    {
        "text": ("text",),
        "image": ("picture",),
        "video": ("video",),
        "sound": ("audio",),
        "speech": ("audio",),
        "motion": ("motion",),
    }
)
"""Modality to the kinds of files that hold it."""


@dataclass(frozen=True, eq=False, slots=True)
class PairSet:
    """Checked pairs of one modality with the mediator. Use ``pair_set``.

    Attributes:
        modality: what is paired with the mediator.
        mediator: what each pair holds beside it.
        samples: one a pair; where the mediator is text, ``text`` is the first caption.
        captions: all captions of each pair, one or more; none where the mediator is not text.
    """

    modality: str
    mediator: str
    samples: tuple[Sample, ...]
    captions: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def groups(self) -> tuple[int, ...]:
        """Which pairs count as each other's right answer in retrieval: the same number (``relevance_groups``)."""
        return relevance_groups(self.captions)

    def spread(self) -> tuple[Sample, ...]:
        """One sample a caption instead of one a pair: a picture with five captions comes five times."""
        return tuple(
            replace(sample, text=caption)
            for sample, captions in zip(self.samples, self.captions, strict=True)
            for caption in captions
        )


def carrier_of(modality: str) -> str:
    """The carrier of a modality.

    Raises:
        InputError: there is no modality of that name.
    """
    if modality not in CARRIER:
        raise InputError(f"Expected one of the modalities {', '.join(MODALITIES)}, but found {modality!r}; choose one.")
    return CARRIER[modality]


def check_modalities(modality: str, mediator: str = MEDIATOR) -> None:
    """Rule 1.

    Raises:
        InputError: one is unknown, or they are the same.
    """
    for name in (modality, mediator):
        carrier_of(name)
    if modality == mediator:
        raise InputError(
            f"Expected two modalities to pair, but {modality!r} is the mediator itself; "
            f"name another: {', '.join(name for name in MODALITIES if name != mediator)}."
        )
    if CARRIER[modality] == CARRIER[mediator]:
        raise InputError(
            f"Expected a mediator that stands beside {modality!r} in one sample, but {mediator!r} is carried by the "
            f"same backbone ({CARRIER[modality]}); name another mediator."
        )


def pair_set(
    samples: Sequence[Sample],
    modality: str,
    mediator: str = MEDIATOR,
    *,
    captions: Sequence[Sequence[str]] | None = None,
    where: str = "the pair set",
) -> PairSet:
    """Check pairs (the rules stand in the module docstring) and put them together.

    Args:
        samples: decoded, one a pair; other parts than the two modalities are dropped.
        modality: one of ``MODALITIES``.
        mediator: another one.
        captions: all captions of each sample; ``None`` takes each sample's ``text``.
        where: what the samples are, for messages.

    Raises:
        InputError: a modality is unknown, or both are the same.
        TaskDataError: any other rule fails; the message names the sample's source.
    """
    check_modalities(modality, mediator)
    if not samples:
        raise TaskDataError(f"Expected pairs of {modality} and {mediator} in {where}, but there are none; add some.")
    if captions is not None and len(captions) != len(samples):
        raise TaskDataError(
            f"Expected captions for each of the {len(samples)} samples of {where}, but found {len(captions)} entries; "
            "give one entry a sample, in the same order."
        )
    told = [tuple(captions[i]) if captions is not None else _own(sample) for i, sample in enumerate(samples)]
    checked = tuple(_checked(sample, said, modality, mediator) for sample, said in zip(samples, told, strict=True))
    by_text = mediator == TEXT
    return PairSet(modality, mediator, checked, tuple(map(_clean, told)) if by_text else ((),) * len(checked))


def relevance_groups(captions: Sequence[Sequence[str]]) -> tuple[int, ...]:
    """A number for each item: items share it when they share a caption, case and outer blanks aside.

    What shares a caption with an item that shares one with a third is in the same group. Items without captions are
    alone. Groups are numbered from 0, in order of appearance.
    """
    parent = list(range(len(captions)))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    first: dict[str, int] = {}
    for item, said in enumerate(captions):
        for caption in said:
            parent[root(item)] = root(first.setdefault(caption_key(caption), item))
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(root(item), len(numbers)) for item in range(len(captions)))


def groups_across(*sets: Sequence[Sequence[str]]) -> tuple[tuple[int, ...], ...]:
    """``relevance_groups`` of several sets of captions at once, so that a number means the same in each.

    Two modalities that never met in a pair are compared so: a picture and a voice that share a caption are each other's
    right answers.
    """
    together = iter(relevance_groups([captions for one in sets for captions in one]))
    return tuple(tuple(next(together) for _ in one) for one in sets)


def caption_key(caption: str) -> str:
    """What two captions must share to be the same one: lower case, single blanks between words."""
    return " ".join(caption.lower().split())


def says_something(caption: str) -> bool:
    """Whether there is something to read: one character, at least, that can be seen."""
    return any(character.isprintable() and not character.isspace() for character in caption)


def _own(sample: Sample) -> tuple[str, ...]:
    return () if sample.text is None else (sample.text,)


def _clean(captions: Sequence[str]) -> tuple[str, ...]:
    return tuple(caption.strip() for caption in captions)


def _checked(sample: Sample, captions: tuple[str, ...], modality: str, mediator: str) -> Sample:
    name = sample.source or "a sample"
    held = {AUDIO: sample.audio, FRAMES: sample.frames, MOTION: sample.motion, TEXT: captions or None}
    for part in (modality, mediator):
        if held[CARRIER[part]] is None:
            missing = "caption" if CARRIER[part] == TEXT else part
            raise TaskDataError(
                f"{name}: expected {modality} with {mediator}, but it has no {missing}; add one, or leave the file out."
            )
    for caption in captions if TEXT in (CARRIER[modality], CARRIER[mediator]) else ():
        if not says_something(caption):
            raise TaskDataError(
                f"{name}: expected a caption with something to read, but it is empty ({caption[:20]!r}); "
                "write what the file shows or says, or leave the file out."
            )
    keep = {CARRIER[modality], CARRIER[mediator]}
    return Sample(
        audio=sample.audio if AUDIO in keep else None,
        frames=sample.frames if FRAMES in keep else None,
        label=sample.label,
        source=sample.source,
        motion=sample.motion if MOTION in keep else None,
        text=captions[0].strip() if TEXT in keep else None,
    )
