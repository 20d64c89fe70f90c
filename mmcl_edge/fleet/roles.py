"""Who may sign what in a fleet, as pure functions over TUF metadata.

====================  ==================  =====================================================================
role                  signed with         says
====================  ==================  =====================================================================
root                  root keys           which keys count for the three roles below, and for itself
targets               release keys        the fleet's settings, and the delegations to channels, devices, packs
channels              release keys        which pack each channel names
devices               release keys        which devices are enrolled
packs                 release keys        that archives are spread over bins by the hash of their path
bins-00 ... bins-ff   release keys        sizes and hashes of the archives
snapshot              online keys         which versions of all these belong together
timestamp             online keys         which snapshot is the newest
====================  ==================  =====================================================================

The online keys may lie on a machine that renews the last two every day: whoever steals them can hold devices back, but
cannot name a pack. Root keys need a threshold and may stay off line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from securesystemslib.signer import Key
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    Role,
    Root,
    Signed,
    Snapshot,
    SuccinctRoles,
    Targets,
    Timestamp,
)

from mmcl_edge.errors import FleetError
from mmcl_edge.fleet.layout import (
    BIN_PREFIX,
    CHANNELS_FOLDER,
    CHANNELS_ROLE,
    DEVICES_ROLE,
    DEVICES_TARGET,
    PACKS_FOLDER,
    PACKS_ROLE,
    Lifetimes,
    Settings,
)

ONLINE_ROLES = (Snapshot.type, Timestamp.type)
SECTIONS = {
    CHANNELS_ROLE: f"{CHANNELS_FOLDER}/*",
    DEVICES_ROLE: DEVICES_TARGET,
    PACKS_ROLE: f"{PACKS_FOLDER}/*",
}
"""Roles that ``targets`` delegates to, and which target paths each may speak of."""

KEY_GROUPS = {"root": (Root.type,), "targets": (Targets.type,), "online": ONLINE_ROLES}
"""What people call the keys, to the top-level roles that they sign."""


@dataclass(frozen=True)
class Ceremony:
    """The keys that a fleet begins with (public parts).

    Attributes:
        root: keys of the root role.
        threshold: how many of them must sign a root.
        targets: release keys; any one of them signs.
        online: keys of snapshot and timestamp; any one of them signs.
    """

    root: tuple[Key, ...]
    threshold: int
    targets: tuple[Key, ...]
    online: tuple[Key, ...]

    def __post_init__(self) -> None:
        for name, keys in (("root", self.root), ("targets", self.targets), ("online", self.online)):
            if not keys or len({key.keyid for key in keys}) != len(keys):
                raise FleetError(f"Expected one or more different {name} keys; name each once.")
        check_threshold(self.threshold, len(self.root))


def check_threshold(threshold: int, keys: int) -> None:
    """Refuse a threshold that no set of signatures could meet, or that any would.

    Raises:
        FleetError: below 1, or above the number of keys.
    """
    if not 1 <= threshold <= keys:
        raise FleetError(f"A threshold should be between 1 and the number of root keys, {keys}, but is {threshold}.")


def first_root(ceremony: Ceremony, now: datetime, lifetimes: Lifetimes) -> Metadata[Root]:
    """The unsigned root metadata, version 1."""
    root = Root(version=1, expires=expiry(Root.type, now, lifetimes), consistent_snapshot=True)
    set_keys(root, "root", ceremony.root, ceremony.threshold)
    set_keys(root, "targets", ceremony.targets, 1)
    set_keys(root, "online", ceremony.online, 1)
    return Metadata(root)


def set_keys(root: Root, group: str, keys: Sequence[Key], threshold: int) -> None:
    """Make ``keys`` those of ``group`` (``root``, ``targets`` or ``online``), and drop keys that no role names."""
    for role in KEY_GROUPS[group]:
        root.roles[role] = Role([key.keyid for key in keys], threshold)
    root.keys |= {key.keyid: key for key in keys}
    used = {keyid for role in root.roles.values() for keyid in role.keyids}
    root.keys = {keyid: key for keyid, key in root.keys.items() if keyid in used}


def keys_of(root: Root, group: str) -> tuple[Key, ...]:
    """The keys of ``group``."""
    return tuple(root.keys[keyid] for keyid in root.roles[KEY_GROUPS[group][0]].keyids)


def empty_roles(settings: Settings, keys: Iterable[Key], now: datetime) -> dict[str, Targets]:
    """Every role of a fleet that holds nothing yet, by name, unsigned."""
    expires = expiry(Targets.type, now, settings.lifetimes)
    names = (Targets.type, *SECTIONS, *_bins(settings.bins, ()).get_roles())
    found = {name: Targets(version=1, expires=expires) for name in names}
    delegate(found[Targets.type], found[PACKS_ROLE], settings.bins, tuple(keys))
    return found


def delegate(targets: Targets, packs: Targets, bins: int, keys: Sequence[Key]) -> None:
    """Make ``keys`` (any one of them) sign channels, devices, packs and the bins."""
    ids, by_id = [key.keyid for key in keys], {key.keyid: key for key in keys}
    sections = {name: DelegatedRole(name, ids, 1, terminating=True, paths=[paths]) for name, paths in SECTIONS.items()}
    targets.delegations = Delegations(dict(by_id), roles=sections)
    packs.delegations = Delegations(dict(by_id), succinct_roles=_bins(bins, ids))


def _bins(count: int, keyids: Sequence[str]) -> SuccinctRoles:
    return SuccinctRoles(list(keyids), 1, count.bit_length() - 1, BIN_PREFIX)


def bins_of(packs: Targets) -> SuccinctRoles:
    """The bins that the role ``packs`` delegates to.

    Raises:
        FleetError: it delegates to none: not a fleet of this layout.
    """
    if packs.delegations is None or packs.delegations.succinct_roles is None:
        raise FleetError("The fleet's role 'packs' should delegate to bins, but does not; it is of another layout.")
    return packs.delegations.succinct_roles


def delegator(role: str) -> str:
    """Which role says whose signatures count for ``role``."""
    if role in SECTIONS:
        return Targets.type
    return PACKS_ROLE if role.startswith(f"{BIN_PREFIX}-") else Root.type


def expiry(role: str, now: datetime, lifetimes: Lifetimes) -> datetime:
    """When metadata of ``role`` signed ``now`` ends."""
    return now.replace(microsecond=0) + lifetime(role, lifetimes)


def lifetime(role: str, lifetimes: Lifetimes) -> timedelta:
    """For how long metadata of ``role`` is good."""
    days = {
        Root.type: lifetimes.root_days,
        Snapshot.type: lifetimes.snapshot_days,
        Timestamp.type: lifetimes.timestamp_days,
    }
    return timedelta(days=days.get(role, lifetimes.targets_days))


def ages(signed: Signed, role: str, now: datetime, lifetimes: Lifetimes) -> bool:
    """Whether more than half the life of ``signed`` is over, so that it should be renewed."""
    return signed.expires - now < lifetime(role, lifetimes) / 2
