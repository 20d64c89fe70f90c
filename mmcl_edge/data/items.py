"""Media files by kind, and grouped into the items that become samples."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from mmcl_edge.errors import InputError

Kind = Literal["audio", "picture", "video", "motion", "text"]

SUFFIXES: dict[str, Kind] = {
    **dict.fromkeys((".wav", ".flac", ".ogg", ".mp3"), "audio"),
    **dict.fromkeys((".jpg", ".jpeg", ".png", ".webp"), "picture"),
    **dict.fromkeys((".mp4", ".mkv", ".webm"), "video"),
    ".csv": "motion",
    ".txt": "text",
}
_BESIDE: tuple[Kind, Kind] = ("motion", "text")


@dataclass(frozen=True, slots=True)
class MediaItem:
    """The files of one sample: a sound, a picture, both, or a video; the motion recorded with it, and its text.

    Attributes:
        label: class name, or ``None`` when unknown.
        stem: file name without its extension, in Unicode form NFC.
        audio: sound file.
        picture: picture file.
        video: video file; a sound beside it takes the place of its own.
        motion: table of sensor readings over time.
        text: what is said in it, or what it shows.
    """

    label: str | None
    stem: str
    audio: Path | None = None
    picture: Path | None = None
    video: Path | None = None
    motion: Path | None = None
    text: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that exist, sound before picture."""
        every = (self.audio, self.picture, self.video, self.motion, self.text)
        return tuple(path for path in every if path is not None)

    @property
    def source(self) -> str:
        """``stem.ext`` (or ``stem.ext+ext``) for messages and ``Sample.source``; no folders."""
        return self.stem + "+".join(path.suffix.lower() for path in self.files).replace("+.", "+")


def kind_of(path: Path) -> Kind | None:
    """What a file's extension says it is, or ``None`` for one that is not read here."""
    return SUFFIXES.get(path.suffix.lower())


def pair_files(paths: Iterable[Path], *, label: str | None = None) -> tuple[MediaItem, ...]:
    """Group files into items, sorted by stem: a sound and a picture of one stem and folder form one sample.

    Videos come without the sounds and pictures of their stem. Further sounds or pictures of the same stem (``a.wav``,
    ``a.flac``) pair up in name order. Motion and text belong to every sample of their stem, and are one themselves
    where there is nothing else.

    Raises:
        InputError: an extension that is not read here.
    """
    groups: dict[tuple[str, str], dict[Kind, list[Path]]] = {}
    for path in sorted(paths, key=lambda path: unicodedata.normalize("NFC", str(path))):
        groups.setdefault(_stem_key(path), {}).setdefault(_known_kind(path), []).append(path)
    items = []
    for (_, stem), kinds in sorted(groups.items()):
        items += _items_of(label, stem, kinds)
    return tuple(items)


def told_by(paths: Iterable[Path]) -> list[Path]:
    """The media files that a folder of samples offers: a text counts beside another file of its stem.

    A folder's ``README.txt`` is no sample. Where there is nothing but texts, each of them is one.
    """
    media = [path for path in paths if kind_of(path)]
    others = {_stem_key(path) for path in media if kind_of(path) != "text"}
    return [path for path in media if not others or kind_of(path) != "text" or _stem_key(path) in others]


def _stem_key(path: Path) -> tuple[str, str]:
    return str(path.parent), unicodedata.normalize("NFC", path.stem)


def _items_of(label: str | None, stem: str, kinds: dict[Kind, list[Path]]) -> list[MediaItem]:
    motion, text = (next(iter(kinds.get(kind, ())), None) for kind in _BESIDE)
    pairs = zip_longest(kinds.get("audio", ()), kinds.get("picture", ()))
    items = [MediaItem(label, stem, audio=sound, picture=picture, motion=motion, text=text) for sound, picture in pairs]
    items += [MediaItem(label, stem, video=video, motion=motion, text=text) for video in kinds.get("video", ())]
    return items or [MediaItem(label, stem, motion=motion, text=text)]


def _known_kind(path: Path) -> Kind:
    kind = kind_of(path)
    if kind is None:
        raise InputError(f"{path}: expected one of {' '.join(SUFFIXES)}, but its extension is {path.suffix!r}.")
    return kind
