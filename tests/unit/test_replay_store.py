"""Exemplars on disk: what is read is what was written, or an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmcl_edge.errors import IntegrityError, StorageError
from mmcl_edge.replay.buffer import sample_bytes
from mmcl_edge.runtime.replay_store import Exemplars, HeldPair, ReplayStore, content_digest
from mmcl_edge.types import Sample
from tests.builders import on_full_disk, snapshot

ONE, OTHER = "1" * 64, "2" * 64


def sample(label: str, seed: int, *, sound: bool = True, picture: bool = True) -> Sample:
    rng = np.random.default_rng(seed)
    audio = (rng.integers(-32767, 32768, 300) / np.float32(32767)).astype(np.float32) if sound else None
    frames = rng.integers(0, 256, (2, 4, 5, 3), dtype=np.uint8) if picture else None
    return Sample(audio, frames, label, f"{label}/{seed}")


def exemplars() -> Exemplars:
    return Exemplars(
        (sample("cät", 1), sample("dog", 2, sound=False)), (sample("dog", 3, picture=False), sample("cät", 1))
    )


@pytest.fixture
def store(tmp_path: Path) -> ReplayStore:
    made = ReplayStore(tmp_path / "replay")
    made.write(ONE, exemplars())
    return made


def same(found: Sample, expected: Sample) -> bool:
    arrays = [(found.audio, expected.audio), (found.frames, expected.frames)]
    equal = [(a is None and b is None) or np.array_equal(a, b) for a, b in arrays]
    return all(equal) and (found.label, found.source) == (expected.label, expected.source)


def test_exemplars_round_trip(store: ReplayStore):
    found, expected = store.read(ONE), exemplars()
    for part in ("train", "holdout"):
        pairs = zip(getattr(found, part), getattr(expected, part), strict=True)
        assert all(same(one, other) for one, other in pairs)


def test_reading_and_writing_again_changes_no_byte(store: ReplayStore, tmp_path: Path):
    """Else exemplars would fade from pack to pack, and equal runs would differ."""
    before = snapshot(tmp_path)
    store.write(OTHER, store.read(ONE))
    after = snapshot(tmp_path)
    added = {name: value for name, value in after.items() if name not in before}
    assert list(added) == [f"replay/index/{OTHER}.json"]
    assert added.popitem()[1] == before[f"replay/index/{ONE}.json"]


@pytest.mark.parametrize(("value", "stored"), [(2.0, 1.0), (-2.0, -1.0), (1e-9, 0.0)], ids=["loud", "low", "faint"])
def test_sound_is_clipped_and_rounded_to_16_bit(tmp_path: Path, value: float, stored: float):
    store = ReplayStore(tmp_path)
    store.write(ONE, Exemplars((Sample(np.full(9, value, np.float32), None, "a", "a/1"),)))
    assert store.read(ONE).train[0].audio.tolist() == [stored] * 9


@pytest.mark.parametrize("digest", [None, OTHER], ids=["no pack", "a pack from elsewhere"])
def test_a_pack_without_exemplars_has_none(store: ReplayStore, digest: str | None):
    assert store.read(digest) == Exemplars()


def object_of(store: ReplayStore) -> Path:
    return sorted(store.objects.iterdir())[0]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


DAMAGE = {
    "a changed object": (lambda store: flip(object_of(store)), "was changed since it was written"),
    "a missing object": (lambda store: object_of(store).unlink(), "there is none"),
    "an empty object": (lambda store: object_of(store).write_bytes(b""), "was changed since it was written"),
    "an index cut short": (lambda store: (store.indices / f"{ONE}.json").write_text('{"train":['), "JSON"),
    "an index with another field": (lambda store: (store.indices / f"{ONE}.json").write_text('{"x":1}'), "not a valid"),
    "an index that leads out": (
        lambda store: (store.indices / f"{ONE}.json").write_text(
            '{"train":[{"label":"a","source":"","object":"../../etc/passwd"}],"holdout":[]}'
        ),
        "not a valid",
    ),
}


@pytest.mark.parametrize(("damage", "sentence"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_refused(store: ReplayStore, damage, sentence: str):
    damage(store)
    with pytest.raises(IntegrityError, match=sentence):
        store.read(ONE)


def test_collect_keeps_what_is_named_and_nothing_else(store: ReplayStore):
    shared, own = exemplars().train[0], sample("cow", 9)
    store.write(OTHER, Exemplars((shared, own)))
    assert len(list(store.objects.iterdir())) == 4
    assert store.collect([ONE, OTHER]) == 0
    assert store.collect([OTHER]) == 3, "an index, and two objects that only it named"
    assert [one.source for one in store.read(OTHER).train] == [shared.source, own.source]
    assert store.read(ONE) == Exemplars()
    assert store.collect([]) == 3
    assert list(store.objects.iterdir()) == list(store.indices.iterdir()) == []


def test_equal_samples_are_stored_once(store: ReplayStore):
    assert len(list(store.objects.iterdir())) == 3


def test_a_full_disk_leaves_what_was_there(store: ReplayStore):
    refusals = []
    for refused in on_full_disk(lambda: store.write(ONE, Exemplars((sample("cow", 9), sample("cow", 10))))):
        refusals.append(refused)
        assert len(store.read(ONE).train) == 2
    assert refusals[-1] is None
    assert {type(refused) for refused in refusals[:-1]} == {StorageError}
    assert [one.label for one in store.read(ONE).train] == ["cow", "cow"]


def test_motion_and_text_round_trip_and_name_the_sample(store: ReplayStore):
    motion = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    given = Sample(None, None, "dog", "dog/walk.csv", motion, "wuff, „wuff“")
    store.write(OTHER, Exemplars((given,)))
    (found,) = store.read(OTHER).train
    np.testing.assert_array_equal(found.motion, motion)
    assert (found.motion.dtype, found.text, found.source) == (np.float32, given.text, given.source)
    assert content_digest(found) == content_digest(given)
    assert content_digest(given) != content_digest(replace(given, motion=motion + 1))
    assert content_digest(given) != content_digest(replace(given, text=None))
    assert sample_bytes(given) == 20 * 6 * 4 + len(given.text.encode())


def test_pairs_follow_to_a_pack_that_knows_both_ends(store: ReplayStore):
    pairs = tuple(
        HeldPair(sample("cät", number), modality, mediator, ())
        for number, (modality, mediator) in enumerate((("image", "sound"), ("sound", "text"), ("speech", "text")))
    )
    store.write(ONE, replace(exemplars(), pairs=pairs))
    store.follow(ONE, OTHER, ("dog",), ("text", "image", "speech"))
    found = store.read(OTHER)
    assert [(one.modality, one.mediator) for one in found.pairs] == [("speech", "text")]
    assert {one.label for one in (*found.train, *found.holdout)} == {"dog"}


def test_where_an_index_is_damaged_no_object_is_collected(store: ReplayStore, caplog: pytest.LogCaptureFixture):
    store.write(OTHER, Exemplars((sample("owl", 9),)))
    objects = snapshot(store.objects)
    (store.indices / f"{ONE}.json").write_text("{")
    assert store.collect([ONE]) == 1, "the index of the other pack goes"
    assert snapshot(store.objects) == objects
    assert "No exemplar of earlier packs was removed" in caplog.text
    store.write(ONE, exemplars())
    assert store.collect([ONE]) == 1, "what the other pack alone named"
