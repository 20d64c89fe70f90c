"""What one run of the cross-modal benchmark leaves behind: one JSON file, which every table and picture reads.

A run is one learner that learns one task in one order of stages with one seed. After each stage everything is asked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from mmcl_edge.benchmark.records import LARGEST_BYTES, SCHEMA_VERSION, Record, read_folder
from mmcl_edge.errors import InputError
from mmcl_edge.fileio import canonical_json, read_bounded, write_atomic
from mmcl_edge.types import FrozenModel

TIMINGS_NAME = "timings.json"
By = Literal["vectors", "codes"]
"""What is compared: what ``embed`` gives, or how the codes tell a sample."""
VECTORS: By = "vectors"
CODES: By = "codes"


class Found(FrozenModel):
    """Retrieval of one modality by another, on the test samples."""

    query: str
    gallery: str
    by: By
    figures: dict[str, float] = Field(description="R@1, R@5, R@10 (shares), median_rank, mrr.")
    chance: dict[str, float] = Field(description="The same of a gallery in random order, by formula.")
    luck: dict[str, float] = Field(description="Upper end of the middle 95 % by permutation of the same scores.")
    queries: int = Field(ge=1)
    gallery_size: int = Field(ge=1)


class Told(FrozenModel):
    """Classes learned in one modality (training samples) and told in another (test samples); shares."""

    train: str = Field(description="A modality, or 'text': the names of the classes alone.")
    test: str
    how: Literal["nearest_mean", "linear", "name"]
    by: By
    accuracy: float = Field(ge=0, le=1)
    chance: float = Field(ge=0, le=1, description="Share of the most frequent class of the test samples.")


class Stage(FrozenModel):
    """What one stage did, and what is known after it."""

    modality: str
    pairs: int
    train_s: float = Field(ge=0, description="Wall time of ``observe`` with the frozen features at hand.")
    steps: int
    codes: int
    codes_added: int
    codes_joined: int
    codes_reset: int
    experts: int
    perplexity: float
    shared: float = Field(description="Share of the codes in use that two or more modalities use.")
    residual: dict[str, float]
    memory_bytes: int = Field(ge=0, description="What later stages need beside the space itself.")
    space_bytes: int = Field(ge=0)
    found: tuple[Found, ...]
    told: tuple[Told, ...]


class CrossmodalRecord(Record):
    """One run."""

    task: str
    learner: str
    order: tuple[str, ...]
    seed: int
    test_counts: dict[str, int]
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _in_order(self) -> CrossmodalRecord:
        learned = tuple(stage.modality for stage in self.stages)
        if learned not in (self.order, self.order[-1:]):
            raise ValueError(f"expected stages of {self.order}, or its last alone, but found {learned}")
        return self


class ColdStage(FrozenModel):
    """One stage from files: decoding, frozen features and learning, nothing kept from before."""

    modality: str
    pairs: int
    seconds: float = Field(gt=0)


class Timings(FrozenModel):
    """What a device would wait for."""

    schema_version: Literal[1] = SCHEMA_VERSION
    cold: tuple[ColdStage, ...]
    search_items: int
    search_dim: int
    search_ms: float = Field(gt=0, description="Median of a query for 10 items among ``search_items``.")
    search_p95_ms: float = Field(gt=0)
    made_by: dict[str, Any]


def read_runs(folder: Path) -> tuple[CrossmodalRecord, ...]:
    """Every record of a folder, by task, learner, seed and order.

    Raises:
        InputError: there is none, or one of them is broken.
    """
    records = read_folder(folder, CrossmodalRecord, "mmcl-edge bench crossmodal")
    return tuple(sorted(records, key=lambda one: (one.task, one.learner, one.seed, one.order)))


def write_timings(folder: Path, timings: Timings) -> None:
    """Store timings, whole or not at all."""
    write_atomic(folder / TIMINGS_NAME, canonical_json(timings.model_dump(mode="json")))


def read_timings(folder: Path) -> Timings | None:
    """The timings of a folder; ``None`` where they were not taken.

    Raises:
        InputError: the file is broken.
    """
    path = folder / TIMINGS_NAME
    if not path.is_file():
        return None
    try:
        return Timings.model_validate(json.loads(read_bounded(path, LARGEST_BYTES)))
    except (ValueError, ValidationError, RecursionError) as error:
        raise InputError(f"{path} should hold timings, but it does not ({error}); remove it and run again.") from error
