"""The page of the cross-modal benchmark, from records alone: each figure and each verdict is worked out here."""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterator, Mapping
from typing import Any

from mmcl_edge.benchmark.crossmodal.board import Board
from mmcl_edge.benchmark.crossmodal.document import Document, Section, Table, interval_text, listed
from mmcl_edge.benchmark.crossmodal.findings import findings
from mmcl_edge.benchmark.crossmodal.parts import NOTE, parts_table, parts_text
from mmcl_edge.benchmark.crossmodal.pictures import pictures_of
from mmcl_edge.benchmark.crossmodal.records import Stage, Timings
from mmcl_edge.benchmark.crossmodal.scores import SCORES
from mmcl_edge.benchmark.crossmodal.tables import classes_table, learners_table, pairs_table, stages_table
from mmcl_edge.benchmark.crossmodal.targets import JOINT, OURS, target_tables, targets
from mmcl_edge.benchmark.crossmodal.tasks import TASKS
from mmcl_edge.benchmark.tables import size_text
from mmcl_edge.learners.comet.catalogue import COMET

TITLE = "Across modalities"
MADE = (
    "Made by `make crossmodal` (`mmcl-edge bench crossmodal`); do not edit. As a page without a network: "
    "[crossmodal.html](results/crossmodal.html); means by learner: [crossmodal.csv](results/crossmodal.csv); every "
    "recall after every stage: [crossmodal-pairs.csv.gz](results/crossmodal-pairs.csv.gz)."
)
PROTOCOL = (
    "A learner meets one pair set after the other, each of text and one other modality, and keeps nothing of the "
    "earlier ones but its space and what pseudo-replay needs. After each stage, test samples of every modality "
    "learned so far are looked for by every other: pairs that were taught (*seen*), and pairs that never met in "
    "training (*unseen*), such as a picture and a voice that share no more than their captions. The score of a pair "
    "is the mean of R@1, R@5 and R@10 both ways, in per cent; rows with the same caption are each other's right "
    "answers. Every learner learns in every order of the stages with every seed; its value with a seed is the mean "
    "over orders, and ± is half of the 95 % interval over seeds (Student's t).",
    "The method is a **reconstruction** of the second paper. Learners and their settings: "
    "`mmcl_edge/learners/comet/catalogue.py`, on the defaults of `CometConfig`, which were not tuned for this page. "
    "The ridge of linear classifiers (`mmcl_edge/benchmark/transfer.py`) was chosen on quarters of the training "
    "splits, after a first page had shown that a small one fails between modalities. "
    "Frozen features come of one exported bundle.",
)


def page(board: Board, timings: Timings | None) -> Document:
    """The whole page."""
    sections = [
        Section("Targets", "targets", tables=target_tables(targets(board, timings))),
        Section("What was found", "found", ("\n".join(f"- {one}" for one in findings(board, timings)),)),
        *(_task(board, name) for name in board.tasks),
        Section(
            "What each part is worth",
            "parts",
            (parts_text(board), NOTE),
            tuple(parts_table(board, name) for name in board.tasks),
        ),
        _costs(board, timings),
        Section("Not measured", "not-measured", ("\n".join(f"- {one}" for one in not_measured(board)),)),
        Section("Learners and figures", "learners", tables=(_learners(board), _figures())),
    ]
    return Document(TITLE, MADE, (*PROTOCOL, _made_of(board)), tuple(sections))


def _made_of(board: Board) -> str:
    learners = {one.learner for one in board.records}
    seeds = sorted({one.seed for one in board.records})
    return (
        f"Made of {len(board.records)} runs of {len(learners)} learners on {listed(board.tasks)}, "
        f"seeds {listed([str(seed) for seed in seeds])}."
    )


