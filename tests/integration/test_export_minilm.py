"""The pinned weights of all-MiniLM-L6-v2: embeddings equal those of the library that they were made with."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmcl_edge.bundle import Bundle
from mmcl_edge.data.wordpiece import WordPiece
from mmcl_edge.export import minilm
from mmcl_edge.export.minilm import load_text
from mmcl_edge.runtime.preprocess import Preprocessor
from mmcl_edge.runtime.segments import OnnxBackbone, open_backbones
from mmcl_edge.runtime.sessions import SessionFactory
from mmcl_edge.runtime.threads import ThreadPlan
from mmcl_edge.types import Sample
from tests.integration.commands import answer

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(minilm.WEIGHTS.package) is None, reason=f"needs {minilm.WEIGHTS.requirement}"
)
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "minilm_v1.json").read_text())
SENTENCES = [one["text"] for one in GOLDEN]


def expected() -> Tensor:
    return torch.tensor([one["embedding"] for one in GOLDEN])


def test_the_torch_encoder_embeds_as_the_original():
    source = load_text("minilm")
    tokenizer = WordPiece.of_bytes(source.files["text/vocab.txt"])
    found = []
    with torch.inference_mode():
        for text in SENTENCES:
            x = source.stem(torch.from_numpy(tokenizer.encode(text, max_tokens=128))[None])
            for _, layer in source.layers:
                x = layer(x)
            found.append(torch.nn.functional.normalize(source.output(x).mean(dim=1))[0])
    assert source.origin.trained
    assert source.origin.licence == "Apache-2.0"
    assert (torch.stack(found) - expected()).abs().max() < 2e-6
    likeness = torch.stack(found) @ torch.stack(found).T
    assert likeness[0, 1] > 0.3 > likeness[0, 2]


@pytest.mark.slow
def test_an_exported_bundle_embeds_as_the_original(tmp_path: Path):
    options = ("--audio", "none", "--frames", "none", "--text", "minilm", "--blocks", "3")
    made = answer("export", *options, "--out", tmp_path / "bundle")
    (row,) = made["backbones"]
    assert (row["modality"], row["name"], row["trained"]) == ("text", "all-MiniLM-L6-v2", True)
    assert row["forward_error"] <= 1e-4
    assert row["vjp_error"] <= 1e-4
    bundle = Bundle.open(tmp_path / "bundle")
    backbone = open_backbones(bundle, SessionFactory(ThreadPlan(onnx=1), provider="cpu"))["text"]
    prepare = Preprocessor.of(bundle)
    with torch.inference_mode():
        found = torch.cat([embedded(backbone, prepare, text) for text in SENTENCES])
    assert (found - expected()).abs().max() < 5e-6


def embedded(backbone: OnnxBackbone, prepare: Preprocessor, text: str) -> Tensor:
    x = backbone.stem(prepare(Sample(None, None, text=text))["text"].values)
    for index in range(backbone.depth):
        x = backbone.segment(index, x)
    return torch.nn.functional.normalize(backbone.output(x).mean(dim=1))
