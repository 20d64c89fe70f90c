"""From what a user names to a loaded backbone."""

from __future__ import annotations

from mmcl_edge.errors import ExportError
from mmcl_edge.export.source import SourceBackbone


def load_sources(
    *, audio: str = "default", frames: str = "default", untrained: bool = False
) -> tuple[SourceBackbone, ...]:
    """The backbones named, sound first; ``none`` leaves a modality out.

    Raises:
        ExportError: nothing is left, or a name cannot be served.
    """
    from mmcl_edge.export.defaults import default_audio, default_frames

    found = []
    if audio != "none":
        found.append(default_audio())
    if frames != "none":
        found.append(default_frames())
    if not found:
        raise ExportError("Expected at least one backbone, but both --audio and --frames are 'none'; name one.")
    return tuple(found)
