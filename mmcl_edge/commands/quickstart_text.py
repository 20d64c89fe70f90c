"""What ``quickstart`` prints at the end."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmcl_edge.commands.console import table

_HOW = {
    "new": "Quickstart done in {minutes:.1f} minutes:",
    "resumed": "Quickstart resumed after {resumed_after} of 3 experiences, and done in {minutes:.1f} more minutes:",
    "again": "Quickstart done again in {minutes:.1f} minutes (what is marked 'kept' was there from the run before):",
}


def human(result: Mapping[str, Any]) -> str:
    """The result as text: what was done, the figures, where everything is, and how to go on."""
    return "\n\n".join((_done(result), _matrix(result), _predictions(result), _places(result), _next(result)))


def _done(result: Mapping[str, Any]) -> str:
    seconds, settings = result["seconds"], result["settings"]
    headline = _HOW[result["how"]]
    lines = [headline.format(minutes=seconds["total"] / 60, resumed_after=result["resumed_after"])]
    backbones = " and ".join(result["bundle"]["backbones"])
    lines.append(f"  {_seconds(seconds, 'export')}  {backbones} cut into ONNX segments with gradients, and checked")
    lines.append(
        f"  {_seconds(seconds, 'samples')}  {settings['samples_per_class']} pairs of sound and picture a class"
    )
    lines.append(
        f"  {_seconds(seconds, 'learn')}  three experiences, {settings['epochs']} epochs ({settings['placement']})"
    )
    lines.append(f"  {_seconds(seconds, 'test')}  {sum(result['test_samples'])} test pairs after each experience")
    return "\n".join(lines)


def _seconds(seconds: Mapping[str, float], name: str) -> str:
    return f"{seconds[name]:5.0f} s" if name in seconds else "   kept"


def _matrix(result: Mapping[str, Any]) -> str:
    tasks = [row["task"] for row in result["experiences"]]
    rows = [
        (
            row["task"] + ("" if row["accepted"] else " (refused)"),
            *(f"{100 * value:.1f} %" if i <= t else "-" for i, value in enumerate(row["accuracy"])),
            f"{row['duration_s']:.0f}",
        )
        for t, row in enumerate(result["experiences"])
    ]
    figures = (
        f"final accuracy {100 * result['final_accuracy']:.1f} %, average {100 * result['average_accuracy']:.1f} %, "
        f"forgetting {100 * result['forgetting']:.1f} points\n"
        "(test pairs: their speakers and pictures were not learned from; guessing gives 10 %)"
    )
    return table(("accuracy after learning", *tasks, "seconds"), rows) + "\n" + figures


def _predictions(result: Mapping[str, Any]) -> str:
    rows = [
        (row["source"], ", ".join(f"{best['label']} {100 * best['probability']:.1f} %" for best in row["top"]))
        for row in result["predictions"]
    ]
    return table(("a test sample", "predicted"), rows)


def _places(result: Mapping[str, Any]) -> str:
    return "\n".join(f"{name:<10} {_near(path)}" for name, path in result["places"].items())


def _near(path: str) -> str:
    """``path`` from the current folder, if it is below it."""
    with suppress(ValueError):
        return str(Path(path).relative_to(Path.cwd()))
    return path


def _next(result: Mapping[str, Any]) -> str:
    places = {name: shlex.quote(_near(path)) for name, path in result["places"].items()}
    workspace = places["workspace"]
    variable = workspace if Path(_near(result["places"]["workspace"])).is_absolute() else f'"$PWD"/{workspace}'
    return "\n".join(
        (
            "Go on by hand:",
            f"  export MMCL_EDGE_HOME={variable}",
            f"  mmcl-edge predict {places['samples']}/test/digits_7_9/seven/seven_000.*",
            "  mmcl-edge pack list",
        )
    )
