"""Confidence on av21 with everything at its default: the figures that docs/guides/confidence.md quotes.

The first classes of the index in experiences of three, taught through ``adapt`` as a device does it; the other classes
are never taught. Measured through ``Runtime`` on the test pairs of both. One JSON line a seed.

    python benchmarks/bench_confidence.py [--bundle DIR] [--placement ladder] [--classes 9] [--seeds 0]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from bench_adapt_av21 import DATA, copy_pair

from mmcl_edge.bundle import Bundle
from mmcl_edge.config import AdaptConfig, AdapterConfig, MethodConfig
from mmcl_edge.data.datasets import open_dataset, select
from mmcl_edge.export.exporter import export_bundle
from mmcl_edge.learners.confidence import auroc, calibration_error
from mmcl_edge.packs import Confidence
from mmcl_edge.runtime.adapt import AdaptRequest, adapt
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.workspace import Workspace
from mmcl_edge.types import Prediction

COVERAGES = (0.8, 0.9, 0.95)


def main() -> None:
    arguments = parse()
    reader = open_dataset("av21", arguments.data)
    classes = list(dict.fromkeys(row.label for row in reader.rows))
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Bundle.open(arguments.bundle) if arguments.bundle else export_bundle(Path(scratch) / "bundle")
        for seed in map(int, arguments.seeds.split(",")):
            workspace = Workspace(Path(scratch) / str(seed)).create()
            workspace.install_bundle(bundle.path)
            teach(workspace, reader, classes[: arguments.classes], placement=arguments.placement, seed=seed)
            row = measure(workspace, reader, classes, taught=arguments.classes)
            print(json.dumps({"placement": arguments.placement, "seed": seed} | row), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds av21")
    parser.add_argument("--bundle", type=Path, help="an exported bundle; default: export one")
    parser.add_argument("--placement", choices=("inline", "ladder"), default="ladder")
    parser.add_argument("--classes", type=int, default=9, help="that are taught; the others are not")
    parser.add_argument("--seeds", default="0")
    return parser.parse_args()


def teach(workspace: Workspace, reader, classes: Sequence[str], *, placement: str, seed: int) -> None:
    method = MethodConfig(adapter=AdapterConfig(placement=placement))
    for first in range(0, len(classes), 3):
        name = f"classes_{first // 3}"
        for row in select(reader.rows, split="train", classes=classes[first : first + 3]):
            copy_pair(row, workspace.task_folder(name) / row.label)
        adapt(workspace, AdaptRequest(name, method=method, adapt=AdaptConfig(seed=seed, tolerance=1.0)))


def measure(workspace: Workspace, reader, classes: Sequence[str], *, taught: int) -> dict[str, object]:
    """Every figure, on test pairs of the taught classes and of the others."""
    with Runtime.open(workspace.bundle_path, workspace.current_pack()) as runtime:
        rows = [select(reader.rows, split="test", classes=part) for part in (classes[:taught], classes[taught:])]
        known, strangers = ([*runtime.predict_batch([reader.load(row) for row in part])] for part in rows)
        confidence, labels = runtime.pack.manifest.confidence, runtime.labels
    if confidence is None:
        raise SystemExit("the pack was not calibrated: too few held-out samples")
    right = [row.label for row in rows[0]]
    target = torch.tensor([labels.index(label) for label in right])
    probabilities = torch.tensor([[answer.probabilities[label] for label in labels] for answer in known])
    return {
        "benchmark": "confidence",
        "classes": taught,
        "test_pairs": len(known),
        "pairs_of_other_classes": len(strangers),
        "calibration_samples": confidence.samples,
        "temperature": round(confidence.temperature, 3),
        "accuracy": share(answer.label == label for answer, label in zip(known, right, strict=True)),
        "ece_before": round(calibration_error(untempered(probabilities, confidence), target), 4),
        "ece_after": round(calibration_error(probabilities, target), 4),
        "auroc": round(auroc(scores(known), scores(strangers)), 4),
        "false_alarm_rate_asked": confidence.unknown.false_alarm_rate,
        "false_alarms": share(answer.unknown for answer in known),
        "detected": share(answer.unknown for answer in strangers),
        "coverage": {str(asked): coverage(known, right, asked) for asked in COVERAGES},
    }


def untempered(probabilities: torch.Tensor, confidence: Confidence) -> torch.Tensor:
    """What the probabilities were before calibration: at temperature 1."""
    return (probabilities.double().log() * confidence.temperature).softmax(dim=1)


def scores(answers: Sequence[Prediction]) -> torch.Tensor:
    return torch.tensor([answer.unknown_score for answer in answers])


def coverage(answers: Sequence[Prediction], right: Sequence[str], asked: float) -> dict[str, float]:
    sets = [answer.label_set(asked) for answer in answers]
    covered = share(label in labels for labels, label in zip(sets, right, strict=True))
    return {"measured": covered, "mean_size": round(sum(map(len, sets)) / len(sets), 3)}


def share(found) -> float:
    values = [bool(value) for value in found]
    return round(sum(values) / len(values), 4)


if __name__ == "__main__":
    main()
