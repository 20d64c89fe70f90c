"""``mmcl-edge calibrate ranges``: the int8 version of a bundle, from calibration data."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from mmcl_edge.commands.calibrate_ranges_view import human, result_of
from mmcl_edge.commands.console import emit, json_option, progress
from mmcl_edge.commands.options import FiniteRange, threads_option
from mmcl_edge.errors import MissingExtraError, PackError, StorageError
from mmcl_edge.fileio import STAGING_PREFIX, storage_errors

if TYPE_CHECKING:
    from mmcl_edge.calibration.settings import RangesConfig
    from mmcl_edge.packs import Pack
    from mmcl_edge.runtime.workspace import Workspace


@click.command(name="ranges")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Samples: class folders as for adapt, or a folder of media files.",
)
@click.option(
    "--method",
    type=click.Choice(["minmax", "entropy", "percentile"]),
    default="minmax",
    show_default=True,
    help="How ranges follow from what was seen.",
)
@click.option(
    "--per-channel/--per-tensor",
    default=True,
    show_default=True,
    help="A scale for each output channel of a weight, or one for all.",
)
@click.option(
    "--keep-accuracy",
    type=FiniteRange(min=0, max=1),
    default=0.005,
    show_default=True,
    metavar="X",
    help="Accuracy that may be lost, 0 to 1; nodes stay float until it holds.",
)
@click.option(
    "--samples", type=click.IntRange(min=8), default=64, show_default=True, metavar="N", help="Samples for the ranges."
)
@click.option("--any-speed", is_flag=True, help="Make int8 also what does not get faster here.")
@click.option("--bundle", type=click.Path(path_type=Path), metavar="DIR", help="A float bundle.  [default: installed]")
@click.option("--pack", metavar="P", help="Measure with this pack.  [default: the one in use]")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Write there instead of installing.")
@threads_option
@json_option
def command(
    data: Path,
    method: Literal["minmax", "entropy", "percentile"],
    per_channel: bool,
    keep_accuracy: float,
    samples: int,
    any_speed: bool,
    bundle: Path | None,
    pack: str | None,
    out: Path | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Make the backbones int8: about a quarter of the size and half of the time on a CPU with VNNI.

    Part of the samples gives the ranges, the rest measures accuracy: of the pack in use, or of the nearest class mean
    where there is none; without class folders, agreement with the float bundle. Packs work on with either bundle, and
    learning goes on (gradients stay float). The float bundle stays in the workspace; the output says how to go back.

    \b
    Examples:
      mmcl-edge calibrate ranges --data tasks/new_sounds
      mmcl-edge calibrate ranges --data ./clips --method percentile --keep-accuracy 0.01
      mmcl-edge calibrate ranges --data ./clips --bundle ./bundle --out ./bundle-int8 --json
    """  # noqa: D301
    from mmcl_edge.runtime.workspace import Workspace

    started = time.monotonic()
    if out is not None and out.exists():
        raise StorageError(f"{out} exists already; choose another folder or remove it first.")
    config = _config(method, per_channel, keep_accuracy, samples, any_speed)
    workspace = Workspace()
    if bundle is None or out is None:
        workspace.open()
    source = bundle or workspace.bundle_path
    chosen = _pack(workspace, pack, own=bundle is None)
    named = pack is not None
    with progress("Calibrating", quiet=as_json) as report, _target(workspace, out) as target:
        from mmcl_edge.bundle import Bundle
        from mmcl_edge.calibration.ranges import check_float, quantize_bundle
        from mmcl_edge.calibration.samples import read_data

        opened = Bundle.open(source)
        check_float(opened)
        used = _fitting(chosen, opened.family, named=named)
        report("reading the data")
        sorted_out = read_data(data, opened.manifest, config)
        done = quantize_bundle(opened, sorted_out, target, pack=used, config=config, threads=threads, progress=report)
        installed = None if out is not None else workspace.install_bundle(target, move=True)
    place = out or (installed.path if installed else target)
    result = result_of(done, sorted_out, place=place, installed=installed is not None)
    way_back = None if installed is None else f"mmcl-edge init --bundle {workspace.root / 'bundles' / opened.digest}"
    emit(
        {**result, "way_back": way_back, "duration_s": round(time.monotonic() - started, 1)},
        as_json,
        human,
    )


def _config(
    method: Literal["minmax", "entropy", "percentile"],
    per_channel: bool,
    keep_accuracy: float,
    samples: int,
    any_speed: bool,
) -> RangesConfig:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "Calibrating ranges rewrites ONNX graphs and needs the package onnx, which is not installed here; install "
            "'mmcl-edge[export]', or calibrate on a workstation and copy the bundle."
        ) from error
    from mmcl_edge.calibration.settings import RangesConfig

    return RangesConfig(
        method=method, per_channel=per_channel, keep_accuracy=keep_accuracy, samples=samples, any_speed=any_speed
    )


def _pack(workspace: Workspace, pack: str | None, *, own: bool) -> Path | None:
    """The pack's folder: as named, else the one in use if the workspace's own bundle is calibrated."""
    if pack is not None:
        return Path(pack) if Path(pack).is_dir() else workspace.open().resolve_pack(pack)
    return workspace.current_pack() if own else None


def _fitting(folder: Path | None, family: str, *, named: bool) -> Pack | None:
    """The pack in ``folder``, verified; ``None`` without one, or where the one in use holds a shared space alone.

    Raises:
        PackError: it is broken, made for another bundle, or knows no class.
    """
    from mmcl_edge.packs import read_pack

    if folder is None:
        return None
    pack = read_pack(folder, bundle_digest=family)
    if pack.config.learner == "none" and not named:
        return None
    if not pack.manifest.labels:
        raise PackError(f"The pack {pack.digest[:16]}... should know a class, but knows none; name another pack.")
    return pack


@contextmanager
def _target(workspace: Workspace, out: Path | None) -> Iterator[Path]:
    """Where the bundle is written: ``out``, or a staging folder of the workspace, which is locked meanwhile."""
    if out is not None:
        yield out
        return
    with workspace.lock():
        with storage_errors(workspace.root):
            staging = Path(tempfile.mkdtemp(dir=workspace.root, prefix=STAGING_PREFIX))
        try:
            yield staging / "bundle"
        finally:
            shutil.rmtree(staging, ignore_errors=True)
