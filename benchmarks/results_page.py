"""docs/results.md from records of runs. Pure: streams in, text out; what was not run is said so."""

from __future__ import annotations

import re
from collections.abc import Sequence

from results_text import ABLATIONS, HEAD, NOTES, WHAT

from mmcl_edge.benchmark.figures import standalone
from mmcl_edge.benchmark.figures_lines import step_curves
from mmcl_edge.benchmark.gather import Stream
from mmcl_edge.benchmark.intervals import Interval, mean_interval
from mmcl_edge.benchmark.records import CLEAN, RunRecord
from mmcl_edge.benchmark.report import pens_of
from mmcl_edge.benchmark.report_pictures import step_intervals
from mmcl_edge.benchmark.summaries import compare, summarise_stream
from mmcl_edge.benchmark.tables import markdown_table, percent

NOT_MEASURED = "not measured"
OURS, METHOD, JOINT, FLOOR = "mmcl-analytic", "mmcl", "analytic-joint", "ranpac-frozen"
REPLAY = ("ewc", "ewc-online", "lwf", "cope", "er", "der++")
FEW, TEN, ALL = "av21, 5 pairs a class", "av21, 10 pairs a class", "av21, all pairs"
DIGITS, DIGITS_FEW = "digits, 6 speakers", "digits, 2 pairs a digit and speaker"
CURVES = 8
"""Learners in a picture."""

Streams = dict[str, Stream]


def page(streams: Sequence[Stream]) -> str:
    """The whole page."""
    found = {
        suite: {one.name: one for one in streams if one.suite == suite} for suite in ("results", "ablations", "online")
    }
    results = found["results"]
    parts = [HEAD, targets(results)]
    parts += [stream_text(results[name]) for name in (FEW, TEN, ALL, DIGITS, DIGITS_FEW) if name in results]
    parts += [domains_text(results[name]) for name in (DIGITS, DIGITS_FEW) if name in results]
    parts += [ablation_text(found["ablations"])]
    parts += [stream_text(one) for one in found["online"].values()]
    return "\n".join([*parts, NOTES])


def picture(stream: Stream, streams: Sequence[Stream]) -> tuple[str, bytes]:
    """Name and bytes of a stream's curves: the best learners, and ours."""
    best = [one.learner for one in summarise_stream(stream)]
    shown = list(dict.fromkeys([*(name for name in (OURS, METHOD) if name in best), *best]))[:CURVES]
    curves = {name: step_intervals(stream.runs[name]) for name in best if name in shown}
    title = f"Accuracy on {stream.name} after each experience"
    drawn = step_curves(curves, pens_of(streams), name=slug(stream), title=title, legend=True)
    return f"{slug(stream)}.svg", standalone(drawn)


def slug(stream: Stream) -> str:
    """The stream's name as a file's."""
    return re.sub(r"[^a-z0-9]+", "-", f"{stream.suite} {stream.name}".lower()).strip("-")


def stream_text(stream: Stream) -> str:
    """A stream's table and picture."""
    summaries = summarise_stream(stream)
    conditions = list(summaries[0].conditions)
    metrics = ("final_accuracy", "average_accuracy", "forgetting", "backward_transfer")
    if stream.scenario == "domain":
        metrics = (*metrics, "forward_transfer")
    table = markdown_table(summaries, metrics=metrics, conditions=conditions)
    name = slug(stream)
    return f"## {stream.name}\n\n{WHAT.get(stream.name, '')}\n\n{table}\n![{stream.name}](results/{name}.svg)\n"


def targets(results: Streams) -> str:
    """What was asked, and what was found."""
    rows = [row for name, made in TARGETS if name in results for row in made(results)]
    lines = ["| asked | found | |", "| --- | --- | --- |", *(f"| {' | '.join(row)} |" for row in rows)]
    return "## Targets\n\n" + "\n".join(lines) + "\n"


Row = tuple[str, str, str]


def _row(asked: str, found: Interval | None, *, least: float | None = None, most: float | None = None) -> Row:
    if found is None:
        return asked, NOT_MEASURED, ""
    met = (least is None or found.mean >= least) and (most is None or found.mean <= most)
    return asked, percent(found), "met" if met else "**missed**"


def _final(stream: Stream, learner: str, metric: str = "final_accuracy") -> Interval | None:
    if learner not in stream.runs:
        return None
    return {one.learner: one for one in summarise_stream(stream)}[learner].metrics[metric]


def _over(
    stream: Stream, learner: str, others: Sequence[str], metric: str = "final_accuracy"
) -> tuple[str, Interval | None]:
    """The best of ``others`` by the metric, and ``learner`` minus it, paired by seed."""
    known = {name: _final(stream, name, metric) for name in others if name in stream.runs}
    if not known or learner not in stream.runs:
        return "", None
    best = max(known, key=lambda name: known[name].mean if known[name] else 0.0)
    return best, compare(stream, learner, best, metric=metric)


def _few(results: Streams) -> list[Row]:
    stream = results[FEW]
    best, over = _over(stream, OURS, REPLAY)
    return [
        _row(f"`{OURS}`, 5 pairs a class: final accuracy >= 84", _final(stream, OURS), least=0.84),
        _row(f"... above the floor (`{FLOOR}`) by >= 3", _over(stream, OURS, (FLOOR,))[1], least=0.03),
        _row(f"... above the best of EWC, LwF, CoPE, ER, DER++ (`{best}`) by >= 5", over, least=0.05),
    ]


