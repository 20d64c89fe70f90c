"""Choose each baseline's own hyperparameters on validation folds of av21's train pairs; test pairs are never read.

A quarter of each class is held out in whole groups; the first 9 classes come in experiences of three, on the ladder,
everything else at its default. Each point of a grid is scored by the mean final accuracy over the folds. One JSON line
a point; all of them and the best are written to ``tune_baselines.json``, where the values in the catalogue come from.
Chosen (mean final accuracy over the 9 classes): see ``chosen`` there. At the edge of its grid: EWC's weight.

    python benchmarks/tune_baselines.py --bundle DIR --features DIR [--only ewc,lwf] [--classes 9] [--folds 2]
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

from learner_runs import DATA, Bench, measure

from mmcl_edge.data.datasets import open_dataset
from mmcl_edge.learners.baselines.cope import CopeLearner
from mmcl_edge.learners.baselines.der import DerLearner, DerPlusPlusLearner
from mmcl_edge.learners.baselines.ewc import EwcLearner
from mmcl_edge.learners.baselines.lwf import LwfLearner
from mmcl_edge.learners.catalogue import trained

WEIGHTS = [1.0, 100.0, 1e3, 1e4, 1e5]
GRIDS: dict[str, tuple[type, Mapping[str, Sequence]]] = {
    "ewc-online": (EwcLearner, {"online": [True], "weight": WEIGHTS}),
    "lwf": (LwfLearner, {"alpha": [1.0, 5.0], "own_classes": [False, True]}),
    "cope": (CopeLearner, {"temperature": [0.1, 0.5], "rate": [5e-4, 2e-3]}),
    "der++": (DerPlusPlusLearner, {"alpha": [0.1, 0.5], "beta": [0.5, 1.0]}),
    "der": (DerLearner, {"alpha": [0.3, 1.0]}),
    "ewc": (EwcLearner, {"weight": [1e3, 1e5]}),
}
RESULTS = Path(__file__).with_suffix(".json")


def main() -> None:
    arguments = parse()
    bench = Bench(open_dataset("av21", arguments.data), arguments.bundle, arguments.features)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in arguments.only.split(","):
        points = [score(bench, arguments, name, point) for point in grid(name)]
        best = max(points, key=lambda point: (point["final_accuracy"], point["average_accuracy"]))
        results[name] = {"classes": arguments.classes, "folds": arguments.folds, "chosen": best, "points": points}
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds av21")
    parser.add_argument("--bundle", type=Path, required=True, help="an exported bundle")
    parser.add_argument("--features", type=Path, required=True, help="folder where features of samples are kept")
    parser.add_argument("--only", default=",".join(GRIDS))
    parser.add_argument("--classes", type=int, default=9)
    parser.add_argument("--folds", type=int, default=2)
    return parser.parse_args()


def grid(name: str) -> Iterator[dict]:
    """Every combination of a learner's values."""
    values = GRIDS[name][1]
    return (dict(zip(values, point, strict=True)) for point in product(*values.values()))


def score(bench: Bench, arguments: argparse.Namespace, name: str, point: Mapping) -> dict:
    """One combination's mean scores over the folds; ``rate`` is the loop's learning rate."""
    settings = dict(point)
    train = {"learning_rate": settings.pop("rate")} if "rate" in settings else {}
    runs = []
    for number in range(arguments.folds):
        learner = trained(GRIDS[name][0], **settings)(bench.host(number, **train))
        runs.append(measure(learner, bench.fold(number, classes=arguments.classes)))
    means = {key: round(statistics.mean(run[key] for run in runs), 4) for key in ("final_accuracy", "average_accuracy")}
    row = {"settings": dict(point), **means, "cpu_seconds": round(sum(run["cpu_seconds"] for run in runs), 1)}
    print(json.dumps({"learner": name, **row}), flush=True)
    return row


if __name__ == "__main__":
    main()
