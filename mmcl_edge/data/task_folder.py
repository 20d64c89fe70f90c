"""Task folders: ``NAME/<class>/<files>``, read, checked, digested, decoded and split.

Rules, performed in this order by ``read_task``, each refusing before anything is decoded:
1. The folder exists, and every class folder and file in it is really inside it (no links that lead out).
2. Class names are printable; compared after Unicode NFC and case folding, no two of them are equal, and none equals
   a known class without being the same name.
3. Every class has at least ``min_samples`` samples, and there is at least one class.

Hidden files (a leading dot) are not seen. Files of other kinds, folders inside classes and files beside the class
folders are counted in ``ignored`` and left alone; so are texts without a file of their stem beside them, unless the
class has nothing but texts. Everything is in sorted order.
"""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmcl_edge.data.items import MediaItem, pair_files, told_by
from mmcl_edge.data.media import load_sample
from mmcl_edge.data.split import split_holdout
from mmcl_edge.errors import MediaError, TaskDataError
from mmcl_edge.fileio import canonical_json, sha256_bytes, sha256_file
from mmcl_edge.types import Sample

__all__ = ["MediaItem", "Skipped", "TaskFolder", "decode_task", "read_task", "split_holdout"]

_log = logging.getLogger(__name__)
_LAYOUT = "NAME/<class>/<sounds, pictures, videos, motion or texts>"


@dataclass(frozen=True, slots=True)
class TaskFolder:
    """A checked task folder.

    Attributes:
        name: the task's name (its folder's, unless another was given).
        classes: class names, NFC, sorted.
        items: samples to be, sorted by class and stem.
        digest: sha256 over the sorted (relative path, file sha256) pairs: the same data, the same digest.
        ignored: how many entries were of no use.
        min_samples: how many samples each class must have, also after skipping corrupt files.
    """

    name: str
    classes: tuple[str, ...]
    items: tuple[MediaItem, ...]
    digest: str
    ignored: int = 0
    min_samples: int = 2


@dataclass(frozen=True, slots=True)
class Skipped:
    """An item that could not be decoded, and why."""

    item: MediaItem
    reason: str


def read_task(
    folder: Path, *, name: str | None = None, known_classes: Sequence[str] = (), min_samples: int = 2
) -> TaskFolder:
    """Read the task in ``folder`` (the rules stand in the module docstring). Nothing is decoded.

    Args:
        folder: the folder whose sub-folders are classes.
        name: the task's name; ``None`` takes the folder's.
        known_classes: classes the model knows already; a task may repeat one by its exact name.
        min_samples: least number of samples in each class.

    Raises:
        TaskDataError: any rule fails; the message names the class or the file.
    """
    if not folder.is_dir():
        raise TaskDataError(
            f"Expected a task folder ({_LAYOUT}) at {folder}, but there is none; make it or pass --data."
        )
    entries = _visible(folder, root=folder)
    class_folders = {_class_name(path): path for path in _without_clashes(filter(Path.is_dir, entries), known_classes)}
    if not class_folders:
        raise TaskDataError(f"{folder} should contain class folders ({_LAYOUT}), but it has none; add at least one.")
    listed = {label: _visible(path, root=folder) for label, path in sorted(class_folders.items())}
    media = {label: told_by(filter(Path.is_file, paths)) for label, paths in listed.items()}
    items = tuple(item for label, paths in media.items() for item in pair_files(paths, label=label))
    _check_counts(items, media, min_samples, where=str(folder))
    ignored = len(entries) - len(class_folders) + sum(len(listed[label]) - len(media[label]) for label in media)
    if ignored:
        _log.info(
            "%s: %d entries are not sounds, pictures, videos, motion or texts of a class and were ignored.",
            folder,
            ignored,
        )
    return TaskFolder(name or folder.name, tuple(media), items, _digest(media), ignored, min_samples)


def decode_task(
    task: TaskFolder,
    *,
    max_frames: int = 4,
    transform: Callable[[Sample], Sample] | None = None,
    on_skip: Callable[[MediaItem, MediaError], None] | None = None,
) -> tuple[list[Sample], list[Skipped]]:
    """Decode every item; corrupt files are skipped and reported.

    Args:
        task: from ``read_task``.
        max_frames: at most so many frames of a video.
        transform: applied to each sample as soon as it is decoded, so that long sounds can be cut one by one.
        on_skip: called for each item that cannot be decoded.

    Returns:
        Samples in the order of the items (``source`` is ``class/file``), and what was skipped.

    Raises:
        TaskDataError: after skipping, a class has fewer than ``task.min_samples`` samples.
    """
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    for item in task.items:
        try:
            sample = load_sample(item, max_frames=max_frames)
        except MediaError as error:
            skipped.append(Skipped(item, str(error)))
            _log.warning("Skipped: %s", error)
            if on_skip is not None:
                on_skip(item, error)
        else:
            named = replace(sample, source=f"{item.label}/{item.source}")
            samples.append(transform(named) if transform else named)
    where = f"{task.name} after skipping {len(skipped)} files that cannot be decoded"
    _check_counts(samples, task.classes, task.min_samples, where=where)
    return samples, skipped


def _visible(folder: Path, *, root: Path) -> list[Path]:
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in paths:
        _check_inside(path, root)
    return sorted(paths, key=lambda path: unicodedata.normalize("NFC", path.name))


def _check_inside(path: Path, root: Path) -> None:
    if not path.name.isprintable():  # control characters, and bytes that are not UTF-8
        raise TaskDataError(f"{str(path)!r} should have a printable UTF-8 name, but it has not; rename it.")
    if path.is_symlink() and not (path.exists() and path.resolve().is_relative_to(root.resolve())):
        raise TaskDataError(f"{path} should be inside the task folder, but it is a link that leads out; copy it there.")


def _class_name(folder: Path) -> str:
    return unicodedata.normalize("NFC", folder.name)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _without_clashes(folders: Iterable[Path], known_classes: Sequence[str]) -> list[Path]:
    known = {_folded(name): name for name in known_classes}
    seen: dict[str, Path] = {}
    for folder in folders:
        key = _folded(folder.name)
        if key in seen:
            raise TaskDataError(
                f"Class names should differ in more than case or Unicode form, but {folder.parent} has both "
                f"{seen[key].name!r} and {folder.name!r}; rename one or move its files into the other."
            )
        if key in known and known[key] != _class_name(folder):
            raise TaskDataError(
                f"Class names should differ in more than case or Unicode form, but the class {folder.name!r} is "
                f"already known as {known[key]!r}; rename the folder to exactly that, or to something else."
            )
        seen[key] = folder
    return list(seen.values())


def _check_counts(items: Sequence[MediaItem | Sample], classes: Iterable[str], min_samples: int, *, where: str) -> None:
    counts = Counter(item.label for item in items)
    for label in classes:
        if counts[label] < min_samples:
            raise TaskDataError(
                f"The class {label!r} needs at least {min_samples} samples, but has {counts[label]} in {where}; "
                "add samples to its folder, or remove the folder."
            )


def _digest(media: dict[str, list[Path]]) -> str:
    pairs = [
        [f"{label}/{unicodedata.normalize('NFC', path.name)}", sha256_file(path)]
        for label, paths in media.items()
        for path in paths
    ]
    return sha256_bytes(canonical_json(sorted(pairs)))
