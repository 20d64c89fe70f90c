"""``mmcl-edge fleet inbox``: list and collect what devices uploaded."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmcl_edge.commands.console import emit, json_option, progress, table
from mmcl_edge.commands.fleet_place import fleet_option, opened

if TYPE_CHECKING:
    from mmcl_edge.fleet.inbox import Entry, Finding
    from mmcl_edge.fleet.layout import Devices


@click.group()
def command() -> None:
    """List and collect what devices uploaded with 'mmcl-edge push'."""


@command.command("list")
@fleet_option
@json_option
def list_(fleet: str | None, as_json: bool) -> None:
    """List the uploads in the inbox, by device; nothing is verified here but whose they are.

    \b
    Examples:
      mmcl-edge fleet inbox list
      mmcl-edge fleet inbox list --json
    """  # noqa: D301
    from mmcl_edge.fleet.inbox import list_inbox

    with opened(fleet) as repository:
        devices = repository.view().devices()
        found = list_inbox(repository.store)
    rows = [_row(entry, devices) for entry in found.entries]
    emit({"uploads": rows, "strangers": list(found.strangers)}, as_json, _list_text)


@command.command()
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder for the packs; it remembers what was collected before.",
)
@click.option(
    "--bundle", metavar="DIGEST", help="Leave out packs for another bundle; the first 6 letters or more are enough."
)
@click.option(
    "--max-mb", type=click.IntRange(min=1), default=256, show_default=True, metavar="N", help="Largest upload taken."
)
@click.option("--workers", type=click.IntRange(min=1), default=4, show_default=True, metavar="N", help="At once.")
@click.option("--remove", is_flag=True, help="Remove from the inbox what was collected, now or before.")
@click.option(
    "--remove-refused",
    is_flag=True,
    help="Remove what an enrolled device's folder holds and was refused, so that it is not fetched again.",
)
@fleet_option
@json_option
def collect(
    out: Path,
    bundle: str | None,
    max_mb: int,
    workers: int,
    remove: bool,
    remove_refused: bool,
    fleet: str | None,
    as_json: bool,
) -> None:
    """Verify every upload and bring the new ones to DIR, ready for 'mmcl-edge merge'.

    Each must be signed by an enrolled device's key and be exactly what that device described; what is not is named
    with the reason and left out, and the others go on. Training samples that a device shared come to DIR/exemplars.
    Where every upload was refused, the exit code is 1.

    \b
    Examples:
      mmcl-edge fleet inbox collect --out ./collected
      mmcl-edge fleet inbox collect --out ./collected --remove --json
    """  # noqa: D301
    if bundle is not None and remove_refused:
        raise click.UsageError(
            "--remove-refused would remove the packs for other bundles, too; give --bundle or --remove-refused alone."
        )
    import tempfile
    from concurrent.futures import ThreadPoolExecutor

    from mmcl_edge.fleet import inbox
    from mmcl_edge.fleet.parents import FleetParents

    with (
        opened(fleet) as repository,
        progress("Collect", quiet=as_json) as report,
        ThreadPoolExecutor(workers) as executor,
        tempfile.TemporaryDirectory(prefix="mmcl-edge-") as folder,
    ):
        view = repository.view()
        findings = inbox.collect(
            repository.store,
            view.devices(),
            out,
            parent_of=FleetParents(view, Path(folder)),
            bundle=bundle,
            max_bytes=max_mb << 20,
            executor=executor,
            on_progress=report,
        )
        going = (("new", "collected") if remove else ()) + (("refused",) if remove_refused else ())
        done = [finding for finding in findings if finding.status in going]
        removed = sum(inbox.remove(repository.store, finding) for finding in done)
        strangers = inbox.list_inbox(repository.store).strangers
    result = {
        "out": str(out),
        "uploads": [_told(finding) for finding in findings],
        "removed_objects": removed,
        "strangers": list(strangers),
    }
    emit(result, as_json, _collect_text)
    if findings and all(finding.status == "refused" for finding in findings):
        sys.exit(1)


def _told(finding: Finding) -> dict[str, Any]:
    return {name: value for name, value in vars(finding).items() if name not in ("files", "description_sha256")}


def _row(entry: Entry, devices: Devices) -> dict[str, Any]:
    device = devices.enrolled(entry.keyid)
    if device is None:
        state = "its key was revoked" if devices.was_revoked(entry.keyid) else "its key is not enrolled"
    else:
        state = "whole" if entry.is_whole else "half-uploaded"
    return {
        "device": None if device is None else device.name,
        "keyid": entry.keyid,
        "pack": entry.pack,
        "state": state,
        "size_bytes": entry.size_bytes,
    }


def _list_text(result: Mapping[str, Any]) -> str:
    rows = [
        (row["device"] or row["keyid"][:16], row["pack"][:16], f"{row['size_bytes']:,}", row["state"])
        for row in result["uploads"]
    ]
    if not rows:
        return "The inbox is empty: no device has pushed anything yet." + _strangers(result)
    return table(("device", "pack", "bytes", "state"), rows) + _strangers(result)


def _collect_text(result: Mapping[str, Any]) -> str:
    uploads = result["uploads"]
    if not uploads:
        return "The inbox is empty: no device has pushed anything yet." + _strangers(result)
    rows = [
        (one["device"] or one["keyid"][:16], one["pack"][:16], one["status"], one["reason"] or _knows(one))
        for one in uploads
    ]
    counts = {status: sum(one["status"] == status for one in uploads) for status in _SENTENCES}
    sentences = [text.format(count) for status, text in _SENTENCES.items() if (count := counts[status])]
    return (
        f"{table(('device', 'pack', 'status', 'classes or reason'), rows)}\n\n{' '.join(sentences)}{_strangers(result)}"
    )


def _knows(upload: Mapping[str, Any]) -> str:
    space = f"shared space of {', '.join(upload['modalities'])}" if upload["modalities"] else ""
    return "; ".join(filter(None, (", ".join(upload["labels"]), space)))


_SENTENCES = {
    "new": "New: {}.",
    "collected": "Collected before: {}.",
    "half-uploaded": "Half uploaded, and waited for: {}.",
    "refused": "Refused: {}.",
}


def _strangers(result: Mapping[str, Any]) -> str:
    found = result["strangers"]
    if not found:
        return ""
    return (
        f"\n{len(found)} objects in the inbox are no part of an upload (first: {found[0]!r}); see who can write there."
    )
