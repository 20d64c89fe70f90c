"""``mmcl-edge pack``: list, show, use and roll back packs; the commands for archives and signatures are beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmcl_edge.commands.console import emit, json_option, table
from mmcl_edge.commands.pack_diff import diff
from mmcl_edge.commands.pack_export import export
from mmcl_edge.commands.pack_inspect import inspect
from mmcl_edge.commands.pack_place import key_options, pack_folder, parent_of, public_keys
from mmcl_edge.commands.pack_prune import prune
from mmcl_edge.commands.pack_sign import sign
from mmcl_edge.commands.pack_verify import verify
from mmcl_edge.errors import PackError
from mmcl_edge.packs import Pack, PackManifest, read_manifest, read_pack
from mmcl_edge.packs.archive import is_archive, open_archive
from mmcl_edge.packs.signing import require_signature
from mmcl_edge.packs.spaces import SpaceSummary, modalities_in
from mmcl_edge.runtime.workspace import Workspace

if TYPE_CHECKING:
    from securesystemslib.signer import Key


@click.group()
def command() -> None:
    """List, show, use, carry, sign and compare what was learned.

    A pack is named by its digest; the first six letters or more are enough. An archive is one file with one pack.
    """


for _more in (export, inspect, verify, sign, diff, prune):
    command.add_command(_more)


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the packs of the workspace, newest version first.

    \b
    Examples:
      mmcl-edge pack list
      mmcl-edge pack list --json
    """  # noqa: D301
    workspace = Workspace().open()
    current, previous = workspace.current_pack(), workspace.previous_pack()
    packs = [_row(folder, workspace) for folder in workspace.list_packs()]
    result = {
        "current": current.name if current else None,
        "previous": previous.name if previous else None,
        "packs": sorted(packs, key=lambda pack: (-pack.get("version", 0), pack["digest"])),
    }
    emit(result, as_json, _list_text)


@command.command()
@click.argument("pack", default="current")
@json_option
def show(pack: str, as_json: bool) -> None:
    """Verify PACK (default: the one in use) and show what it says of itself.

    PACK is the beginning of a digest, a folder, 'current' or 'previous'.

    \b
    Examples:
      mmcl-edge pack show
      mmcl-edge pack show 3fa94c --json
    """  # noqa: D301
    opened = read_pack(pack_folder(pack))
    emit(_details(opened), as_json, _show_text)


@command.command()
@click.argument("pack")
@key_options
@json_option
def use(pack: str, keys: tuple[Path, ...], threshold: int, as_json: bool) -> None:
    """Put PACK in use; the one used before becomes 'previous'. A folder or archive is brought into the workspace first.

    \b
    Examples:
      mmcl-edge pack use 3fa94c
      mmcl-edge pack use birds.mmclpack --key root.pub.json
    """  # noqa: D301
    workspace, trusted = Workspace().open(), public_keys(keys)
    with workspace.lock():
        opened = workspace.use_pack(_brought(workspace, pack, trusted if keys else None, threshold))
    emit(_in_use(workspace, opened), as_json, _in_use_text)


@command.command()
@json_option
def rollback(as_json: bool) -> None:
    """Put the pack that was used before back in use.

    \b
    Examples:
      mmcl-edge pack rollback
    """  # noqa: D301
    workspace = Workspace().open()
    emit(_in_use(workspace, workspace.rollback()), as_json, _in_use_text)


def _brought(workspace: Workspace, pack: str, keys: tuple[Key, ...] | None, threshold: int) -> str:
    """The digest of ``pack``, which is in the workspace afterwards."""
    if is_archive(Path(pack)):
        return open_archive(
            Path(pack),
            workspace.packs_path,
            parent_of=parent_of,
            bundle_digest=workspace.bundle_family(),
            keys=keys,
            threshold=threshold,
        )
    folder = workspace.resolve_pack(pack)
    if keys is not None:
        require_signature(read_pack(folder), keys, threshold=threshold)
    return folder.name if folder.parent == workspace.packs_path else workspace.install_pack(folder)


