"""What poisoned packs do to a merge: accuracy of the mean, of the robust methods, and which packs the report names.

A model learns the first classes of av21 from a third of their training pairs: the release. Twenty devices go on from
it, each on pairs of its own drawing from the other two thirds. Then a fifth of them are poisoned, one kind after the
other and all kinds mixed: signs flipped, values times a hundred, a NaN, classes exchanged in training data (four pairs
of them). Each merge is measured on the test pairs. ``cost_points`` is against the mean of all twenty before anyone was
poisoned. One JSON line a kind.

    python benchmarks/bench_merge_poison.py [--bundle DIR] [--classes 10] [--devices 20] [--seeds 0]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mmcl_edge.adapters.model import build_model
from mmcl_edge.bundle import Bundle
from mmcl_edge.config import AdapterConfig, MethodConfig, TrainConfig
from mmcl_edge.data.datasets import open_dataset, select
from mmcl_edge.data.streams import Experience
from mmcl_edge.errors import PackError
from mmcl_edge.export.exporter import export_bundle
from mmcl_edge.fileio import canonical_json, sha256_bytes
from mmcl_edge.fleet.merge import MergeReport, merge_packs
from mmcl_edge.learners.features import FeatureCache
from mmcl_edge.learners.mmcl import MmclLearner
from mmcl_edge.learners.persistence import contents_of, model_from_pack
from mmcl_edge.packs import PackContents, read_pack, write_pack
from mmcl_edge.packs.manifest import MANIFEST_NAME, TENSORS_NAME
from mmcl_edge.runtime.preprocess import Preprocessor
from mmcl_edge.runtime.segments import open_backbones
from mmcl_edge.runtime.sessions import SessionFactory
from mmcl_edge.runtime.threads import ThreadPlan
from mmcl_edge.types import Sample

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
POISONED = 0.2
SAMPLES = 60
METHODS = ("mean", "median", "krum")
TARGET_POINTS = 2.0


class Fleet:
    """Trains and measures; features of every pair are worked out once."""

    def __init__(self, bundle: Bundle, folder: Path, seed: int) -> None:
        self.bundle, self.folder, self.seed = bundle, folder, seed
        plan = ThreadPlan.for_machine()
        plan.apply()
        self.backbones = open_backbones(bundle, SessionFactory(plan, provider="cpu"))
        self.preprocess = Preprocessor(bundle.manifest.inputs)
        self.features = FeatureCache()
        self.method = MethodConfig(adapter=AdapterConfig(placement="ladder", freeze_experts=False))

    def learner(self, pack: Path | None, epochs: int, seed: int) -> MmclLearner:
        """A learner that goes on from a pack, or starts anew."""
        method = self.method.model_copy(update={"train": TrainConfig(epochs=epochs, min_steps=0)})
        common = {"preprocess": self.preprocess, "seed": seed, "features": self.features}
        if pack is None:
            generator = torch.Generator().manual_seed(self.seed)
            return MmclLearner(
                build_model(method.adapter, method.head, self.backbones, generator=generator), method, **common
            )
        read = read_pack(pack)
        model = model_from_pack(read, self.backbones)
        return MmclLearner(model, method, labels=read.manifest.label_names, experiences=1, **common)

    def train(self, name: str, start: Path | None, samples: Sequence[Sample], *, epochs: int, seed: int) -> Path:
        """The pack of a device that went on from ``start``."""
        learner = self.learner(start, epochs, seed)
        classes = tuple(dict.fromkeys(str(sample.label) for sample in samples))
        learner.observe(Experience(name, samples, (), classes))
        contents = contents_of(
            learner.model,
            self.method,
            bundle_digest=self.bundle.digest,
            labels=learner.labels,
            parents=[] if start is None else [read_pack(start)],
            sample_counts={},
            experiences=(name,),
            evaluation={},
        )
        return self.folder / name / write_pack(self.folder / name, contents)

    def accuracy(self, pack: Path, samples: Sequence[Sample]) -> float:
        """Share of samples that a pack labels rightly."""
        learner = self.learner(pack, 1, 0)
        best = learner.predict(samples).argmax(dim=1).tolist()
        return sum(learner.labels[i] == sample.label for i, sample in zip(best, samples, strict=True)) / len(samples)


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--data", type=Path, default=DATA, help="folder that holds av21")
    made.add_argument("--bundle", type=Path, help="an exported bundle; default: export one")
    made.add_argument("--classes", type=int, default=10)
    made.add_argument("--devices", type=int, default=20)
    made.add_argument("--seeds", default="0")
    arguments = made.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Bundle.open(arguments.bundle) if arguments.bundle else export_bundle(Path(scratch) / "bundle")
        for seed in map(int, arguments.seeds.split(",")):
            run(Fleet(bundle, Path(scratch) / str(seed), seed), arguments, seed)


def run(fleet: Fleet, arguments: argparse.Namespace, seed: int) -> None:
    started = time.perf_counter()
    reader = open_dataset("av21", arguments.data)
    classes = list(dict.fromkeys(row.label for row in reader.rows))[: arguments.classes]
    train, test = (
        [reader.load(row) for row in select(reader.rows, split=s, classes=classes)] for s in ("train", "test")
    )
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(train))
    first, rest = order[: len(train) // 3], order[len(train) // 3 :]
    base = fleet.train("release", None, [train[i] for i in first], epochs=8, seed=seed)
    liars = round(POISONED * arguments.devices)
    drawn = [[train[i] for i in rng.choice(rest, SAMPLES, replace=False)] for _ in range(arguments.devices)]
    honest = [
        fleet.train(f"device{number}", base, samples, epochs=4, seed=seed + number)
        for number, samples in enumerate(drawn)
    ]
    swaps = dict(zip(classes[0:8:2], classes[1:8:2], strict=True))
    swaps |= {other: one for one, other in swaps.items()}
    exchanged = [
        fleet.train(
            f"liar{number}",
            base,
            [replace(sample, label=swaps.get(str(sample.label), sample.label)) for sample in drawn[number]],
            epochs=4,
            seed=seed + number,
        )
        for number in range(liars)
    ]
    kinds: dict[str, list[Path]] = {
        "none": [],
        "sign": [changed(pack, fleet.folder / "sign", lambda value: -value) for pack in honest[:liars]],
        "scale": [changed(pack, fleet.folder / "scale", lambda value: 100 * value) for pack in honest[:liars]],
        "nan": [with_nan(pack, fleet.folder / "nan") for pack in honest[:liars]],
        "labels": exchanged,
    }
    kinds["mixture"] = [kinds[kind][number] for number, kind in enumerate(("sign", "scale", "nan", "labels"))]
    clean = 0.0
    facts = {"seed": seed, "classes": len(classes), "devices": len(honest), "test_pairs": len(test)}
    facts |= {"release_accuracy": round(fleet.accuracy(base, test), 4)}
    facts |= {"device_accuracy": round(float(np.mean([fleet.accuracy(pack, test) for pack in honest])), 4)}
    for kind, poisoned in kinds.items():
        packs = [*poisoned, *honest[len(poisoned) :]]
        row: dict[str, object] = {}
        for method in METHODS:
            try:
                report = merge_packs(packs, fleet.folder / "merged", method=method)
            except PackError as error:
                row[method] = f"refused: {error}"[:60]
                continue
            found = fleet.accuracy(report.path, test)
            if (kind, method) == ("none", "mean"):
                clean = found
            row |= {method: round(found, 4), f"{method}_cost_points": round(100 * (clean - found), 2)}
            row["named"] = named(report, packs, len(poisoned))
        print(
            json.dumps({"benchmark": "merge_poison", "kind": kind, "poisoned": len(poisoned), **row, **facts}),
            flush=True,
        )
    print(json.dumps({"benchmark": "merge_poison", "seconds": round(time.perf_counter() - started), "seed": seed}))


def named(report: MergeReport, packs: Sequence[Path], poisoned: int) -> dict[str, int]:
    """How many poisoned and how many honest packs the report names as outliers or broken."""
    names = {outlier.path for outlier in report.outliers or ()} | {broken.path for broken in report.broken}
    return {
        "poisoned": sum(str(pack) in names for pack in packs[:poisoned]),
        "honest": sum(str(pack) in names for pack in packs[poisoned:]),
    }


def changed(pack: Path, folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """A copy of a pack with all its tensors changed, digests and all."""
    read = read_pack(pack)
    contents = PackContents(
        tensors={name: change(value) for name, value in read.tensors().items()},
        config=read.config,
        bundle_digest=read.manifest.bundle_digest,
        labels=read.manifest.label_names,
        experts=read.manifest.experts,
        parents=read.manifest.parents,
        version=read.manifest.version,
        experiences=read.manifest.experiences,
    )
    return folder / write_pack(folder, contents)


def with_nan(pack: Path, folder: Path) -> Path:
    """A copy of a pack whose last value is NaN, with digests that fit: as an attacker would make it."""
    target = folder / pack.name
    target.mkdir(parents=True)
    files = {path.name: path.read_bytes() for path in pack.iterdir()}
    files[TENSORS_NAME] = files[TENSORS_NAME][:-4] + np.array(np.nan, "<f4").tobytes()
    manifest = json.loads(files[MANIFEST_NAME])
    for entry in manifest["files"]:
        entry["sha256"] = sha256_bytes(files[entry["path"]])
    files[MANIFEST_NAME] = canonical_json(manifest)
    for name, data in files.items():
        (target / name).write_bytes(data)
    return target


if __name__ == "__main__":
    main()
