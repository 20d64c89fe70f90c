"""``mmcl-edge export``: make a bundle on a workstation."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from mmcl_edge.commands.console import emit, json_option, progress, table
from mmcl_edge.errors import MissingExtraError

if TYPE_CHECKING:
    from mmcl_edge.bundle import BackboneEntry, Bundle

_NOT_WITH_FUSE = ("audio", "frames", "motion", "text", "blocks", "vjp", "untrained")
_NAMES = "default, none, a timm name, hf_hub:ID, local-dir:PATH or NAME@CHECKPOINT"


@click.command()
@click.option("--audio", default="default", show_default=True, metavar="NAME", help=f"Sound backbone: {_NAMES}.")
@click.option("--frames", default="default", show_default=True, metavar="NAME", help="Picture backbone, likewise.")
@click.option(
    "--motion",
    default="none",
    show_default=True,
    metavar="NAME",
    help="Backbone for accelerometer and gyroscope: none, rocket (g and degrees a second) or rocket:uestc_mmea.",
)
@click.option(
    "--text", default="none", show_default=True, metavar="NAME", help="Backbone for texts: none or minilm (English)."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The bundle's folder.  [default: bundle/ in the workspace]",
)
@click.option(
    "--blocks", type=int, metavar="B", help="Segments per backbone.  [default: layers of the shallowest backbone]"
)
@click.option(
    "--vjp",
    type=click.Choice(["recompute", "save"]),
    default="recompute",
    show_default=True,
    help="Gradients compute the forward pass again (less memory), or use activations it saved (less work).",
)
@click.option("--untrained", is_flag=True, help="Random weights for timm names; the bundle says so.")
@click.option("--force", is_flag=True, help="Replace what an earlier export put there.")
@click.option(
    "--fuse",
    type=click.Path(path_type=Path),
    metavar="PACK",
    help="Instead: make one graph of a bundle and this pack, for devices that only predict.",
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="With --fuse: the bundle.  [default: the workspace's]",
)
@click.option(
    "--modalities", metavar="NAMES", help="With --fuse: what every sample has, as in audio,frames.  [default: all]"
)
@json_option
def command(
    audio: str,
    frames: str,
    motion: str,
    text: str,
    out: Path | None,
    blocks: int | None,
    vjp: Literal["recompute", "save"],
    untrained: bool,
    force: bool,
    fuse: Path | None,
    bundle: Path | None,
    modalities: str | None,
    as_json: bool,
) -> None:
    """Cut backbones into ONNX segments with their gradients, check each against torch, write a bundle.

    \b
    Examples:
      mmcl-edge export --out ./bundle
      mmcl-edge export --frames mobilenetv3_small_100 --vjp save --out ./bundle
      mmcl-edge export --audio hf_hub:gaunernst/vit_base_patch16_1024_128.audiomae_as2m --blocks 4 --out ./bundle
      mmcl-edge export --audio none --frames vit_tiny_patch16_224@weights.safetensors --out ./bundle
      mmcl-edge export --motion rocket --out ./bundle
      mmcl-edge export --text minilm --out ./bundle
      mmcl-edge export --fuse ./pack --bundle ./bundle --out ./fused
    """  # noqa: D301
    if fuse is not None:
        _refuse_given(_NOT_WITH_FUSE, "go with exporting a bundle, not with --fuse, which takes one that is there.")
        _fuse(fuse, bundle, modalities, out, force=force, as_json=as_json)
        return
    if bundle is not None or modalities is not None:
        raise click.UsageError("--bundle and --modalities go with --fuse.")
    target = out if out is not None else _default_folder()
    started = time.monotonic()
    with _needs_export_extra():
        from mmcl_edge.export.exporter import export_bundle
    with progress("Exporting", quiet=as_json) as report:
        made = export_bundle(
            target,
            audio=audio,
            frames=frames,
            motion=motion,
            text=text,
            blocks=blocks,
            vjp=vjp,
            untrained=untrained,
            progress=report,
            force=force,
        )
    emit(_result(made, time.monotonic() - started), as_json, _human)


def _refuse_given(names: Sequence[str], why: str) -> None:
    """Refuse options that would be ignored."""
    source = click.get_current_context().get_parameter_source
    given = [f"--{name}" for name in names if source(name) is not ParameterSource.DEFAULT]
    if given:
        raise click.UsageError(f"{' and '.join(given)} {why}")


@contextmanager
def _needs_export_extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"Exporting needs the package {error.name}, which is not installed; run: pip install 'mmcl-edge[export]'"
        ) from error


def _fuse(
    pack: Path, bundle: Path | None, modalities: str | None, out: Path | None, *, force: bool, as_json: bool
) -> None:
    if out is None:
        raise click.UsageError("--fuse needs --out DIR, the folder to write.")
    with _needs_export_extra():
        from mmcl_edge.export.fuse import fuse
    from mmcl_edge.bundle import Bundle
    from mmcl_edge.runtime.workspace import home

    chosen = None if modalities is None else [name.strip() for name in modalities.split(",")]
    with progress("Fusing", quiet=as_json) as say:
        say("one graph, and its check against the live runtime", 0, 1)
        report = fuse(Bundle.open(bundle or home() / "bundle"), pack, out, modalities=chosen, force=force)
    emit({"path": str(out), **asdict(report)}, as_json, _human_fused)


def _human_fused(result: Mapping[str, Any]) -> str:
    return (
        f"Fused model in {result['path']} ({result['size_bytes'] / 1e6:.1f} MB)\n"
        f"Answers as the live runtime does, to {result['largest_difference']:.0e} (probabilities).\n"
        f"One prediction here: {result['fused_ms']:.1f} ms, live {result['live_ms']:.1f} ms (medians, taken in turns)."
    )


def _default_folder() -> Path:
    from mmcl_edge.runtime.workspace import home

    return home() / "bundle"


def _result(bundle: Bundle, duration_s: float) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "path": str(bundle.path),
        "digest": bundle.digest,
        "blocks": manifest.blocks,
        "vjp": manifest.vjp_mode,
        "trained": manifest.trained,
        "duration_s": round(duration_s, 1),
        "size_bytes": sum(file.size_bytes for file in manifest.files()),
        "backbones": [_row(entry) for entry in manifest.backbones],
    }


def _row(entry: BackboneEntry) -> dict[str, Any]:
    parities = [entry.stem_parity, *(segment.parity for segment in (*entry.segments, entry.output))]
    return {
        "modality": entry.modality,
        "name": entry.name,
        "source": entry.origin.source,
        "licence": entry.origin.licence,
        "trained": entry.origin.trained,
        "forward_error": max(parity.forward for parity in parities),
        "vjp_error": max(parity.vjp or 0.0 for parity in parities),
        "front_end_error": entry.front_end_parity,
        "size_bytes": sum(file.size_bytes for file in entry.files()),
    }


def _human(result: Mapping[str, Any]) -> str:
    header = ("backbone", "weights from", "licence", "largest error", "of gradients", "MB")
    rows = [
        (
            f"{row['modality']}: {row['name']}",
            row["source"],
            row["licence"],
            f"{row['forward_error']:.1e}",
            f"{row['vjp_error']:.1e}",
            f"{row['size_bytes'] / 1e6:.1f}",
        )
        for row in result["backbones"]
    ]
    lines = [
        f"Bundle {result['digest'][:16]} in {result['path']} ({result['blocks']} blocks, {result['vjp']}, "
        f"{result['duration_s']:.0f} s)",
        "",
        table(header, rows),
    ]
    if not result["trained"]:
        lines += ["", "Warning: some weights are random (--untrained); predictions will mean nothing."]
    return "\n".join(lines)
