"""The result of ``adapt --task`` as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmcl_edge.commands.console import table

MAX_LISTED = 5
"""Skipped files that are named; all are counted."""

POOR = 0.5
"""Accuracy on new classes below which the result comes with advice."""
_ADVICE = (
    "the new classes are recognised poorly: teach them with more samples or --epochs, "
    "or take this back with 'mmcl-edge pack rollback'"
)


def task_text(result: Mapping[str, Any]) -> str:
    """The result of a run as text."""
    parts = [_headline(result), _accuracies(result), _facts(result)]
    return "\n\n".join(part for part in parts if part)


def _headline(result: Mapping[str, Any]) -> str:
    classes = f"{result['task']} ({', '.join(result['classes'])})"
    if result["repeated"] and result["accepted"]:
        return f"Done already: the pack in use learned {classes} by this very command, so nothing was changed."
    if result["accepted"]:
        return f"Learned {classes} in {seconds(result['duration_s'])}."
    before, after = result["before"]["old"], result["after"]["old"]
    stays = result["pack_in_use"]
    again = " This very command was refused before, so it was not run again." if result["repeated"] else ""
    return (
        f"Refused: accuracy on old classes fell from {percent(before)} to {percent(after)}, and at most "
        f"{100 * result['tolerance']:g} points may be lost. The pack {stays[:16]} stays in use. Add samples to "
        f"{result['task']}, keep more exemplars (--memory-exemplars), or allow a larger loss (--tolerance).{again}"
    )


def _accuracies(result: Mapping[str, Any]) -> str:
    rows = [
        (f"{which} classes", percent(result["before"][which]), percent(result["after"][which]))
        for which in ("old", "new")
    ]
    return table(("held-out accuracy", "before", "after"), rows)


def _facts(result: Mapping[str, Any]) -> str:
    samples = f"{result['train_samples']} to learn from, {result['holdout_samples']} held out"
    resumed = result["resumed_from_epoch"]
    epochs = f"{result['epochs']}" + ("" if resumed is None else f", resumed after epoch {resumed}")
    pack = f"{result['pack_digest'][:16]}, now in use" if result["pack_digest"] else "none written"
    rows = [
        ("samples", samples),
        ("epochs", f"{epochs} ({result['placement'] or result['learner']})"),
        ("exemplars", f"{result['exemplars']} kept, {result['exemplar_bytes'] / 1e6:.1f} MB"),
        ("confidence", _confidence(result)),
        ("pack", pack),
        ("skipped", skipped_text(result)),
        *(("warning", text) for text in result["warnings"]),
        *([("advice", _ADVICE)] if result["accepted"] and (result["after"]["new"] or 0.0) < POOR else []),
    ]
    return "\n".join(f"{name:<11}{text}" for name, text in rows)


def _confidence(result: Mapping[str, Any]) -> str:
    error = result["calibration_error"]
    if error is None:
        return "not calibrated" + (": too few held-out samples" if result["accepted"] else "")
    return f"calibrated, expected error {percent(error['before'])} before and {percent(error['after'])} after"


def skipped_text(result: Mapping[str, Any]) -> str:
    """How many files could not be decoded, and the first of them."""
    if not result["skipped"]:
        return "no files"
    listed = result["skipped_files"][:MAX_LISTED]
    more = result["skipped"] - len(listed)
    lines = [f"{result['skipped']} that could not be decoded", *listed]
    if listed and more:
        lines.append(f"and {more} more")
    return f"\n{'':<11}".join(lines)


def percent(share: float | None) -> str:
    """A share of 1 as a person reads it."""
    return "none yet" if share is None else f"{100 * share:.1f} %"


def seconds(duration_s: float) -> str:
    """A duration as a person reads it."""
    return f"{duration_s:.0f} s" if duration_s < 100 else f"{duration_s / 60:.1f} min"
