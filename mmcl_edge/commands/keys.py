"""``mmcl-edge keys``: make, show, rotate, revoke and forget the keys that sign."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from mmcl_edge.commands.console import emit, json_option, table
from mmcl_edge.commands.passphrase import PASSPHRASE_VARIABLE, key_store, passphrase_for
from mmcl_edge.errors import InputError
from mmcl_edge.fileio import pretty_json, write_atomic
from mmcl_edge.packs.keys import DEVICE_KEY, KeyStore, PublicKey, device_keys_folder, release_keys_folder
from mmcl_edge.runtime.workspace import Workspace

MIN_PREFIX = 6

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


@click.group()
def command() -> None:
    """Make, show, rotate, revoke and forget the keys that sign packs and releases.

    A release key is an admin's and lies in MMCL_EDGE_KEYS (default: your user settings). The key of a device is its
    identity, and lies in its workspace. A passphrase comes from MMCL_EDGE_PASSPHRASE or the terminal;
    MMCL_EDGE_KEY_<NAME> may hold a private key itself, for machines without files.
    """


def _name_or_device(function: Decorated) -> Decorated:
    argument = click.argument("name", required=False)
    option = click.option("--device", is_flag=True, help="The key of this device instead of a release key.")
    return argument(option(function))


@command.command()
@_name_or_device
@json_option
def new(name: str | None, device: bool, as_json: bool) -> None:
    """Make an ed25519 key pair; the private file is for you alone (0600).

    A release key gets a passphrase. The key of a device gets one only if MMCL_EDGE_PASSPHRASE is set, for a device
    signs with nobody beside it.

    \b
    Examples:
      mmcl-edge keys new root
      mmcl-edge keys new --device --json
    """  # noqa: D301
    chosen = _chosen(name, device)
    made = key_store(chosen).new(chosen, _new_passphrase(chosen))
    emit({**_facts(made), "file": str(key_store(chosen).folder / f"{chosen}.pem")}, as_json, _new_text)


@command.command()
@_name_or_device
@click.option("--public-out", type=click.Path(path_type=Path), metavar="FILE", help="Write the public part to FILE.")
@json_option
def show(name: str | None, device: bool, public_out: Path | None, as_json: bool) -> None:
    """Show the public part of the key NAME, or of all keys.

    The file that --public-out writes is what an admin enrols a device with, and what 'pack verify --key' takes.

    \b
    Examples:
      mmcl-edge keys show
      mmcl-edge keys show --device --public-out device.pub.json
    """  # noqa: D301
    if name is None and not device:
        if public_out is not None:
            raise InputError("--public-out writes one key, but none is named; add its NAME, or --device.")
        emit({"keys": [fact for keys in _stores() for fact in _all_facts(keys)]}, as_json, _show_text)
        return
    chosen = _chosen(name, device)
    keys = key_store(chosen)
    key = keys.public(chosen)
    if public_out is not None:
        write_atomic(public_out, pretty_json(key.model_dump(mode="json")))
    emit({"keys": [_facts(one) for one in (key, *keys.ended(chosen))]}, as_json, _show_text)


@command.command()
@_name_or_device
@click.option("--forget-old", is_flag=True, help="Remove the old private part at once; for --device alone.")
@json_option
def rotate(name: str | None, device: bool, forget_old: bool, as_json: bool) -> None:
    """Put a new key in the place of NAME; the old one is kept, marked with its end.

    The fleet learns of it by 'mmcl-edge fleet keys rotate', which the old key and the new one sign: so the old private
    part stays, until 'mmcl-edge keys forget' removes it. A device must be enrolled anew, and needs no old key for that.

    \b
    Examples:
      mmcl-edge keys rotate online
      mmcl-edge keys rotate --device --forget-old
    """  # noqa: D301
    chosen = _chosen(name, device)
    if forget_old and chosen != DEVICE_KEY:
        raise InputError(
            f"--forget-old is for --device alone: the fleet learns of another key {chosen!r} only by a signature of "
            "the old one. Leave it out, run 'mmcl-edge fleet keys rotate', and then "
            f"'mmcl-edge keys forget {chosen} KEYID'."
        )
    keys = key_store(chosen)
    old = keys.public(chosen)
    made = keys.rotate(chosen, _new_passphrase(chosen))
    if forget_old:
        keys.forget(chosen, old.keyid)
    emit({**_facts(made), "old": old.keyid, "old_private_part_kept": not forget_old}, as_json, _rotate_text)


@command.command()
@_name_or_device
@json_option
def revoke(name: str | None, device: bool, as_json: bool) -> None:
    """Mark the key NAME as revoked: it signs nothing here any more. The fleet must be told, too.

    \b
    Examples:
      mmcl-edge keys revoke online
      mmcl-edge keys revoke --device
    """  # noqa: D301
    chosen = _chosen(name, device)
    ended = key_store(chosen).revoke(chosen)
    emit({**_facts(ended), "next": _advice(chosen, ended)}, as_json, _revoke_text)


@command.command()
@click.argument("name")
@click.argument("keyid")
@json_option
def forget(name: str, keyid: str, as_json: bool) -> None:
    """Remove the private part of a key that NAME had before; KEYID is its id, or six or more letters that begin it.

    WARNING: nothing brings it back. A fleet that still names this key can then put no other in its place, and if it is
    the only one of its role, nobody can release any more. Look at 'mmcl-edge fleet keys show' of every fleet first: the
    key id must not be there. The public part stays.

    \b
    Examples:
      mmcl-edge keys forget online 51c09f2e
    """  # noqa: D301
    keys = key_store(name)
    wanted = keyid.replace(" ", "").lower()
    found = [key for key in keys.ended(name) if len(wanted) >= MIN_PREFIX and key.keyid.startswith(wanted)]
    if len(found) != 1:
        raise InputError(
            f"Expected six or more letters that the id of one key begins with that {name!r} had before, but with "
            f"{keyid!r} {len(found) or 'none'} of them does; see 'mmcl-edge keys show {name}'."
        )
    (old,) = found
    removed = keys.forget(name, old.keyid)
    emit({**_facts(old), "removed": removed}, as_json, _forget_text)


def _chosen(name: str | None, device: bool) -> str:
    if device and name not in (None, DEVICE_KEY):
        raise InputError(f"--device means the key {DEVICE_KEY!r}, but {name!r} is named too; give one of them.")
    if name is None and not device:
        raise InputError("Expected the name of a key, or --device, but neither was given; see 'mmcl-edge keys show'.")
    return DEVICE_KEY if device else str(name)


def _new_passphrase(name: str) -> str | None:
    if name == DEVICE_KEY:
        return os.environ.get(PASSPHRASE_VARIABLE) or None
    return passphrase_for(name, confirm=True)


def _stores() -> tuple[KeyStore, ...]:
    workspace = Workspace()
    devices = (KeyStore(device_keys_folder(workspace.trust_path)),) if workspace.exists() else ()
    return (KeyStore(release_keys_folder()), *devices)


def _all_facts(keys: KeyStore) -> list[dict[str, Any]]:
    return [_facts(key) for name in keys.names() for key in (keys.public(name), *keys.ended(name))]


def _facts(key: PublicKey) -> dict[str, Any]:
    return {**key.model_dump(mode="json", exclude={"schema_version"}), "fingerprint": key.fingerprint}


def _advice(name: str, key: PublicKey) -> str:
    if name == DEVICE_KEY:
        return (
            f"mmcl-edge fleet revoke {key.keyid[:16]} (the admin), then mmcl-edge keys new --device and enrol it anew"
        )
    return f"mmcl-edge keys new {name}, then mmcl-edge fleet keys rotate"


def _new_text(result: Mapping[str, Any]) -> str:
    return (
        f"Made the key {result['name']}: {result['fingerprint']}\n"
        f"Private part: {result['file']} (keep a copy where nobody else finds it)"
    )


def _show_text(result: Mapping[str, Any]) -> str:
    if not result["keys"]:
        return "No keys yet; make one with 'mmcl-edge keys new NAME' or 'mmcl-edge keys new --device'."
    rows = [(key["name"], key["fingerprint"], key["status"], key["made"], key["ended"] or "") for key in result["keys"]]
    return table(("key", "fingerprint", "status", "made", "ended"), rows)


def _rotate_text(result: Mapping[str, Any]) -> str:
    told = "mmcl-edge keys show --device --public-out FILE, and have it enrolled"
    after = told if result["name"] == DEVICE_KEY else "mmcl-edge fleet keys rotate"
    return f"The key {result['name']} is now {result['fingerprint']}; it was {result['old'][:16]}.\nNext: {after}"


def _forget_text(result: Mapping[str, Any]) -> str:
    state = "Removed the private part" if result["removed"] else "There was no private part any more"
    return f"{state} of the key {result['name']}: {result['fingerprint']}"


def _revoke_text(result: Mapping[str, Any]) -> str:
    return f"Revoked the key {result['name']}: {result['fingerprint']}\nNext: {result['next']}"
