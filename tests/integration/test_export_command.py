"""``mmcl-edge export`` as a person runs it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mmcl_edge.bundle import Bundle
from mmcl_edge.commands.export import command
from mmcl_edge.export import exporter
from mmcl_edge.types import FRAMES
from tests.bundles import tiny_vit
from tests.integration.commands import answer, refused, run


@pytest.fixture
def _one_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is named, load the first layer of a random ViT."""
    source = tiny_vit(FRAMES)
    one = dataclasses.replace(source, layers=source.layers[:1])
    monkeypatch.setattr(exporter, "load_sources", lambda **names: (one,))


@pytest.mark.usefixtures("_one_layer")
def test_export_answers_with_one_json_object_and_default_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMCL_EDGE_HOME", str(tmp_path / "home"))
    result = answer("export", "--audio", "none", "--frames", "test_vit", "--untrained")
    bundle = Bundle.open(tmp_path / "home" / "bundle")
    assert (result["path"], result["digest"]) == (str(bundle.path), bundle.digest)
    assert (result["blocks"], result["vjp"], result["trained"]) == (1, "recompute", False)
    (row,) = result["backbones"]
    assert (row["modality"], row["name"], row["trained"]) == ("frames", "test_vit", False)
    assert 0 < row["forward_error"] < 1e-4
    assert 0 < row["vjp_error"] < 1e-4
    assert result["size_bytes"] == sum(
        f.stat().st_size for f in bundle.path.rglob("*") if f.suffix in (".onnx", ".bin")
    )

    refused(run("export"), "exists already", "--force")
    again = run("export", "--force")
    assert again.exit_code == 0, again.output
    assert bundle.digest[:16] in again.stdout
    assert "random (--untrained)" in again.stdout.replace("\n", " ")
    assert "[1/4] frames: block 1 of 1 (blocks.0)" in again.stderr


REFUSED = {
    "unknown model": (("--frames", "no_such_model"), ("no_such_model", "timm.list_models()")),
    "nothing to export": (("--audio", "none", "--frames", "none"), ("at least one backbone",)),
    "missing checkpoint": (("--frames", "test_vit@gone.safetensors"), ("Expected a weights file", "gone.safetensors")),
    "unknown family": (("--audio", "none", "--frames", "convnext_atto", "--untrained"), ("ConvNeXt",)),
    "too many blocks": (
        ("--audio", "none", "--frames", "test_vit", "--untrained", "--blocks", "99"),
        ("between 1 and 6", "found 99"),
    ),
}


@pytest.mark.parametrize("options, words", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_exported_is_a_sentence_and_leaves_nothing(
    tmp_path: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    result = run("export", "--audio", "none", *options, "--out", tmp_path / "out" / "bundle")
    assert result.exit_code == 2
    assert all(word in result.stderr.replace("\n", " ") for word in words), result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("*.onnx"))


def test_help_shows_examples() -> None:
    text = run("export", "--help").stdout
    assert "mmcl-edge export --out ./bundle" in text
    assert all(option.opts[0] in text for option in command.params)
