"""What keeping features saves: the first epoch (with the frozen part) against later ones, bytes, and accuracy.

One experience of made-up classes on the default pair, in either placement, once for each precision. Each class has a
tone of its own and pictures of its own brightness; classes lie close, so that what a precision loses could show.
``first_s`` is everything until the first epoch's end: features worked out and written, then the epoch. ``later_s`` is
the median of the other epochs, which read the features from disk. ``deviation`` is that of held-out logits from those
of single precision, relative to their norm.

    python benchmarks/bench_ladder_cache.py [--bundle DIR] [--samples 48] [--epochs 16] [--placements ladder,inline]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import parser, report, scratch_bundle

from mmcl_edge.adapters.model import build_model
from mmcl_edge.bundle import Bundle
from mmcl_edge.config import AdapterConfig, FeaturePrecision, MethodConfig, TrainConfig
from mmcl_edge.data.streams import Experience
from mmcl_edge.learners.features import FeatureCache
from mmcl_edge.learners.mmcl import MmclLearner
from mmcl_edge.runtime.feature_store import DiskFeatures
from mmcl_edge.runtime.preprocess import Preprocessor
from mmcl_edge.runtime.segments import open_backbones
from mmcl_edge.runtime.sessions import SessionFactory
from mmcl_edge.runtime.threads import ThreadPlan
from mmcl_edge.types import SAMPLE_RATE_HZ, Sample

CLASSES = 6
PRECISIONS: tuple[FeaturePrecision, ...] = ("fp32", "fp16", "int8")
TARGETS = {"later_to_first": 0.05}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--samples", type=int, default=48, help="trained on; as many are held out")
    options.add_argument("--epochs", type=int, default=16)
    options.add_argument("--placements", default="ladder,inline")
    arguments = options.parse_args()
    with scratch_bundle(arguments.bundle) as (_, bundle):
        ThreadPlan.for_machine().apply()
        for placement in arguments.placements.split(","):
            exact = None
            for precision in PRECISIONS:
                exact = measure(bundle, placement, precision, arguments.samples, arguments.epochs, exact)


def measure(
    bundle: Bundle,
    placement: str,
    precision: FeaturePrecision,
    count: int,
    epochs: int,
    exact: torch.Tensor | None,
) -> torch.Tensor:
    """Print a row; returns the logits that later precisions are compared with."""
    train, test = samples(count, seed=1), samples(count, seed=2)
    labels = tuple(f"class {number}" for number in range(CLASSES))
    with tempfile.TemporaryDirectory() as folder:
        store = DiskFeatures(Path(folder), 1 << 30)
        learner = new_learner(bundle, placement, epochs, FeatureCache(store, precision))
        seconds = []
        started = time.perf_counter()
        run = learner.begin(Experience("tones", train, [], labels))
        while run.epoch < run.epochs:
            run.train_epoch()
            seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
        kept_bytes = store.used_bytes
        logits = learner.predict(test)
    exact = logits if exact is None else exact
    right = [labels[i] == sample.label for i, sample in zip(logits.argmax(dim=1).tolist(), test, strict=True)]
    later = statistics.median(seconds[1:])
    report(
        "feature_cache",
        placement=placement,
        precision=precision,
        samples=count,
        first_s=round(seconds[0], 3),
        later_s=round(later, 3),
        later_to_first=round(later / seconds[0], 4),
        bytes_per_sample=round(kept_bytes / count),
        accuracy=round(sum(right) / len(right), 4),
        deviation=round(float((logits - exact).norm() / exact.norm()), 5),
        targets=TARGETS if placement == "ladder" else {},
    )
    return exact


def new_learner(bundle: Bundle, placement: str, epochs: int, features: FeatureCache) -> MmclLearner:
    method = MethodConfig(adapter=AdapterConfig(placement=placement), train=TrainConfig(epochs=epochs, min_steps=0))
    backbones = open_backbones(bundle, SessionFactory(ThreadPlan.for_machine(), provider="cpu"))
    model = build_model(method.adapter, method.head, backbones, generator=torch.Generator().manual_seed(0))
    return MmclLearner(model, method, preprocess=Preprocessor.of(bundle), seed=0, features=features)


def samples(count: int, *, seed: int) -> list[Sample]:
    """Noisy tones two semitones apart and noisy greys, 2 to 5 s and 224 pixels."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        number = index % CLASSES
        time_s = np.arange(round(rng.uniform(2.0, 5.0) * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
        wave = 0.1 * np.sin(2 * np.pi * 440.0 * 2 ** (number / 6) * time_s) + rng.normal(0, 0.1, len(time_s))
        picture = rng.normal(100 + 12 * number, 40, (1, 224, 224, 3)).clip(0, 255).astype(np.uint8)
        made.append(Sample(wave.astype(np.float32), picture, f"class {number}", f"{index}"))
    return made


if __name__ == "__main__":
    main()
