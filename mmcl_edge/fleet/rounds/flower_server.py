"""The server in Flower: ``flwr run`` starts ``app``, with these settings in ``[tool.flwr.app.config]``:

folder        of the rounds' state; needed
bundle        folder of the bundle that all devices have; needed
rounds        how many (3)
learner       analytic (default) or mmcl
method        of merging (mean); see mmcl-edge merge
share, quorum, round-s, least-nodes    see ``flower_strategy.Pace``
staleness     exponent of the weight of late answers (0.5)
eval          folder of samples, a folder a class, that every new pack is measured on; without it, none is measured
tolerance     share of accuracy that classes of the fleet's pack may lose there (0.02)
seed          of everything random (0)
"""  # noqa: D415

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from mmcl_edge.bundle import Bundle
from mmcl_edge.config import AdaptConfig, MethodConfig
from mmcl_edge.errors import InputError
from mmcl_edge.fleet.merge import Evaluate
from mmcl_edge.fleet.rounds.flower_strategy import MergeStrategy, Pace
from mmcl_edge.fleet.rounds.merging import PackMerge
from mmcl_edge.fleet.rounds.server import RoundReport, Rounds
from mmcl_edge.fleet.rounds.staleness import EXPONENT


def main(grid: Grid, context: Context) -> None:
    """Do the rounds."""
    settings = dict(context.run_config)
    with evaluator_of(settings) as evaluate:
        strategy = strategy_of(settings, on_round=print_report, evaluate=evaluate)
        strategy.start(grid, num_rounds=int(settings.get("rounds", 3)))


@contextmanager
def evaluator_of(settings: Mapping[str, Any]) -> Iterator[Evaluate | None]:
    """What measures new packs, for the time of a ``with`` block; ``None`` where the settings name no samples.

    Raises:
        InputError: a needed setting is missing.
        TaskDataError: there are no samples where they should be.
        BundleError: the bundle is broken.
        MergeError: none of the samples can be decoded.
    """
    if not settings.get("eval"):
        yield None
        return
    from mmcl_edge.fleet.merge.evaluation import open_evaluator

    with open_evaluator(_path(settings, "bundle"), _path(settings, "eval")) as evaluate:
        yield evaluate


def strategy_of(
    settings: Mapping[str, Any], *, on_round: Any = lambda report: None, evaluate: Evaluate | None = None
) -> MergeStrategy:
    """The strategy that the settings describe; ``evaluate`` measures new packs.

    Raises:
        InputError: a needed setting is missing.
        BundleError: the bundle is broken.
    """
    merge = PackMerge(str(settings.get("method", "mean")), evaluate)
    if "tolerance" in settings:
        merge = replace(merge, tolerance=float(settings["tolerance"]))
    seed, learner = int(settings.get("seed", 0)), str(settings.get("learner", "analytic"))
    rounds = Rounds(
        _path(settings, "folder"),
        bundle=Bundle.open(_path(settings, "bundle")).family,
        method=MethodConfig.model_validate({"learner": learner}),
        adapt=AdaptConfig(seed=seed),
        merge=merge,
        exponent=float(settings.get("staleness", EXPONENT)),
    )
    pace = Pace(
        share=float(settings.get("share", 1.0)),
        quorum=float(settings.get("quorum", 1.0)),
        round_s=float(settings.get("round-s", 3600.0)),
        least_nodes=int(settings.get("least-nodes", 1)),
        seed=seed,
    )
    return MergeStrategy(rounds, pace, on_round)


def _path(settings: Mapping[str, Any], name: str) -> Path:
    if not settings.get(name):
        raise InputError(f"Expected the setting {name!r} in [tool.flwr.app.config], but there is none; add it.")
    return Path(str(settings[name]))


def print_report(report: RoundReport) -> None:
    """One line a round."""
    late = sum(age > 0 for _, age in report.merged.values())
    pack = "none" if report.pack is None else report.pack[:16]
    said = (
        f"round {report.round}: merged {len(report.merged)} ({late} late), refused {len(report.refused)}, pack {pack}"
    )
    print(said if report.rejected is None else f"{said}; the merge was refused: {report.rejected}")  # noqa: T201
    for sender, sentence in report.outliers.items():
        print(f"round {report.round}: node {sender} is unlike the others: {sentence}")  # noqa: T201


app = ServerApp()
app.main()(main)
