"""Exemplars on disk: content-addressed files, and one index a pack.

Layout of ``replay/``::

    objects/<sha256>.safetensors    one sample: audio int16 (samples,), frames uint8 (T, H, W, 3),
                                    motion float32 (samples, channels), text uint8 (UTF-8)
    index/<pack digest>.json        {"train": [...], "holdout": [...]}, each {"label", "source", "object"}, and
                                    {"pairs": [...]}, each {"modality", "mediator", "captions", "source", "object"}

The index is found through the pack's digest and written before the pack comes into use, so the swap of one link
swaps both. Objects that no index names are removed by ``collect``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors.numpy import load, save

from mmcl_edge.errors import IntegrityError
from mmcl_edge.fileio import canonical_json, read_bounded, read_json, sha256_bytes, write_atomic
from mmcl_edge.types import FrozenModel, Sample

MAX_OBJECT_BYTES = 256 << 20
logger = logging.getLogger(__name__)
_FULL_SCALE = 32767.0


class _Entry(FrozenModel):
    label: str
    source: str
    object: str = Field(pattern=r"^[0-9a-f]{64}$")


class _PairEntry(FrozenModel):
    modality: str
    mediator: str
    captions: tuple[str, ...]
    source: str
    object: str = Field(pattern=r"^[0-9a-f]{64}$")


class _Index(FrozenModel):
    train: tuple[_Entry, ...] = ()
    holdout: tuple[_Entry, ...] = ()
    pairs: tuple[_PairEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class HeldPair:
    """A held-out pair of a stage.

    Attributes:
        sample: holds the modality; the mediator too, where that is not text.
        modality: what was learned.
        mediator: what told it.
        captions: its texts, where the mediator is text.
    """

    sample: Sample
    modality: str
    mediator: str
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exemplars:
    """What is kept of earlier experiences: samples to train on again, samples and pairs to measure with."""

    train: tuple[Sample, ...] = ()
    holdout: tuple[Sample, ...] = ()
    pairs: tuple[HeldPair, ...] = ()


class ReplayStore:
    """The exemplars of every pack in one folder."""

    def __init__(self, root: Path) -> None:
        self.objects = root / "objects"
        self.indices = root / "index"

    def write(self, pack_digest: str, exemplars: Exemplars) -> None:
        """Store the exemplars that belong to a pack.

        Raises:
            StorageError: no space, read-only, no permission; whatever was there stays.
        """
        index = _Index(
            train=tuple(map(self._put, exemplars.train)),
            holdout=tuple(map(self._put, exemplars.holdout)),
            pairs=tuple(map(self._put_pair, exemplars.pairs)),
        )
        write_atomic(self._index_path(pack_digest), canonical_json(index.model_dump(mode="json")))

    def read(self, pack_digest: str | None) -> Exemplars:
        """The exemplars of a pack; none for ``None`` or for a pack that came from elsewhere.

        Raises:
            IntegrityError: an index or an object is missing, damaged or changed.
        """
        if pack_digest is None or not self._index_path(pack_digest).is_file():
            return Exemplars()
        index = self._index(self._index_path(pack_digest))
        return Exemplars(
            tuple(map(self._get, index.train)),
            tuple(map(self._get, index.holdout)),
            tuple(map(self._get_pair, index.pairs)),
        )

    def follow(self, old: str | None, new: str, labels: Iterable[str], modalities: Iterable[str] = ()) -> None:
        """Let what is kept for pack ``old`` belong to ``new`` too, as far as it knows the classes and modalities.

        No object is read or copied. What already belongs to ``new`` stays, and first.

        Raises:
            IntegrityError: an index is damaged.
            StorageError: no space, read-only, no permission; whatever was there stays.
        """
        if old is None or old == new or not self._index_path(old).is_file():
            return
        known, path = set(labels), self._index_path(new)
        mine = self._index(path) if path.is_file() else _Index()
        theirs = self._index(self._index_path(old))
        merged: dict[str, Any] = {
            side: tuple(dict.fromkeys((*getattr(mine, side), *(e for e in getattr(theirs, side) if e.label in known))))
            for side in ("train", "holdout")
        }
        taught = set(modalities)
        theirs_known = (e for e in theirs.pairs if {e.modality, e.mediator} <= taught)
        merged["pairs"] = tuple(dict.fromkeys((*mine.pairs, *theirs_known)))
        if (index := _Index(**merged)) != mine:
            write_atomic(path, canonical_json(index.model_dump(mode="json")))

    def objects_of(self, pack_digest: str) -> tuple[tuple[Literal["train", "holdout"], str, Path], ...]:
        """Side, class and file of every exemplar of a pack; the files are not read.

        Raises:
            IntegrityError: the index is damaged.
        """
        path = self._index_path(pack_digest)
        if not path.is_file():
            return ()
        index = self._index(path)
        sides: tuple[tuple[Literal["train", "holdout"], tuple[_Entry, ...]], ...]
        sides = (("train", index.train), ("holdout", index.holdout))
        return tuple(
            (side, e.label, self.objects / f"{e.object}.safetensors") for side, entries in sides for e in entries
        )

    def collect(self, pack_digests: Iterable[str]) -> int:
        """Remove the indices of all other packs and the objects no index names; returns how many files went.

        Where an index cannot be read, nobody knows what it names: every object stays, and a warning says so.
        """
        keep = set(pack_digests)
        stale = [path for path in self.indices.glob("*.json") if path.stem not in keep]
        try:
            kept = [self._index(path) for path in self.indices.glob("*.json") if path.stem in keep]
        except IntegrityError as error:
            logger.warning("No exemplar of earlier packs was removed: %s", error)
        else:
            named = {entry.object for index in kept for entry in (*index.train, *index.holdout)}
            named |= {entry.object for index in kept for entry in index.pairs}
            stale += [path for path in self.objects.glob("*.safetensors") if path.stem not in named]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def _index_path(self, pack_digest: str) -> Path:
        return self.indices / f"{pack_digest}.json"

    def _index(self, path: Path) -> _Index:
        try:
            return _Index.model_validate(read_json(path))
        except ValidationError as error:
            raise IntegrityError(f"{path} is not a valid replay index; roll back to the previous pack.") from error

    def _put(self, sample: Sample) -> _Entry:
        return _Entry(label=sample.label or "", source=sample.source, object=self._put_object(sample))

    def _put_pair(self, pair: HeldPair) -> _PairEntry:
        return _PairEntry(
            modality=pair.modality,
            mediator=pair.mediator,
            captions=pair.captions,
            source=pair.sample.source,
            object=self._put_object(pair.sample),
        )

    def _put_object(self, sample: Sample) -> str:
        data = _stored(sample)
        digest = sha256_bytes(data)
        path = self.objects / f"{digest}.safetensors"
        if not path.is_file():
            write_atomic(path, data)
        return digest

    def _get_pair(self, entry: _PairEntry) -> HeldPair:
        return HeldPair(
            self._get_object(entry.object, None, entry.source), entry.modality, entry.mediator, entry.captions
        )

    def _get(self, entry: _Entry) -> Sample:
        return self._get_object(entry.object, entry.label, entry.source)

    def _get_object(self, digest: str, label: str | None, source: str) -> Sample:
        path = self.objects / f"{digest}.safetensors"
        data = read_bounded(path, MAX_OBJECT_BYTES)
        if sha256_bytes(data) != digest:
            raise IntegrityError(f"{path} was changed since it was written; roll back to the previous pack.")
        tensors = load(data)
        audio = tensors.get("audio")
        wave = None if audio is None else (audio.astype(np.float32) / np.float32(_FULL_SCALE))
        text = tensors["text"].tobytes().decode() if "text" in tensors else None
        return Sample(wave, tensors.get("frames"), label, source, tensors.get("motion"), text)


def content_digest(sample: Sample) -> str:
    """Names what a sample shows and sounds like, as far as the store keeps it: the same before and after storing."""
    return sha256_bytes(_stored(sample))


def _stored(sample: Sample) -> bytes:
    tensors: dict[str, NDArray[Any]] = {}
    if sample.audio is not None:
        tensors["audio"] = np.round(np.clip(sample.audio, -1.0, 1.0) * _FULL_SCALE).astype(np.int16)
    if sample.frames is not None:
        tensors["frames"] = np.ascontiguousarray(sample.frames)
    if sample.motion is not None:
        tensors["motion"] = np.ascontiguousarray(sample.motion, dtype=np.float32)
    if sample.text is not None:
        tensors["text"] = np.frombuffer(sample.text.encode(), dtype=np.uint8)
    return save(tensors)
