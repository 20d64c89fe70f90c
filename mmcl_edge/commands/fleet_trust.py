"""``mmcl-edge fleet trust``: an admin gets to know a fleet that someone else founded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mmcl_edge.commands.console import emit, json_option
from mmcl_edge.commands.fleet_place import known_fleets, stored_signers
from mmcl_edge.errors import FleetError, TrustError


@click.command()
@click.argument("url")
@click.option("--root", "root_file", type=click.Path(path_type=Path), metavar="FILE", help="The fleet's root metadata.")
@click.option("--fingerprint", metavar="SHA256", help="Its fingerprint, as 'fleet init' and 'fleet status' show it.")
@json_option
def command(url: str, root_file: Path | None, fingerprint: str | None, as_json: bool) -> None:
    """Trust the fleet at URL from now on, on this machine.

    \b
    Examples:
      mmcl-edge fleet trust s3://our-fleet --fingerprint 8c1f...
      mmcl-edge fleet trust s3://our-fleet --root root.json
    """  # noqa: D301
    from mmcl_edge.fileio import read_bounded, sha256_bytes
    from mmcl_edge.fleet.layout import MAX_METADATA_BYTES, metadata_path
    from mmcl_edge.fleet.metadata import Memory, parse_metadata
    from mmcl_edge.fleet.repository import Repository
    from mmcl_edge.fleet.store import Store

    if (root_file is None) == (fingerprint is None):
        raise FleetError("Expected --root FILE or --fingerprint SHA256, one of them; ask the fleet's founder for it.")
    store = Store.open(url)
    if root_file is not None:
        data = read_bounded(root_file, MAX_METADATA_BYTES)
    else:
        data = store.get(metadata_path("root", 1), MAX_METADATA_BYTES)
    found = sha256_bytes(data)
    if fingerprint is not None and found != fingerprint.strip().lower():
        raise TrustError(
            f"The root metadata at {store.url} has the fingerprint {found}, not the one given; nothing is trusted. "
            "Compare it with the founder's."
        )
    memory = Memory(root=parse_metadata(data, _root_type(), "the root metadata").to_bytes().decode())
    repository = Repository(store, stored_signers(), memory)
    channels = repository.view().channels()
    known_fleets().keep(url, repository.memory)
    emit({"url": store.url, "fingerprint": found, "channels": list(channels)}, as_json, _text)


def _root_type() -> type[Any]:
    from tuf.api.metadata import Root

    return Root


def _text(result: Mapping[str, Any]) -> str:
    return f"Trusting the fleet at {result['url']} (channels: {', '.join(result['channels']) or 'none yet'})."
