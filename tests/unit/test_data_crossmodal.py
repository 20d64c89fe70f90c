"""Pairs across modalities: what is refused before anything is learned, and folders as people lay them out."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmcl_edge.data.crossmodal import (
    CARRIER,
    KINDS,
    MODALITIES,
    carrier_of,
    groups_across,
    pair_set,
    relevance_groups,
)
from mmcl_edge.data.pair_folder import MAX_NOTE_BYTES, decode_file, decode_pairs, read_pairs
from mmcl_edge.errors import InputError, MediaError, TaskDataError
from mmcl_edge.types import Sample
from tests.integration.test_data_makers import tone, write_picture, write_sound, write_video

SOUND = Sample(np.zeros(1600, np.float32), None, source="a.wav", text="A bell.")


def test_every_modality_has_a_carrier_and_a_kind_of_file():
    assert MODALITIES == ("text", "image", "video", "sound", "speech", "motion")
    assert carrier_of("speech") == carrier_of("sound") == "audio"
    assert KINDS.keys() == CARRIER.keys()


def test_a_pair_set_keeps_the_pair_and_drops_the_rest():
    both = replace(SOUND, frames=np.zeros((1, 8, 8, 3), np.uint8), text="  A bell. ")
    pairs = pair_set([both], "speech")
    assert (pairs.modality, pairs.mediator, len(pairs)) == ("speech", "text", 1)
    assert pairs.samples[0].frames is None
    assert (pairs.samples[0].text, pairs.captions) == ("A bell.", (("A bell.",),))
    by_picture = pair_set([both], "sound", "image")
    assert by_picture.samples[0].text is None
    assert by_picture.samples[0].frames is not None


def test_a_pair_with_several_captions_spreads():
    pairs = pair_set([SOUND, SOUND], "sound", captions=[["A bell", "Ding"], ["A horn"]])
    assert [sample.text for sample in pairs.spread()] == ["A bell", "Ding", "A horn"]
    assert pairs.groups == (0, 1)


REFUSED = {
    "an unknown modality": ([SOUND], "smell", {}, InputError, "modalities text, image.*'smell'"),
    "an unknown mediator": ([SOUND], "sound", {"mediator": "taste"}, InputError, "'taste'"),
    "the mediator itself": ([SOUND], "text", {}, InputError, "'text' is the mediator itself; name another: image"),
    "one backbone for both": ([SOUND], "sound", {"mediator": "speech"}, InputError, "same backbone"),
    "no pairs": ([], "sound", {}, TaskDataError, "but there are none"),
    "fewer captions": ([SOUND, SOUND], "sound", {"captions": [["a"]]}, TaskDataError, "2 samples .* found 1 entries"),
    "no mediator": (
        [SOUND, replace(SOUND, text=None, source="b.wav")],
        "sound",
        {},
        TaskDataError,
        r"b\.wav: .*no cap",
    ),
    "no captions of one": ([SOUND], "sound", {"captions": [[]]}, TaskDataError, r"a\.wav: .* no caption"),
    "no modality": ([SOUND], "image", {}, TaskDataError, r"a\.wav: expected image with text, but it has no image"),
    "a blank caption": ([replace(SOUND, text=" \t")], "sound", {}, TaskDataError, r"a\.wav: .* something to read"),
    "an invisible caption": ([replace(SOUND, text="\u200b\u2060")], "sound", {}, TaskDataError, "something to read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_pair_set_is_refused(case: str):
    samples, modality, more, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        pair_set(samples, modality, **more)


@given(st.lists(st.lists(st.sampled_from(["A", "a ", "b", "C", "d", "e"]), max_size=3), max_size=8))
def test_groups_are_the_connected_parts_of_shared_captions(captions: list[list[str]]):
    keys = [{caption.lower().strip() for caption in said} for said in captions]
    linked = np.array([[i == j or bool(one & other) for j, other in enumerate(keys)] for i, one in enumerate(keys)])
    reach = np.linalg.matrix_power(linked.astype(object), max(1, len(keys))) > 0 if keys else linked
    groups = relevance_groups(captions)
    assert [[a == b for a in groups] for b in groups] == reach.tolist()
    assert list(dict.fromkeys(groups)) == list(range(len(set(groups))))


def test_groups_across_sets_name_the_same_captions_alike():
    pictures, voices = [["A frog."], ["A cat.", "Kitty"], ["A dog."]], [["kitty "], ["A  FROG."], ["A cow."]]
    assert groups_across(pictures, voices) == ((0, 1, 2), (1, 0, 3))
    assert groups_across([], [["a"]]) == ((), (0,))


def make_folder(root: Path) -> Path:
    folder = root / "pairs"
    (folder / "more").mkdir(parents=True)
    for name, caption in (("bell.wav", "A bell rings.\nDing!"), ("more/horn.flac", "A horn.")):
        path = write_sound(folder / name, tone(0.2))
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return folder


def test_a_folder_pairs_files_with_the_text_of_their_name(tmp_path: Path):
    folder = make_folder(tmp_path)
    write_sound(folder / "alone.wav", tone(0.2))
    (folder / "lonely.txt").write_text("Nothing.")
    (folder / "bell.jpg").write_bytes(b"")
    (folder / ".hidden.wav").write_bytes(b"")
    read = read_pairs(folder, "sound")
    assert [(item.source, item.captions) for item in read.items] == [
        ("bell.wav", ("A bell rings.", "Ding!")),
        ("more/horn.flac", ("A horn.",)),
    ]
    assert {one.source: one.reason for one in read.skipped} == {
        "alone.wav": "no caption",
        "lonely.txt": "a caption without its file",
        "bell.jpg": "not a file of sound",
    }
    pairs, skipped = decode_pairs(read)
    assert ([sample.source for sample in pairs.samples], skipped) == (["bell.wav", "more/horn.flac"], ())
    assert pairs.captions == (("A bell rings.", "Ding!"), ("A horn.",))


def test_a_folder_with_a_table_of_captions(tmp_path: Path):
    folder = make_folder(tmp_path)
    (folder / "bell.txt").unlink()
    (folder / "captions.csv").write_text('file,caption\nmore/horn.flac,"A horn, loud"\nbell.wav,Ding\nbell.wav,Dong\n')
    read = read_pairs(folder, "speech")
    assert [item.captions for item in read.items] == [("Ding", "Dong"), ("A horn, loud",)]
    assert [one.source for one in read.skipped] == []


def test_the_digest_follows_content_and_captions_alone(tmp_path: Path):
    folder = make_folder(tmp_path)
    before = read_pairs(folder, "sound").digest
    os.utime(folder / "bell.wav", (1, 1))
    assert read_pairs(folder, "sound").digest == before
    assert read_pairs(folder, "speech").digest != before
    (folder / "bell.txt").write_text("A bell rings.")
    assert read_pairs(folder, "sound").digest != before


def test_corrupt_files_are_skipped_named_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = make_folder(tmp_path)
    (folder / "bad.wav").write_bytes(b"RIFF")
    (folder / "bad.txt").write_text("Broken.")
    pairs, skipped = decode_pairs(read_pairs(folder, "sound"))
    assert (len(pairs), [one.source for one in skipped]) == (2, ["bad.wav"])
    assert "bad.wav" in caplog.text
    (folder / "bell.wav").write_bytes(b"")
    with pytest.raises(
        TaskDataError, match=r"2 pairs of sound and text that can be decoded, but found 1, and 2 that cannot"
    ):
        decode_pairs(read_pairs(folder, "sound"))


def spoil_with_link(folder: Path) -> None:
    (folder / "out.wav").symlink_to("/etc/hostname")


def table(line: str, header: str = "file,caption"):
    return lambda folder: (folder / "captions.csv").write_text(f"{header}\nbell.wav,Ding\n{line}\n")


HARM = {
    "an empty text": (lambda folder: (folder / "bell.txt").write_text(" \n"), r"bell\.txt: expected a caption of bell"),
    "a text that is no text": (lambda folder: (folder / "bell.txt").write_bytes(b"\xff\xfe\x00"), r"bell\.txt"),
    "an empty cell": (
        table("more/horn.flac,"),
        r"captions\.csv, line 3: .* caption of more/horn\.flac, but it is empty",
    ),
    "a file that is not there": (table("gone.wav,Ding"), r"line 3: expected a file of .* gone\.wav is not there"),
    "a file elsewhere": (table("../gone.wav,Ding"), r"line 3: expected a relative path"),
    "no column": (table("bell.wav,Ding", "name,words"), r"captions\.csv, line 2: expected a column 'file'"),
    "a link that leads out": (spoil_with_link, r"out\.wav .* leads out"),
    "too few": (
        lambda folder: (folder / "bell.txt").unlink(),
        r"at least 2 pairs .* found 1, with 1 files .*bell\.wav: no",
    ),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_folder_that_is_no_pair_set_is_refused(tmp_path: Path, harm: str):
    folder = make_folder(tmp_path)
    spoil, words = HARM[harm]
    spoil(folder)
    with pytest.raises(TaskDataError, match=words):
        read_pairs(folder, "sound")


def test_a_folder_without_captions_is_refused(tmp_path: Path):
    with pytest.raises(TaskDataError, match="there is none"):
        read_pairs(tmp_path / "none", "sound")
    with pytest.raises(InputError, match="teach image through text instead"):
        read_pairs(tmp_path, "text", "image")
    with pytest.raises(TaskDataError, match=r"pairs of sound and image .* two files of one name"):
        read_pairs(tmp_path, "sound", "image")
    with pytest.raises(TaskDataError, match="found 0, with 0 files in no pair; the layout is"):
        read_pairs(tmp_path, "sound")


def test_files_of_one_name_are_pairs_without_words(tmp_path: Path):
    (tmp_path / "more").mkdir()
    for name in ("a", "more/a", "b"):
        write_picture(tmp_path / f"{name}.png", np.full((20, 20, 3), len(name), np.uint8))
        write_sound(tmp_path / f"{name}.wav", tone(0.5))
    write_sound(tmp_path / "alone.wav", tone(0.5))
    folder = read_pairs(tmp_path, "sound", "image")
    assert [(item.source, item.captions, item.told_by.name) for item in folder.items] == [
        ("a.wav", (), "a.png"),
        ("b.wav", (), "b.png"),
        ("more/a.wav", (), "a.png"),
    ]
    assert [(one.source, one.reason) for one in folder.skipped] == [("alone.wav", "no sound and image of its name")]
    pairs, skipped = decode_pairs(folder)
    assert (pairs.modality, pairs.mediator, pairs.captions, skipped) == ("sound", "image", ((),) * 3, ())
    assert all(sample.audio is not None and sample.frames is not None for sample in pairs.samples)
    assert [int(sample.frames.max()) for sample in pairs.samples] == [1, 1, 6]
    write_picture(tmp_path / "b.png", np.full((20, 20, 3), 9, np.uint8))
    assert read_pairs(tmp_path, "sound", "image").digest != folder.digest


def test_a_video_and_its_own_sound_are_a_pair(tmp_path: Path):
    for name in ("a", "b", "mute"):
        write_video(tmp_path / f"{name}.mp4", sound=name != "mute")
    write_sound(tmp_path / "b.wav", tone(0.25))
    folder = read_pairs(tmp_path, "sound", "video")
    assert [(item.source, item.told_by.name) for item in folder.items] == [
        ("a.mp4", "a.mp4"),
        ("b.wav", "b.mp4"),
        ("mute.mp4", "mute.mp4"),
    ]
    pairs, skipped = decode_pairs(folder)
    assert [sample.source for sample in pairs.samples] == ["a.mp4", "b.wav"]
    assert len(pairs.samples[1].audio) == 4_000
    assert [(one.source, "expected sound in it" in one.reason) for one in skipped] == [("mute.mp4", True)]
    assert [item.source for item in read_pairs(tmp_path, "video", "speech").items] == ["a.mp4", "b.mp4", "mute.mp4"]


def test_one_file_is_decoded_as_its_modality(tmp_path: Path):
    write_picture(tmp_path / "a.png")
    assert decode_file(tmp_path / "a.png", "image").frames is not None
    with pytest.raises(InputError, match="audio to hold speech"):
        decode_file(tmp_path / "a.png", "speech")
    note = tmp_path / "a.txt"
    note.write_text(" Hello \n")
    assert decode_file(note, "text", source="x").text == "Hello"
    for content in (b"", b"\xff\xfe\x00"):
        note.write_bytes(content)
        with pytest.raises(MediaError, match=r"a\.txt"):
            decode_file(note, "text")


def test_a_text_with_a_suffix_in_capitals_is_one(tmp_path: Path):
    folder = make_folder(tmp_path)
    (folder / "bell.txt").rename(folder / "bell.TXT")
    assert [item.captions for item in read_pairs(folder, "sound").items] == [("A bell rings.", "Ding!"), ("A horn.",)]


def test_a_text_that_is_something_else_is_not_read_and_not_shown(tmp_path: Path):
    folder = make_folder(tmp_path)
    with (folder / "bell.txt").open("wb") as file:
        file.truncate(MAX_NOTE_BYTES + 1)
    with pytest.raises(TaskDataError, match=r"bell.txt should be a text of at most 4,000,000 bytes"):
        read_pairs(folder, "sound")
    (folder / "bell.txt").write_text("\u200b" * 100_000)
    with pytest.raises(TaskDataError, match=r"expected a caption of bell\.wav, but it is empty") as caught:
        read_pairs(folder, "sound")
    assert len(str(caught.value)) < 500 + len(str(folder))
