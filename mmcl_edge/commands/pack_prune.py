"""``mmcl-edge pack prune``: remove the packs that nothing needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from mmcl_edge.commands.console import emit, json_option, table
from mmcl_edge.runtime.workspace import Workspace


@click.command()
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="How many of the packs that nothing needs stay all the same, the newest versions first.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
def prune(keep: int, dry_run: bool, as_json: bool) -> None:
    """Remove the packs of the workspace that nothing needs, and the exemplars that were kept for them alone.

    What is in use, the previous pack, what a trial, a sync, an unfinished push or a withdrawal may ask for stays. What
    goes is gone: 'pack export' first what may be wanted again. Packs made for another bundle go, too.

    \b
    Examples:
      mmcl-edge pack prune --dry-run
      mmcl-edge pack prune --keep 3
    """  # noqa: D301
    from mmcl_edge.fleet.prune import prune as pruned

    report = asdict(pruned(Workspace().open(), keep=keep, dry_run=dry_run))
    report["kept"] = [{"digest": digest, "why": why} for digest, why in report["kept"].items()]
    report["left"] = [{"name": name, "why": why} for name, why in report["left"].items()]
    emit(report, as_json, _text)


def _text(result: Mapping[str, Any]) -> str:
    going, gone = ("would go", "Would free") if result["dry_run"] else ("removed", "Freed")
    rows = [(one["digest"][:16], one["version"], f"{one['size_bytes']:,}", going) for one in result["removed"]]
    rows += [(one["digest"][:16], "", "", f"stays: {one['why']}") for one in result["kept"]]
    rows += [(one["name"][:16], "", "", f"left alone: {one['why']}") for one in result["left"]]
    exemplars = result["exemplar_files"]
    beside = (
        "; exemplars that only these packs have go, too" if exemplars is None else f", {exemplars} files of exemplars"
    )
    return (
        f"{table(('pack', 'version', 'bytes', ''), rows)}\n\n"
        f"{gone} {result['freed_bytes']:,} bytes ({len(result['removed'])} packs{beside})."
    )
