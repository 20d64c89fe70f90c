"""The admin's side of a fleet: a repository of signed metadata (TUF) in a store.

Every change loads the fleet anew (``view``), refuses what does not fit, and is written by one ``commit``: who comes
second is told so (``ConflictError``) and may simply try again. What an admin who was cut short left behind is completed
by the next change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from tuf.api.metadata import Metadata, MetaFile, Root

from mmcl_edge.errors import FleetError
from mmcl_edge.fleet.archives import Carried, carry, fetched
from mmcl_edge.fleet.commit import Commit
from mmcl_edge.fleet.enrolment import with_device, without_device
from mmcl_edge.fleet.founding import found
from mmcl_edge.fleet.layout import (
    BETA,
    CHANNELS_ROLE,
    DEVICES_ROLE,
    DEVICES_TARGET,
    MAX_DEVICES_BYTES,
    STABLE,
    Devices,
    Release,
    Settings,
    channel_target,
    check_channel,
    dump,
)
from mmcl_edge.fleet.metadata import Memory
from mmcl_edge.fleet.parallel import in_parallel
from mmcl_edge.fleet.releases import check_fits, check_not_withdrawn, delta_parents, next_release, without
from mmcl_edge.fleet.signers import Signers
from mmcl_edge.fleet.store import Store
from mmcl_edge.fleet.view import View, load
from mmcl_edge.packs import read_pack
from mmcl_edge.packs.keys import PublicKey
from mmcl_edge.packs.signing import require_signature

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The time, UTC."""
    return datetime.now(timezone.utc)


