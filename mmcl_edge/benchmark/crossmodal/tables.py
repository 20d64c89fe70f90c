"""The tables of one task: learners side by side, every pair of modalities, stage by stage, classes across."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from statistics import fmean

from mmcl_edge.benchmark.crossmodal.board import Board
from mmcl_edge.benchmark.crossmodal.document import Table, interval_text, score_text
from mmcl_edge.benchmark.crossmodal.records import VECTORS, By, CrossmodalRecord
from mmcl_edge.benchmark.crossmodal.scores import CHANCE, RECALLS, SCORES, Measure, is_seen, pair_scores
from mmcl_edge.benchmark.crossmodal.targets import JOINT, OURS, SEQUENTIAL
from mmcl_edge.benchmark.crossmodal.tasks import TASKS, pair_name
from mmcl_edge.types import TEXT

MAIN_COLUMNS = (
    "seen", "unseen", "seen_codes", "unseen_codes", "forgetting", "forgetting_all", "shared", "perplexity", "codes",
    "memory_bytes", "stage_s",
)  # fmt: skip
CLASS_COLUMNS = (
    "across_mean", "across_linear", "across_mean_vectors", "across_linear_vectors", "named", "within",
)  # fmt: skip
SIDE_BY_SIDE = (OURS, "comet-ridge", JOINT, *SEQUENTIAL)
"""Learners whose recall is given pair by pair."""


def learners_table(board: Board, task: str) -> Table:
    """Retrieval, forgetting, codes and costs, a line a learner; the last is chance."""
    return _by_learner(board, task, MAIN_COLUMNS, "Learners")


def classes_table(board: Board, task: str) -> Table:
    """Classes told across modalities, a line a learner; the last is chance."""
    note = f"What is told: {TASKS[task].classes}. Both ways between every two modalities but text, in per cent."
    columns = tuple(name for name in CLASS_COLUMNS if board.value(task, _any(board, task), name) is not None)
    return _by_learner(board, task, columns, "Classes across modalities", note)


def pairs_table(board: Board, task: str) -> Table:
    """R@1, R@5 and R@10 of every pair both ways, by vectors."""
    shown = [name for name in SIDE_BY_SIDE if board.runs(task, name)]
    header = ("query to gallery", "", "queries", *shown, "chance")
    rows = tuple(_pair_row(board, task, shown, pair) for pair in _directed(board, task))
    note = "R@1 / R@5 / R@10 in per cent, mean over seeds and orders, after the last stage."
    return Table("Every pair, both ways", header, rows, note)


def stages_table(board: Board, task: str, learner: str = OURS) -> Table:
    """Score of every pair after each stage, a line a stage of each order; ``-`` where a modality was not learned."""
    names = sorted({name for one in board.runs(task, learner).values() for name in pair_scores(one.stages[-1])})
    names.sort(key=lambda name: not is_seen(name))
    header = ("stages so far", "pairs taught", *names, "shared codes", "perplexity", "codes", "experts", "seconds")
    rows = [
        row
        for order in board.orders(task)
        for step in range(len(order))
        if (row := _stage_row(_of_order(board, task, learner, order), step, names))
    ]
    note = f"Of {learner}: R@1, R@5 and R@10 both ways, their mean in per cent; mean over seeds."
    return Table("After each stage", header, tuple(rows), note)


def summary_csv(board: Board) -> bytes:
    """A line a task, learner and figure: mean, half of the 95 % interval over seeds, seeds. Shares from 0 to 1."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("task", "learner", "figure", "mean", "ci95", "seeds"))
    for task in board.tasks:
        for learner in board.learners(task):
            for name in SCORES:
                value = board.value(task, learner, name)
                if value is not None:
                    half = "" if value.half_width is None else round(value.half_width, 6)
                    writer.writerow((task, learner, name, round(value.mean, 6), half, value.count))
    return text.getvalue().encode()


