"""Pair folders: files with captions, as a person lays them out, read, checked, digested and decoded.

Two layouts where text is the mediator, told apart by the file ``captions.csv``; a third without words::

    DIR/<name>.flac, .wav, .jpg, .png, .mp4 ...  and  DIR/<name>.txt        one caption a line; sub-folders are read too
    DIR/captions.csv (file,caption)  and the files that it names            several lines may name one file
    DIR/<name>.flac and DIR/<name>.jpg, DIR/<name>.mp4 ...                  two modalities (``pair_partners``)

Rules, performed in this order by ``read_pairs``, each refusing before anything is decoded:
1. Modality and mediator are known, of two backbones, and the folder exists; no link in it leads out.
2. ``captions.csv`` has the columns ``file`` and ``caption``, and names files of the folder that are there.
3. No caption is empty: no blank cell, no blank ``.txt``, none of characters that cannot be seen. None is longer than a
   text may be, and no file has more than a hundred.
4. At least ``min_pairs`` files of the modality have a caption, or a file of the mediator.

What has no partner (a file without a caption, a caption without a file, a file alone), and files of other kinds, are
counted and named in ``skipped``; hidden files are not seen. Everything is in sorted order.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmcl_edge.data.crossmodal import KINDS, PairSet, carrier_of, check_modalities, pair_set, says_something
from mmcl_edge.data.items import MediaItem, kind_of
from mmcl_edge.data.media import load_sample
from mmcl_edge.data.pair_partners import load_partners, partners, stem_of
from mmcl_edge.data.readers.index_files import inner_path, read_lines, read_table
from mmcl_edge.data.texts import MAX_CHARACTERS
from mmcl_edge.errors import InputError, MediaError, TaskDataError
from mmcl_edge.fileio import canonical_json, sha256_bytes, sha256_file
from mmcl_edge.types import AUDIO, TEXT, Sample

CAPTIONS_NAME = "captions.csv"
CAPTION_SUFFIX = ".txt"
MAX_CAPTIONS = 100
"""Of one file. Each is read in every epoch, and a text file of more lines is a long text, not captions."""
MAX_NOTE_BYTES = 4 * MAX_CAPTIONS * MAX_CHARACTERS
"""Of a file of captions: as many as there may be, each as long as it may be."""
MAX_SHOWN = 20
"""Characters of a refused caption that a message shows."""
LAYOUT = "DIR/<name>.<flac, jpg, mp4, ...> with DIR/<name>.txt, or with DIR/captions.csv (file,caption)"
PARTNERS = (
    "DIR/<name>.<flac, mp4, ...> and DIR/<name>.<jpg, csv, ...>: two files of one name, or a video with its sound"
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PairItem:
    """One pair, not decoded yet.

    Attributes:
        path: the file of the modality.
        source: its path inside the folder, with ``/`` between the parts.
        captions: one or more; none where the mediator is not text.
        told_by: the mediator's file, where that is not text; of a video with its own sound, ``path`` again.
    """

    path: Path
    source: str
    captions: tuple[str, ...]
    told_by: Path | None = None


@dataclass(frozen=True, slots=True)
class Unpaired:
    """A file that is no pair, by its path inside the folder, and why."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class PairFolder:
    """A checked pair folder.

    Attributes:
        modality: what is paired with the mediator.
        mediator: that.
        items: the pairs, by source.
        skipped: what is no pair.
        digest: sha256 over the modality and the sorted (source, file sha256, captions); without text over both
            modalities and the sha256 of both files.
        min_pairs: how many pairs there must be, also after corrupt files were skipped.
    """

    modality: str
    mediator: str
    items: tuple[PairItem, ...]
    skipped: tuple[Unpaired, ...]
    digest: str
    min_pairs: int


def read_pairs(folder: Path, modality: str, mediator: str = TEXT, *, min_pairs: int = 2) -> PairFolder:
    """Read the pairs in ``folder`` (the rules stand in the module docstring). Nothing is decoded.

    Args:
        folder: what holds the files and their captions, or their partners.
        modality: of the files.
        mediator: what tells them.
        min_pairs: least number of pairs.

    Raises:
        InputError: a modality is unknown, or both are of one backbone.
        TaskDataError: any other rule fails; the message names the file.
    """
    check_modalities(modality, mediator)
    if modality == TEXT:
        raise InputError(
            f"Expected a modality of files, but {modality!r} was asked for; teach {mediator} through text instead."
        )
    if not folder.is_dir():
        found = "it is a file" if folder.is_file() else "there is none"
        raise TaskDataError(
            f"Expected a pair folder ({_layout(mediator)}) at {folder}, but {found}; make it or pass --data."
        )
    files = _files(folder)
    pair = (modality, mediator)
    items, skipped = _told(folder, files, modality) if mediator == TEXT else _paired(files, *pair)
    _check_count(len(items), min_pairs, pair, folder, skipped)
    if skipped:
        _log.warning(
            "%s: %d files are in no pair and are left out, such as %s.", folder, len(skipped), skipped[0].source
        )
    return PairFolder(modality, mediator, tuple(items), tuple(skipped), _digest(pair, items), min_pairs)


