"""The rules of a channel, as pure functions from one ``Release`` to the next. The counter rises by one each time."""

from __future__ import annotations

from collections.abc import Iterable

from mmcl_edge.errors import FleetError
from mmcl_edge.fleet.layout import MAX_DELTAS, MAX_EARLIER, MAX_WITHDRAWN, Release, ReleasedPack
from mmcl_edge.packs import Pack


def check_not_withdrawn(releases: Iterable[Release], pack: Pack) -> None:
    """Refuse ``pack`` where it, or a pack that it was made from, was withdrawn from any of the fleet's channels.

    Of the packs that it was made from, those that its manifest names are looked at.

    Raises:
        FleetError: it was, or one of them was.
    """
    name, parents = f"The pack {pack.digest[:16]}...", [parent.digest for parent in pack.manifest.parents]
    for release in releases:
        if pack.digest in release.withdrawn:
            raise FleetError(
                f"{name} was withdrawn from {release.channel!r}; make another version of it and publish that."
            )
        bad = next((parent for parent in parents if parent in release.withdrawn), None)
        if bad is not None:
            raise FleetError(
                f"{name} was made from {bad[:16]}..., which was withdrawn from {release.channel!r}; make it again "
                "without that pack and publish the result."
            )


def check_fits(before: Release | None, pack: Pack, *, new_bundle: bool = False, allow_downgrade: bool = False) -> None:
    """Refuse ``pack`` as the next release after ``before``.

    Raises:
        FleetError: it is for another bundle than the present release and
            ``new_bundle`` is false; its version is lower and ``allow_downgrade`` is false.
    """
    if before is None:
        return
    name, channel = f"The pack {pack.digest[:16]}...", before.channel
    if pack.manifest.bundle_digest != before.bundle and not new_bundle:
        raise FleetError(
            f"{name} was made for the bundle {pack.manifest.bundle_digest[:16]}..., but devices of {channel!r} have "
            f"{before.bundle[:16]}...; publish one made for that, or say --new-bundle once they have the other."
        )
    if pack.manifest.version < before.version and not allow_downgrade:
        raise FleetError(
            f"{name} is version {pack.manifest.version}, but {channel!r} is at {before.version} already; publish a "
            "newer one, or say --allow-downgrade."
        )


def next_release(before: Release | None, channel: str, pack: ReleasedPack) -> Release:
    """``channel`` after ``pack`` was published in it; ``before`` itself if it names that pack already."""
    if before is None:
        return Release(channel=channel, counter=1, current=pack)
    if before.pack == pack.pack:
        return before
    earlier = [item for item in (before.current, *before.earlier) if item.pack != pack.pack]
    return Release(
        channel=channel,
        counter=before.counter + 1,
        current=pack,
        earlier=tuple(earlier[:MAX_EARLIER]),
        withdrawn=before.withdrawn,
    )


def without(before: Release, pack: str) -> Release | None:
    """The channel of ``before`` after ``pack`` was withdrawn; ``None`` if the channel does not know that pack.

    Raises:
        FleetError: it is the channel's only release: there is nothing to go back to.
    """
    left = [item for item in (before.current, *before.earlier) if item.pack != pack]
    if len(left) == 1 + len(before.earlier):
        return None
    if not left:
        raise FleetError(
            f"{pack[:16]}... is the only release of {before.channel!r}, so devices have nothing to go back to; publish "
            "another pack there first, or revoke it in another channel alone (--channel)."
        )
    return Release(
        channel=before.channel,
        counter=before.counter + 1,
        current=left[0],
        earlier=tuple(left[1:]),
        withdrawn=(pack, *before.withdrawn)[:MAX_WITHDRAWN],
    )


def delta_parents(before: Release | None, pack: str) -> tuple[str, ...]:
    """The packs that devices of the channel are likely to have: what deltas should start from."""
    if before is None:
        return ()
    found = [item.pack for item in (before.current, *before.earlier) if item.pack != pack]
    return tuple(found[:MAX_DELTAS])
