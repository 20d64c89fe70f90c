"""Backbones from timm: by name, from the Hugging Face hub, from a folder, or a name with a checkpoint.

    NAME             a timm model with its published weights, or random ones with ``untrained``
    hf_hub:ID        a model on the hub that has a timm configuration
    local-dir:PATH   a folder with config.json and weights
    NAME@CHECKPOINT  a timm model with the weights of a .safetensors, .pth, .pt or .bin file

Weights are never random unless ``untrained`` says so, and only tensors are read from checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mmcl_edge.bundle import AudioInput, FramesInput, WeightsOrigin
from mmcl_edge.errors import ExportError
from mmcl_edge.export.cnn import Parts, split_cnn
from mmcl_edge.export.frontend import KaldiFbank
from mmcl_edge.export.images import NormalisePixels, SpectrogramImage, samples_for
from mmcl_edge.export.onnx_graph import quiet
from mmcl_edge.export.source import SourceBackbone
from mmcl_edge.export.vit import split_vit
from mmcl_edge.fileio import sha256_file
from mmcl_edge.types import AUDIO, FRAMES, SAMPLE_RATE_HZ

IMAGE_FRAMES, IMAGE_MELS = 512, 128
"""Spectrogram (5.135 s) that stands before models made for pictures; it is resized to the model's input."""
_WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class ModelName:
    """A name taken apart.

    Attributes:
        model: what timm is asked for: a name, ``hf-hub:ID`` or ``local-dir:PATH``.
        checkpoint: a weights file, or ``None``.
        label: what the manifest says; never a path.
    """

    model: str
    checkpoint: Path | None
    label: str

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Take ``text`` apart and see whether what it names on disk is there.

        Raises:
            ExportError: a folder or file is missing, or timm knows no such model.
        """
        source, _, rest = text.partition(":")
        if source.lower() in ("hf_hub", "hf-hub") and rest:
            return cls(f"hf-hub:{rest}", None, f"hf_hub:{rest}")
        if source.lower() in ("local-dir", "local_dir") and rest:
            return cls._folder(Path(rest))
        name, _, checkpoint = text.partition("@")
        _expect_known(name, text)
        return (
            cls(name, _checkpoint(Path(checkpoint)), f"{name}@{Path(checkpoint).name}")
            if checkpoint
            else cls(name, None, name)
        )

    @classmethod
    def _folder(cls, folder: Path) -> ModelName:
        if not (folder / "config.json").is_file():
            raise ExportError(
                f"Expected a folder with config.json and weights at {folder}, but there is none; "
                "save one with timm.models.save_for_hf or give another path."
            )
        return cls(f"local-dir:{folder}", None, f"local-dir:{folder.resolve().name}")

    @property
    def is_bare(self) -> bool:
        """Whether the name stands alone, without a place to take weights from."""
        return self.checkpoint is None and ":" not in self.model


def load_timm(modality: str, text: str, *, untrained: bool = False, image_size: int | None = None) -> SourceBackbone:
    """The backbone that ``text`` names, for ``modality``.

    Args:
        modality: ``audio`` or ``frames``.
        text: see the module's docstring.
        untrained: random weights (always the same) where the name stands alone.
        image_size: height and width other than the model's own.

    Raises:
        ExportError: there is no such model, its weights cannot be had, or its family is unknown.
    """
    name = ModelName.parse(text)
    random_weights = untrained and name.is_bare
    model = _create(name, in_chans=1 if modality == AUDIO else 3, pretrained=not random_weights, image_size=image_size)
    config = cast(Mapping[str, Any], model.pretrained_cfg)
    size = (image_size, image_size) if image_size else tuple(config["input_size"][1:])
    origin = _origin(name, config, trained=not random_weights)
    parts = _split(model, name.label)
    if modality == AUDIO:
        return _sound_backbone(name.label, parts, size, origin)
    return _picture_backbone(name.label, parts, size, config, origin)


def _sound_backbone(name: str, parts: Parts, size: tuple[int, ...], origin: WeightsOrigin) -> SourceBackbone:
    height, width = size
    frames, mels = (height, width) if height != width else (IMAGE_FRAMES, IMAGE_MELS)
    fbank = KaldiFbank(mels)
    stem = nn.Sequential(SpectrogramImage(fbank, (height, width)), parts.stem)
    samples = samples_for(frames)
    spec = AudioInput(max_duration_s=samples / SAMPLE_RATE_HZ, fixed_samples=samples)
    return SourceBackbone(AUDIO, name, spec, stem, parts.layers, parts.output, parts.pool, origin, fbank)


def _picture_backbone(
    name: str, parts: Parts, size: tuple[int, ...], config: Mapping[str, Any], origin: WeightsOrigin
) -> SourceBackbone:
    mean, std = ([255.0 * value for value in config[key]] for key in ("mean", "std"))
    stem = nn.Sequential(NormalisePixels(mean, std), parts.stem)
    spec = FramesInput(
        height=size[0],
        width=size[1],
        interpolation="bilinear" if config.get("interpolation") == "bilinear" else "bicubic",
        crop_fraction=float(config.get("crop_pct") or 1.0),
        keep_aspect=config.get("crop_mode") != "squash",
    )
    return SourceBackbone(FRAMES, name, spec, stem, parts.layers, parts.output, parts.pool, origin)


def _split(model: nn.Module, name: str) -> Parts:
    if isinstance(model, VisionTransformer):
        return split_vit(model, name=name)
    return split_cnn(model, name=name)


def _create(name: ModelName, *, in_chans: int, pretrained: bool, image_size: int | None) -> nn.Module:
    """The model with its classifier: timm loads weights strictly only if the classifier stays as it is."""
    options: dict[str, Any] = {"in_chans": in_chans}
    if image_size and "vit" in name.model:
        options["img_size"] = image_size
    try:
        if name.checkpoint is not None:
            options |= _from_file(name.model, name.checkpoint)
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(0)
            model: nn.Module = timm.create_model(name.model, pretrained=pretrained, **options)
    except Exception as error:  # timm, the hub client and the weight readers each raise their own types
        raise ExportError(_no_weights(name, error)) from error
    return model


def _from_file(model: str, path: Path) -> dict[str, Any]:
    """Options that make timm take all weights of ``model`` from ``path``, whatever classes it was trained for."""
    classifier = getattr(timm.get_pretrained_cfg(model), "classifier", None)
    first = classifier if isinstance(classifier, str) else (classifier or ("",))[0]
    weight = timm.models.load_state_dict(str(path), weights_only=True).get(f"{first}.weight")
    classes = 0 if weight is None else weight.shape[0]
    overlay = {"file": str(path), "custom_load": False, "num_classes": classes, "license": None}
    return {"pretrained_cfg_overlay": overlay, "num_classes": classes}


def _no_weights(name: ModelName, error: Exception) -> str:
    reason = re.sub(r"\s+", " ", str(error)).strip()[:200] or type(error).__name__
    if name.checkpoint is not None or name.model.startswith("local-dir:"):
        return f"Expected weights that fit {name.label}, but they could not be loaded ({reason}); check the file."
    return (
        f"The weights of {name.label} are not on this machine and could not be downloaded ({reason}). "
        "Connect to the internet once, name a weights file (NAME@weights.safetensors) or a folder (local-dir:PATH), "
        "or export random weights of a timm name with --untrained."
    )


def _origin(name: ModelName, config: Mapping[str, Any], *, trained: bool) -> WeightsOrigin:
    if not trained:
        return WeightsOrigin(source=f"random weights of {name.label}", licence="none", trained=False)
    digest = sha256_file(name.checkpoint) if name.checkpoint else _folder_digest(name)
    source = (
        f"{name.label}.{config['tag']}" if name.is_bare and config.get("tag") and "." not in name.label else name.label
    )
    return WeightsOrigin(source=source, licence=str(config.get("license") or "unknown"), sha256=digest, trained=True)


def _folder_digest(name: ModelName) -> str | None:
    if not name.model.startswith("local-dir:"):
        return None
    folder = Path(name.model.removeprefix("local-dir:"))
    files = [file for file in sorted(folder.iterdir()) if file.suffix in _WEIGHT_SUFFIXES]
    return sha256_file(files[0]) if len(files) == 1 else None


def _checkpoint(path: Path) -> Path:
    if path.suffix not in _WEIGHT_SUFFIXES or not path.is_file():
        raise ExportError(
            f"Expected a weights file ({', '.join(_WEIGHT_SUFFIXES)}) at {path}, but there is none; check the path."
        )
    return path


def _expect_known(name: str, text: str) -> None:
    if re.fullmatch(r"[A-Za-z0-9_.\-]+", name) is None or not timm.is_model(name):
        raise ExportError(
            f"Expected 'default', 'none', a timm model name, hf_hub:ID, local-dir:PATH or NAME@CHECKPOINT, but found "
            f"{text!r}; timm.list_models() prints the names."
        )
