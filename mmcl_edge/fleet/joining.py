"""How a device comes to trust a fleet: once, from root metadata that it was given, or from a fingerprint.

Rules:

1. A device that has joined needs nothing more. Other root metadata than the one it joined with is refused, unless it
   is told to forget what it knew (``rejoin``).
2. A device that has not joined is told an address, and one of three: the root metadata itself; its sha256; or, in so
   many words, that the first root metadata found there may be trusted.
3. It has joined once the fleet's metadata was verified from there. Until then nothing of it is remembered: what is
   downloaded lies in a folder that the next command sweeps, and a fleet joined before stays as it is.
4. Then the new fleet takes the old one's place, by two renames; what a cut between them left is put back.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmcl_edge.errors import InputError
from mmcl_edge.fileio import STAGING_PREFIX, fsync_folder, read_bounded, sha256_bytes, storage_errors
from mmcl_edge.fleet.client import MAX_ROOT_BYTES, ROOT_NAME, FleetClient, check_root, first_root, pin
from mmcl_edge.fleet.layout import STABLE, check_channel
from mmcl_edge.fleet.store import Store
from mmcl_edge.fleet.sync_state import DeviceState, StateRecord

FOLDER = "fleet"
"""Where, in the workspace folder ``trust``, a device keeps what it knows of its fleet."""
BEFORE = f"{FOLDER}-before"
"""Where, beside it, the fleet joined before lies between two renames. Nothing sweeps it: see ``_restored``."""

OpenStore = Callable[[str], Store]


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """What the caller says about the fleet; all may be left out once the device has joined.

    Attributes:
        url: of the store.
        channel: to follow; ``stable`` at first.
        root: bytes of root metadata to trust.
        fingerprint: sha256 of root metadata to trust, hex.
        trust_first_use: trust the first root metadata that the store gives.
        rejoin: forget the fleet that was joined before.
    """

    url: str | None = None
    channel: str | None = None
    root: bytes | None = None
    fingerprint: str | None = None
    trust_first_use: bool = False
    rejoin: bool = False


@dataclass
class Membership:
    """A device's client and memory, ready to be refreshed.

    Attributes:
        client: of the fleet.
        record: where the memory is kept.
        state: the memory.
        fingerprint: sha256 of the root metadata that trust begins with.
        joining: whether it is the first time; then ``abandon`` undoes it.
    """

    client: FleetClient
    record: StateRecord
    state: DeviceState
    fingerprint: str
    joining: bool

    def abandon(self) -> None:
        """Remember nothing of this fleet, where joining it failed; one joined before was never touched."""
        if self.joining:
            shutil.rmtree(self.client.folder, ignore_errors=True)

    def keep(self, state: DeviceState) -> None:
        """Remember ``state``, and from the first time on this fleet alone.

        Raises:
            StorageError: it cannot be written; what was remembered before stays.
        """
        try:
            self.record.write(state)
            if self.joining:
                folder = self.client.folder.with_name(FOLDER)
                _take_place(self.client.folder, folder)
                self.client, self.record = FleetClient(folder, self.client.store), StateRecord(folder)
                self.joining = False
        except BaseException:
            self.abandon()
            raise


def membership(trust: Path, invitation: Invitation, open_store: OpenStore = Store.open) -> Membership:
    """The device's membership, made from the invitation where there is none.

    Args:
        trust: the workspace's folder ``trust``; the caller holds the workspace's lock.
        invitation: what the caller says.
        open_store: opens a store by its URL.

    Raises:
        InputError: the device has not joined and the invitation says too little, or other than it joined with.
        TrustError: what should be trusted is no root metadata, or is not in the store.
        StoreError: the store does not answer.
    """
    folder = trust / FOLDER
    _restored(folder)
    state = None if invitation.rejoin else StateRecord(folder).read()
    if state is None:
        return _joined(folder, invitation, open_store)
    found = sha256_bytes(read_bounded(folder / ROOT_NAME, MAX_ROOT_BYTES))
    given = invitation.fingerprint if invitation.root is None else sha256_bytes(invitation.root)
    if given is not None and given != found:
        raise InputError(
            f"This device trusts the fleet whose root metadata has the fingerprint {found[:16]}..., but "
            f"{given[:16]}... was given; leave that out, or forget the old fleet with --rejoin."
        )
    url = state.url if invitation.url is None else absolute(invitation.url)
    channel = state.channel if invitation.channel is None else check_channel(invitation.channel)
    state = state.model_copy(update={"url": url, "channel": channel})
    return Membership(FleetClient(folder, open_store(url)), StateRecord(folder), state, found, joining=False)


def absolute(url: str) -> str:
    """``url``, or the absolute path of a folder, so that it means the same wherever the next call is made."""
    return url if "://" in url else str(Path(url).expanduser().absolute())


def _joined(folder: Path, invitation: Invitation, open_store: OpenStore) -> Membership:
    ways = (invitation.root is not None, invitation.fingerprint is not None, invitation.trust_first_use)
    if invitation.url is None or sum(ways) != 1:
        raise InputError(
            "This device has not joined a fleet, so it needs the address of the store and one thing to trust: the "
            "fleet's root metadata (--root FILE), its fingerprint (--fingerprint SHA256), or, on a network that nobody "
            "else can touch, --trust-first-use. Example: mmcl-edge sync URL --root root.json"
        )
    url = absolute(invitation.url)
    channel = check_channel(invitation.channel or STABLE)
    store = open_store(url)
    root = invitation.root
    if root is None:
        root = first_root(store, fingerprint=invitation.fingerprint)
    check_root(root)
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{STAGING_PREFIX}{FOLDER}-"))
    try:
        fingerprint = pin(staging, root)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    state = DeviceState(url=url, channel=channel)
    return Membership(FleetClient(staging, store), StateRecord(staging), state, fingerprint, joining=True)


def _take_place(staging: Path, folder: Path) -> None:
    """Let ``staging`` become ``folder``; a cut leaves the fleet before or the new one (``_restored``)."""
    before = folder.with_name(BEFORE)
    with storage_errors(folder):
        if folder.exists():
            os.replace(folder, before)
        try:
            os.replace(staging, folder)
        except BaseException:
            if before.exists():
                os.replace(before, folder)
            raise
        fsync_folder(folder.parent)
        shutil.rmtree(before, ignore_errors=True)


def _restored(folder: Path) -> None:
    """Settle what a cut in ``_take_place`` left: the fleet before goes where nothing took its place, or is removed."""
    before = folder.with_name(BEFORE)
    if before.is_dir():
        with storage_errors(folder):
            if folder.exists():
                shutil.rmtree(before)
            else:
                os.replace(before, folder)
