"""Root metadata as the commands of ``fleet keys`` read, show and finish it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcl_edge.commands.console import table
from mmcl_edge.commands.fleet_place import key_table

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Root


def read_root(file: Path) -> Metadata[Root]:
    """The root metadata in ``file``, as it is: not verified.

    Raises:
        IntegrityError: it is no root metadata.
    """
    from tuf.api.metadata import Root

    from mmcl_edge.fileio import read_bounded
    from mmcl_edge.fleet.layout import MAX_METADATA_BYTES
    from mmcl_edge.fleet.metadata import parse_metadata

    return parse_metadata(read_bounded(file, MAX_METADATA_BYTES), Root, str(file))


def described(root: Metadata[Root]) -> dict[str, Any]:
    """The JSON of root metadata: what a person should look at before signing."""
    from mmcl_edge.fleet.roles import KEY_GROUPS

    signed = root.signed
    return {
        "version": signed.version,
        "expires": signed.expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "keys": {
            group: {"keyids": list(signed.roles[roles[0]].keyids), "threshold": signed.roles[roles[0]].threshold}
            for group, roles in KEY_GROUPS.items()
        },
        "signatures": sorted(root.signatures),
    }


def show_text(result: Mapping[str, Any]) -> str:
    """The same in words."""
    facts = [
        ("root version", result["version"]),
        ("expires", result["expires"]),
        ("signatures", " ".join(keyid[:16] for keyid in result["signatures"]) or "none"),
    ]
    return table(("fact", "value"), facts) + "\n\n" + table(("keys", "threshold", "key ids"), key_table(result["keys"]))


def finish_text(result: Mapping[str, Any]) -> str:
    """Whether it is in force, or what it waits for."""
    if result["in_force"]:
        return f"Root metadata {result['version']} is in force.\n\n{show_text(result)}"
    return (
        f"Not in force yet: {result['root_file']} waits for {result['waiting_for']}.\nNext: 'mmcl-edge fleet keys sign "
        f"{result['root_file']}' there, then 'mmcl-edge fleet keys publish {result['root_file']}' here."
    )
