"""From what a user names to loaded backbones."""

from __future__ import annotations

from collections.abc import Callable

from mmcl_edge.errors import ExportError
from mmcl_edge.export.defaults import default_audio, default_frames
from mmcl_edge.export.minilm import load_text
from mmcl_edge.export.rocket import load_rocket
from mmcl_edge.export.source import SourceBackbone
from mmcl_edge.export.timm_models import load_timm
from mmcl_edge.types import AUDIO, FRAMES, MOTION, TEXT

DEFAULT, NONE = "default", "none"
_DEFAULTS: dict[str, Callable[[], SourceBackbone]] = {AUDIO: default_audio, FRAMES: default_frames}


def load_sources(
    *, audio: str = DEFAULT, frames: str = DEFAULT, motion: str = NONE, text: str = NONE, untrained: bool = False
) -> tuple[SourceBackbone, ...]:
    """The backbones named: sound, pictures, motion, text; ``none`` leaves a modality out.

    Raises:
        ExportError: nothing is left, or a name cannot be served.
        MissingExtraError: the package of a default's weights is not installed.
    """
    named = {AUDIO: audio, FRAMES: frames, MOTION: motion, TEXT: text}
    chosen = tuple(_load(modality, name, untrained) for modality, name in named.items() if name != NONE)
    if not chosen:
        raise ExportError(
            "Expected at least one backbone, but --audio, --frames, --motion and --text are all 'none'; name one."
        )
    return chosen


def _load(modality: str, name: str, untrained: bool) -> SourceBackbone:
    if modality == MOTION:
        return load_rocket(name)
    if modality == TEXT:
        return load_text(name)
    if name == DEFAULT:
        return _DEFAULTS[modality]()
    return load_timm(modality, name, untrained=untrained)
