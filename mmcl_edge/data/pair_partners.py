"""Pairs without words: files of two modalities that share a name, or a video and its own sound.

In a folder whose mediator is not text, ``boat.flac`` and ``boat.jpg`` are a pair; so is ``boat.mp4`` alone, where video
and sound (or speech) are paired. A sound file beside a video takes the place of the video's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmcl_edge.data.crossmodal import KINDS, carrier_of
from mmcl_edge.data.items import MediaItem, kind_of
from mmcl_edge.data.media import load_sample
from mmcl_edge.errors import MediaError
from mmcl_edge.types import AUDIO, FRAMES, MOTION, Sample

_PART = {AUDIO: "audio", FRAMES: "frames", MOTION: "motion"}


def partners(files: Mapping[str, Path], modality: str, mediator: str) -> dict[str, tuple[Path, Path]]:
    """Source to the file of the modality and that of the mediator (the same one for a video with its sound).

    Args:
        files: by source.
        modality: of the pairs.
        mediator: not text.
    """
    by_stem: dict[str, dict[str, str]] = {}
    for source, path in files.items():
        by_stem.setdefault(stem_of(source), {}).setdefault(str(kind_of(path)), source)
    found = {}
    for kinds in by_stem.values():
        ends = [_source_of(one, kinds, other) for one, other in ((modality, mediator), (mediator, modality))]
        if ends[0] is not None and ends[1] is not None:
            found[ends[0]] = (files[ends[0]], files[ends[1]])
    return dict(sorted(found.items()))


def _source_of(modality: str, kinds: Mapping[str, str], other: str) -> str | None:
    accepted = [*KINDS[modality], *(("video",) if carrier_of(modality) == AUDIO and other == "video" else ())]
    return next((kinds[kind] for kind in accepted if kind in kinds), None)


def load_partners(pair: tuple[Path, Path], modality: str, mediator: str, *, source: str, max_frames: int) -> Sample:
    """A pair as a sample that holds both modalities.

    Raises:
        MediaError: a file is missing or corrupt, or a video has no sound.
    """
    given = {str(kind_of(path)): path for path in pair}
    sample = load_sample(MediaItem(None, pair[0].stem, **given), max_frames=max_frames)
    for name in (modality, mediator):
        if getattr(sample, _PART[carrier_of(name)]) is None:
            raise MediaError(f"{source}: expected {name} in it, but it has none; leave it out.")
    return Sample(sample.audio, sample.frames, None, source, sample.motion)


def stem_of(source: str) -> str:
    """A source without its extension."""
    return source.rpartition(".")[0]
