"""``mmcl-edge fleet keys rotate``: other keys come into force."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmcl_edge.commands.console import emit, json_option
from mmcl_edge.commands.fleet_place import fleet_option, opened, public_key, stored_signers
from mmcl_edge.commands.fleet_root import described, finish_text
from mmcl_edge.errors import FleetError

if TYPE_CHECKING:
    from securesystemslib.signer import Key
    from tuf.api.metadata import Metadata, Root

    from mmcl_edge.fleet.repository import Repository
    from mmcl_edge.fleet.rotation import Changes

GROUPS = ("root", "targets", "online")
MIN_PREFIX = 6


@click.command()
@click.option("--role", type=click.Choice(GROUPS), help="Whose keys change, for --add, --remove and --threshold.")
@click.option("--add", "added", multiple=True, metavar="NAME|FILE", help="A key to add to the role.")
@click.option("--remove", "removed", multiple=True, metavar="NAME|KEYID", help="A key to take from the role.")
@click.option("--threshold", type=click.IntRange(min=1), metavar="N", help="Root keys that must sign from now on.")
@click.option("--renew", is_flag=True, help="Change no key; give the root metadata another year.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where it waits for missing signatures.  [root-<version>.json]",
)
@fleet_option
@json_option
def command(
    role: str | None,
    added: tuple[str, ...],
    removed: tuple[str, ...],
    threshold: int | None,
    renew: bool,
    out: Path | None,
    fleet: str | None,
    as_json: bool,
) -> None:
    """Put other keys in force. Devices follow on their own, and no moment comes in which they refuse the fleet.

    Without options, every key that 'mmcl-edge keys rotate NAME' has replaced here is replaced in the fleet. The new
    root metadata must be signed by the threshold of the old root keys and of the new ones; where they are not all here,
    it is written to FILE, to be signed elsewhere and put in force by 'fleet keys publish FILE'.

    \b
    Examples:
      mmcl-edge keys rotate online && mmcl-edge fleet keys rotate
      mmcl-edge fleet keys rotate --role root --add carol.pub.json --remove bob --threshold 2
    """  # noqa: D301
    from mmcl_edge.fleet.rotation import propose, sign_root

    if (role is None) != (not added and not removed and threshold is None):
        raise FleetError("Expected --role together with --add, --remove or --threshold; say whose keys change.")
    with opened(fleet) as repository:
        view = repository.view()
        now = view.root.signed
        changes = _asked(now, role, added, removed, threshold) if role is not None else _replaced(now)
        if not changes and not renew:
            raise FleetError(
                "No key of the fleet was replaced here, so there is nothing to change; run "
                "'mmcl-edge keys rotate NAME' first, name keys with --role, or say --renew."
            )
        root = propose(now, changes, repository.clock(), view.settings().lifetimes)
        sign_root(root, stored_signers(), previous=now)
        result = _finish(repository, root, now, out)
    emit(result, as_json, finish_text)


def _asked(now: Root, role: str, added: tuple[str, ...], removed: tuple[str, ...], threshold: int | None) -> Changes:
    from mmcl_edge.fleet.roles import KEY_GROUPS, keys_of

    keys = {key.keyid: key for key in keys_of(now, role)}
    for value in removed:
        found = _meant(value, keys)
        del keys[found]
    for value in added:
        key = public_key(value)
        keys[key.keyid] = key
    before = now.roles[KEY_GROUPS[role][0]].threshold
    if role != "root" and threshold not in (None, 1):
        raise FleetError(f"Any one of the {role} keys signs, so their threshold is 1; only root keys have another.")
    return {role: (tuple(keys.values()), threshold if threshold is not None else min(before, max(len(keys), 1)))}


def _meant(value: str, keys: Mapping[str, Key]) -> str:
    """The id among ``keys`` that ``value`` begins, or that the key of that name has or had."""
    from mmcl_edge.packs.keys import KeyStore, release_keys_folder

    store = KeyStore(release_keys_folder())
    named = {store.public(value).keyid, *(key.keyid for key in store.ended(value))} if value in store.names() else set()
    found = [keyid for keyid in keys if keyid in named or (len(value) >= MIN_PREFIX and keyid.startswith(value))]
    if len(found) != 1:
        raise FleetError(f"Expected one key of the role that {value!r} names, but found {len(found)}; give its key id.")
    return found[0]


def _replaced(now: Root) -> Changes:
    """Every group with the keys that took the place of others on this machine."""
    from mmcl_edge.fleet.roles import KEY_GROUPS, keys_of
    from mmcl_edge.packs.keys import KeyStore, release_keys_folder

    store = KeyStore(release_keys_folder())
    active = {name: key for name in store.names() if (key := store.public(name)).status == "active"}
    successor = {old.keyid: key.key for name, key in active.items() for old in store.ended(name)}
    changes: Changes = {}
    for group, roles in KEY_GROUPS.items():
        keys = keys_of(now, group)
        after = tuple(successor.get(key.keyid, key) for key in keys)
        if [key.keyid for key in after] != [key.keyid for key in keys]:
            changes[group] = (after, now.roles[roles[0]].threshold)
    return changes


def _finish(repository: Repository, root: Metadata[Root], now: Root, out: Path | None) -> dict[str, Any]:
    from mmcl_edge.fileio import write_atomic
    from mmcl_edge.fleet.rotation import install, missing

    lacking = missing(root, now)
    if lacking is None:
        install(repository, root)
        return {"in_force": True, **described(root)}
    file = out or Path(f"root-{root.signed.version}.json")
    write_atomic(file, root.to_bytes())
    return {"in_force": False, "root_file": str(file), "waiting_for": lacking, **described(root)}
