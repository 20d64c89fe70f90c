"""Files that belong in an index: found below folders, by modality, named relative to a root."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmcl_edge.data.crossmodal import KINDS, carrier_of
from mmcl_edge.data.items import kind_of
from mmcl_edge.errors import InputError

DEFAULT_MODALITY = {"picture": "image", "video": "video", "audio": "sound", "text": "text"}
"""Kind of a file to what it is taken as where no modality was named; tables are left alone."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file to be in the index: ``source`` is relative to the index's root."""

    path: Path
    source: str
    modality: str


@dataclass(frozen=True, slots=True)
class Found:
    """Files to be in the index, and what there is no use for.

    Attributes:
        files: sorted by source.
        folders: sources of the folders that were named; ``""`` is the root.
        ignored: how many files of other kinds there are.
        seen: sources of all files there, those that ``known`` left out too.
    """

    files: tuple[FoundFile, ...]
    folders: tuple[str, ...]
    ignored: int
    seen: frozenset[str] = frozenset()

    def known(self, modalities: Sequence[str]) -> tuple[Found, dict[str, int]]:
        """The files of ``modalities``, and how many there are of each other one.

        Raises:
            InputError: there are files, but none of those modalities.
        """
        files = tuple(file for file in self.files if file.modality in modalities)
        others = Counter(file.modality for file in self.files if file.modality not in modalities)
        if others and not files:
            held = ", ".join(f"{count} of {name}" for name, count in sorted(others.items()))
            raise InputError(
                f"Expected files of the shared space ({', '.join(modalities)}), but found {held}; teach it those "
                "(mmcl-edge adapt --modality), or say what the files are with --modality."
            )
        return replace(self, files=files), dict(sorted(others.items()))


def modality_of(path: Path) -> str | None:
    """What a file is taken as where no modality was named; ``None`` for one that is left alone."""
    return DEFAULT_MODALITY.get(str(kind_of(path)))


def fits(path: Path, modality: str) -> bool:
    """Whether a file is of a kind that holds the modality.

    Raises:
        InputError: there is no such modality.
    """
    carrier_of(modality)
    return kind_of(path) in KINDS[modality]


def common_root(paths: Sequence[Path], known: Path | None = None) -> Path:
    """The deepest folder that holds everything named, and the folder ``known``, which need not be there any more."""
    folders = [path.resolve() if path.is_dir() else path.resolve().parent for path in paths]
    root = known or folders[0]
    while not all(folder.is_relative_to(root) for folder in folders):
        root = root.parent
    return root


def led(prefix: str, source: str) -> str:
    """A source as it is called from a root that lies ``prefix`` above (``.``: the same root)."""
    return source if prefix == "." else f"{prefix}/{source}"


def find_files(paths: Sequence[Path], root: Path, modality: str | None = None) -> Found:
    """The files at and below ``paths``; hidden ones are not seen.

    Args:
        paths: files and folders, all below ``root``.
        root: where sources start.
        modality: what every file is taken as; ``None`` follows the kind of each (``DEFAULT_MODALITY``).

    Raises:
        InputError: a path is not there, lies elsewhere, or is a file of a kind that cannot be used.
    """
    files: dict[str, FoundFile] = {}
    folders, ignored = [], 0
    for path in paths:
        if not path.exists():
            raise InputError(f"Expected a file or a folder at {path}, but there is none; check the path.")
        inside = _source(path, root)
        if path.is_dir():
            folders.append(inside)
        for one in sorted(_below(path)) if path.is_dir() else (path,):
            kind = modality_of(one) if modality is None else modality if fits(one, modality) else None
            if kind is not None:
                source = _source(one, root)
                files[source] = FoundFile(one, source, kind)
            elif path.is_dir():
                ignored += 1
            else:
                raise InputError(
                    f"Expected a file of {modality or 'image, video, sound or text'}, but {path} is not one; "
                    "leave it out, or name its modality with --modality."
                )
    return Found(tuple(files[source] for source in sorted(files)), tuple(folders), ignored, frozenset(files))


def _below(folder: Path) -> Iterable[Path]:
    """Files that are neither hidden, nor unprintable, nor links that lead out."""
    whole = folder.resolve()
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.is_file() and not hidden and str(inside).isprintable() and path.resolve().is_relative_to(whole):
            yield path


def _source(path: Path, root: Path) -> str:
    whole = path.resolve()
    if not whole.is_relative_to(root):
        raise InputError(
            f"Expected files below {root}, where this index's sources start, but {path} lies elsewhere; "
            "make another index for it with --out."
        )
    inside = whole.relative_to(root).as_posix()
    if not inside.isprintable():
        raise InputError(f"Expected a file with a printable UTF-8 name, but found {str(path)!r}; rename it.")
    return "" if inside == "." else inside
