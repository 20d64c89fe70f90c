"""Where runs of one process find what they share: backbones, decoded samples, frozen features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from mmcl_edge.adapters.kept import Kept
from mmcl_edge.benchmark.suites import StreamSpec
from mmcl_edge.data.conditions import CONDITIONS
from mmcl_edge.data.datasets import DatasetReader, open_dataset
from mmcl_edge.learners.features import FeatureCache
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.feature_store import DiskFeatures
from mmcl_edge.types import Sample

FEATURE_BUDGET_BYTES = 16 << 30
THREADS = 1
"""Of the backbones: runs go side by side, a core each."""


@dataclass(frozen=True)
class Where:
    """What a worker must know to start.

    Attributes:
        folder: of the benchmark.
        bundle: folder of the bundle.
        data: folder that holds the datasets, or ``None`` for the environment's.
        command: that asked for the runs.
    """

    folder: Path
    bundle: Path
    data: Path | None
    command: str

    @property
    def features(self) -> Path:
        """Where frozen features are kept."""
        return self.folder / "features"


class SharedFeatures:
    """A ``FeatureStore``: what the process has read in memory, over a folder that processes share."""

    def __init__(self, folder: Path) -> None:
        self._disk = DiskFeatures(folder, FEATURE_BUDGET_BYTES)
        self._memory: dict[str, Kept] = {}

    def get(self, key: str) -> Kept | None:
        """See ``FeatureStore``."""
        if key not in self._memory:
            found = self._disk.get(key)
            if found is None:
                return None
            self._memory[key] = found
        return self._memory[key]

    def put(self, key: str, kept: Kept) -> None:
        """See ``FeatureStore``."""
        self._memory[key] = kept
        self._disk.put(key, kept)

    def release(self) -> None:
        """See ``FeatureStore``; everything stays."""


class Place:
    """What a process opens once.

    Args:
        bundle: folder of the bundle.
        features: folder of the shared features.
        data: folder that holds the datasets; ``None``: the environment's.
    """

    def __init__(self, bundle: Path, features: Path, data: Path | None) -> None:
        self._bundle = bundle
        self._features = features
        self._data = data
        self._readers: dict[str, DatasetReader] = {}
        self._samples: dict[str, dict[str, Sample]] = {}
        self._changed: dict[tuple[str, int], Sample] = {}

    @cached_property
    def runtime(self) -> Runtime:
        """The bundle, opened."""
        return Runtime.open(self._bundle, threads=THREADS)

    @cached_property
    def features(self) -> FeatureCache:
        """Frozen features, shared with every run on this bundle."""
        return FeatureCache(SharedFeatures(self._features), "fp16", self.runtime.bundle.digest)

    def reader(self, dataset: str) -> DatasetReader:
        """The dataset, opened.

        Raises:
            InputError: it is not there; the message says what belongs where.
        """
        if dataset not in self._readers:
            self._readers[dataset] = open_dataset(dataset, self._data)
        return self._readers[dataset]

    def samples(self, spec: StreamSpec) -> Mapping[str, Sample]:
        """Every decoded sample of a stream's dataset, by the id of its row."""
        if spec.dataset not in self._samples:
            reader = self.reader(spec.dataset)
            self._samples[spec.dataset] = {row.id: reader.load(row) for row in reader.rows}
        return self._samples[spec.dataset]

    def under(self, condition: str, sample: Sample) -> Sample:
        """A sample of ``samples`` under a test condition; worked out once."""
        key = (condition, id(sample))
        if key not in self._changed:
            self._changed[key] = CONDITIONS[condition](sample)
        return self._changed[key]


@lru_cache(maxsize=1)
def place_of(where: Where) -> Place:
    """What this process has opened for ``where``."""
    return Place(where.bundle, where.features, where.data)
