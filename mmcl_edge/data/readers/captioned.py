"""What the readers of captioned sets share: files found under the names in use, and rows without classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from mmcl_edge.data.items import MediaItem, kind_of
from mmcl_edge.data.readers.rows import Row


def files_by_name(folders: Iterable[Path], kind: str) -> dict[str, Path]:
    """Files of a kind by their stem, of the first of the folders that has it; folders that are not there have none."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if kind_of(path) == kind:
                found.setdefault(path.stem, path)
    return found


def caption_row(
    name: str,
    split: str,
    group: str,
    captions: Sequence[str],
    *,
    audio: Path | None = None,
    picture: Path | None = None,
) -> Row:
    """A row of a set of captions: its label is empty, its text the first of its different captions."""
    said = tuple(dict.fromkeys(captions))
    return Row(name, "", split, group, "", MediaItem("", name, audio=audio, picture=picture), said[0], (), said)
