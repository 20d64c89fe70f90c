"""``mmcl-edge fleet init``: the key ceremony, and a new fleet in a store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmcl_edge.commands.console import emit, json_option
from mmcl_edge.commands.fleet_place import known_fleets, public_key, stored_signers
from mmcl_edge.errors import FleetError

if TYPE_CHECKING:
    from securesystemslib.signer import Key
    from tuf.api.metadata import Metadata, Root

    from mmcl_edge.fleet.roles import Ceremony

ROOT_FILE = "root.json"


@click.command()
@click.argument("url")
@click.option("--root-key", "root_keys", multiple=True, metavar="NAME|FILE", help="A root key; several may be named.")
@click.option(
    "--threshold", type=click.IntRange(min=1), metavar="N", help="Root keys that must sign.  [more than half]"
)
@click.option("--targets-key", "targets_keys", multiple=True, metavar="NAME|FILE", help="A release key: signs packs.")
@click.option("--online-key", "online_keys", multiple=True, metavar="NAME|FILE", help="Renews snapshot and timestamp.")
@click.option("--bins", type=click.IntRange(2, 65536), default=256, show_default=True, help="A power of two.")
@click.option("--require-signatures", is_flag=True, help="Release only packs that a release key has signed.")
@click.option("--root-days", type=click.IntRange(1, 3650), default=365, show_default=True, metavar="DAYS")
@click.option("--targets-days", type=click.IntRange(1, 3650), default=90, show_default=True, metavar="DAYS")
@click.option("--online-days", type=click.IntRange(1, 3650), default=7, show_default=True, metavar="DAYS")
@click.option(
    "--root-file",
    type=click.Path(path_type=Path),
    default=ROOT_FILE,
    show_default=True,
    metavar="FILE",
    help="Where the root metadata is kept, and waits for signatures that are missing.",
)
@json_option
def command(
    url: str,
    root_keys: tuple[str, ...],
    threshold: int | None,
    targets_keys: tuple[str, ...],
    online_keys: tuple[str, ...],
    bins: int,
    require_signatures: bool,
    root_days: int,
    targets_days: int,
    online_days: int,
    root_file: Path,
    as_json: bool,
) -> None:
    """Make a fleet at URL: a folder, file://, s3://, gs://, az://, or a WebDAV server.

    Without key options the keys 'root', 'release' and 'online' are used, and made if they are not there. A key may also
    be a file with its public part (mmcl-edge keys show NAME --public-out FILE): then its owner signs the root metadata
    elsewhere (mmcl-edge fleet keys sign FILE), and the same command, run again, goes on. FILE is what devices join
    with; its fingerprint will do as well.

    \b
    Examples:
      mmcl-edge fleet init ./fleet
      mmcl-edge fleet init s3://our-fleet --root-key alice --root-key bob.pub.json --threshold 2
    """  # noqa: D301
    from pydantic import ValidationError

    from mmcl_edge.fleet.layout import Lifetimes, Settings
    from mmcl_edge.packs.manifest import validation_sentence

    try:
        lifetimes = Lifetimes(
            root_days=root_days, targets_days=targets_days, snapshot_days=online_days, timestamp_days=online_days
        )
        settings = Settings(bins=bins, lifetimes=lifetimes, require_signatures=require_signatures)
    except ValidationError as error:
        raise FleetError(f"These settings do not fit: {validation_sentence(error)}; correct them.") from error
    emit(_make(url, _ceremony(root_keys, threshold, targets_keys, online_keys), settings, root_file), as_json, _text)


def _make(url: str, ceremony: Ceremony, settings: Any, root_file: Path) -> dict[str, Any]:
    from mmcl_edge.fileio import sha256_bytes, write_atomic
    from mmcl_edge.fleet.layout import MAX_METADATA_BYTES, metadata_path
    from mmcl_edge.fleet.repository import Repository, utc_now
    from mmcl_edge.fleet.roles import first_root
    from mmcl_edge.fleet.rotation import missing, sign_root
    from mmcl_edge.fleet.store import Store

    store = Store.open(url, create=True)
    draft = first_root(ceremony, utc_now(), settings.lifetimes)
    root = _waiting(url, root_file, draft) or draft
    sign_root(root, stored_signers(), previous=None)
    lacking = missing(root, None)
    if lacking is not None:
        write_atomic(root_file, root.to_bytes())
        return {"url": store.url, "made": False, "root_file": str(root_file), "waiting_for": lacking}
    repository = Repository.create(store, stored_signers(), root, settings=settings)
    known_fleets().keep(url, repository.memory)
    data = store.get(metadata_path("root", 1), MAX_METADATA_BYTES)
    write_atomic(root_file, data)
    return {
        "url": store.url,
        "made": True,
        "root_file": str(root_file),
        "fingerprint": sha256_bytes(data),
        "keys": {
            group: [key.keyid for key in keys]
            for group, keys in (("root", ceremony.root), ("targets", ceremony.targets), ("online", ceremony.online))
        },
        "threshold": ceremony.threshold,
    }


def _waiting(url: str, file: Path, draft: Metadata[Root]) -> Metadata[Root] | None:
    """The root metadata that waits in ``file`` for its last signatures, if there is one."""
    from tuf.api.metadata import Root

    from mmcl_edge.fileio import read_bounded
    from mmcl_edge.fleet.layout import MAX_METADATA_BYTES
    from mmcl_edge.fleet.metadata import parse_metadata

    if not file.exists():
        return None
    found: Metadata[Root] = parse_metadata(read_bounded(file, MAX_METADATA_BYTES), Root, str(file))
    if (found.signed.version, found.signed.keys, found.signed.roles) != (1, draft.signed.keys, draft.signed.roles):
        raise FleetError(
            f"{file} holds root metadata of other keys than these; name the same keys as before, or another "
            "--root-file."
        )
    _check_unused(url, found, file)
    return found


def _check_unused(url: str, root: Metadata[Root], file: Path) -> None:
    """Two fleets with one root could be taken for one another."""
    known = known_fleets()
    for other in known.urls():
        memory = known.find(other)
        if memory is not None and memory.root == root.to_bytes().decode() and known.find(url) != memory:
            raise FleetError(f"{file} is the root metadata of the fleet at {other}; name another --root-file.")


def _ceremony(
    root: tuple[str, ...], threshold: int | None, targets: tuple[str, ...], online: tuple[str, ...]
) -> Ceremony:
    from mmcl_edge.fleet.roles import Ceremony

    keys = tuple(_key(name, made=not root) for name in root or ("root",))
    needed = threshold if threshold is not None else len(keys) // 2 + 1
    return Ceremony(
        keys,
        needed,
        tuple(_key(name, made=not targets) for name in targets or ("release",)),
        tuple(_key(name, made=not online) for name in online or ("online",)),
    )


def _key(name: str, *, made: bool) -> Key:
    from mmcl_edge.commands.passphrase import passphrase_for
    from mmcl_edge.packs.keys import KeyStore, release_keys_folder
    from mmcl_edge.packs.private_keys import variable

    keys = KeyStore(release_keys_folder())
    if made and name not in keys.names() and not os.environ.get(variable(name)):
        keys.new(name, passphrase_for(name, confirm=True))
    return public_key(name)


def _text(result: Mapping[str, Any]) -> str:
    if not result["made"]:
        return (
            f"The fleet is not made yet: {result['root_file']} waits for {result['waiting_for']}.\n"
            f"Next: 'mmcl-edge fleet keys sign {result['root_file']}' there, then this command again."
        )
    return (
        f"Made a fleet at {result['url']}.\n"
        f"Fingerprint: {result['fingerprint']}\n"
        f"A device joins with: mmcl-edge sync {result['url']} --root {result['root_file']}\n"
        "Put 'mmcl-edge fleet refresh' into the daily jobs of the machine that holds the online key."
    )