def _layout(mediator: str) -> str:
    return LAYOUT if mediator == TEXT else PARTNERS


def _told(folder: Path, files: dict[str, Path], modality: str) -> tuple[list[PairItem], list[Unpaired]]:
    """Files that have captions, and the others."""
    table = folder / CAPTIONS_NAME
    captions = _from_table(table, folder, files) if CAPTIONS_NAME in files else _from_notes(files)
    told = {stem_of(source) for source in captions}
    items, skipped = [], []
    for source, path in files.items():
        if source == CAPTIONS_NAME:
            continue
        reason = _why_not(path, source, captions, told, modality)
        if reason is None:
            items.append(PairItem(path, source, tuple(dict.fromkeys(captions[source]))))
        elif reason:
            skipped.append(Unpaired(source, reason))
    return items, skipped


def _paired(files: dict[str, Path], modality: str, mediator: str) -> tuple[list[PairItem], list[Unpaired]]:
    """Files that have a partner of the mediator, and the others."""
    found = partners(files, modality, mediator)
    items = [PairItem(path, source, (), other) for source, (path, other) in found.items()]
    used = {path for pair in found.values() for path in pair}
    alone = f"no {modality} and {mediator} of its name"
    return items, [Unpaired(source, alone) for source, path in files.items() if path not in used]


def decode_pairs(
    folder: PairFolder,
    *,
    max_frames: int = 4,
    transform: Callable[[Sample], Sample] | None = None,
    on_skip: Callable[[PairItem, MediaError], None] | None = None,
) -> tuple[PairSet, tuple[Unpaired, ...]]:
    """Decode every pair; corrupt files are skipped and reported.

    Args:
        folder: from ``read_pairs``.
        max_frames: at most so many frames of a video.
        transform: applied to each sample as soon as it is decoded.
        on_skip: called for each pair that cannot be decoded.

    Returns:
        The pair set in the order of the items (``source`` is the path inside the folder), and what was skipped.

    Raises:
        TaskDataError: after skipping, fewer than ``folder.min_pairs`` are left.
    """
    samples, captions, skipped = [], [], []
    for item in folder.items:
        try:
            sample = _decoded(item, folder, max_frames)
        except MediaError as error:
            skipped.append(Unpaired(item.source, str(error)))
            _log.warning("Skipped: %s", error)
            if on_skip is not None:
                on_skip(item, error)
        else:
            samples.append(transform(sample) if transform else sample)
            captions.append(item.captions)
    _check_count(len(samples), folder.min_pairs, (folder.modality, folder.mediator), None, skipped)
    told = captions if folder.mediator == TEXT else None
    return pair_set(samples, folder.modality, folder.mediator, captions=told), tuple(skipped)


def _decoded(item: PairItem, folder: PairFolder, max_frames: int) -> Sample:
    if item.told_by is None:
        sample = decode_file(item.path, folder.modality, source=item.source, max_frames=max_frames)
        return replace(sample, text=item.captions[0])
    pair = (item.path, item.told_by)
    return load_partners(pair, folder.modality, folder.mediator, source=item.source, max_frames=max_frames)


def decode_file(path: Path, modality: str, *, source: str | None = None, max_frames: int = 4) -> Sample:
    """One file as a sample that holds ``modality`` alone; of a video, its frames.

    Args:
        path: of a kind that holds the modality; a text is a file of UTF-8.
        modality: one of ``MODALITIES``.
        source: what the sample is called; ``None`` takes the file's name.
        max_frames: at most so many frames of a video.

    Raises:
        InputError: the modality is unknown, or the file of another kind.
        MediaError: the file is missing, empty or corrupt.
    """
    name = path.name if source is None else source
    carrier_of(modality)
    kind = kind_of(path)
    if kind not in KINDS[modality]:
        raise InputError(f"{path}: expected {' or '.join(KINDS[modality])} to hold {modality}, but its kind is {kind}.")
    sample = load_sample(MediaItem(None, path.stem, **{kind: path}), max_frames=max_frames)
    return replace(sample, audio=sample.audio if carrier_of(modality) == AUDIO else None, source=name)


