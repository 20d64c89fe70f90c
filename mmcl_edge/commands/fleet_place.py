"""What the commands of ``fleet`` share: which fleet, its keys, and what is remembered of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mmcl_edge.errors import FleetError, KeyFileError

if TYPE_CHECKING:
    from securesystemslib.signer import Key

    from mmcl_edge.fleet.known import KnownFleets
    from mmcl_edge.fleet.repository import Repository
    from mmcl_edge.fleet.signers import Signers

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

FLEET_VARIABLE = "MMCL_EDGE_FLEET"


def fleet_option(function: Decorated) -> Decorated:
    """Add ``--fleet URL``, passed as ``fleet: str | None``."""
    return click.option(
        "--fleet",
        envvar=FLEET_VARIABLE,
        metavar="URL",
        help=f"Which fleet, where several are known; also {FLEET_VARIABLE}.",
    )(function)


def known_fleets() -> KnownFleets:
    """The fleets that this admin knows."""
    from mmcl_edge.fleet.known import KnownFleets
    from mmcl_edge.packs.keys import release_keys_folder

    return KnownFleets(release_keys_folder())


def stored_signers() -> Signers:
    """The keys of this admin; a passphrase is asked for where one is needed."""
    from mmcl_edge.commands.passphrase import passphrase_for
    from mmcl_edge.fleet.signers import StoredSigners
    from mmcl_edge.packs.keys import KeyStore, release_keys_folder

    return StoredSigners(KeyStore(release_keys_folder()), passphrase_for)


@contextmanager
def opened(fleet: str | None) -> Iterator[Repository]:
    """The fleet that is meant; what was seen of it is remembered when the block ends, however it ends.

    Raises:
        FleetError: it is not clear which is meant, or it is not known here.
        StoreError: its address is mistyped.
    """
    from mmcl_edge.fleet.repository import Repository
    from mmcl_edge.fleet.store import Store

    known = known_fleets()
    url = known.choose(fleet)
    memory = known.find(url)
    store = Store.open(url)
    if memory is None:
        raise FleetError(
            f"The fleet at {store.url} is not known here; run 'mmcl-edge fleet trust URL --fingerprint SHA256' with "
            "the fingerprint that its founder gives you."
        )
    repository = Repository(store, stored_signers(), memory)
    try:
        yield repository
    finally:
        known.keep(url, repository.memory)


def public_key(value: str) -> Key:
    """The public key that ``value`` names: one of this admin's keys, or a file that holds one.

    Raises:
        KeyFileError: there is none, or it has ended.
    """
    from mmcl_edge.packs.keys import KeyStore, read_public_key, release_keys_folder

    is_file = value.endswith(".json") or "/" in value
    key = read_public_key(Path(value)) if is_file else KeyStore(release_keys_folder()).public(value)
    if key.status != "active":
        raise KeyFileError(f"The key {value!r} was {key.status} on {key.ended}; name its successor.")
    return key.key


def key_table(groups: Any) -> list[tuple[str, str, str]]:
    """Rows of group, threshold and key ids, from the JSON of ``keys``."""
    return [
        (name, f"{group['threshold']} of {len(group['keyids'])}", " ".join(_short(group)))
        for name, group in groups.items()
    ]


def _short(group: Any) -> list[str]:
    return [keyid[:16] for keyid in group["keyids"]]
