"""A small world that several modalities tell of: colours, pitches and words, each with a backbone of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mmcl_edge.adapters.inputs import Item, ItemInput
from mmcl_edge.config import CometConfig, MethodConfig
from mmcl_edge.data.crossmodal import pair_set
from mmcl_edge.learners.comet.reading import PairExperience
from mmcl_edge.learners.features import FeatureCache
from mmcl_edge.learners.host import Host
from mmcl_edge.types import Sample
from tests.fakes import TokenBackbone, backbones
from tests.fakes import preprocess as preprocess_media

NOUNS, ADJECTIVES = ("ant", "bee", "cow", "dog", "eel", "fox"), ("red", "green", "blue", "grey", "white")
WORDS = (*NOUNS, *ADJECTIVES)
THINGS = tuple(f"{adjective} {noun}" for adjective in ADJECTIVES for noun in NOUNS)
"""Captions. What is seen and what is heard follows from both words."""


class WordBackbone(TokenBackbone):
    """Text: a vector a word takes the place of a token of sound; the rest is the same."""

    def __init__(self, dim: int = 10) -> None:
        super().__init__(dim, seed=3)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self._words = nn.Embedding(len(WORDS), dim).requires_grad_(False)
        self.modality = "text"

    def stem(self, x: Tensor) -> Tensor:
        return self._words(x)


def preprocess(sample: Sample) -> Item:
    item = preprocess_media(sample)
    if sample.text is not None:
        ids = torch.tensor([[WORDS.index(word) for word in sample.text.split()]])
        item["text"] = ItemInput(ids, tokens=ids.shape[1], total_tokens=ids.shape[1])
    return item


BACKBONES = {**backbones(), "text": WordBackbone()}
FEATURES = FeatureCache()


def picture(thing: str, rng: np.random.Generator) -> np.ndarray:
    """A colour for the adjective, a share of bright rows for the noun."""
    adjective, noun = thing.split()
    number, rows = ADJECTIVES.index(adjective), 2 * NOUNS.index(noun) + 2
    pixels = np.zeros((1, 16, 16, 3)) + np.array([40 * number, 200 - 45 * number, 90 + 60 * (number % 3)])
    pixels[:, :rows] = 255 - pixels[:, :rows]
    return (pixels + rng.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8)


def wave(thing: str, rng: np.random.Generator, *, spoken: bool) -> np.ndarray:
    """Two pitches, one for each word; speech has them one after the other, a sound both at once."""
    adjective, noun = thing.split()
    pitches = 0.1 * (1.4 ** ADJECTIVES.index(adjective)), 0.5 * (1.3 ** NOUNS.index(noun))
    first, second = (np.sin(np.arange(400) * pitch) for pitch in pitches)
    made = np.concatenate([first, second]) if spoken else np.tile((0.5 * first + 0.5 * second), 2)
    return (0.5 * made + rng.normal(0, 0.01, len(made))).astype(np.float32)


def samples(modality: str, things: Sequence[str] = THINGS, *, seed: int = 0, each: int = 1) -> list[Sample]:
    rng = np.random.default_rng([seed, len(modality)])
    made = []
    for thing in [one for one in things for _ in range(each)]:
        audio = None if modality == "image" else wave(thing, rng, spoken=modality == "speech")
        frames = picture(thing, rng) if modality == "image" else None
        made.append(Sample(audio, frames, thing, f"{modality} of a {thing}", text=thing))
    return made


def stage(
    modality: str, things: Sequence[str] = THINGS, *, each: int = 2, classes: tuple[str, ...] = ()
) -> PairExperience:
    return PairExperience.of(pair_set(samples(modality, things, seed=1, each=each), modality), classes=classes)


SMALL = CometConfig(
    slots=2, dim=8, codes=12, expand_codes=4, rank=4, specific_dim=4, hidden=16, epochs=3, batch_size=16
)


def host(seed: int = 0) -> Host:
    return Host(BACKBONES, MethodConfig(), preprocess, seed, FEATURES)
