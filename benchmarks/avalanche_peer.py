"""The other side of ``check_avalanche.py``: Avalanche's own strategies on features from a file.

Runs in an environment of its own (``pip install avalanche-lib``) that needs none of this project. Prints one JSON line
a strategy and seed.

    peer/bin/python benchmarks/avalanche_peer.py FEATURES.npz SETTINGS.json
"""

from __future__ import annotations

import json
import math
import sys
import warnings

import numpy as np
import torch
from torch import nn

warnings.filterwarnings("ignore")

from avalanche.benchmarks import tensors_benchmark  # noqa: E402
from avalanche.core import SupervisedPlugin  # noqa: E402
from avalanche.training import DER, Naive  # noqa: E402
from avalanche.training.plugins import AGEMPlugin, EWCPlugin, LwFPlugin, ReplayPlugin  # noqa: E402
from avalanche.training.storage_policy import ReservoirSamplingBuffer  # noqa: E402


class Net(nn.Module):
    """Our fusion and linear head for one modality that is always there."""

    def __init__(self, dim: int, joint: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, joint))
        self.mlp = nn.Sequential(nn.Linear(joint + 1, hidden), nn.ReLU(), nn.Linear(hidden, joint))
        self.head = nn.Linear(joint, classes)
        nn.init.normal_(self.head.weight, std=joint**-0.5)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, D)`` to logits ``(B, C)``."""
        z = self.project(x)
        return self.head(self.mlp(torch.cat([z, torch.ones(len(z), 1)], dim=1)))


class Loop(SupervisedPlugin):
    """Our loop in each experience: as many epochs, a fresh optimizer, the rate's warm-up and cosine."""

    def __init__(self, how: dict) -> None:
        super().__init__()
        self.how = how

    def before_training_exp(self, strategy, **_) -> None:
        """Set the length of training, and forget the optimizer's past."""
        how, samples = self.how, len(strategy.experience.dataset)
        strategy.train_mb_size = how["batch_size"]
        batches = math.ceil(samples / how["batch_size"])
        strategy.train_epochs = max(how["epochs"], math.ceil(how["min_steps"] / batches))
        self.steps, self.step = batches * strategy.train_epochs, 0
        strategy.optimizer.state.clear()

    def before_training_iteration(self, strategy, **_) -> None:
        """Set the rate."""
        done = min(1.0, self.step / self.steps)
        rate = self.how["learning_rate"] * min(1.0, (done + 1e-3) / 0.05) * 0.5 * (1 + math.cos(math.pi * done))
        for group in strategy.optimizer.param_groups:
            group["lr"] = rate
        self.step += 1

    def after_training_exp(self, strategy, **_) -> None:
        """Set the batch that importance is measured with."""
        strategy.train_mb_size = self.how["single"]


def strategy_for(name: str, model: nn.Module, how: dict):
    plugins = [Loop(how | {"single": 1 if name.startswith("ewc") else how["batch_size"]})]
    memory = how["exemplars"]
    common = {
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=how["learning_rate"], weight_decay=how["weight_decay"]),
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": how["batch_size"],
        "train_epochs": how["epochs"],
        "eval_mb_size": 64,
        "plugins": plugins,
        "evaluator": None,
    }
    if name in ("der", "der++"):
        beta = how["beta"] if name == "der++" else 0.0
        return DER(mem_size=memory, batch_size_mem=how["batch_size"], alpha=how["alpha"], beta=beta, **common)
    plugins += {
        "fine-tune": lambda: [],
        "er": lambda: [ReplayPlugin(memory, storage_policy=ReservoirSamplingBuffer(memory))],
        "ewc": lambda: [EWCPlugin(how["ewc_weight"])],
        "ewc-online": lambda: [EWCPlugin(how["ewc_weight"], mode="online", decay_factor=1.0)],
        "lwf": lambda: [LwFPlugin(alpha=how["lwf_alpha"] * 2.0**2, temperature=2.0)],
        "a-gem": lambda: [AGEMPlugin(memory // how["experiences"], how["batch_size"])],
    }[name]()
    return Naive(**common)


def run(name: str, seed: int, data: dict, how: dict) -> dict:
    torch.manual_seed(seed)
    np.random.seed(seed)
    train, test = (
        [
            (data[f"{part}_x"][data[f"{part}_step"] == step], data[f"{part}_y"][data[f"{part}_step"] == step])
            for step in range(how["experiences"])
        ]
        for part in ("train", "test")
    )
    stream = tensors_benchmark(
        train_tensors=train, test_tensors=test, task_labels=[0] * how["experiences"], complete_test_set_only=False
    )
    model = Net(data["train_x"].shape[1], how["joint"], how["hidden"], how["classes"])
    strategy, matrix = strategy_for(name, model, how), []
    for experience in stream.train_stream:
        strategy.train(experience, shuffle=True)
        model.eval()
        with torch.no_grad():
            matrix.append([float((model(x).argmax(dim=1) == y).float().mean()) for x, y in test])
        model.train()
    return {"learner": name, "seed": seed, "matrix": matrix}


def main() -> None:
    torch.set_num_threads(1)
    data = {name: torch.from_numpy(value) for name, value in np.load(sys.argv[1]).items()}
    how = json.loads(open(sys.argv[2]).read())  # noqa: SIM115
    for name in how["learners"]:
        for seed in how["seeds"]:
            print(json.dumps(run(name, seed, data, how)), flush=True)


if __name__ == "__main__":
    main()
