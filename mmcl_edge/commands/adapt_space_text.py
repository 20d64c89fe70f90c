"""The result of ``adapt --modality`` as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmcl_edge.commands.adapt_text import percent, seconds, skipped_text
from mmcl_edge.commands.console import table

POOR = 0.3
"""Mean reciprocal rank on the new modality below which the result comes with advice."""
_ADVICE = (
    "what was held out is found poorly: teach the modality with more pairs, or take this back with "
    "'mmcl-edge pack rollback'"
)


def space_text(result: Mapping[str, Any]) -> str:
    """Headline, retrieval before and after, facts."""
    parts = [_headline(result), _retrieval(result["space"]), _facts(result)]
    return "\n\n".join(part for part in parts if part)


def _headline(result: Mapping[str, Any]) -> str:
    space = result["space"]
    told = f"{space['modality']} through {space['mediator']} from {result['task']}"
    if result["repeated"] and result["accepted"]:
        return f"Done already: the pack in use learned {told} by this very command, so nothing was changed."
    if result["accepted"]:
        return f"Learned {told} in {seconds(result['duration_s'])}."
    again = " This very command was refused before, so it was not run again." if result["repeated"] else ""
    before, after = space["retrieval"]["before"], space["retrieval"]["after"]
    harmed = max((name for name in before if name != space["modality"]), key=lambda name: before[name] - after[name])
    return (
        f"Refused: retrieval of {harmed} fell from {percent(before[harmed])} to {percent(after[harmed])}, and at most "
        f"{100 * result['tolerance']:g} points may be lost. The pack {result['pack_in_use'][:16]} stays in use. Teach "
        f"more pairs, or allow a larger loss (--tolerance).{again}"
    )


def _retrieval(space: Mapping[str, Any]) -> str:
    before, after = space["retrieval"]["before"], space["retrieval"]["after"]
    rows = [(name, percent(before.get(name)), percent(value)) for name, value in after.items()]
    return table(("held-out pairs found (mean reciprocal rank)", "before", "after"), rows) if rows else ""


def _facts(result: Mapping[str, Any]) -> str:
    space = result["space"]
    pack = f"{result['pack_digest'][:16]}, now in use" if result["pack_digest"] else "none written"
    grown = f"{space['codes']}, of them {space['codes_added']} new" if "codes_added" in space else str(space["codes"])
    new = result["after"]["new"]
    rows = [
        ("pairs", f"{result['train_samples']} to learn from, {result['holdout_samples']} held out"),
        ("modalities", ", ".join(space["modalities"])),
        ("codes", grown),
        ("pack", pack),
        ("skipped", skipped_text(result)),
        *([("then", "mmcl-edge index build DIR")] if result["accepted"] else []),
        *(("warning", text) for text in result["warnings"]),
        *([("advice", _ADVICE)] if result["accepted"] and new is not None and new < POOR else []),
    ]
    return "\n".join(f"{name:<11}{text}" for name, text in rows)
