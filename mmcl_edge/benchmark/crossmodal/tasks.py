"""Pair tasks: what is taught stage by stage, and what is asked after each, from datasets on disk.

A stage pairs one modality with text. ``stamps`` has captions of its own; in ``av21`` and ``digits`` the text is the
name of the class, so a picture and a sound share no more than that. No set here has videos with captions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from mmcl_edge.data.crossmodal import MODALITIES, caption_key, carrier_of, pair_set
from mmcl_edge.data.datasets import open_dataset
from mmcl_edge.data.readers.rows import Row
from mmcl_edge.data.spoken_digits import WORDS
from mmcl_edge.data.streams import TEST, TRAIN
from mmcl_edge.errors import InputError
from mmcl_edge.learners.comet.learner import caption_sample
from mmcl_edge.learners.comet.reading import PairExperience, alone
from mmcl_edge.types import TEXT, Sample

Order = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One dataset as pair sets.

    Attributes:
        about: what it is, in a sentence.
        domains: modality to the domains of the rows that hold it; none where every row does.
        orders: of stages; each modality comes first, and last, in one of them.
        classes: what the classes that one modality is told by another are.
        names: class to the text that says it; none where the classes have no names that say them.
    """

    about: str
    domains: Mapping[str, tuple[str, ...]]
    orders: tuple[Order, ...]
    classes: str
    names: Mapping[str, str] | None = None
    captioned: bool = False


TASKS: Mapping[str, TaskSpec] = MappingProxyType(
    {
        "stamps": TaskSpec(
            "Pictures, sound effects and speech, each with its caption. Speech is synthesised but for 55 recordings of "
            "people (15 of them test samples), all of which name animals: a person's voice alone tells that much.",
            {"image": ("image",), "sound": ("sound",), "speech": ("speech_recorded", "speech_synth")},
            (("image", "sound", "speech"), ("speech", "image", "sound"), ("sound", "speech", "image")),
            "the folder a stamp lies in",
            captioned=True,
        ),
        "av21": TaskSpec(
            "Sounds and photos of 21 classes; the text of each is the name of its class.",
            {"image": (), "sound": ()},
            (("image", "sound"), ("sound", "image")),
            "what sounds, or is seen",
        ),
        "digits": TaskSpec(
            "Written and spoken digits; the text of each is the digit's name.",
            {"image": (), "speech": ()},
            (("image", "speech"), ("speech", "image")),
            "the digit",
            dict(zip("0123456789", WORDS, strict=True)),
        ),
    }
)


@dataclass(frozen=True, slots=True)
class View:
    """Samples of one modality with what is said of each: captions, and class names."""

    modality: str
    samples: tuple[Sample, ...]
    captions: tuple[str, ...]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def first(self, count: int) -> View:
        """The first ``count`` of them."""
        return View(self.modality, self.samples[:count], self.captions[:count], self.labels[:count])


@dataclass(frozen=True, slots=True)
class PairTask:
    """A task, decoded.

    Attributes:
        name: one of ``TASKS``.
        train: modality to what is taught.
        test: modality to what is asked; under ``text`` every caption of the others, once.
        names: class to the text that says it; empty where classes are not named.
    """

    name: str
    train: Mapping[str, View]
    test: Mapping[str, View]
    names: Mapping[str, str]

    def stage(self, modality: str, most: int | None = None) -> PairExperience:
        """The pairs of a modality and text; the first ``most`` of them."""
        view = self.train[modality] if most is None else self.train[modality].first(most)
        pairs = pair_set(view.samples, modality, captions=[(one,) for one in view.captions], where=self.name)
        return PairExperience.of(pairs)


def task_spec(name: str) -> TaskSpec:
    """The task called ``name``.

    Raises:
        InputError: there is none.
    """
    if name not in TASKS:
        raise InputError(f"Expected one of the tasks {', '.join(TASKS)}, but {name!r} was asked for.")
    return TASKS[name]


def read_task(name: str, root: Path | None) -> PairTask:
    """Read and decode a task.

    Raises:
        InputError: there is none of that name, or its dataset is not there.
        MediaError: a file is corrupt.
    """
    spec, reader = task_spec(name), open_dataset(name, root)
    names = {} if spec.captioned else {label: (spec.names or {}).get(label, _spelt(label)) for label in reader.classes}
    loaded = {row.id: reader.load(row) for row in reader.rows}

    def view(modality: str, split: str) -> View:
        domains = spec.domains[modality]
        rows = [row for row in reader.rows if row.split == split and (not domains or row.domain in domains)]
        return _view(modality, rows, [loaded[row.id] for row in rows], names)

    train = {modality: view(modality, TRAIN) for modality in spec.domains}
    test = {modality: view(modality, TEST) for modality in spec.domains}
    return PairTask(name, train, {TEXT: captions_of(tuple(test.values())), **test}, names)


def captions_of(views: Sequence[View]) -> View:
    """Every caption of ``views`` once, as texts; each with the class of the first that it says."""
    found: dict[str, tuple[str, str]] = {}
    for view in views:
        for caption, label in zip(view.captions, view.labels, strict=True):
            found.setdefault(caption_key(caption), (caption, label))
    captions = tuple(caption for caption, _ in found.values())
    samples = tuple(caption_sample(caption) for caption in captions)
    return View(TEXT, samples, captions, tuple(label for _, label in found.values()))


def pair_name(one: str, other: str) -> str:
    """What two modalities are called together, in a fixed order."""
    return "-".join(sorted((one, other), key=MODALITIES.index))


def _spelt(label: str) -> str:
    return label.replace("_", " ")


def _view(modality: str, rows: Sequence[Row], samples: Sequence[Sample], names: Mapping[str, str]) -> View:
    captions = tuple(names[row.label] if names else row.text or "" for row in rows)
    carrier = carrier_of(modality)
    told = tuple(
        replace(alone(sample, carrier), text=caption) for sample, caption in zip(samples, captions, strict=True)
    )
    return View(modality, told, captions, tuple(row.label for row in rows))
