"""What a person waits for: a stage from files, and a search among 10,000 items."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmcl_edge.benchmark.crossmodal.records import ColdStage, Timings
from mmcl_edge.benchmark.crossmodal.tasks import read_task
from mmcl_edge.benchmark.runner import made_by
from mmcl_edge.config import CometConfig, MethodConfig
from mmcl_edge.learners.comet.learner import CometLearner
from mmcl_edge.learners.features import FeatureCache
from mmcl_edge.learners.host import Host
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.index import VectorIndex
from mmcl_edge.runtime.index_items import Entry, Origin

PAIRS = 500
ITEMS = 10_000
QUERIES = 200
WARM = 20


def take_timings(bundle: Path, data: Path | None, command: str, *, task: str = "stamps") -> Timings:
    """Time a first and a later stage, and a search.

    Args:
        bundle: folder of the bundle.
        data: folder that holds the datasets.
        command: that asked.
        task: whose modalities are learned.

    Raises:
        InputError: the dataset is not there, or the bundle lacks a backbone.
    """
    started, config = time.time(), CometConfig()
    cold = cold_stages(bundle, data, task, ("image", "speech"))
    median, late = search_ms(ITEMS, config.slots * config.dim)
    return Timings(
        cold=cold,
        search_items=ITEMS,
        search_dim=config.slots * config.dim,
        search_ms=median,
        search_p95_ms=late,
        made_by=made_by(command, started),
    )


def cold_stages(
    bundle: Path, data: Path | None, task: str, modalities: Sequence[str], *, pairs: int = PAIRS
) -> tuple[ColdStage, ...]:
    """Seconds of each stage, frozen features worked out and not kept; decoding of the whole task goes to the first."""
    runtime = Runtime.open(bundle, threads=os.cpu_count())
    learner = CometLearner(Host(runtime.backbones, MethodConfig(), runtime.preprocess, 0, FeatureCache()))
    began, found = time.perf_counter(), []
    read = read_task(task, data)
    for modality in modalities:
        stage = read.stage(modality, pairs)
        learner.observe(stage)
        found.append(ColdStage(modality=modality, pairs=len(stage.train), seconds=time.perf_counter() - began))
        began = time.perf_counter()
    return tuple(found)


def search_ms(items: int, dim: int) -> tuple[float, float]:
    """Median and 95th percentile in milliseconds of a query for 10 among ``items`` random vectors."""
    rng = np.random.default_rng(0)
    index = VectorIndex(Origin("0" * 64, 1, "0" * 64), dim=dim)
    index.put([Entry(f"{number}.jpg", "image") for number in range(items)], rng.normal(size=(items, dim)))
    took = []
    for query in rng.normal(size=(WARM + QUERIES, dim)):
        started = time.perf_counter()
        index.search(query, k=10)
        took.append(1e3 * (time.perf_counter() - started))
    return float(np.median(took[WARM:])), float(np.quantile(took[WARM:], 0.95))
