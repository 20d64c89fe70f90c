"""What readers of captioned sets know of them, and feature files that are never read as pickles."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mmcl_edge.data.crossmodal import relevance_groups
from mmcl_edge.data.datasets import STAMP_MODALITIES, open_dataset, read_cmg, select
from mmcl_edge.data.readers.cmg import ten_seconds
from mmcl_edge.errors import InputError, MediaError
from tests.contract.test_reader_contract import (
    make_audiocaps,
    make_avel,
    make_clotho,
    make_flickr8k,
    make_stamps,
    text,
)
from tests.integration.test_data_makers import shared_data, tone, write_sound


def test_a_stamp_is_a_row_for_each_kind_of_file_it_has(tmp_path: Path):
    make_stamps(tmp_path)
    rows = open_dataset("stamps", tmp_path).rows
    assert [row.id for row in rows] == [
        "frog/image",
        "frog_1/image",
        "kite/image",
        "frog/sound",
        "frog/speech_recorded",
        "frog/speech_synth",
        "kite/speech_synth",
    ]
    assert rows[2].captions == ("A red, flying kite.",)


def test_the_real_stamps_are_whole():
    reader = open_dataset("stamps", shared_data())
    assert Counter((row.domain, row.split) for row in reader.rows) == {
        ("image", "train"): 547,
        ("image", "test"): 118,
        ("sound", "train"): 84,
        ("sound", "test"): 20,
        ("speech_recorded", "train"): 40,
        ("speech_recorded", "test"): 15,
        ("speech_synth", "train"): 441,
        ("speech_synth", "test"): 116,
    }
    assert reader.domains == STAMP_MODALITIES
    assert all(path.is_file() for row in reader.rows for path in row.item.files)
    groups = {split: {row.group for row in select(reader.rows, split=split)} for split in ("train", "test")}
    assert not groups["train"] & groups["test"]
    pictures = select(reader.rows, split="test", domains=["image"])
    assert len(set(relevance_groups([row.captions for row in pictures]))) == len({row.text.lower() for row in pictures})
    for domain in STAMP_MODALITIES:
        sample = reader.load(select(reader.rows, domains=[domain])[0])
        assert (sample.audio is None, sample.frames is None) == (domain == "image", domain != "image")


def test_a_clip_of_audiocaps_has_all_its_captions(tmp_path: Path):
    make_audiocaps(tmp_path)
    rows = open_dataset("audiocaps", tmp_path).rows
    assert [(row.id, row.split, row.captions) for row in rows] == [
        ("a-1_30", "train", ("A car horn blows",)),
        ("a-1x_0", "train", ("Rain falls",)),
        ("b_2_30", "val", ("A car horn blows", "A horn, again")),
        ("c3_30", "test", ("A car horn blows", "A horn, again")),
    ]


@pytest.mark.parametrize("name", ["a-1_30.wav", "a-1.flac", "Ya-1.wav"])
@pytest.mark.parametrize("folder", ["train", "audio/train", "waveforms/train", "audio"])
def test_sounds_of_audiocaps_are_found_under_the_names_in_use(tmp_path: Path, name: str, folder: str):
    make_audiocaps(tmp_path)
    place = tmp_path / "audiocaps"
    (place / "train/11.wav").unlink()
    (place / folder).mkdir(parents=True, exist_ok=True)
    write_sound(place / folder / name, tone(0.3))
    assert open_dataset("audiocaps", tmp_path).rows[0].item.audio == place / folder / name


def test_captions_of_clotho_are_kept_once_each_and_folders_may_be_nested(tmp_path: Path):
    make_clotho(tmp_path)
    place = tmp_path / "clotho"
    for folder, parts in (("clotho_csv_files", "clotho_captions_{}.csv"), ("clotho_audio_files", "{}")):
        (place / folder).mkdir()
        for part in ("development", "validation", "evaluation"):
            (place / parts.format(part)).rename(place / folder / parts.format(part))
    rows = open_dataset("clotho", tmp_path).rows
    assert len(rows) == 6
    assert rows[0].captions == ("Rain falls", "Rain, on a roof", "It rains", "Water drips")


def test_clotho_may_lack_the_validation_part_but_not_that_of_development(tmp_path: Path):
    make_clotho(tmp_path)
    (tmp_path / "clotho/clotho_captions_validation.csv").unlink()
    assert {row.split for row in open_dataset("clotho", tmp_path).rows} == {"train", "test"}
    (tmp_path / "clotho/clotho_captions_development.csv").unlink()
    with pytest.raises(InputError, match="clotho_captions_development"):
        open_dataset("clotho", tmp_path)


def test_flickr8k_as_a_table_has_commas_with_and_without_quotes(tmp_path: Path):
    make_flickr8k(tmp_path)
    place = tmp_path / "flickr8k"
    for path in (*place.glob("Flickr_8k*"), place / "Flickr8k.token.txt"):
        path.unlink()
    (place / "Flicker8k_Dataset").rename(place / "Images")
    text(
        place / "captions.txt",
        "image,caption",
        "1_a.jpg,A dog , running .",
        '1_a.jpg,"A ""big"" dog, again ."',
        "2_b.jpg,Two",
    )
    rows = open_dataset("flickr8k", tmp_path).rows
    assert [row.captions for row in rows] == [("A dog , running .", 'A "big" dog, again .'), ("Two",)]
    text(place / "captions.txt", "image,caption", "1_a.jpg")
    with pytest.raises(InputError, match=r"captions\.txt, line 2"):
        open_dataset("flickr8k", tmp_path)


def test_a_picture_of_flickr8k_in_two_splits_is_refused(tmp_path: Path):
    make_flickr8k(tmp_path)
    text(tmp_path / "flickr8k/Flickr_8k.testImages.txt", "1_a.jpg")
    with pytest.raises(InputError, match=r"testImages\.txt, line 1: expected a picture of one split"):
        open_dataset("flickr8k", tmp_path)


def test_a_clip_of_avel_has_the_sentence_of_its_class_or_the_class(tmp_path: Path):
    make_avel(tmp_path)
    rows = {row.id: row.text for row in open_dataset("vggsound_avel", tmp_path).rows}
    assert rows == {"v2": "engine, idling", "v-1_000030": "A dog barks at something", "v3": "A dog barks at something"}


def test_a_clip_of_avel_that_is_listed_twice_is_refused(tmp_path: Path):
    make_avel(tmp_path)
    path = tmp_path / "vggsound_avel/vggsound-avel40k.csv"
    path.write_text(path.read_text() + "dog barking,v3,train\n")
    with pytest.raises(InputError, match=r"line 5: expected each video once, but v3 is in line 4 too"):
        open_dataset("vggsound_avel", tmp_path)


def test_prompts_without_a_second_column_are_refused(tmp_path: Path):
    make_avel(tmp_path)
    text(tmp_path / "vggsound_avel/vggsoundCategories2Prompts.csv", "label", "dog barking")
    with pytest.raises(InputError, match="columns label and prompt"):
        open_dataset("vggsound_avel", tmp_path)


AUDIO = np.arange(9 * 128, dtype=np.float64).reshape(9, 128)
VIDEO = np.ones((10, 7, 7, 512), np.float32)


def make_cmg(root: Path) -> Path:
    """The layout of the project, with arrays that were converted; returns the folder of features."""
    base = root / "cmg/vggsound40k"
    text(base / "data/vggsound-avel40k.csv", "category,video_id,split", "dog barking,v1,train", "wind,v2,test")
    text(base / "data/vggsoundCategories2Prompts.csv", "label,prompt", "dog barking,A dog barks")
    for part, array in (("audio", AUDIO), ("video", VIDEO), ("label", np.eye(10)[3])):
        (base / f"feature/{part}/zip").mkdir(parents=True)
        np.save(base / f"feature/{part}/v1.npy", array)
    return base / "feature"


def zipped(path: Path, inside: str, data: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(inside, data)


def test_feature_files_are_read_and_brought_to_ten_seconds(tmp_path: Path):
    make_cmg(tmp_path)
    reader = read_cmg(tmp_path)
    assert (reader.classes, [row.split for row in reader.rows]) == (("dog barking", "wind"), ["train", "test"])
    clip = reader.load(reader.rows[0])
    assert (clip.audio.shape, clip.audio.dtype, clip.video.shape) == ((10, 128), np.float32, (10, 7, 7, 512))
    np.testing.assert_array_equal(clip.audio[9], AUDIO[8])
    assert clip.event is not None
    assert (clip.event.tolist().index(True), clip.event.sum(), clip.text) == (3, 1, "A dog barks")
    assert ten_seconds(np.zeros((14, 128), np.float32)).shape == (10, 128)


@pytest.mark.parametrize("form", ["npz", "zip", "npy in zip/"])
def test_feature_files_may_be_packed(tmp_path: Path, form: str):
    place = make_cmg(tmp_path) / "audio"
    data = (place / "v1.npy").read_bytes()
    (place / "v1.npy").unlink()
    if form == "npz":
        np.savez_compressed(place / "v1.npz", AUDIO)
    elif form == "zip":
        zipped(place / "zip/v1.zip", "v1.npy", data)
    else:
        (place / "zip/v1.npy").write_bytes(data)
    reader = read_cmg(tmp_path)
    np.testing.assert_array_equal(reader.load(reader.rows[0]).audio[:9], AUDIO)


OPCODES = b"\x80\x04cposix\nsystem\n(S'touch PWNED'\ntR."


def object_array() -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + OPCODES


def bomb() -> bytes:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


HARM = {
    "a pickle in a zip": ("zip/v1.zip", lambda: ("v1.pkl", OPCODES), "holds a pickle"),
    "a pickle beside": ("zip/v1.pkl", lambda: OPCODES, "never read here"),
    "a pickle called npy": ("v1.npy", lambda: OPCODES, "does not parse"),
    "objects": ("v1.npy", object_array, "pickled objects"),
    "a header of terabytes": ("v1.npy", bomb, "ends before it"),
    "a zip of nothing": ("zip/v1.zip", lambda: ("readme.md", b""), r"one \.npy inside"),
    "no zip": ("zip/v1.zip", lambda: b"PK", "does not parse"),
    "nothing": ("elsewhere", lambda: b"", "no such file"),
    "another shape": ("v1.npy", None, r"shape \(10, 128\), but found float64 \(3,\)"),
    "not a number": ("v1.npy", None, "finite"),
}


@pytest.mark.parametrize("harm", HARM)
def test_feature_files_that_cannot_be_trusted_are_refused(tmp_path: Path, harm: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    place = make_cmg(tmp_path) / "audio"
    (place / "v1.npy").unlink()
    name, make, words = HARM[harm]
    if make is None:
        np.save(place / name, np.zeros(3) if harm == "another shape" else np.full((10, 128), np.nan))
    elif isinstance(content := make(), tuple):
        zipped(place / name, *content)
    else:
        (place / name).write_bytes(content)
    reader = read_cmg(tmp_path)
    with pytest.raises(MediaError, match=words) as caught:
        reader.load(reader.rows[0])
    assert "v1" in str(caught.value)
    assert not (tmp_path / "PWNED").exists()


def test_feature_files_that_are_not_there_are_told(tmp_path: Path):
    with pytest.raises(InputError, match="haihuangcode/CMG"):
        read_cmg(tmp_path)
    make_cmg(tmp_path).rename(tmp_path / "moved")
    with pytest.raises(InputError, match="feature"):
        read_cmg(tmp_path)
