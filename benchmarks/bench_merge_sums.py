"""Merged sums on real data: against one device that saw everything, in any grouping, and with poisoned packs.

Twenty devices each draw some classes of av21 and some training pairs of each, so no two see the same. Their packs are
merged (``union``, ``median``) and measured on all test pairs; the *central* pack learned all those pairs in one place.
Then a fifth of the devices are poisoned: signs flipped, values times a hundred, a NaN, classes exchanged.
``lost_points`` is against the clean merge of all twenty. A robust merge cannot have what the poisoned devices would
have told it, so ``honest`` is the merge of the other sixteen. One JSON line a kind.

    python benchmarks/bench_merge_sums.py [--bundle DIR] [--devices 20] [--classes 8] [--pairs 5] [--seeds 0,1,2]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mmcl_edge.bundle import Bundle
from mmcl_edge.config import MethodConfig
from mmcl_edge.data.datasets import open_dataset, select
from mmcl_edge.errors import PackError
from mmcl_edge.export.exporter import export_bundle
from mmcl_edge.fileio import canonical_json, sha256_bytes
from mmcl_edge.fleet.merge import MergeOptions, merge_packs
from mmcl_edge.learners.analytic.addends import Addend, addends_of, total
from mmcl_edge.learners.analytic.learner import AnalyticLearner
from mmcl_edge.learners.analytic.statistics import RidgeStatistics
from mmcl_edge.learners.host import Host
from mmcl_edge.learners.persistence import contents_of
from mmcl_edge.packs import read_pack, write_pack
from mmcl_edge.packs.manifest import TENSORS_NAME
from mmcl_edge.runtime.engine import Runtime

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
POISONED = 0.2
METHOD = MethodConfig(learner="analytic")


class Places:
    """Features of every pair, worked out once, and packs made of some."""

    def __init__(self, bundle: Bundle, data: Path) -> None:
        torch.set_num_threads(1)
        runtime = Runtime.open(bundle)
        self.family = bundle.family
        self.learner = AnalyticLearner(Host(runtime.backbones, METHOD, runtime.preprocess, 0))
        rows = (reader := open_dataset("av21", data)).rows
        self.classes = tuple(dict.fromkeys(row.label for row in rows))
        self.h: dict[str, Tensor] = {}
        self.y: dict[str, Tensor] = {}
        for split in ("train", "test"):
            samples = [reader.load(row) for row in select(rows, split=split, classes=self.classes)]
            self.h[split] = self.learner.embed(samples)
            self.y[split] = torch.tensor([self.classes.index(str(one.label)) for one in samples])

    def addend(self, rows: Sequence[int], labels: Tensor | None = None) -> Addend:
        """What a device learned from training pairs, under their own labels or others ``(n,)``."""
        columns = self.y["train"][list(rows)] if labels is None else labels
        targets = functional.one_hot(columns, len(self.classes)).float()
        return Addend.of(self.learner.heads.counted(self.h["train"][list(rows)], targets), self.classes)

    def pack(self, folder: Path, addend: Addend) -> Path:
        """The pack of a device."""
        contents = contents_of(
            [addend],
            METHOD,
            bundle_digest=self.family,
            labels=addend.classes,
            parents=(),
            sample_counts=addend.sample_counts(),
            experiences=("pairs",),
            evaluation={},
        )
        return folder / write_pack(folder, contents)

    def weights(self, pack: Path) -> dict[str, Tensor]:
        """Weights of every head, its columns in the order of ``classes``."""
        addends = addends_of(read_pack(pack))
        self.learner.heads.put(total(addends, self.classes, self.learner.heads.empty(0)))
        return {name: head.weights for name, head in self.learner.heads.answering.items()}

    def accuracy(self, pack: Path) -> float:
        """On all test pairs, in percent."""
        self.weights(pack)
        best = self.learner.heads.scores(self.h["test"], len(self.classes)).argmax(dim=1)
        return 100 * float((best == self.y["test"]).double().mean())


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--data", type=Path, default=DATA, help="folder that holds av21")
    made.add_argument("--bundle", type=Path, help="an exported bundle; default: export one")
    made.add_argument("--devices", type=int, default=20)
    made.add_argument("--classes", type=int, default=8, help="of each device")
    made.add_argument("--pairs", type=int, default=5, help="of each class, at most")
    made.add_argument("--seeds", default="0,1,2")
    arguments = made.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Bundle.open(arguments.bundle) if arguments.bundle else export_bundle(Path(scratch) / "bundle")
        places = Places(bundle, arguments.data)
        for seed in map(int, arguments.seeds.split(",")):
            run(places, Path(scratch) / str(seed), arguments, seed)


def run(places: Places, folder: Path, arguments: argparse.Namespace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = [draw(places, rng, arguments.classes, arguments.pairs) for _ in range(arguments.devices)]
    packs = [places.pack(folder / "devices", places.addend(rows)) for rows in drawn]
    central = places.pack(folder, places.addend([row for rows in drawn for row in rows]))
    started = time.perf_counter()
    clean = merged(packs, folder / "clean", "union")
    facts = {"seed": seed, "devices": arguments.devices, "classes_each": arguments.classes, "pairs": arguments.pairs}
    half = len(packs) // 2
    halves = [merged(packs[:half], folder / "a", "union"), merged(packs[half:], folder / "b", "union")]
    tell(
        facts,
        kind="clean",
        seconds=round(time.perf_counter() - started, 2),
        merged=places.accuracy(clean),
        central=places.accuracy(central),
        weights_error=difference(places, clean, central),
        grouped_weights_error=difference(places, merged(halves, folder / "grouped", "union"), central),
        one_device=float(np.mean([places.accuracy(pack) for pack in packs])),
    )
    liars = round(POISONED * len(packs))
    honest = places.accuracy(merged(packs[liars:], folder / "honest", "union"))
    for kind, poison in POISONS.items():
        poisoned = [poison(places, folder / kind, rows, pack) for rows, pack in zip(drawn, packs[:liars], strict=False)]
        tell(facts, kind=kind, **measure(places, [*poisoned, *packs[liars:]], poisoned, folder / kind, clean, honest))


def measure(
    places: Places, packs: list[Path], poisoned: list[Path], folder: Path, clean: Path, honest: float
) -> dict[str, object]:
    try:
        mean: float | str = places.accuracy(merged(packs, folder / "union", "union"))
    except PackError:
        mean = "refused"
    report = merge_packs(packs, folder / "median", method="median", options=MergeOptions(outliers=True))
    named = {one.digest for one in report.outliers or ()} | {Path(one.path).name for one in report.broken}
    bad = {path.name for path in poisoned}
    assert report.path is not None
    robust = places.accuracy(report.path)
    return {
        "union": mean,
        "median": robust,
        "honest": honest,
        "lost_points": places.accuracy(clean) - robust,
        "named": len(named & bad),
        "poisoned": len(bad),
        "falsely_named": len(named - bad),
    }


def merged(packs: Sequence[Path], out: Path, method: str) -> Path:
    found = merge_packs(packs, out, method=method).path
    assert found is not None
    return found


def difference(places: Places, one: Path, other: Path) -> float:
    """Largest difference of two packs' weights, over the largest weight."""
    mine, theirs = places.weights(one), places.weights(other)
    return max(float((mine[name] - w).abs().max() / w.abs().max()) for name, w in theirs.items())