def _task(board: Board, task: str) -> Section:
    spec = TASKS[task]
    record = board.records[[one.task for one in board.records].index(task)]
    taught = ", ".join(f"{stage.pairs} of {stage.modality}" for stage in _longest(board, task))
    asked = ", ".join(f"{count} of {name}" for name, count in record.test_counts.items())
    orders = "; ".join(", ".join(order) for order in board.orders(task))
    text = f"{spec.about} Taught: {taught} (pairs). Asked: {asked}. Orders of stages: {orders}."
    tables = [learners_table(board, task), pairs_table(board, task)]
    if board.runs(task, OURS):
        tables.append(stages_table(board, task))
    tables.append(classes_table(board, task))
    return Section(task, task, (text,), tuple(tables), tuple(pictures_of(board, task)))


def _longest(board: Board, task: str) -> tuple[Stage, ...]:
    return max((one.stages for one in board.records if one.task == task), key=len)


def _costs(board: Board, timings: Timings | None) -> Section:
    rows = [
        (
            task,
            learner,
            *(_shown(board, task, learner, name) for name in ("stage_s", "memory_bytes", "space_bytes")),
        )
        for task in board.tasks
        for learner in (OURS, "comet-generative", JOINT)
        if board.runs(task, learner)
    ]
    tables = [Table("Learning and keeping", ("task", "learner", "longest stage", "replay keeps", "space"), tuple(rows))]
    text = []
    if timings is not None:
        cold = listed([f"{one.seconds:.0f} s for {one.pairs} pairs of {one.modality}" for one in timings.cold])
        cores = timings.made_by.get("machine", {}).get("cores", "?")
        text.append(
            f"From files, with decoding and frozen features, nothing kept from before: {cold} ({cores} cores). A query "
            f"for 10 items among {timings.search_items:,} vectors of width {timings.search_dim}: "
            f"{timings.search_ms:.2f} ms, 95th percentile {timings.search_p95_ms:.2f} ms."
        )
    text.append(took(board, timings))
    return Section("Costs", "costs", tuple(text), tuple(tables))


def took(board: Board, timings: Timings | None) -> str:
    """How long the runs took, and how long passed from the first measurement to the end of the last run."""
    made = [one.made_by for one in board.records]
    seconds = [float(one.get("seconds", 0)) for one in made]
    text = f"The {len(made)} runs took {sum(seconds) / 60:.0f} minutes of one core"
    began = [_at(one) for one in ([timings.made_by] if timings else []) + made]
    ended = [at + took for one, took in zip(made, seconds, strict=True) if (at := _at(one)) is not None]
    if not ended or None in began:
        return f"{text}."
    passed = (max(ended) - min(one for one in began if one is not None)) / 60
    return f"{text}; from the first measurement to the end of the last, features included, {passed:.0f} minutes passed."


def _at(made_by: Mapping[str, Any]) -> float | None:
    """When something was begun, in seconds since the epoch."""
    if "started" not in made_by:
        return None
    return calendar.timegm(time.strptime(str(made_by["started"]), "%Y-%m-%dT%H:%M:%SZ"))


def _shown(board: Board, task: str, learner: str, name: str) -> str:
    value = board.value(task, learner, name)
    if value is None:
        return "-"
    return size_text(value.mean) if SCORES[name].unit == "bytes" else interval_text(value, SCORES[name].unit)


def not_measured(board: Board) -> Iterator[str]:
    """What the issue names and no record shows."""
    have = {modality for task in board.tasks for modality in TASKS[task].domains}
    lacking = [name for name in ("video", "motion") if name not in have]
    if lacking:
        yield f"{listed(lacking)}: no set at hand pairs them with captions, so no stage teaches them."
    for task in TASKS:
        if task not in board.tasks:
            yield f"{task}: no run of it is among the records."


def _learners(board: Board) -> Table:
    names = dict.fromkeys(name for task in board.tasks for name in board.learners(task))
    rows = [(name, COMET[name].kind, COMET[name].about) for name in COMET if name in names]
    return Table("Learners", ("learner", "kind", "what it is"), tuple(rows))


def _figures() -> Table:
    rows = [(one.title, one.better, one.meaning) for one in SCORES.values()]
    return Table("Figures", ("figure", "better", "what it means"), tuple(rows))
