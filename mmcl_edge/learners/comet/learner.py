"""The learner ``comet``: modalities join a shared discrete space, pair by pair, and are not forgotten (paper 2).

A reconstruction (METHODS 2.5) on frozen features. An experience is a stage: a pair set of the mediator and one other
modality (``PairExperience``). What it then does: ``embed`` any learned modality, give its
``code_distribution``, and ``predict`` classes that are only named, by nearness to the name's text (zero-shot).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mmcl_edge.adapters.codebook import CodeUsage
from mmcl_edge.config import CometConfig
from mmcl_edge.data.streams import Experience
from mmcl_edge.errors import InputError
from mmcl_edge.learners.comet.front import Front
from mmcl_edge.learners.comet.reading import FeatureReader, PairExperience
from mmcl_edge.learners.comet.space import Branch, Space
from mmcl_edge.learners.comet.stage import Pairs, StageFacts, learn_stage
from mmcl_edge.learners.features import PreparedSamples
from mmcl_edge.learners.host import Host
from mmcl_edge.learners.protocol import MEMORY, LearnerState, OnProgress, Progress
from mmcl_edge.learners.randomness import generator_for
from mmcl_edge.learners.trained import tensor_bytes
from mmcl_edge.replay.pseudo import CodeGaussians
from mmcl_edge.types import TEXT, Sample

LOGIT_SCALE = 20.0
"""Of cosines to class names: the inverse of a usual temperature."""


class CometLearner:
    """See the module docstring.

    Args:
        host: backbones, preprocessing, seed, cached features.
        config: of the method.
    """

    def __init__(self, host: Host, config: CometConfig | None = None) -> None:
        self.config = config or CometConfig()
        self.seed = host.seed
        size = host.config.train.batch_size
        self.read = FeatureReader(host.backbones, host.preprocess, host.features, batch_size=size)
        self.space = self._empty()
        self.gaussians: dict[str, CodeGaussians] = {}
        self.mediators: list[str] = []
        self.experiences = 0
        self.last: StageFacts | None = None
        self._labels: list[str] = []

    def _empty(self) -> Space:
        return Space(self.config, generator_for(self.seed, "space")).requires_grad_(False)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits' columns."""
        return tuple(self._labels)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Learned modalities, mediators included, in the order in which they joined."""
        return self.space.modalities

    def name_classes(self, names: Sequence[str]) -> None:
        """Let ``predict`` answer with ``names`` too: a text is all a class needs."""
        self._labels += [name for name in dict.fromkeys(names) if name not in self._labels]

    def observe(self, experience: Experience, on_progress: OnProgress | None = None) -> None:
        """Learn a stage. Where it is refused or interrupted, nothing has changed.

        Raises:
            InputError: it is no ``PairExperience``, its mediator is unknown to the space, the bundle lacks a backbone,
                or all its pairs show the same.
        """
        pairs = self.pairs(experience)
        joins = pairs.mediator not in self.modalities
        self._learn(pairs, on_progress)
        self.experiences += 1
        self.mediators += [pairs.mediator] if joins else []
        self.name_classes(experience.classes)
        if on_progress and not self.config.epochs:
            on_progress(Progress(1, 1, 1, 1, {}))

    def _learn(self, pairs: Pairs, on_progress: OnProgress | None) -> None:
        space, gaussians = copy.deepcopy(self.space), dict(self.gaussians)
        self.last = learn_stage(
            space,
            [pairs],
            self.config,
            seed=self.seed,
            stage=self.experiences + 1,
            gaussians=gaussians,
            on_progress=on_progress,
        )
        self.space, self.gaussians = space, gaussians

    def pairs(self, experience: Experience) -> Pairs:
        """The frozen features of a stage's pairs, one a caption. Raises: see ``observe``."""
        found = experience.pairs if isinstance(experience, PairExperience) else None
        if found is None:
            raise InputError(
                f"Expected pairs of a mediator and a modality to learn, but {experience.name!r} is made of classes; "
                "make it with PairExperience.of."
            )
        for name in (found.modality, found.mediator):
            self.read.check(name)
        if self.modalities and found.mediator not in self.modalities:
            raise InputError(
                f"Expected a mediator that the space knows ({', '.join(self.modalities)}), but these pairs are told "
                f"by {found.mediator}; teach pairs of {found.mediator} and {self.modalities[0]} first."
            )
        if len(set(found.groups)) < 2:
            raise InputError(
                f"Expected pairs of {found.modality} that show different things, but all {len(found)} have the same "
                f"{found.mediator}; add others."
            )
        own = self.features(found.samples, found.modality)
        anchor = found.mediator in self.mediators or not self.modalities
        rows = [row for row, captions in enumerate(found.captions) for _ in captions or ("",)]
        told = [caption_sample(one) for said in found.captions for one in said] or found.samples
        text = self._features(told, found.mediator, anchor=anchor)
        numbers = found.groups  # worked out once: it looks at every caption
        groups = torch.tensor([numbers[row] for row in rows])
        return Pairs(found.modality, found.mediator, own[rows], text, groups)

    def feature_dim(self, modality: str) -> int:
        """Width of the features that a modality's branch takes from this bundle.

        Raises:
            InputError: the bundle has no backbone for it.
        """
        anchor = modality in self.mediators and self.config.mediator_features == "output"
        return self.read.width(modality, output=anchor)

    def features(self, samples: Sequence[Sample], modality: str) -> Tensor:
        """Frozen features ``(n, d)`` as the modality's branch takes them."""
        return self._features(samples, modality, anchor=modality in self.mediators)

    def _features(self, samples: Sequence[Sample], modality: str, *, anchor: bool) -> Tensor:
        h = self.read(samples, modality)
        return self.read.output(h, modality) if anchor and self.config.mediator_features == "output" else h

    def vectors(self, samples: Sequence[Sample], modality: str) -> Tensor:
        """Continuous vectors y ``(n, T, D)`` of samples.

        Raises:
            InputError: the modality was not learned, or a sample lacks it.
        """
        if modality not in self.modalities:
            known = ", ".join(self.modalities) or "none yet"
            raise InputError(f"Expected a modality that was learned ({known}), but found {modality!r}; teach it first.")
        with torch.no_grad():
            branch = self.space.branch(modality)
            y: Tensor = self.space(branch.read(self.features(samples, modality)), modality)
            return y

    def embed(self, samples: Sequence[Sample], modality: str) -> Tensor:
        """Vectors of length 1 ``(n, T D)``, comparable across modalities; see ``CometConfig.embedding``.

        Raises:
            InputError: the modality was not learned, or a sample lacks it.
        """
        y = self.vectors(samples, modality)
        if self.config.embedding == "codes":
            y = self.space.told(y).probabilities @ self.space.codebook.codes
        return functional.normalize(y.flatten(1), dim=1)

    def code_distribution(self, samples: Sequence[Sample], modality: str) -> Tensor:
        """How the codes tell samples: ``(n, T, L)``, each slot sums to 1. Raises: see ``embed``."""
        return self.space.told(self.vectors(samples, modality)).probabilities

    def usage(self, samples: Sequence[Sample], modalities: Sequence[str]) -> CodeUsage:
        """How ``samples`` use the codes, in each of ``modalities`` that they hold."""
        return self.space.codebook.usage(
            {
                name: self.vectors([one for one in samples if self.read.has(one, name)], name).flatten(0, 1)
                for name in modalities
            }
        )

    def predict(self, samples: Sequence[Sample], modality: str | None = None) -> Tensor:
        """Logits ``(n, C)``: scaled cosines to the texts of the class names.

        Args:
            samples: what to name.
            modality: how to take them; ``None`` means every learned modality that a sample holds, mediators aside,
                their mean (so a sound is heard as speech and as sound, where both were learned).

        Raises:
            InputError: text was not learned, or a sample holds nothing that was.
        """
        names = self.embed([caption_sample(name.replace("_", " ")) for name in self._labels], TEXT)
        asked = [modality] if modality else [name for name in self.modalities if name not in self.mediators]
        total, heard = torch.zeros(len(samples), names.shape[1]), torch.zeros(len(samples), 1)
        for name in asked:
            rows = [row for row, sample in enumerate(samples) if modality or self.read.has(sample, name)]
            total[rows] += self.embed([samples[row] for row in rows], name)
            heard[rows] += 1
        if len(samples) and float(heard.min()) == 0:
            sample = samples[int(heard.argmin())]
            raise InputError(
                f"Expected a sample with one of {', '.join(asked)}, but {sample.source or 'it'} has none; "
                "teach its modality first."
            )
        return LOGIT_SCALE * (total / heard) @ names.T

    def prepare(self, samples: Sequence[Sample]) -> PreparedSamples:
        """See ``Learner.prepare``: the moments of everything that the samples hold."""
        return self.read.prepare(samples)

    def state_dict(self) -> dict[str, Tensor]:
        """The space; under ``memory.`` what pseudo-replay needs beside it."""
        own = {name: value.detach().clone() for name, value in self.space.state_dict().items()}
        return own | {MEMORY + name: value.clone() for name, value in self.memory().items()}

    def memory(self) -> dict[str, Tensor]:
        """What persists beside the space: Gaussians by modality, with light replay."""
        return {f"{m}.{part}": value for m, one in self.gaussians.items() for part, value in one.tensors().items()}

    def state(self) -> LearnerState:
        """See ``Learner.state``."""
        facts: dict[str, Any] = {
            "modalities": list(self.modalities),
            "mediators": list(self.mediators),
            "experts_frozen": self.space.cmoe.frozen,
            "codes_settled": self.space.codebook.settled,
        }
        return LearnerState(self.state_dict(), self.labels, self.experiences, facts=facts)

    def load_state(self, state: LearnerState) -> None:
        """See ``Learner.load_state``."""
        tensors, facts = state.tensors, state.facts
        space, config = self._empty(), self.config
        for name in facts["modalities"]:
            front = Front(tensors[f"branches.{name}.mean"], tensors[f"branches.{name}.basis"])
            space.branches[name] = Branch(
                front,
                slots=config.slots,
                dim=config.dim,
                specific=config.specific_dim,
                hidden=config.hidden,
                generator=generator_for(self.seed, "branch", name),
            )
        parts = {
            part: torch.cat([tensors[f"cmoe.frozen_{part}"], tensors[f"cmoe.{part}"]]) for part in space.cmoe.shapes
        }
        space.cmoe.put(parts, frozen=facts["experts_frozen"])
        book = {part: tensors[f"codebook.{part}"] for part in ("codes", "counts", "sums")}
        space.codebook.put(**book, settled=facts["codes_settled"])
        space.load_state_dict({name: value for name, value in tensors.items() if not name.startswith(MEMORY)})
        self.space = space.requires_grad_(False)
        self.load_memory({n.removeprefix(MEMORY): v.clone() for n, v in tensors.items() if n.startswith(MEMORY)})
        self.mediators, self.experiences = list(facts["mediators"]), state.experiences
        self._labels = list(state.labels)

    def load_memory(self, tensors: dict[str, Tensor]) -> None:
        """Take back what ``memory`` gave."""
        names = dict.fromkeys(name.split(".")[0] for name in tensors)
        parts = ("counts", "means", "variances")
        self.gaussians = {m: CodeGaussians(*(tensors[f"{m}.{part}"] for part in parts)) for m in names}

    @property
    def memory_bytes(self) -> int:
        """Bytes that later stages need and answers do not: Gaussians (light), or decoders (generative)."""
        if self.config.pseudo_replay != "generative":
            return tensor_bytes(self.memory().values())
        branches = [self.space.branch(name) for name in self.modalities]
        return sum(
            tensor_bytes([*one.decoder.parameters(), one.specific_mean, one.specific_deviation]) for one in branches
        )

    @property
    def trainable_parameters(self) -> int:
        """Numbers of the space: all of them are learned, in closed form or by gradient."""
        return sum(value.numel() for value in self.space.state_dict().values())


def caption_sample(caption: str) -> Sample:
    """A sample that is nothing but a text."""
    return Sample(None, None, text=caption, source=caption)