def draw(places: Places, rng: np.random.Generator, classes: int, pairs: int) -> list[int]:
    labels, found = places.y["train"].numpy(), []
    for column in rng.choice(len(places.classes), classes, replace=False):
        own = np.flatnonzero(labels == column)
        found += rng.choice(own, min(pairs, len(own)), replace=False).tolist()
    return found


# Poisons: a pack like the honest one, but for what was done to it


def exchanged(places: Places, folder: Path, rows: list[int], pack: Path) -> Path:
    """Every class under the next one's name."""
    labels = places.y["train"][rows]
    classes = labels.unique()
    following = dict(zip(classes.tolist(), classes.roll(1).tolist(), strict=True))
    return places.pack(folder, places.addend(rows, torch.tensor([following[int(one)] for one in labels])))


def changed(change: Callable[[RidgeStatistics], RidgeStatistics]) -> Callable[..., Path]:
    def poison(places: Places, folder: Path, rows: list[int], pack: Path) -> Path:
        (addend,) = addends_of(read_pack(pack))
        return places.pack(
            folder, Addend(addend.atoms, addend.classes, {head: change(one) for head, one in addend.sums.items()})
        )

    return poison


def not_a_number(places: Places, folder: Path, rows: list[int], pack: Path) -> Path:
    """A pack whose last value is not a number, and whose digests fit it."""
    target = folder / "nan" / pack.name
    target.mkdir(parents=True)
    for file in pack.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    data = (target / TENSORS_NAME).read_bytes()[:-4] + np.float32(np.nan).tobytes()
    (target / TENSORS_NAME).write_bytes(data)
    manifest = json.loads((target / "pack.json").read_bytes())
    for entry in manifest["files"]:
        if entry["path"] == TENSORS_NAME:
            entry["sha256"] = sha256_bytes(data)
    (target / "pack.json").write_bytes(canonical_json(manifest))
    return target


POISONS: dict[str, Callable[..., Path]] = {
    "sign-flipped": changed(lambda one: RidgeStatistics(one.root, -one.cross, one.counts)),
    "scaled x100": changed(lambda one: RidgeStatistics(100 * one.root, 100 * one.cross, one.counts)),
    "nan": not_a_number,
    "classes exchanged": exchanged,
}


def tell(facts: dict[str, object], **found: object) -> None:
    rounded = {
        name: round(value, 8 if "error" in name else 1) if isinstance(value, float) else value
        for name, value in found.items()
    }
    print(json.dumps({**facts, **rounded}), flush=True)


if __name__ == "__main__":
    main()
