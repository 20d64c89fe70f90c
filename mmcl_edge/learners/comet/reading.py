"""Frozen features of one modality at a time: a picture with five captions runs through its backbone once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmcl_edge.adapters.inputs import Item
from mmcl_edge.data.crossmodal import PairSet, carrier_of
from mmcl_edge.data.streams import Experience
from mmcl_edge.errors import InputError
from mmcl_edge.learners.analytic.moments import MomentEncoder
from mmcl_edge.learners.batching import run_in_batches
from mmcl_edge.learners.features import FeatureCache, PreparedSamples
from mmcl_edge.learners.protocol import Preprocess
from mmcl_edge.types import AUDIO, FRAMES, MOTION, TEXT, Backbone, Sample

_PARTS = {AUDIO: "audio", FRAMES: "frames", MOTION: "motion", TEXT: "text"}
"""Carrier to the field of a sample."""


@dataclass(frozen=True, eq=False, slots=True)
class PairExperience(Experience):
    """A stage: a pair set to learn. Use ``PairExperience.of``.

    Attributes:
        pairs: what is learned; ``train`` has the same samples.
    """

    pairs: PairSet | None = None

    @classmethod
    def of(
        cls, pairs: PairSet, *, name: str = "", test: Sequence[Sample] = (), classes: tuple[str, ...] = ()
    ) -> PairExperience:
        """A stage that learns ``pairs``; ``classes`` are names that ``predict`` answers with from then on."""
        return cls(name or f"{pairs.mediator}-{pairs.modality}", pairs.samples, tuple(test), classes, pairs)


class FeatureReader:
    """Frozen features of samples, by modality.

    Args:
        backbones: carrier to backbone.
        preprocess: sample to tensors.
        cache: keeps features of samples.
        batch_size: most samples a batch.
    """

    def __init__(
        self, backbones: Mapping[str, Backbone], preprocess: Preprocess, cache: FeatureCache, *, batch_size: int
    ) -> None:
        self.backbones, self.preprocess, self.cache, self.batch_size = dict(backbones), preprocess, cache, batch_size
        self.encoders = {name: MomentEncoder({name: one}) for name, one in self.backbones.items()}

    def check(self, modality: str) -> str:
        """The carrier of a modality.

        Raises:
            InputError: there is no such modality, or no backbone for it.
        """
        carrier = carrier_of(modality)
        if carrier not in self.backbones:
            raise InputError(
                f"Expected a bundle with a backbone for {carrier}, which {modality} rides on, but this one has "
                f"{', '.join(self.backbones)}; export one with it."
            )
        return carrier

    def has(self, sample: Sample, modality: str) -> bool:
        """Whether a sample holds what carries ``modality``."""
        return getattr(sample, _PARTS[carrier_of(modality)]) is not None

    def __call__(self, samples: Sequence[Sample], modality: str) -> Tensor:
        """Moments ``(n, d)`` of every block of the modality's backbone.

        Raises:
            InputError: the modality is unknown, the bundle has no backbone for it, or a sample lacks it.
        """
        carrier = self.check(modality)
        for number, sample in enumerate(samples):
            if not self.has(sample, modality):
                raise InputError(
                    f"Expected samples with {modality}, but {sample.source or f'number {number}'} has none; "
                    "leave it out."
                )
        encoder = self.encoders[carrier]
        if not samples:
            return torch.zeros(0, encoder.pooled_dims[carrier])
        prepared = PreparedSamples(
            [alone(sample, carrier) for sample in samples],
            preprocess=lambda sample: _only(self.preprocess(sample), carrier),
            encoder=encoder,
            cache=self.cache,
        )
        return run_in_batches(
            prepared, lambda batch: batch.values[carrier], encoder=encoder, batch_size=self.batch_size
        )

    def prepare(self, samples: Sequence[Sample]) -> PreparedSamples:
        """Samples with the moments of everything that they hold."""
        encoder = MomentEncoder(self.backbones)
        return PreparedSamples(samples, preprocess=self.preprocess, encoder=encoder, cache=self.cache)

    def width(self, modality: str, *, output: bool) -> int:
        """Of the moments of every block, or of ``output`` alone. Raises: see ``check``."""
        carrier = self.check(modality)
        return self.backbones[carrier].output_features.dim if output else self.encoders[carrier].pooled_dims[carrier]

    def output(self, h: Tensor, modality: str) -> Tensor:
        """Of moments ``(n, d)``, those of the output's mean alone: what a text backbone was trained to say."""
        width = self.backbones[carrier_of(modality)].output_features.dim
        return h[:, -2 * width : h.shape[1] - width]


def alone(sample: Sample, carrier: str) -> Sample:
    """The sample with nothing but what one carrier reads."""
    return Sample(
        audio=sample.audio if carrier == AUDIO else None,
        frames=sample.frames if carrier == FRAMES else None,
        label=sample.label,
        source=sample.source,
        motion=sample.motion if carrier == MOTION else None,
        text=sample.text if carrier == TEXT else None,
    )


def _only(item: Item, carrier: str) -> Item:
    return {carrier: item[carrier]}
