"""What a device remembers of its fleet, and what it decides from that; no network, and no file but its own record.

``trust/fleet/device.json`` holds a ``DeviceState``; the fleet's signed metadata lies beside it.

``decide`` follows these rules, in this order:

1. A release older than one this device has seen, or another one under the same counter, is an attack.
2. The pack in use is the one released: nothing to do.
3. The pack in use is withdrawn, or stands on a withdrawn one (other than through the released one): the released one
   takes its place, whatever rules 4 to 6 say.
4. This release was refused here before (it failed the health check, or its trial was not confirmed): left alone,
   until the channel moves on.
5. The pack in use was learned on top of the released one: left alone.
6. This release was in use here before, and something else is now, which somebody chose: left alone.
7. Otherwise the release is fetched.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from mmcl_edge.errors import IntegrityError, TrustError
from mmcl_edge.fileio import canonical_json, read_bounded, write_atomic
from mmcl_edge.fleet.layout import Release
from mmcl_edge.packs.manifest import Digest
from mmcl_edge.types import FrozenModel

RECORD_NAME = "device.json"
MAX_REMEMBERED = 64
"""Releases, and refused packs, that a device remembers."""

_MAX_BYTES = 1 << 20
_SLACK = timedelta(days=30)
"""By so much a clock may have been fast at the last refresh: less than that is mended without a word."""

Verdict = Literal["up-to-date", "fetch", "go-back", "refused-before", "left-alone", "on-top"]


class Seen(FrozenModel):
    """The newest release of a channel that this device has seen."""

    counter: int = Field(ge=1)
    pack: Digest


class Applied(FrozenModel):
    """A release that came into use on this device."""

    pack: Digest
    channel: str
    counter: int = Field(ge=1)


class Refused(FrozenModel):
    """A release that did not work on this device."""

    pack: Digest
    channel: str
    counter: int = Field(ge=1)
    reason: str


class DeviceState(FrozenModel):
    """What a device remembers."""

    schema_version: Literal[1] = 1
    url: str
    channel: str
    seen: dict[str, Seen] = Field({}, description="Newest release of each channel, applied or not.")
    applied: tuple[Applied, ...] = Field((), description="Releases that were in use, newest last.")
    refused: tuple[Refused, ...] = ()
    refreshed: datetime | None = Field(None, description="When trust was refreshed last, by this device's clock.")

    def saw(self, release: Release, when: datetime) -> DeviceState:
        """After a look at ``release``."""
        channel = release.channel
        seen = {**self.seen, channel: Seen(counter=release.counter, pack=release.pack)}
        kept = tuple(one for one in self.refused if one.channel != channel or one.counter >= release.counter)
        return self.looked(when).model_copy(update={"seen": seen, "refused": kept, "channel": channel})

    def looked(self, when: datetime) -> DeviceState:
        """After trust was refreshed, and nothing was released yet."""
        return self.model_copy(update={"refreshed": when if self.refreshed is None else max(when, self.refreshed)})

    def used(self, release: Applied) -> DeviceState:
        """After ``release`` came into use."""
        others = tuple(one for one in self.applied if one != release)
        return self.model_copy(update={"applied": (*others, release)[-MAX_REMEMBERED:]})

    def refuse(self, release: Applied, reason: str) -> DeviceState:
        """After ``release`` did not work."""
        one = Refused(**release.model_dump(), reason=reason)
        others = tuple(r for r in self.refused if (r.pack, r.channel) != (one.pack, one.channel))
        applied = tuple(a for a in self.applied if a != release)
        return self.model_copy(update={"refused": (*others, one)[-MAX_REMEMBERED:], "applied": applied})

    def refusal(self, release: Applied) -> Refused | None:
        """Why this very release was refused here; ``None`` if it was not."""
        found = (one for one in self.refused if Applied(**one.model_dump(exclude={"reason"})) == release)
        return next(found, None)


def decide(
    state: DeviceState,
    release: Release,
    *,
    current: str | None,
    ancestors: Collection[str] = (),
    stands_on: Collection[str] = (),
) -> Verdict:
    """What to do about ``release`` (the rules stand in the module docstring).

    Args:
        state: what the device remembers.
        release: the channel's, verified.
        current: digest of the pack in use.
        ancestors: digests of the packs that it was learned on top of, as far as they are here.
        stands_on: those of them that it does not have through the released pack alone.

    Raises:
        TrustError: the release is older than one seen before, or another under the same counter.
    """
    check_monotonic(state, release)
    named = named_by(release)
    if named.pack == current:
        return "up-to-date"
    if {current, *stands_on} & set(release.withdrawn):
        return "go-back"
    if state.refusal(named) is not None:
        return "refused-before"
    if named.pack in ancestors:
        return "on-top"
    return "left-alone" if named in state.applied else "fetch"


def named_by(release: Release) -> Applied:
    """The pack that ``release`` names, with its place."""
    return Applied(pack=release.pack, channel=release.channel, counter=release.counter)


def check_monotonic(state: DeviceState, release: Release) -> None:
    """Rule 1.

    Raises:
        TrustError: the release is older than one seen before, or another under the same counter.
    """
    seen = state.seen.get(release.channel)
    if seen is None or release.counter > seen.counter:
        return
    if release.counter < seen.counter:
        raise TrustError(
            f"The channel {release.channel!r} is at release {release.counter}, but this device has seen release "
            f"{seen.counter}: somebody rolls it back, or the fleet was restored from a backup; nothing was changed. "
            "Tell the fleet's admin."
        )
    if release.pack != seen.pack:
        raise TrustError(
            f"Release {release.counter} of the channel {release.channel!r} names the pack {release.pack[:16]}..., but "
            f"named {seen.pack[:16]}... before: the fleet was tampered with; nothing was changed. "
            "Tell the fleet's admin."
        )


def clock_complaint(
    now: datetime, *, expires: datetime | None, refreshed: datetime | None, lifetime: timedelta = timedelta(days=400)
) -> str | None:
    """What is wrong with this device's clock, as a sentence; ``None`` where nothing shows.

    Args:
        now: what the clock says.
        expires: end of the newest trusted timestamp, which lives some days.
        refreshed: what the clock said at the last successful refresh.
        lifetime: no timestamp lives longer.
    """
    if refreshed is not None and now < refreshed - _SLACK:
        return (
            f"This device's clock says {now:%Y-%m-%d %H:%M} UTC, but it has said {refreshed:%Y-%m-%d %H:%M} UTC "
            "before; set it, and run the same command again."
        )
    if expires is not None and expires - now > lifetime:
        return (
            f"This device's clock says {now:%Y-%m-%d}, but the fleet's newest metadata holds until "
            f"{expires:%Y-%m-%d}, {_years(expires - now)} from then; the clock is probably late: set it, and run the "
            "same command again."
        )
    if expires is not None and now - expires > lifetime:
        return (
            f"This device's clock says {now:%Y-%m-%d}, but the fleet's newest metadata held until "
            f"{expires:%Y-%m-%d}, {_years(now - expires)} before; either the clock is fast and should be set, or the "
            "fleet was given up."
        )
    return None


class StateRecord:
    """The record in the folder ``trust/fleet``."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORD_NAME

    def read(self) -> DeviceState | None:
        """The state; ``None`` where this device has not joined a fleet.

        Raises:
            IntegrityError: the record is damaged.
        """
        if not self.path.is_file():
            return None
        try:
            return DeviceState.model_validate_json(read_bounded(self.path, _MAX_BYTES))
        except ValidationError as error:
            raise IntegrityError(
                f"{self.path} should hold what this device knows of its fleet, but is damaged; join again with "
                "'mmcl-edge sync URL --rejoin' and the fleet's root metadata."
            ) from error

    def write(self, state: DeviceState) -> None:
        """Replace the record, unless it says the same already.

        Raises:
            StorageError: it cannot be written; the one before stays.
        """
        data = canonical_json(state.model_dump(mode="json"))
        if not (self.path.is_file() and self.path.read_bytes() == data):
            write_atomic(self.path, data, mode=0o600)


def _years(span: timedelta) -> str:
    return f"{span.days / 365.25:.1f} years"
