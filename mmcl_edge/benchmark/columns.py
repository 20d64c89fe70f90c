"""The columns of results: every metric of a run with its title and meaning, and the costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from mmcl_edge.benchmark import metrics
from mmcl_edge.benchmark.records import RunRecord

Measure = Callable[[RunRecord, RunRecord | None], float | None]
"""A metric of a run, given the joint run of the same stream and seed; None where it does not apply."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A column: how it is called, what it means in a sentence, and which way is good."""

    title: str
    meaning: str
    better: Literal["higher", "lower", "neither"]
    measure: Measure


def _forward_transfer(run: RunRecord, joint: RunRecord | None) -> float | None:
    if run.scenario == "class" or run.initial is None:
        return None
    return metrics.forward_transfer(run.matrix, run.initial, scenario=run.scenario)


def _intransigence(run: RunRecord, joint: RunRecord | None) -> float | None:
    return None if joint is None else metrics.intransigence(run.matrix, joint.matrix)


def overlap_of(run: RunRecord) -> metrics.Matrix | None:
    """The run's routing overlap, worked out of its expert use where the record does not hold it."""
    if run.routing_overlap is None and run.expert_use is not None:
        return metrics.routing_overlap(run.expert_use)
    return run.routing_overlap


def _overlap(run: RunRecord, joint: RunRecord | None) -> float | None:
    found = overlap_of(run)
    return None if found is None else metrics.mean_overlap(found)


METRICS: Mapping[str, Metric] = {
    "final_accuracy": Metric(
        "Final accuracy",
        "Accuracy after the last experience over all test samples seen, each sample counting once.",
        "higher",
        lambda run, joint: metrics.final_accuracy(run.matrix, run.test_counts),
    ),
    "final_accuracy_by_task": Metric(
        "Final accuracy, by task",
        "The same, each experience counting once.",
        "higher",
        lambda run, joint: metrics.final_accuracy_by_task(run.matrix),
    ),
    "average_accuracy": Metric(
        "Average accuracy",
        "Mean over all steps of the accuracy on everything seen so far, each sample counting once.",
        "higher",
        lambda run, joint: metrics.average_accuracy(run.matrix, run.test_counts),
    ),
    "average_accuracy_by_task": Metric(
        "Average accuracy, by task",
        "The same, each experience counting once.",
        "higher",
        lambda run, joint: metrics.average_accuracy_by_task(run.matrix),
    ),
    "forgetting": Metric(
        "Forgetting",
        "Mean over earlier experiences of best accuracy before the last step, less the last; below 0: it got better.",
        "lower",
        lambda run, joint: metrics.forgetting(run.matrix),
    ),
    "forgetting_all_rows": Metric(
        "Forgetting, all rows",
        "The same with the last step among the candidates for the best, as PILOT and Mammoth do; never below 0.",
        "lower",
        lambda run, joint: metrics.forgetting(run.matrix, best="all_rows"),
    ),
    "forgetting_by_step": Metric(
        "Forgetting, by step",
        "Forgetting worked out at every step from the second on, and averaged, as AV-CIL does.",
        "lower",
        lambda run, joint: metrics.forgetting_by_step(run.matrix),
    ),
    "backward_transfer": Metric(
        "Backward transfer",
        "Mean over earlier experiences of last accuracy, less accuracy right after learning it.",
        "higher",
        lambda run, joint: metrics.backward_transfer(run.matrix),
    ),
    "forward_transfer": Metric(
        "Forward transfer",
        "Mean over later experiences of accuracy just before learning it, less that of the untrained model; "
        "without meaning for class-incremental streams.",
        "higher",
        _forward_transfer,
    ),
    "intransigence": Metric(
        "Intransigence",
        "Mean over experiences of the accuracy of joint training, less accuracy right after learning it.",
        "lower",
        _intransigence,
    ),
    "routing_overlap": Metric(
        "Routing overlap",
        "How much two experiences share their experts, mean over pairs: 0 nothing, 1 everything.",
        "neither",
        _overlap,
    ),
}
COSTS: Mapping[str, str] = {
    "trainable_parameters": "Trainable parameters",
    "persistent_bytes": "Kept between experiences",
    "model_bytes": "Trainable model",
    "peak_rss_bytes": "Peak memory",
    "train_s": "Training time",
    "predict_ms": "Prediction time",
}
