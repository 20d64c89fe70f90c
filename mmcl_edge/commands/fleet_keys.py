"""``mmcl-edge fleet keys``: which keys count in a fleet, and how that changes."""

from __future__ import annotations

from pathlib import Path

import click

from mmcl_edge.commands.console import emit, json_option
from mmcl_edge.commands.fleet_keys_rotate import command as rotate
from mmcl_edge.commands.fleet_place import fleet_option, opened, public_key, stored_signers
from mmcl_edge.commands.fleet_root import described, finish_text, read_root, show_text
from mmcl_edge.errors import FleetError

_FILE = click.Path(path_type=Path)


@click.group()
def command() -> None:
    """Show, rotate and sign the keys that count in a fleet: root, targets (release) and online."""


command.add_command(rotate, "rotate")


@command.command()
@click.argument("file", required=False, type=_FILE)
@fleet_option
@json_option
def show(file: Path | None, fleet: str | None, as_json: bool) -> None:
    """Show the keys of the fleet, or those that the root metadata in FILE would put in force.

    \b
    Examples:
      mmcl-edge fleet keys show
      mmcl-edge fleet keys show root-2.json
    """  # noqa: D301
    if file is not None:
        result = described(read_root(file))
    else:
        with opened(fleet) as repository:
            result = described(repository.view().root)
    emit(result, as_json, show_text)


@command.command()
@click.argument("file", type=_FILE)
@click.option("--key", "names", multiple=True, metavar="NAME", help="Sign with this key, also if FILE drops it.")
@json_option
def sign(file: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Sign the root metadata in FILE with the root keys that are here. Needs no network: the machine may be off line.

    Look at it first ('mmcl-edge fleet keys show FILE'): your signature says that these keys are the right ones.

    \b
    Examples:
      mmcl-edge fleet keys sign root.json
      mmcl-edge fleet keys sign root-2.json --key bob
    """  # noqa: D301
    from mmcl_edge.fileio import write_atomic
    from mmcl_edge.fleet.rotation import root_signers

    root, signers = read_root(file), stored_signers()
    keys = [*root_signers(root.signed, None), *(public_key(name) for name in names)]
    held = [signer for key in keys if (signer := signers.signer(key)) is not None]
    if not held:
        raise FleetError(f"No root key that {file} names is here; run this where one is, or say --key NAME.")
    before = dict(root.signatures)
    for signer in held:
        root.sign(signer, append=True)
    made = [keyid for keyid, one in root.signatures.items() if before.get(keyid) != one]
    write_atomic(file, root.to_bytes())
    emit({**described(root), "signed_now": made}, as_json, show_text)


@command.command()
@click.argument("file", type=_FILE)
@fleet_option
@json_option
def publish(file: Path, fleet: str | None, as_json: bool) -> None:
    """Put the root metadata in FILE in force, once enough keys have signed it. Running it again goes on from a cut.

    \b
    Examples:
      mmcl-edge fleet keys publish root-2.json
    """  # noqa: D301
    from mmcl_edge.fleet.rotation import install

    root = read_root(file)
    with opened(fleet) as repository:
        install(repository, root)
    emit({"in_force": True, **described(root)}, as_json, finish_text)
