"""What training keeps of samples from epoch to epoch: features that no adapter reaches, under a byte budget.

``PreparedSamples`` is a sequence of ``Kept`` tensors. It asks a ``FeatureStore`` for them, and works out again what
the store does not have. Either way they went through the same precision, so a result never depends on what was kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mmcl_edge.adapters.encoder import Encoder, shape_key
from mmcl_edge.adapters.inputs import Item
from mmcl_edge.adapters.kept import Kept
from mmcl_edge.config import FeaturePrecision
from mmcl_edge.learners.feature_precision import decode, encode
from mmcl_edge.learners.shelf import Shelf
from mmcl_edge.types import Sample

DEFAULT_BUDGET_BYTES = 1 << 30


class FeatureStore(Protocol):
    """Keeps tensors by key, as far as its budget goes."""

    def get(self, key: str) -> Kept | None:
        """What was put under ``key``; ``None`` where it was not kept."""
        ...

    def put(self, key: str, kept: Kept) -> None:
        """Keep it, or, where that does not fit, do nothing. What was got or put since ``release`` is never dropped."""
        ...

    def release(self) -> None:
        """Another experience begins: what is kept now may make room for what it needs, the oldest first."""
        ...


class MemoryFeatures:
    """A store in memory."""

    def __init__(self, budget_bytes: int = DEFAULT_BUDGET_BYTES) -> None:
        self._shelf = Shelf(budget_bytes)
        self._kept: dict[str, Kept] = {}

    def get(self, key: str) -> Kept | None:
        """See ``FeatureStore``."""
        self._shelf.claim(key)
        return self._kept.get(key)

    def put(self, key: str, kept: Kept) -> None:
        """See ``FeatureStore``."""
        dropped = self._shelf.add(key, sum(value.nbytes for value in kept.values()))
        if dropped is not None:
            self._kept[key] = kept
            for old in dropped:
                del self._kept[old]

    def release(self) -> None:
        """See ``FeatureStore``."""
        self._shelf.release()


@dataclass(frozen=True)
class FeatureCache:
    """Where a learner keeps features, and how.

    Attributes:
        store: what keeps them.
        precision: of the tensors.
        scope: names everything outside the encoder that they depend on (bundle, engine, threads).
    """

    store: FeatureStore = field(default_factory=MemoryFeatures)
    precision: FeaturePrecision = "fp16"
    scope: str = ""


class PreparedSamples(Sequence[Kept]):
    """Samples as an encoder keeps them for training, one by one when asked for.

    Args:
        samples: what they are made from; held, to be prepared again where the store has no room.
        preprocess: sample to tensors.
        encoder: runs the frozen part.
        cache: where its results are kept.

    Attributes:
        shapes: one a sample: equal ones can share a batch without padding.
        keeps: names what is kept of each (``Encoder.keeps``).
    """

    def __init__(
        self, samples: Sequence[Sample], *, preprocess: Callable[[Sample], Item], encoder: Encoder, cache: FeatureCache
    ) -> None:
        self._samples = samples
        self._preprocess = preprocess
        self._encoder = encoder
        self._cache = cache
        self.keeps = encoder.keeps
        prefix = f"{cache.scope}/{encoder.keeps}/{cache.precision}/"
        self._keys = [hashlib.sha256(prefix.encode() + _digest(sample)).hexdigest() for sample in samples]
        self.shapes: list[Hashable] = [self._first(number) for number in range(len(samples))]

    def _first(self, number: int) -> Hashable:
        """Keep one sample's features; returns their ``shape_key``."""
        key, store = self._keys[number], self._cache.store
        found = store.get(key)
        if found is None:
            found = self._work_out(number)
            store.put(key, found)
        return shape_key(decode(found))

    def _work_out(self, number: int) -> Kept:
        item = self._preprocess(self._samples[number])
        return encode(self._encoder.prepare([item])[0], self._cache.precision)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, number: int) -> Kept:  # type: ignore[override]
        found = self._cache.store.get(self._keys[number])
        return decode(self._work_out(number) if found is None else found)

    def __iter__(self) -> Iterator[Kept]:
        return (self[number] for number in range(len(self)))


def _digest(sample: Sample) -> bytes:
    digest = hashlib.sha256()
    motion = () if sample.motion is None else (sample.motion,)  # keys of samples without it stay as they were
    for values in (sample.audio, sample.frames, *motion):
        digest.update(repr(None if values is None else (values.dtype.str, values.shape)).encode())
        if values is not None:
            digest.update(values.tobytes())
    if sample.text is not None:
        digest.update(f"text {sample.text}".encode())
    return digest.digest()
