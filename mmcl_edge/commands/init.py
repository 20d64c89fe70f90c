"""``mmcl-edge init``: make the workspace and put a bundle in it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from mmcl_edge.bundle import Bundle
from mmcl_edge.commands.console import emit, json_option, progress
from mmcl_edge.errors import BundleError, MissingExtraError
from mmcl_edge.fileio import STAGING_PREFIX, storage_errors
from mmcl_edge.runtime.workspace import HOME_VARIABLE, Workspace, home


@click.command()
@click.option(
    "--bundle", type=click.Path(path_type=Path), metavar="DIR", help="Install this bundle (made by mmcl-edge export)."
)
@click.option(
    "--home", "root", type=click.Path(path_type=Path), metavar="DIR", help=f"The workspace, instead of {HOME_VARIABLE}."
)
@click.option(
    "--replace",
    is_flag=True,
    help="Allow another bundle than the installed one; packs stay, none in use. An int8 version needs no consent.",
)
@json_option
def command(bundle: Path | None, root: Path | None, replace: bool, as_json: bool) -> None:
    """Make the workspace and install a bundle in it. Running it again changes nothing.

    Without --bundle the default backbones are exported here, which takes minutes and needs the export extra.

    \b
    Examples:
      mmcl-edge init
      mmcl-edge init --bundle ./bundle
      mmcl-edge init --home /data/mmcl-edge --bundle ./bundle --json
    """  # noqa: D301
    workspace = Workspace(root)
    created = not workspace.exists()
    workspace.create()
    opened = None if bundle or replace else _installed(workspace)
    installed = opened is None
    if opened is None:
        opened = _install(workspace, bundle, replace=replace, quiet=as_json)
    emit(_result(workspace, opened, created=created, installed=installed), as_json, _human)


def _installed(workspace: Workspace) -> Bundle | None:
    with suppress(BundleError):
        return Bundle.open(workspace.bundle_path)
    return None


def _install(workspace: Workspace, bundle: Path | None, *, replace: bool, quiet: bool) -> Bundle:
    if bundle is not None:
        return workspace.install_bundle(bundle, replace=replace)
    with workspace.lock():
        with storage_errors(workspace.root):
            staging = Path(tempfile.mkdtemp(dir=workspace.root, prefix=STAGING_PREFIX))
        try:
            _export(staging / "bundle", quiet=quiet)
            return workspace.install_bundle(staging / "bundle", move=True, replace=replace)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _export(out: Path, *, quiet: bool) -> None:
    advice = (
        "The workspace should get a bundle, but none was given and the default one cannot be exported here ({}); "
        "install 'mmcl-edge[export,defaults]' and run 'mmcl-edge init' again, or run 'mmcl-edge export --out DIR' "
        "on a workstation, copy the folder here and run 'mmcl-edge init --bundle DIR'."
    )
    try:
        from mmcl_edge.export.exporter import export_bundle

        with progress("Exporting", quiet=quiet) as report:
            export_bundle(out, progress=report)
    except (ImportError, MissingExtraError) as error:
        raise MissingExtraError(advice.format(error)) from error


def _result(workspace: Workspace, bundle: Bundle, *, created: bool, installed: bool) -> dict[str, Any]:
    return {
        "home": str(workspace.root),
        "created": created,
        "bundle_installed": installed,
        "bundle": {
            "digest": bundle.digest,
            "modalities": list(bundle.manifest.modalities),
            "blocks": bundle.manifest.blocks,
            "trained": bundle.manifest.trained,
        },
        "is_default_home": workspace.root == home(),
    }


def _human(result: Mapping[str, Any]) -> str:
    bundle = result["bundle"]
    lines = [
        f"Workspace  {result['home']} ({'made' if result['created'] else 'was there'})",
        f"Bundle     {bundle['digest'][:16]} ({', '.join(bundle['modalities'])}; {bundle['blocks']} blocks; "
        f"{'installed' if result['bundle_installed'] else 'was there'})",
    ]
    if not bundle["trained"]:
        lines.append("Warning    the bundle's weights are random: it was exported with --untrained")
    if not result["is_default_home"]:
        lines.append(f"Next       export {HOME_VARIABLE}={result['home']}")
    return "\n".join([*lines, "Then       mmcl-edge adapt --task NAME"])
