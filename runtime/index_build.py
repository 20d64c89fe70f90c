"""Bringing an index up to date with files: what is new or changed is embedded, what is gone is taken out.

Rules of ``update_index``, performed in this order:
1. A file whose size and time of change are those in the index is not opened; one whose content is the same is not
   embedded again.
2. What lies below the folders that were named, but is there no more, is taken out; so is a file that changed and cannot
   be decoded now.
3. The rest is decoded and embedded, a batch at a time. After a batch, once so many seconds have passed, the index is
   saved: a run that was cut goes on from there.

Files that cannot be decoded are skipped, named and counted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmcl_edge.data.pair_folder import decode_file
from mmcl_edge.errors import InputError, MediaError
from mmcl_edge.fileio import sha256_file
from mmcl_edge.runtime.index import VectorIndex
from mmcl_edge.runtime.index_items import Entry
from mmcl_edge.runtime.index_sources import Found, FoundFile
from mmcl_edge.types import Sample

BATCH = 16
SAVE_EVERY_S = 20.0

_log = logging.getLogger(__name__)


class Embedder(Protocol):
    """What turns samples into vectors of the shared space."""

    def embed(self, samples: Sequence[Sample], modality: str) -> NDArray[np.float32]:
        """``(n, D)`` embeddings of n samples that hold the modality; every modality has the same D."""
        ...


@dataclass
class Report:
    """What an update did; ``skipped`` is (source, reason) of files that cannot be used."""

    embedded: int = 0
    unchanged: int = 0
    removed: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


def update_index(
    index: VectorIndex,
    found: Found,
    embedder: Embedder,
    *,
    modality: str | None = None,
    batch: int = BATCH,
    on_progress: Callable[[str, int, int], None] | None = None,
    save: Callable[[VectorIndex], None] | None = None,
    save_every_s: float = SAVE_EVERY_S,
) -> Report:
    """Bring ``index`` up to date (the rules stand in the module docstring).

    Args:
        index: changed in place.
        found: from ``find_files``.
        embedder: of the pack that the index belongs to.
        modality: that ``find_files`` was given; items of others are left alone.
        batch: files decoded and embedded at once.
        on_progress: called with a source and two counts, done and to do.
        save: called with the index now and then, and not at the end.
        save_every_s: how often, at most.

    Raises:
        InputError: the embedder refuses all of a modality's first batch, and the index has nothing of it.
    """
    report = Report()
    stale = [file for file in found.files if not _is_unchanged(index, file, report)]
    report.removed = index.remove(_gone(index, found, modality))
    saved = time.monotonic()
    for modality_name in dict.fromkeys(file.modality for file in stale):
        members = [file for file in stale if file.modality == modality_name]
        for start in range(0, len(members), max(1, batch)):
            part = members[start : start + max(1, batch)]
            if on_progress is not None:
                on_progress(part[0].source, report.embedded + len(report.skipped), len(stale))
            _embed(index, part, embedder, report, first=start == 0)
            if save is not None and time.monotonic() - saved >= save_every_s:
                save(index)
                saved = time.monotonic()
    return report


def _is_unchanged(index: VectorIndex, file: FoundFile, report: Report) -> bool:
    known = index.get(file.modality, file.source)
    if known is None:
        return False
    try:
        status = file.path.stat()
        same = (known.size_bytes, known.mtime_ns) == (status.st_size, status.st_mtime_ns)
        if not same and known.size_bytes == status.st_size and sha256_file(file.path) == known.sha256:
            index.touch(Entry(file.source, file.modality, status.st_size, status.st_mtime_ns, known.sha256))
            same = True
    except OSError:
        return False  # rule 2 or 3 says what becomes of a file that went, or cannot be read, meanwhile
    report.unchanged += same
    return same


def _gone(index: VectorIndex, found: Found, modality: str | None) -> list[tuple[str, str]]:
    """Keys of items below the folders that were named, whose files are there no more.

    Where no modality was named, a file that its user put in as another one counts as there.
    """
    there = {(file.modality, file.source) for file in found.files}
    sources = found.seen if modality is None else frozenset()
    return [
        entry.key
        for entry in index.entries
        if entry.key not in there
        and entry.source not in sources
        and modality in (None, entry.modality)
        and any(_is_below(entry.source, folder) for folder in found.folders)
    ]


def _is_below(source: str, folder: str) -> bool:
    return not folder or source.startswith(f"{folder}/")


def _embed(index: VectorIndex, files: Sequence[FoundFile], embedder: Embedder, report: Report, *, first: bool) -> None:
    modality = files[0].modality
    entries, samples = [], []
    for file in files:
        try:
            status = file.path.stat()
            entry = Entry(file.source, modality, status.st_size, status.st_mtime_ns, sha256_file(file.path))
            samples.append(decode_file(file.path, modality, source=file.source))
            entries.append(entry)
        except (MediaError, OSError) as error:
            report.removed += index.remove([(modality, file.source)])
            report.skipped.append((file.source, str(error)))
            _log.warning("Skipped: %s", error)
    if samples:
        _put(index, entries, samples, embedder, report, first=first)


def _put(
    index: VectorIndex,
    entries: Sequence[Entry],
    samples: Sequence[Sample],
    embedder: Embedder,
    report: Report,
    *,
    first: bool,
) -> None:
    """Embed a batch; if it is refused, one by one, so that a sample that cannot be used does not stop the rest.

    Where the index has nothing of a modality, and its whole first batch is refused, so is the update.
    """
    modality = entries[0].modality
    try:
        index.put(entries, np.asarray(embedder.embed(samples, modality)))
        report.embedded += len(samples)
    except InputError:
        refused = []
        for entry, sample in zip(entries, samples, strict=True):
            try:
                index.put([entry], np.asarray(embedder.embed([sample], modality)))
                report.embedded += 1
            except InputError as error:
                refused.append(error)
                report.removed += index.remove([entry.key])
                report.skipped.append((entry.source, str(error)))
                _log.warning("Skipped: %s", error)
        alone = len(samples) == 1 and len(index) > 0  # one bad file says nothing of its modality
        if first and len(refused) == len(samples) and modality not in index.modalities and not alone:
            raise refused[0] from None