def _files(folder: Path) -> dict[str, Path]:
    """Source to path of every file that is not hidden, sorted."""
    found = {}
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts):
            continue
        if not str(inside).isprintable():
            raise TaskDataError(f"{str(path)!r} should have a printable UTF-8 name, but it has not; rename it.")
        if path.is_symlink() and not (path.exists() and path.resolve().is_relative_to(folder.resolve())):
            raise TaskDataError(
                f"{path} should be inside the pair folder, but it is a link that leads out; copy it there."
            )
        if path.is_file():
            found[unicodedata.normalize("NFC", inside.as_posix())] = path
    return dict(sorted(found.items()))


def _from_table(table: Path, folder: Path, files: dict[str, Path]) -> dict[str, list[str]]:
    try:
        lines = read_table(table, ("file", "caption"), strict=True)
        captions: dict[str, list[str]] = {}
        for number, line in lines:
            source = unicodedata.normalize("NFC", inner_path(table, number, line["file"], "of a file in the folder"))
            if source not in files:
                raise TaskDataError(
                    f"{table}, line {number}: expected a file of {folder}, but {source} is not there; "
                    "add the file, or remove the line."
                )
            _check_caption(line["caption"], f"{table}, line {number}", source, "the line")
            captions.setdefault(source, []).append(line["caption"])
            _check_number(captions[source], table, source)
    except TaskDataError:
        raise
    except InputError as error:
        raise TaskDataError(str(error).replace("restore the index that came with the dataset", "correct it")) from error
    return captions


def _from_notes(files: dict[str, Path]) -> dict[str, list[str]]:
    """Captions by source, from the ``.txt`` of the same stem."""
    notes = {stem_of(source): path for source, path in files.items() if path.suffix.lower() == CAPTION_SUFFIX}
    captions = {}
    for source, path in files.items():
        note = notes.get(stem_of(source))
        if note is None or note == path or kind_of(path) is None:
            continue
        try:
            said = read_lines(note, max_bytes=MAX_NOTE_BYTES)
        except InputError as error:
            raise TaskDataError(str(error)) from error
        for number, caption in said or [(1, "")]:
            _check_caption(caption, f"{note}, line {number}" if len(said) > 1 else str(note), source, "both")
        captions[source] = [caption for _, caption in said]
        _check_number(captions[source], note, source)
    return captions


def _check_caption(caption: str, where: str, source: str, leave: str) -> None:
    if not says_something(caption):
        seen = f" ({caption[:MAX_SHOWN]!r})" if caption else ""
        raise TaskDataError(
            f"{where}: expected a caption of {source}, but it is empty{seen}; write what the file shows or says, or "
            f"remove {leave}."
        )
    if len(caption) > MAX_CHARACTERS:
        raise TaskDataError(
            f"{where}: expected a caption of {source} of at most {MAX_CHARACTERS:,} characters, but it has "
            f"{len(caption):,}; write a sentence or a few."
        )


def _check_number(captions: Sequence[str], where: Path, source: str) -> None:
    if len(captions) > MAX_CAPTIONS:
        raise TaskDataError(
            f"{where}: expected at most {MAX_CAPTIONS} captions of {source}, but found more; each line is a caption of "
            "its own, so put a long text on one line."
        )


def _why_not(path: Path, source: str, captions: dict[str, list[str]], told: set[str], modality: str) -> str | None:
    """Why a file is no pair; ``None`` where it is one, and nothing to say for the caption of one."""
    if path.suffix.lower() == CAPTION_SUFFIX:
        return "" if stem_of(source) in told else "a caption without its file"
    kind = kind_of(path)
    if kind not in KINDS[modality]:
        return f"not a file of {modality}"
    return None if source in captions else "no caption"


def _check_count(
    found: int, least: int, pair: tuple[str, str], folder: Path | None, skipped: Sequence[Unpaired]
) -> None:
    if found >= least:
        return
    if folder is None:
        first = f"; the first: {skipped[0].reason}" if skipped else "."
        raise TaskDataError(
            f"Expected at least {least} pairs of {pair[0]} and {pair[1]} that can be decoded, but found {found}, and "
            f"{len(skipped)} that cannot{first}"
        )
    first = f" (such as {skipped[0].source}: {skipped[0].reason})" if skipped else ""
    raise TaskDataError(
        f"Expected at least {least} pairs of {pair[0]} and {pair[1]} in {folder}, but found {found}, with "
        f"{len(skipped)} files in no pair{first}; the layout is {_layout(pair[1])}."
    )


def _digest(pair: tuple[str, str], items: Sequence[PairItem]) -> str:
    if pair[1] == TEXT:
        return sha256_bytes(
            canonical_json([pair[0], [[item.source, sha256_file(item.path), list(item.captions)] for item in items]])
        )
    both = [[item.source, *(sha256_file(path) for path in (item.path, item.told_by) if path)] for item in items]
    return sha256_bytes(canonical_json([*pair, both]))