def _all(results: Streams) -> list[Row]:
    stream = results[ALL]
    best, over = _over(stream, OURS, REPLAY)
    rival, above = _over(stream, METHOD, ("cope", "der++"), "average_accuracy")
    return [
        _row(f"`{OURS}`, all pairs: final accuracy >= 97", _final(stream, OURS), least=0.97),
        _row(f"... above the best of EWC, LwF, CoPE, ER, DER++ (`{best}`) by >= 5", over, least=0.05),
        _row(
            "... within 1.0 of its joint training (by construction: sums)",
            _over(stream, OURS, (JOINT,))[1],
            least=-0.01,
        ),
        _row(
            "... and of the host's joint training by gradient (`joint`)",
            _over(stream, OURS, ("joint",))[1],
            least=-0.01,
        ),
        _row("... forgetting (final row) <= 2", _final(stream, OURS, "forgetting"), most=0.02),
        _row(f"`{METHOD}` above CoPE and DER++ (`{rival}`) in average incremental accuracy", above, least=0.0),
    ]


def _digits(stream: Stream) -> list[Row]:
    baselines = [name for name in stream.runs if name not in (OURS, METHOD, JOINT, "joint")]
    best, over = _over(stream, OURS, baselines, "average_accuracy")
    if OURS not in stream.runs:
        return [_row(f"{stream.name}: `{OURS}`", None)]
    worst, mean = unmet(stream, OURS)
    return [
        _row(
            f"{stream.name}: `{OURS}` above the best baseline (`{best}`) by >= 4, average over the stream",
            over,
            least=0.04,
        ),
        _row("... within 1.5 of `joint` at the end", _over(stream, OURS, ("joint",))[1], least=-0.015),
        _row("... on domains not yet met, minus its better modality: mean >= -3", mean, least=-0.03),
        (
            "... the same, the worst of all cells (60 pairs each)",
            f"{100 * worst:.1f}",
            "met" if worst >= -0.03 else "**missed**",
        ),
    ]


TARGETS = (
    (FEW, _few),
    (ALL, _all),
    (DIGITS, lambda results: _digits(results[DIGITS])),
    (DIGITS_FEW, lambda results: _digits(results[DIGITS_FEW])),
)


def unmet(stream: Stream, learner: str) -> tuple[float, Interval]:
    """On domains not yet met, both modalities minus the better one alone: worst cell, and mean over seeds."""
    gaps = {seed: _gaps(run) for seed, run in stream.runs[learner].items()}
    return min(min(found) for found in gaps.values()), mean_interval([sum(g) / len(g) for g in gaps.values()])


def _gaps(run: RunRecord) -> list[float]:
    """For each step the domains ahead; the better modality is the one that is better over all of them at that step."""
    clean, alone = run.matrices[CLEAN], [run.matrices[name] for name in ("audio_only", "frames_only")]
    gaps = []
    for step in range(len(clean) - 1):
        ahead = range(step + 1, len(clean))
        better = max(alone, key=lambda rows: sum(rows[step][i] for i in ahead))
        gaps += [clean[step][i] - better[step][i] for i in ahead]
    return gaps


def domains_text(stream: Stream) -> str:
    """Accuracy on domains not yet met, with both modalities and with each alone."""
    lines = [
        "| Learner | both | sound alone | picture alone | worst cell against its better modality |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for one in summarise_stream(stream):
        runs = stream.runs[one.learner].values()
        means = [
            percent(mean_interval([_ahead(run, name) for run in runs])) for name in (CLEAN, "audio_only", "frames_only")
        ]
        lines.append(f"| {one.learner} | {' | '.join(means)} | {100 * unmet(stream, one.learner)[0]:.1f} |")
    title = f"### {stream.name}: domains not yet met"
    return f"{title}\n\nMean accuracy on the domains ahead, over all steps but the last.\n\n" + "\n".join(lines) + "\n"


def _ahead(run: RunRecord, condition: str) -> float:
    rows = run.matrices[condition]
    cells = [rows[t][i] for t in range(len(rows) - 1) for i in range(t + 1, len(rows))]
    return sum(cells) / len(cells)


def ablation_text(ablations: Streams) -> str:
    """Each ablation against what it changes, paired by seed, and what that teaches."""
    if not ablations:
        return f"## Ablations\n\n{NOT_MEASURED}\n"
    (stream,) = ablations.values()
    lines = [
        "| changed | final accuracy | against the whole | average accuracy against the whole | what it teaches |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for name, teaches in ABLATIONS.items():
        if name in stream.runs:
            lines.append(_ablation_row(stream, name, teaches))
    return f"## Ablations\n\n{WHAT['ablations']}\n\n" + "\n".join(lines) + "\n"


def _ablation_row(stream: Stream, name: str, teaches: str) -> str:
    whole = OURS if name.startswith("analytic") else METHOD
    final, average = (_over(stream, name, (whole,), m)[1] for m in ("final_accuracy", "average_accuracy"))
    cells = [
        percent(_final(stream, name)),
        percent(final),
        percent(average),
        teaches if name == whole else f"{teaches} {_verdict(final)}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _verdict(difference: Interval | None) -> str:
    """Whether the interval of (changed - whole) excludes zero."""
    if difference is None or difference.half_width is None:
        return "One seed: no interval."
    if not difference.excludes_zero:
        return "No difference beyond the seeds' spread."
    return "The change is worse." if difference.mean < 0 else "The change is better."
