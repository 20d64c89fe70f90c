"""What one run of the benchmark leaves behind: one JSON file, the primary artefact that every table and picture reads.

A run is one learner on one stream with one seed. Its ``key`` is the digest of everything that decides its result, so a
file with that key need not be made again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from mmcl_edge.errors import InputError
from mmcl_edge.fileio import canonical_json, read_bounded, sha256_bytes, storage_errors, write_atomic
from mmcl_edge.types import FrozenModel

SCHEMA_VERSION: Literal[1] = 1
LARGEST_BYTES = 16 << 20
CLEAN = "clean"
"""Name of the test condition that changes nothing."""

Rows = tuple[tuple[float, ...], ...]
"""``rows[t][i]``: accuracy on the test samples of experience ``i`` after learning experience ``t``, 0 to 1."""


class Confusion(FrozenModel):
    """``counts[i][j]``: test samples of class ``labels[i]`` called ``labels[j]`` after the last experience."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class Cost(FrozenModel):
    """What a run took; times are of a shared machine, so look at ratios."""

    trainable_parameters: int = Field(ge=0, description="Numbers that gradients or closed forms may change.")
    persistent_bytes: int = Field(
        ge=0,
        description="What must survive between experiences beside the model itself: "
        "exemplars, statistics, stored logits, Fisher information, prototypes.",
    )
    model_bytes: int = Field(ge=0, description="The trainable model itself.")
    peak_rss_bytes: int = Field(
        ge=0,
        description="Of the worker, with the samples and features that runs before it left in memory: an upper bound.",
    )
    train_s: float = Field(ge=0, description="Wall time of all experiences, frozen features being cached.")
    train_s_by_experience: tuple[float, ...] = ()
    predict_ms: float = Field(ge=0, description="A sample in batches, from cached features, their lookup included.")


class Record(FrozenModel):
    """What the record of any run has: its ``key`` is the digest of its ``config``."""

    schema_version: Literal[1] = SCHEMA_VERSION
    key: str
    config: dict[str, Any] = Field(description="Everything that decides the result; the key is its digest.")
    made_by: dict[str, Any] = Field(description="Command, versions, machine, when: for the reader, not the key.")


AnyRecord = TypeVar("AnyRecord", bound=Record)


class RunRecord(Record):
    """One run.

    ``matrices`` holds an accuracy matrix for each test condition: ``clean``, ``audio_only``, ``frames_only``,
    ``noise_5db``, ``blur``, ...; every row has T entries, those above the diagonal are of experiences not yet met.
    """

    suite: str
    stream: str = Field(description="Which stream of the suite: 'av21, 5 pairs a class', ...")
    scenario: Literal["class", "domain", "task"]
    learner: str
    seed: int
    experiences: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...] = Field(description="Class names of each experience.")
    test_counts: tuple[int, ...]
    matrices: dict[str, Rows]
    initial: tuple[float, ...] | None = Field(
        None,
        description="Accuracy that a guess among all classes has on each experience, for forward transfer; None where "
        "classes come with experiences.",
    )
    confusion: Confusion
    expert_use: tuple[tuple[tuple[float, ...], ...], ...] | None = Field(
        None,
        description="Per experience, block and expert: share of the routing on that experience's test samples, "
        "after the last experience; None without experts.",
    )
    routing_overlap: Rows | None = Field(
        None, description="Per pair of experiences: overlap (sum of minima, mean over blocks) of their expert use."
    )
    cost: Cost

    @model_validator(mode="after")
    def _shapes(self) -> RunRecord:
        count = len(self.experiences)
        if CLEAN not in self.matrices:
            raise ValueError("a run needs the accuracy matrix 'clean'")
        for name, rows in self.matrices.items():
            if len(rows) != count or any(len(row) != count for row in rows):
                raise ValueError(f"the accuracy matrix {name!r} should be {count} x {count}")
        if len(self.test_counts) != count or len(self.classes) != count:
            raise ValueError(f"expected test counts and classes of {count} experiences")
        return self

    @property
    def matrix(self) -> Rows:
        """The accuracy matrix on unchanged test samples."""
        return self.matrices[CLEAN]


def key_of(config: Mapping[str, Any]) -> str:
    """The key of a run with this configuration: the first 20 letters of its digest."""
    return sha256_bytes(canonical_json(dict(config)))[:20]


def path_of(folder: Path, key: str) -> Path:
    """Where the record of a run lies in a benchmark's folder."""
    return folder / "runs" / f"{key}.json"


def write_record(folder: Path, record: Record) -> Path:
    """Store a record, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    path = path_of(folder, record.key)
    write_atomic(path, canonical_json(record.model_dump(mode="json")))
    return path


def prepare_folder(folder: Path) -> None:
    """See that records can be written to a benchmark's folder, before hours are spent.

    Raises:
        StorageError: they cannot.
    """
    probe = path_of(folder, "probe")
    write_atomic(probe, b"{}")
    with storage_errors(probe):
        probe.unlink()


def read_record(path: Path, kind: type[AnyRecord]) -> AnyRecord:
    """Read a record of a kind.

    Raises:
        InputError: it is not one, or its key is not the digest of its configuration.
    """
    try:
        record = kind.model_validate(json.loads(read_bounded(path, LARGEST_BYTES)))
        expected = key_of(record.config)
    except (ValueError, ValidationError, RecursionError) as error:
        raise InputError(
            f"{path} should be the record of a run, but it is not ({error}); remove it and run again."
        ) from error
    if record.key != expected:
        raise InputError(f"{path} should have the key of its configuration, but was changed; remove it and run again.")
    return record


def read_folder(folder: Path, kind: type[AnyRecord], command: str) -> list[AnyRecord]:
    """Every record of a benchmark's folder, by key; ``command`` is what makes them.

    Raises:
        InputError: there is none, or one of them is broken.
    """
    paths = sorted((folder / "runs").glob("*.json"))
    if not paths:
        raise InputError(f"Expected records of runs in {folder / 'runs'}, but there is none; run '{command}'.")
    return [read_record(path, kind) for path in paths]


def read_records(folder: Path) -> tuple[RunRecord, ...]:
    """Every record of a benchmark's folder, by suite, stream, learner and seed.

    Raises:
        InputError: there is none, or one of them is broken.
    """
    records = read_folder(folder, RunRecord, "mmcl-edge bench run")
    return tuple(sorted(records, key=lambda one: (one.suite, one.stream, one.learner, one.seed)))
