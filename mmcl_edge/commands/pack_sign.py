"""``mmcl-edge pack sign``: add a signature to a pack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from mmcl_edge.commands.console import emit, json_option
from mmcl_edge.commands.pack_place import pack_folder
from mmcl_edge.commands.passphrase import signer_for
from mmcl_edge.packs import read_pack
from mmcl_edge.packs.signing import claimed_signers, sign_pack


@click.command()
@click.argument("pack", default="current")
@click.option("--key", required=True, metavar="NAME", help="A key of yours; 'device' is this device's identity.")
@json_option
def sign(pack: str, key: str, as_json: bool) -> None:
    """Verify PACK (of the workspace, or a folder) and add a signature beside it. Signing twice changes nothing.

    An archive is signed where it is made: 'mmcl-edge pack export --sign'.

    \b
    Examples:
      mmcl-edge pack sign current --key device
      mmcl-edge pack sign ./packs/3fa94c... --key release
    """  # noqa: D301
    folder = pack_folder(pack)
    signer = signer_for(key)
    digest = sign_pack(folder, signer)
    keys = claimed_signers(read_pack(folder))
    emit({"digest": digest, "keyid": signer.public_key.keyid, "signatures": list(keys)}, as_json, _text)


def _text(result: Mapping[str, Any]) -> str:
    return (
        f"Signed {result['digest'][:16]} with the key {result['keyid'][:16]}; "
        f"it has {len(result['signatures'])} signature(s) now."
    )