class Repository:
    """A fleet that an admin changes.

    Args:
        store: where it lies.
        signers: the keys at hand.
        memory: what this admin trusts and has seen of it; after each call ``memory`` holds what was seen then.
        clock: tells the time.

    Example:
        >>> fleet = Repository(Store.open("s3://fleet"), signers, memory)  # doctest: +SKIP
        >>> fleet.publish(Path("packs/3fa94c..."), "beta").counter  # doctest: +SKIP
        1
    """

    def __init__(self, store: Store, signers: Signers, memory: Memory, *, clock: Clock = utc_now) -> None:
        self.store = store
        self.memory = memory
        self.clock = clock
        self.signers = signers

    @classmethod
    def create(
        cls,
        store: Store,
        signers: Signers,
        root: Metadata[Root],
        *,
        settings: Settings | None = None,
        clock: Clock = utc_now,
    ) -> Repository:
        """Make a fleet in ``store`` whose signed root metadata is ``root`` (``roles.first_root``, ``signers.sign``).

        Raises:
            FleetError: there is a fleet already, the root lacks signatures, or a release or online key is not here.
            StoreError: the store cannot be written, or lets two writers overwrite one another.
        """
        view = found(store, signers, root, settings or Settings(), clock())
        return cls(store, signers, view.memory(), clock=clock)

    def view(self) -> View:
        """The fleet as it is now, verified.

        Raises:
            TrustError: it is not what the fleet's keys signed, or older than what was seen before.
            FleetError: the fleet is not finished.
            StoreError: the store cannot be read.
        """
        view = load(self.store, self.memory)
        self.memory = view.memory()
        if view.snapshot is None:
            raise FleetError(f"The fleet at {self.store.url} is not finished; run 'mmcl-edge fleet init' once more.")
        return view

    def commit(self, view: View, *, successor: Root | None = None) -> Commit:
        """An empty change on top of ``view``."""
        lifetimes = view.settings().lifetimes
        return Commit(view, self.signers, self.clock(), lifetimes, successor=successor, written=self._remember)

    def _remember(self, timestamp: int, snapshot: int) -> None:
        self.memory = self.memory.model_copy(update={"timestamp": timestamp, "snapshot": snapshot})

    def complete(self, view: View) -> bool:
        """Sign the timestamp that an admin who was cut short left out; returns whether there was one to sign."""
        if view.is_complete:
            return False
        self.commit(view).write_timestamp(MetaFile.from_data(view.snapshot_version, view.snapshot_data, ["sha256"]))
        return True

    def publish(
        self, folder: Path, channel: str, *, new_bundle: bool = False, allow_downgrade: bool = False
    ) -> Release:
        """Make the pack in ``folder`` the release of ``channel``; nothing changes if it is that already.

        Args:
            folder: of the pack.
            channel: ``stable``, ``beta`` or any cohort's name; a new name makes a new channel.
            new_bundle: take a pack for another bundle than the present release's.
            allow_downgrade: take a pack of a lower version than the present release's.

        Raises:
            PackError: the pack is broken.
            SignatureError: the fleet requires signatures, and no release key has signed it.
            FleetError: it, or a pack that it was made from, was withdrawn from some channel; it does not fit the
                channel; or a key is not here.
            ConflictError: another admin was first.
            StoreError: the store cannot be used.
        """
        check_channel(channel)
        pack, view = read_pack(folder), self.view()
        before = view.release(channel)
        check_not_withdrawn(view.releases(), pack)
        check_fits(before, pack, new_bundle=new_bundle, allow_downgrade=allow_downgrade)
        if view.settings().require_signatures:
            require_signature(pack, view.keys("targets"))
        if before is not None and before.pack == pack.digest:
            self.complete(view)
            return before
        commit = self.commit(view)
        commit.edit(CHANNELS_ROLE)
        commit.require_keys()
        with fetched(view, delta_parents(before, pack.digest)) as parents:
            carried = carry(self.store, pack, parents)
        self._enter(commit, view, [carried])
        release = next_release(before, channel, carried.released)
        commit.document(CHANNELS_ROLE, channel_target(channel), dump(release))
        commit.write()
        return release

    def publish_many(self, folders: Sequence[Path]) -> tuple[str, ...]:
        """Put archives of many packs into the fleet in one change, naming none of them in a channel.

        Returns:
            The packs' digests, in the order of ``folders``.

        Raises:
            PackError: a pack is broken.
            SignatureError: the fleet requires signatures, and one lacks that of a release key.
            FleetError, ConflictError, StoreError: as ``publish``.
        """
        view = self.view()
        keys = view.keys("targets") if view.settings().require_signatures else None
        commit = self.commit(view)
        commit.edit(CHANNELS_ROLE)
        commit.require_keys()

        def put(folder: Path) -> Carried:
            pack = read_pack(folder)
            if keys is not None:
                require_signature(pack, keys)
            return carry(self.store, pack, {})

        carried = in_parallel(put, folders)
        self._enter(commit, view, carried)
        commit.write()
        return tuple(one.released.pack for one in carried)

    def promote(
        self, source: str = BETA, target: str = STABLE, *, new_bundle: bool = False, allow_downgrade: bool = False
    ) -> Release:
        """Make the release of ``source`` the release of ``target``.

        Raises:
            FleetError: there is no such channel; or as ``publish``.
        """
        view = self.view()
        release = view.release(check_channel(source))
        if release is None:
            raise no_channel(view, source)
        with fetched(view, [release.pack]) as folders:
            return self.publish(folders[release.pack], target, new_bundle=new_bundle, allow_downgrade=allow_downgrade)

    def withdraw(self, digest: str, channel: str | None = None) -> tuple[Release, ...]:
        """Take a pack out of every channel (or of ``channel``): each goes back to the release it had before.

        Args:
            digest: of the pack.
            channel: take it out of this one alone.

        Returns:
            The channels that changed, as they are now.

        Raises:
            FleetError: no channel names that pack, or one has nothing to go back to.
            ConflictError, StoreError: as ``publish``.
        """
        view = self.view()
        names = view.channels() if channel is None else (channel,)
        releases = [release for name in names if (release := view.release(name)) is not None]
        changed = [after for release in releases if (after := without(release, digest)) is not None]
        if not changed:
            self.complete(view)
            raise FleetError(f"No channel names the pack {digest[:16]}...; see 'mmcl-edge fleet status'.")
        commit = self.commit(view)
        for after in changed:
            commit.document(CHANNELS_ROLE, channel_target(after.channel), dump(after))
        commit.write()
        return tuple(changed)

    def enroll(self, name: str, key: PublicKey) -> Devices:
        """Let the device ``name`` upload, with that key; nothing changes if it may already.

        Raises:
            FleetError: the name or the key belongs to another device, or the key was revoked.
            ConflictError, StoreError: as ``publish``.
        """
        view = self.view()
        before = view.devices()
        return self._devices(view, before, with_device(before, name, key))

    def revoke_device(self, name: str) -> Devices:
        """Collect nothing more from the device ``name`` (or key id): its key is revoked for ever.

        Raises:
            FleetError: no such device is enrolled.
            ConflictError, StoreError: as ``publish``.
        """
        view = self.view()
        before = view.devices()
        return self._devices(view, before, without_device(before, name))

    def _devices(self, view: View, before: Devices, after: Devices) -> Devices:
        if after == before:
            self.complete(view)
            return before
        data = dump(after)
        if len(data) > MAX_DEVICES_BYTES:
            raise FleetError(f"A fleet takes as many devices as fit into {MAX_DEVICES_BYTES:,} bytes; begin another.")
        commit = self.commit(view)
        commit.document(DEVICES_ROLE, DEVICES_TARGET, data)
        commit.write()
        return after

    def _enter(self, commit: Commit, view: View, carried: Iterable[Carried]) -> None:
        for one in carried:
            for info in one.targets:
                commit.edit(view.bin_of(info.path)).targets[info.path] = info


def no_channel(view: View, channel: str) -> FleetError:
    """The sentence for a channel that is not there."""
    known = ", ".join(view.channels()) or "none yet"
    return FleetError(f"The fleet has no channel {channel!r}, but has {known}; publish a pack in it first.")


def released(view: View, prefix: str) -> str:
    """The digest of the pack that a channel names and that begins with ``prefix``.

    Raises:
        FleetError: none or several do.
    """
    found = {item.pack for release in view.releases() for item in (release.current, *release.earlier)}
    matching = sorted(digest for digest in found if digest.startswith(prefix))
    if len(matching) != 1 or len(prefix) < 6:
        state = f"{len(matching)} do" if matching else "none does"
        raise FleetError(
            f"Expected six or more letters that one released pack begins with, but with {prefix!r} {state}; "
            "see 'mmcl-edge fleet status'."
        )
    return matching[0]
