"""``mmcl-edge warmup``: load every forward graph once; on TensorRT, build its engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mmcl_edge.commands.console import emit, json_option, progress, table
from mmcl_edge.commands.options import provider_option, threads_option


@click.command()
@click.option(
    "--bundle", type=click.Path(path_type=Path), metavar="DIR", help="The bundle.  [default: the workspace's]"
)
@provider_option
@threads_option
@json_option
def command(bundle: Path | None, provider: str, threads: int | None, as_json: bool) -> None:
    """Load and run every forward graph of the backbones once, with progress.

    On TensorRT this builds an engine for each graph, which takes minutes; engines are kept in the workspace
    (engines/), named by graph, weights, TensorRT version and device, so that it is done once. Elsewhere it shows that
    every graph runs here. Predict graphs are loaded with a pack, gradients when adapt runs.

    \b
    Examples:
      mmcl-edge warmup
      mmcl-edge warmup --provider tensorrt
      mmcl-edge warmup --provider cuda:1,memory=4096 --bundle ./bundle --json
    """  # noqa: D301
    from mmcl_edge.runtime.engine import Runtime
    from mmcl_edge.runtime.warmup import warm_up
    from mmcl_edge.runtime.workspace import Workspace

    with progress("Warming up", quiet=as_json) as report:
        runtime = Runtime.open(bundle or Workspace().open().bundle_path, provider=provider, threads=threads)
        warmed = warm_up(runtime, report)
    result = {
        "bundle": runtime.bundle.digest,
        "provider": runtime.sessions.provider,
        "graphs": [asdict(one) for one in warmed],
    }
    emit(result, as_json, _human)


def _human(result: Mapping[str, Any]) -> str:
    rows = [(row["graph"], f"{row['load_ms']:.0f}", f"{row['run_ms']:.1f}") for row in result["graphs"]]
    total = sum(row["load_ms"] + row["run_ms"] for row in result["graphs"])
    return f"{table(('graph', 'load ms', 'first run ms'), rows)}\n\n{result['provider']}: {total / 1e3:.1f} s in all"
