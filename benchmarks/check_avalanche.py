"""Our baselines against an independent implementation, Avalanche's, on the same features, module, loop and budget.

Both sides train the same small module (layer norm, projection, two-layer perceptron, linear head of all classes) with
AdamW on the same frozen features of av21, class-incremental, three classes at a time; ours through the learners of the
catalogue, the other through Avalanche's own strategies (``avalanche_peer.py``, in an environment of its own). One JSON
line a learner; all are written to ``check_avalanche.json``.

Found with avalanche-lib 0.6.0 and torch 2.14: all eight agree, er over eight seeds, the others over three. EWC, LwF and
A-GEM stay where fine-tuning is on both sides, so that they are checked in their forgetting alone.

Known differences: Avalanche's DER replays one batch for both terms and balances classes, ours draws two and keeps a
reservoir; its A-GEM keeps as many samples of each experience, ours of each class; its distillation takes no
factor T squared (its weight is multiplied by it here), and its head of LwF holds classes that are to come.

    python -m venv peer && peer/bin/pip install avalanche-lib
    python benchmarks/check_avalanche.py --bundle DIR --features DIR --peer peer/bin/python [--only er,lwf]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from learner_runs import DATA, Bench
from torch import Tensor, nn

from mmcl_edge.adapters.encoder import Encoding
from mmcl_edge.adapters.fusion import Fusion
from mmcl_edge.adapters.heads import GrowingHead
from mmcl_edge.adapters.model import Model
from mmcl_edge.benchmark.metrics import average_accuracy, final_accuracy
from mmcl_edge.config import MethodConfig
from mmcl_edge.data.datasets import open_dataset
from mmcl_edge.data.streams import Experience
from mmcl_edge.learners.baselines.a_gem import AGemLearner
from mmcl_edge.learners.baselines.der import DerLearner, DerPlusPlusLearner
from mmcl_edge.learners.baselines.er import ErLearner
from mmcl_edge.learners.baselines.ewc import EwcLearner
from mmcl_edge.learners.baselines.fine_tune import FineTuneLearner
from mmcl_edge.learners.baselines.lwf import LwfLearner
from mmcl_edge.learners.baselines.simple_cil import SimpleCilLearner
from mmcl_edge.learners.features import FeatureCache
from mmcl_edge.learners.randomness import generator_for
from mmcl_edge.types import Sample

HOW = {
    "experiences": 7, "classes": 21, "exemplars": 63, "joint": 64, "hidden": 128,
    "epochs": 12, "min_steps": 48, "batch_size": 16, "learning_rate": 1e-3, "weight_decay": 1e-4,
    "alpha": 0.3, "beta": 0.5, "ewc_weight": 100.0, "lwf_alpha": 1.0,
}  # fmt: skip
OURS = {
    "fine-tune": (FineTuneLearner, {}),
    "er": (ErLearner, {}),
    "der": (DerLearner, {"alpha": HOW["alpha"]}),
    "der++": (DerPlusPlusLearner, {"alpha": HOW["alpha"], "beta": HOW["beta"]}),
    "ewc": (EwcLearner, {"weight": HOW["ewc_weight"]}),
    "ewc-online": (EwcLearner, {"weight": HOW["ewc_weight"], "online": True}),
    "lwf": (LwfLearner, {"alpha": HOW["lwf_alpha"]}),
    "a-gem": (AGemLearner, {}),
}
GROWS = {"lwf"}
"""Learners whose head grows, as ours always does: Avalanche distils classes seen alone, whatever the head holds."""
RESULTS = Path(__file__).with_suffix(".json")


class Vectors(nn.Module):
    """An encoder of samples that are features already: one modality, nothing to train."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.adapters = nn.ModuleList()
        self.pooled_dims = {"features": dim}
        self.keeps = "features as they are"

    def prepare(self, items: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """The features."""
        return [dict(item) for item in items]

    def collate(self, prepared: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """``(B, D)``."""
        return torch.stack([one["features"] for one in prepared])

    def hide(self, batch: Tensor, hidden: Mapping[str, Tensor]) -> Tensor:
        """Nothing can be hidden."""
        return batch

    def presence(self, batch: Tensor) -> dict[str, Tensor]:
        """Always there."""
        return {"features": torch.ones(len(batch), dtype=torch.bool)}

    def forward(self, batch: Tensor, generator: torch.Generator | None = None) -> Encoding:
        """The batch as it is."""
        return Encoding({"features": batch}, self.presence(batch), ())


def main() -> None:
    arguments = parse()
    bench = Bench(open_dataset("av21", arguments.data), arguments.bundle, arguments.features)
    stream = bench.stream(classes=HOW["classes"])
    data = features_of(bench, stream)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    names = arguments.only.split(",")
    theirs = peers(arguments.peer, data, names, seeds)
    found = json.loads(RESULTS.read_text())["learners"] if RESULTS.exists() else []
    rows = {row["learner"]: row for row in found}
    for name in names:
        matrices = [ours(name, seed, data) for seed in seeds]
        counts = [int((data["test_step"] == step).sum()) for step in range(HOW["experiences"])]
        rows[name] = compare(name, matrices, theirs[name], counts)
        print(json.dumps(rows[name]), flush=True)
    RESULTS.write_text(json.dumps({"settings": HOW, "learners": list(rows.values())}, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds av21")
    parser.add_argument("--bundle", type=Path, required=True, help="an exported bundle")
    parser.add_argument("--features", type=Path, required=True, help="folder where features of samples are kept")
    parser.add_argument("--peer", type=Path, required=True, help="Python of the environment that has avalanche-lib")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default=",".join(OURS))
    return parser.parse_args()


def features_of(bench: Bench, stream: Sequence[Experience]) -> dict[str, np.ndarray]:
    """Frozen features of all pairs, their classes by number and experiences by number."""
    frozen = SimpleCilLearner(bench.host(0))
    data = {}
    for part in ("train", "test"):
        samples = [(step, sample) for step, one in enumerate(stream) for sample in getattr(one, part)]
        data[f"{part}_x"] = frozen.embed([sample for _, sample in samples]).numpy()
        data[f"{part}_y"] = np.array([bench.classes.index(sample.label) for _, sample in samples])
        data[f"{part}_step"] = np.array([step for step, _ in samples])
    return data


def ours(name: str, seed: int, data: Mapping[str, np.ndarray]) -> list[list[float]]:
    """The accuracy matrix of one of our learners."""
    kind, settings = OURS[name]
    learner = kind(
        module(data["train_x"].shape[1], seed, classes=0 if name in GROWS else HOW["classes"]),
        config(),
        preprocess=lambda sample: {"features": torch.from_numpy(sample.audio)},
        seed=seed,
        labels=[] if name in GROWS else [str(number) for number in range(HOW["classes"])],
        features=FeatureCache(precision="fp32"),
        **settings,
    )
    matrix, tests = [], [samples_of(data, "test", step) for step in range(HOW["experiences"])]
    for step in range(HOW["experiences"]):
        train = samples_of(data, "train", step)
        learner.observe(Experience(f"classes_{step}", train, (), tuple(dict.fromkeys(one.label for one in train))))
        matrix.append(
            [float((learner.predict(one).argmax(dim=1) == learner.columns(one)).float().mean()) for one in tests]
        )
    return matrix


def samples_of(data: Mapping[str, np.ndarray], part: str, step: int) -> list[Sample]:
    here = data[f"{part}_step"] == step
    return [Sample(x, None, str(y)) for x, y in zip(data[f"{part}_x"][here], data[f"{part}_y"][here], strict=True)]


def config() -> MethodConfig:
    """The common loop, without what Avalanche's strategies have no place for."""
    loop = {name: HOW[name] for name in ("epochs", "min_steps", "batch_size", "learning_rate", "weight_decay")}
    return MethodConfig.model_validate(
        {
            "train": {**loop, "label_smoothing": 0.0, "gradient_clip": 1e9},
            "head": {"modality_dropout": 0.0},
            "replay": {"exemplars": HOW["exemplars"]},
        }
    )


def module(dim: int, seed: int, *, classes: int) -> Model:
    """Fusion and a linear head; all classes from the start, as Avalanche's DER needs it, or none."""
    generator = generator_for(seed, "module")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fusion = Fusion({"features": dim}, joint_dim=HOW["joint"], hidden=HOW["hidden"])
    head = GrowingHead(HOW["joint"], kind="linear", scale=1.0)
    head.grow(classes, generator)
    return Model(Vectors(dim), fusion, head)


def peers(python: Path, data: Mapping, names: Sequence[str], seeds: Sequence[int]) -> dict[str, list]:
    """Avalanche's accuracy matrices, by learner."""
    with tempfile.TemporaryDirectory() as folder:
        features, settings = Path(folder) / "features.npz", Path(folder) / "settings.json"
        np.savez(features, **data)
        settings.write_text(json.dumps({**HOW, "learners": list(names), "seeds": list(seeds)}))
        program = Path(__file__).with_name("avalanche_peer.py")
        done = subprocess.run([python, program, features, settings], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    matrices: dict[str, list] = {name: [] for name in names}
    for line in filter(lambda line: line.startswith("{"), done.stdout.splitlines()):
        row = json.loads(line)
        matrices[row["learner"]].append(row["matrix"])
    return matrices


def compare(name: str, ours: Sequence, theirs: Sequence, counts: Sequence[int]) -> dict:
    """Means and spreads of both sides; they agree where no mean differs by more than twice both deviations together."""
    sides = {"ours": summary(ours, counts), "avalanche": summary(theirs, counts)}
    agree = {}
    for what in ("final", "average"):
        one, other = sides["ours"][what], sides["avalanche"][what]
        agree[f"{what}_agrees"] = abs(one["mean"] - other["mean"]) <= 2 * (one["deviation"] + other["deviation"])
    return {"learner": name, **sides, **agree}


def summary(matrices: Sequence, counts: Sequence[int]) -> dict:
    values = {
        "final": [final_accuracy(matrix, counts) for matrix in matrices],
        "average": [average_accuracy(matrix, counts) for matrix in matrices],
    }
    return {
        name: {
            "mean": round(statistics.mean(one), 4),
            "deviation": round(statistics.stdev(one), 4),
            "runs": [round(value, 4) for value in one],
        }
        for name, one in values.items()
    }


if __name__ == "__main__":
    main()