def pairs_csv(board: Board) -> bytes:
    """A line a run, stage, pair of modalities, way and manner of comparing: its figures, chance's R@K, sizes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    figures = (*RECALLS, "median_rank", "mrr")
    place = ("task", "learner", "seed", "order", "stage", "query", "gallery", "by")
    writer.writerow((*place, *figures, *(f"chance_{name}" for name in RECALLS), "queries", "gallery_size"))
    for record in board.records:
        for step, stage in enumerate(record.stages, start=1 + len(record.order) - len(record.stages)):
            for one in stage.found:
                where = (record.task, record.learner, record.seed, " ".join(record.order), step)
                values = [round(one.figures[name], 4) for name in figures]
                chance = [round(one.chance[name], 4) for name in RECALLS]
                writer.writerow(
                    (*where, one.query, one.gallery, one.by, *values, *chance, one.queries, one.gallery_size)
                )
    return text.getvalue().encode()


def _by_learner(board: Board, task: str, columns: Sequence[str], title: str, note: str = "") -> Table:
    header = ("learner", "seeds", *(SCORES[name].title for name in columns))
    rows = [
        (
            learner,
            str(len(board.seeds(task, learner))),
            *(score_text(name, board.value(task, learner, name)) for name in columns),
        )
        for learner in board.learners(task)
    ]
    known = _any(board, task)
    chance = [board.value(task, known, CHANCE[name]) if name in CHANCE else None for name in columns]
    rows.append(("chance", "", *(interval_text(value).partition(" ±")[0] for value in chance)))
    return Table(title, header, tuple(rows), note)


def _any(board: Board, task: str) -> str:
    names = board.learners(task)
    return OURS if OURS in names else names[0]


def _directed(board: Board, task: str) -> list[tuple[str, str]]:
    record = next(iter(board.runs(task, _any(board, task)).values()))
    found = dict.fromkeys((one.query, one.gallery) for one in record.stages[-1].found)
    order = [TEXT, *TASKS[task].domains]
    return sorted(found, key=lambda pair: (not is_seen(pair_name(*pair)), *sorted(map(order.index, pair)), pair))


def _recall(query: str, gallery: str, name: str, by: By, *, chance: bool = False) -> Measure:
    def measure(record: CrossmodalRecord) -> float | None:
        for one in record.stages[-1].found:
            if (one.query, one.gallery, one.by) == (query, gallery, by):
                return (one.chance if chance else one.figures)[name]
        return None

    return measure


def _pair_row(board: Board, task: str, learners: Sequence[str], pair: tuple[str, str]) -> tuple[str, ...]:
    def cell(learner: str, *, chance: bool = False) -> str:
        values = [board.value(task, learner, _recall(*pair, name, VECTORS, chance=chance)) for name in RECALLS]
        return " / ".join("-" if value is None else f"{100 * value.mean:.0f}" for value in values)

    known = _any(board, task)
    record = next(iter(board.runs(task, known).values()))
    queries = next(one.queries for one in record.stages[-1].found if (one.query, one.gallery) == pair)
    kind = "seen" if is_seen(pair_name(*pair)) else "unseen"
    return (f"{pair[0]} to {pair[1]}", kind, str(queries), *map(cell, learners), cell(known, chance=True))


def _of_order(board: Board, task: str, learner: str, order: tuple[str, ...]) -> list[CrossmodalRecord]:
    return [one for (_, stages), one in board.runs(task, learner).items() if stages == order]


def _stage_row(records: Sequence[CrossmodalRecord], step: int, names: Sequence[str]) -> tuple[str, ...]:
    stages = [one.stages[step] for one in records if len(one.stages) == len(one.order)]
    if not stages:
        return ()
    scores = [pair_scores(stage) for stage in stages]
    cells = [f"{100 * fmean(one[name] for one in scores):.1f}" if name in scores[0] else "-" for name in names]
    said = ", ".join((TEXT, *records[0].order[: step + 1]))
    return (said, str(stages[0].pairs), *cells, *_facts(stages))


def _facts(stages: Sequence[object]) -> Iterator[str]:
    def mean(name: str) -> float:
        return fmean(float(getattr(one, name)) for one in stages)

    yield f"{100 * mean('shared'):.0f}"
    yield from (f"{mean(name):.0f}" for name in ("perplexity", "codes", "experts"))
    yield f"{mean('train_s'):.1f}"
