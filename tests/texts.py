"""A tiny text backbone with random weights, and the words that it knows."""

from __future__ import annotations

import string

import torch
from torch import Tensor

from mmcl_edge.bundle import WeightsOrigin
from mmcl_edge.export.minilm import bert
from mmcl_edge.export.source import SourceBackbone

WORDS = ("a", "the", "dog", "cat", "bird", "bark", "meow", "sing", "red", "blue", "loud", "night", "cafe")
PIECES = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    *WORDS,
    "##s",
    "##ing",
    "##k",
    *string.punctuation,
    *(one for one in string.ascii_lowercase if one != "a"),
    *(f"##{one}" for one in string.ascii_lowercase if one not in "sk"),
)
VOCABULARY = "".join(f"{piece}\n" for piece in PIECES).encode()


def tiny_bert(width: int = 16, depth: int = 2, hidden: int = 24, heads: int = 2) -> SourceBackbone:
    """A BERT encoder over ``PIECES``; the same weights on every call."""
    origin = WeightsOrigin(source="random weights", licence="none", trained=False)
    weights = bert_weights(width=width, depth=depth, hidden=hidden)
    return bert(weights, VOCABULARY, heads=heads, name="tiny-bert", origin=origin)


def bert_weights(width: int = 16, depth: int = 2, hidden: int = 24, places: int = 512) -> dict[str, Tensor]:
    """Random tensors by the names that BERT checkpoints have."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / (shape[-1] ** 0.5 if len(shape) > 1 else 10)

    found = {
        "embeddings.word_embeddings.weight": 3 * draw(len(PIECES), width),
        "embeddings.position_embeddings.weight": draw(places, width),
        "embeddings.token_type_embeddings.weight": draw(2, width),
        "embeddings.LayerNorm.weight": 1 + draw(width),
        "embeddings.LayerNorm.bias": draw(width),
    }
    for layer in range(depth):
        shapes = {
            **{f"attention.self.{name}": (width, width) for name in ("query", "key", "value")},
            "attention.output.dense": (width, width),
            "intermediate.dense": (hidden, width),
            "output.dense": (width, hidden),
        }
        for name, shape in shapes.items():
            found[f"encoder.layer.{layer}.{name}.weight"] = draw(*shape)
            found[f"encoder.layer.{layer}.{name}.bias"] = draw(shape[0])
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            found[f"encoder.layer.{layer}.{name}.weight"] = 1 + draw(width)
            found[f"encoder.layer.{layer}.{name}.bias"] = draw(width)
    return found