def _row(folder: Path, workspace: Workspace) -> dict[str, Any]:
    try:
        manifest, digest = read_manifest(folder)
    except PackError as error:
        return {"digest": folder.name, "problem": str(error)}
    problem = None if digest == folder.name else "its manifest was changed"
    fits = manifest.bundle_digest == workspace.bundle_family()
    told = _summary(manifest, modalities_in(folder))
    return {"digest": folder.name, **told, "fits_bundle": fits, "problem": problem}


def _summary(manifest: PackManifest, modalities: Sequence[str]) -> dict[str, Any]:
    return {
        "version": manifest.version,
        "bundle_digest": manifest.bundle_digest,
        "labels": list(manifest.label_names),
        "modalities": list(modalities),
        "experts": len(manifest.experts),
        "experiences": list(manifest.experiences),
    }


def _details(pack: Pack) -> dict[str, Any]:
    manifest = pack.manifest.model_dump(mode="json")
    method, space = pack.config.model_dump(mode="json"), pack.space()
    return {
        "digest": pack.digest,
        "path": str(pack.path),
        "manifest": manifest,
        "config": method,
        "space": None if space is None else space.as_json(),
        "evaluation": dict(pack.evaluation),
    }


def _in_use(workspace: Workspace, pack: Pack) -> dict[str, Any]:
    previous = workspace.previous_pack()
    told = _summary(pack.manifest, modalities_in(pack.path))
    return {"current": pack.digest, "previous": previous.name if previous else None, **told}


def _list_text(result: Mapping[str, Any]) -> str:
    if not result["packs"]:
        return "No packs yet; make one with 'mmcl-edge adapt --task NAME'."
    rows, spaces = [], any(pack.get("modalities") for pack in result["packs"])
    for pack in result["packs"]:
        used = {result["previous"]: "previous", result["current"]: "current"}.get(pack["digest"], "")
        note = pack["problem"] or ("" if pack["fits_bundle"] else "made for another bundle")
        shared = (", ".join(pack.get("modalities", ())),) if spaces else ()
        rows.append((pack["digest"][:16], used, pack.get("version", "?"), len(pack.get("labels", ())), *shared, note))
    return table(("pack", "in use", "version", "classes", *(("shared space",) if spaces else ()), "note"), rows)


def _show_text(result: Mapping[str, Any]) -> str:
    manifest = result["manifest"]
    counts, frozen = manifest["sample_counts"], sum(expert["frozen"] for expert in manifest["experts"])
    facts = [
        ("pack", result["digest"]),
        ("folder", result["path"]),
        ("version", manifest["version"]),
        ("bundle", manifest["bundle_digest"]),
        ("parents", ", ".join(parent["digest"][:16] for parent in manifest["parents"]) or "none"),
        ("experiences", ", ".join(manifest["experiences"]) or "none"),
        (
            "experts",
            f"{len(manifest['experts'])}, of them {frozen} frozen",
        ),
        *_confidence(manifest.get("confidence")),
        *(() if result["space"] is None else SpaceSummary(**result["space"]).rows()),
        *((name, value) for name, value in result["evaluation"].items() if isinstance(value, int | float | str)),
    ]
    classes = [(label["index"], label["name"], counts.get(label["name"], 0)) for label in manifest["labels"]]
    if not classes:
        return table(("fact", "value"), facts) + "\n\nIt knows no classes."
    return table(("fact", "value"), facts) + "\n\n" + table(("index", "class", "training samples"), classes)


def _confidence(found: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    if found is None:
        return [("confidence", "not calibrated")]
    unknown = found["unknown"]
    return [
        ("confidence", f"calibrated on {len(found['scores'])} held-out samples of {found['classes']} classes"),
        ("temperature", found["temperature"]),
        ("calibration error", f"{found['ece_after']:.3f} (uncalibrated {found['ece_before']:.3f})"),
        (
            "unknown",
            f"score below {unknown['threshold']:.3g}: at most {100 * unknown['false_alarm_rate']:g} % of known",
        ),
    ]


def _in_use_text(result: Mapping[str, Any]) -> str:
    before = f"; before it {result['previous'][:16]}" if result["previous"] else ""
    space = f", shared space of {', '.join(result['modalities'])}" if result["modalities"] else ""
    knows = f"{len(result['labels'])} classes{space}"
    return f"In use: {result['current'][:16]} (version {result['version']}, {knows}{before})"
