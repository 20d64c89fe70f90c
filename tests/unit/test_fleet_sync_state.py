"""What a device decides about a release, and what it says about its clock."""

from datetime import datetime, timedelta, timezone

import pytest

from mmcl_edge.errors import IntegrityError, TrustError
from mmcl_edge.fleet.layout import Release, ReleasedPack
from mmcl_edge.fleet.sync_state import (
    MAX_REMEMBERED,
    Applied,
    DeviceState,
    StateRecord,
    clock_complaint,
    decide,
    named_by,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
A, B, C = ("a" * 64, "b" * 64, "c" * 64)
START = DeviceState(url="memory://x", channel="stable")


def release(pack: str, counter: int = 1, channel: str = "stable", withdrawn: tuple[str, ...] = ()) -> Release:
    current = ReleasedPack(pack=pack, version=1, bundle="f" * 64, size_bytes=1)
    return Release(channel=channel, counter=counter, current=current, withdrawn=withdrawn)


def applied(pack: str, counter: int = 1) -> Applied:
    return Applied(pack=pack, channel="stable", counter=counter)


SAW_A1 = START.saw(release(A), NOW)
USED_A1 = SAW_A1.used(applied(A))
REFUSED_A1 = SAW_A1.refuse(applied(A), "it was bad")

# name: (what is remembered, release, pack in use, its ancestors, what to do)
DECISIONS = {
    "first pack": (START, release(A), None, (), "fetch"),
    "in use": (USED_A1, release(A), A, (), "up-to-date"),
    "made here, then released": (START, release(A), A, (), "up-to-date"),
    "next release": (USED_A1, release(B, 2), A, (), "fetch"),
    "next release after learning": (USED_A1, release(B, 2), C, (A,), "fetch"),
    "refused before": (REFUSED_A1, release(A), None, (), "refused-before"),
    "refused, then released anew": (REFUSED_A1, release(A, 2), None, (), "fetch"),
    "refused, in use all the same": (REFUSED_A1, release(A), A, (), "up-to-date"),
    "another was chosen since": (USED_A1, release(A), C, (), "left-alone"),
    "learned on top of it": (SAW_A1, release(A), C, (A,), "on-top"),
    "withdrawn": (USED_A1, release(B, 2, withdrawn=(A,)), A, (), "go-back"),
    "withdrawn, and the other was refused": (
        USED_A1.refuse(applied(B, 2), "bad"),
        release(B, 2, withdrawn=(A,)),
        A,
        (),
        "go-back",
    ),
    "another was withdrawn": (USED_A1, release(B, 2, withdrawn=(C,)), A, (), "fetch"),
    "another channel": (USED_A1, release(B, 1, "beta"), A, (), "fetch"),
    "refused in another channel": (REFUSED_A1, release(A, 1, "beta"), None, (), "fetch"),
}


@pytest.mark.parametrize(("state", "found", "current", "ancestors", "verdict"), DECISIONS.values(), ids=DECISIONS)
def test_decisions(state, found, current, ancestors, verdict):
    assert decide(state, found, current=current, ancestors=ancestors) == verdict


# name: (the release withdraws, what the pack in use stands on, what to do)
WITHDRAWN_BELOW = {
    "learned on top of a withdrawn one": ((A,), (A,), "go-back"),
    "a withdrawn one went into the release": ((A,), (), "on-top"),
    "nothing withdrawn below": ((C,), (A,), "on-top"),
}


@pytest.mark.parametrize(("withdrawn", "stands_on", "verdict"), WITHDRAWN_BELOW.values(), ids=WITHDRAWN_BELOW)
def test_what_stands_on_a_withdrawn_pack_goes_back(withdrawn, stands_on, verdict):
    found = release(B, 2, withdrawn=withdrawn)
    own = "d" * 64
    assert decide(USED_A1, found, current=own, ancestors=(A, B), stands_on=stands_on) == verdict
    assert decide(USED_A1, found, current=B, ancestors=(A,), stands_on=(A,)) == "up-to-date"


def test_an_older_release_is_an_attack():
    state = START.saw(release(A, 5), NOW)
    with pytest.raises(TrustError, match="rolls it back"):
        decide(state, release(A, 4), current=A)
    decide(state, release(A, 4, "beta"), current=A)


def test_another_pack_under_the_same_counter_is_an_attack():
    with pytest.raises(TrustError, match="tampered"):
        decide(SAW_A1, release(B, 1), current=A)


def test_refusals_are_forgotten_once_the_channel_moves_on():
    assert REFUSED_A1.refusal(named_by(release(A))).reason == "it was bad"
    assert REFUSED_A1.saw(release(A), NOW).refused
    assert not REFUSED_A1.saw(release(B, 2), NOW).refused
    assert REFUSED_A1.saw(release(B, 2, "beta"), NOW).refused


def test_a_refused_release_does_not_count_as_applied():
    assert USED_A1.refuse(applied(A), "no").applied == ()


def test_what_is_remembered_is_bounded():
    state = START
    for number in range(1, 3 * MAX_REMEMBERED):
        state = state.used(applied(f"{number:064x}", number)).refuse(applied(f"{number:064x}", number), "bad")
        state = state.used(applied(f"{number:064x}", number))
    assert len(state.applied) == len(state.refused) == MAX_REMEMBERED


def test_the_time_of_the_last_refresh_never_goes_back():
    assert SAW_A1.saw(release(A), NOW - timedelta(days=2)).refreshed == NOW


YEAR = timedelta(days=365)
CLOCKS = {
    "right": (NOW, NOW + timedelta(days=5), NOW - timedelta(days=1), None),
    "nothing known": (NOW, None, None, None),
    "expired a month ago": (NOW, NOW - timedelta(days=30), NOW - timedelta(days=30), None),
    "years fast": (NOW, NOW - 5 * YEAR, None, "clock is fast"),
    "years late": (NOW, NOW + 5 * YEAR, None, "clock is probably late"),
    "earlier than it was": (NOW, None, NOW + YEAR, "has said 2027"),
    "an hour earlier than it was": (NOW, None, NOW + timedelta(hours=1), None),
}


@pytest.mark.parametrize(("now", "expires", "refreshed", "words"), CLOCKS.values(), ids=CLOCKS)
def test_clocks(now, expires, refreshed, words):
    found = clock_complaint(now, expires=expires, refreshed=refreshed)
    assert found is None if words is None else words in found


def test_the_record_is_read_as_it_was_written_and_damage_is_a_sentence(tmp_path):
    record = StateRecord(tmp_path)
    assert record.read() is None
    record.write(REFUSED_A1)
    assert record.read() == REFUSED_A1
    assert record.path.stat().st_mode & 0o777 == 0o600
    record.path.write_text("{}")
    with pytest.raises(IntegrityError, match="--rejoin"):
        record.read()
