"""What every dataset reader promises, checked on each: one table of tiny copies of real layouts, one list of checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mmcl_edge.data.datasets import READERS, open_dataset
from mmcl_edge.data.readers.ave import AVE_CLASSES
from mmcl_edge.data.readers.rows import SPLITS
from mmcl_edge.errors import InputError, MediaError
from tests.integration.test_data_makers import tone, write_picture, write_sound, write_video
from tests.motion import swing, write_motion

SECONDS = 0.6


def video(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, duration_s=SECONDS)


def text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


def pair(stem: Path) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_sound(stem.with_suffix(".flac"), tone(0.2))
    write_picture(stem.with_suffix(".jpg"))


def make_av21(root: Path) -> None:
    text(root / "av21/index.csv", "id,class,split,group", "c0,cat,train,g0", "c1,cat,test,g1", "a0,ant,train,g2")
    for stem in ("train/cat/c0", "test/cat/c1", "train/ant/a0"):
        pair(root / "av21" / stem)


def make_digits(root: Path) -> None:
    text(root / "digits/index.csv", "id,digit,domain,split", "a,7,0,train", "b,7,1,test", "c,3,1,train")
    for stem in ("0/train/7/a", "1/test/7/b", "1/train/3/c"):
        pair(root / "digits" / stem)


def make_folders(root: Path) -> None:
    for split in SPLITS:
        for label in ("run", "walk"):
            video(root / f"folders/{split}/{label}/{label}_1.mp4")
            write_motion(root / f"folders/{split}/{label}/{label}_1.csv", swing(SECONDS))


def make_ave(root: Path) -> None:
    head = "Category&VideoID&Quality&StartTime&EndTime"
    train = ["Goat&Gg-1&good&0&10", "Clock&Cc-2&good&2&5", "Bark&Bb_3&good&0&4", "Bark&Bb_3&good&6&9"]
    text(root / "ave/trainSet.txt", *train)
    text(root / "ave/valSet.txt", "Goat&Gg4&good&0&10", "Train horn&Tt7&good&0&3")
    text(root / "ave/testSet.txt", "Clock&Cc5&good&1&7", "Male speech, man speaking&Mm6&bad&0&1")
    text(root / "ave/Annotations.txt", head, *train)
    for name in ("Gg-1", "Cc-2", "Bb_3", "Gg4", "Tt7", "Cc5", "Mm6"):
        video(root / f"ave/AVE/{name}.mp4")


def make_kinetics(root: Path) -> None:
    for split, seconds in zip(SPLITS, (7, 21, 130), strict=True):
        lines = [f"playing harp,x-{split},{seconds},{seconds + 10},{split},0", f"tap dancing,y-{split},0,10,{split},0"]
        text(root / f"kinetics_sounds/{split}.csv", "label,youtube_id,time_start,time_end,split,is_cc", *lines)
        video(root / f"kinetics_sounds/{split}/playing harp/x-{split}_{seconds:06d}_{seconds + 10:06d}.mp4")
        video(root / f"kinetics_sounds/{split}/tap dancing/y-{split}_000000_000010.mp4")


def make_vggsound(root: Path) -> None:
    rows = [("v1", 30, "dog barking", "train"), ("v2", 4, '"people eating, chewing"', "train")]
    rows += [(f"w{n}", 0, "dog barking", "train") for n in range(12)]  # enough for the hash to hold one out
    rows += [
        ("v3", 110, "dog barking", "test"),
        ("v4", 0, '"people eating, chewing"', "test"),
        ("v5", 0, "wind", "test"),
    ]
    text(root / "vggsound100/vggsound.csv", *(",".join(map(str, row)) for row in rows))
    text(root / "vggsound100/classes.txt", "people eating, chewing", "dog barking")
    clip = video(root / "vggsound100/video/v1_000030.mp4").read_bytes()
    for name, start_s, *_ in rows:
        (root / f"vggsound100/video/{name}_{start_s:06d}.mp4").write_bytes(clip)


def make_uestc(root: Path) -> None:
    counts = np.round(swing(SECONDS, rate_hz=25) * 8192).astype(int)
    for number, split in enumerate(SPLITS):
        stems = [f"{label}/{label}_2020_12_{15 + number}_15_58_4{number}" for label in ("10_drink", "2_downstairs")]
        text(root / f"uestc_mmea/{split}.txt", f"sensor/{stems[0]}.csv", f"your_path/data/{stems[1]} 375 1")
        for stem in stems:
            video(root / f"uestc_mmea/video/{stem}.mp4")
            text(root / f"uestc_mmea/sensor/{stem}.csv", *(",".join(map(str, row)) for row in counts))


def make_samsemo(root: Path) -> None:
    table = ["utterance_id\tmovie_title\tlanguage\taggregated_emotions\ttranscript"]
    for language in ("EN", "PL"):
        for split, emotion in (("train", "happiness, surprise"), ("valid", "anger"), ("test", "happiness")):
            name = f"{language.lower()}{split}_1"
            text(root / f"samsemo/splits/{split}_split_{language}.txt", name)
            table.append(f"{name}\tFilm\t{language}\t{emotion}\tDzień dobry!")
            clip = video(root / f"samsemo/data/{language}/{name}/video.mp4")
            write_sound(clip.with_name("audio.wav"), tone(0.3))
    text(root / "samsemo/samsemo.tsv", *table)


def make_stamps(root: Path) -> None:
    head = "id,category,caption,image,sound,speech_recorded,speech_synth,split,group,synth_voice,synth_wpm"
    lines = [
        "frog,animals,A frog.,image/frog.jpg,sound/frog.flac,speech_recorded/frog.flac,speech_synth/frog.flac,train,g0"
    ]
    lines += ["frog_1,animals,A frog.,image/frog_1.jpg,,,speech_synth/frog.flac,train,g0"]
    lines += ['kite,toys,"A red, flying kite.",image/kite.jpg,,,speech_synth/kite.flac,test,g1']
    text(root / "stamps/index.csv", head, *(f"{line},en-us,165" for line in lines))
    for folder in ("image", "sound", "speech_recorded", "speech_synth"):
        (root / "stamps" / folder).mkdir()
    for name in ("frog", "frog_1", "kite"):
        write_picture(root / f"stamps/image/{name}.jpg")
    for name in ("sound/frog", "speech_recorded/frog", "speech_synth/frog", "speech_synth/kite"):
        write_sound(root / f"stamps/{name}.flac", tone(0.2))


def make_audiocaps(root: Path) -> None:
    head = "audiocap_id,youtube_id,start_time,caption"
    for split, (first, video) in zip(SPLITS, ((11, "a-1"), (21, "b_2"), (31, "c3")), strict=True):
        again = (
            [f'{first + 1},{video},30,"A horn, again"'] if split != "train" else [f"{first + 1},{video}x,0,Rain falls"]
        )
        text(root / f"audiocaps/{split}.csv", head, f"{first},{video},30,A car horn blows", *again)
        (root / f"audiocaps/{split}").mkdir()
        write_sound(root / f"audiocaps/{split}/{first}.wav", tone(0.3))
    write_sound(root / "audiocaps/train/12.wav", tone(0.3))


def make_clotho(root: Path) -> None:
    head = "file_name," + ",".join(f"caption_{number}" for number in range(1, 6))
    for part in ("development", "validation", "evaluation"):
        lines = [f'{part} (1) rain.wav,Rain falls,"Rain, on a roof",It rains,It rains,Water drips']
        lines += [f"{part}2.wav,A door shuts,A door,Shutting,Someone closes a door,Bang"]
        text(root / f"clotho/clotho_captions_{part}.csv", head, *lines)
        (root / f"clotho/{part}").mkdir()
        for line in lines:
            write_sound(root / "clotho" / part / line.split(",")[0], tone(0.3))


def make_flickr8k(root: Path) -> None:
    names = {"train": ["1_a.jpg", "2_b.jpg"], "dev": ["3_c.jpg"], "test": ["4_d.jpg"]}
    lines = [f"{name}#{n}\tA dog , number {n} ." for part in names.values() for name in part for n in range(5)]
    text(root / "flickr8k/Flickr8k.token.txt", *lines, "9_other.jpg#0\tA picture of no split .")
    (root / "flickr8k/Flicker8k_Dataset").mkdir()
    for part, members in names.items():
        text(root / f"flickr8k/Flickr_8k.{part}Images.txt", *members)
        for name in members:
            write_picture(root / "flickr8k/Flicker8k_Dataset" / name)


def make_avel(root: Path) -> None:
    rows = [("dog barking", "v-1_000030", "train"), ('"engine, idling"', "v2", "val"), ("dog barking", "v3", "test")]
    text(root / "vggsound_avel/vggsound-avel40k.csv", "category,video_id,split", *(",".join(row) for row in rows))
    text(root / "vggsound_avel/vggsoundCategories2Prompts.csv", "label,prompt", "dog barking,A dog barks at something")
    text(root / "vggsound_avel/VggsoundAVEL40kCategories.txt", "engine, idling", "dog barking")
    for _, name, _ in rows:
        video(root / f"vggsound_avel/video/{name}.mp4")


@dataclass(frozen=True)
class Layout:
    """A tiny copy of a dataset, what it must show, and what may go wrong in it.

    ``index`` is the file that lists its rows, ``traversal`` a line that leads out of the folder, ``short`` a line that
    lacks something, ``lost`` a media file; ``told`` whether a lost one is only left out, as public videos get lost.
    """

    make: Callable[[Path], None]
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    parts: tuple[str, ...]
    fetch: str
    index: str = ""
    traversal: str = ""
    short: str = ""
    lost: str = ""
    told: bool = False


AVE_PARTS = {"splits": SPLITS, "parts": ("audio", "frames"), "fetch": "AVE-ECCV18", "index": "ave/trainSet.txt"}
AVE_HARM = {"traversal": "Goat&../Gg&good&0&10", "short": "Goat&Gg&good", "lost": "ave/AVE/Gg-1.mp4"}
IN_ORDER = tuple(
    name for name in AVE_CLASSES if name in {"Goat", "Clock", "Bark", "Train horn", "Male speech, man speaking"}
)
LAYOUTS = {
    "av21": Layout(
        make_av21,
        ("train", "test"),
        ("cat", "ant"),
        ("",),
        ("audio", "frames"),
        "put it there",
        "av21/index.csv",
        "../x,cat,train,g",
        "x,cat",
        "av21/train/cat/c0.jpg",
    ),
    "digits": Layout(
        make_digits,
        ("train", "test"),
        ("7", "3"),
        ("0", "1"),
        ("audio", "frames"),
        "put it there",
        "digits/index.csv",
        "x,7,../0,train",
        "x,7",
        "digits/0/train/7/a.flac",
    ),
    "folders": Layout(make_folders, SPLITS, ("run", "walk"), ("",), ("audio", "frames", "motion"), "record a dataset"),
    "ave": Layout(make_ave, classes=IN_ORDER, domains=("",), **AVE_PARTS, **AVE_HARM),
    "ave_dil": Layout(
        make_ave,
        classes=("Vehicle", "Human", "Things", "Animal"),
        domains=("two", "one", "three"),
        **AVE_PARTS,
        **AVE_HARM,
    ),
    "kinetics_sounds": Layout(
        make_kinetics,
        SPLITS,
        ("playing harp", "tap dancing"),
        ("",),
        ("audio", "frames"),
        "Kinetics-400",
        "kinetics_sounds/train.csv",
        "playing harp,../../x,0,10,train,0",
        "playing harp,x",
        "kinetics_sounds/train/tap dancing/y-train_000000_000010.mp4",
        told=True,
    ),
    "vggsound100": Layout(
        make_vggsound,
        SPLITS,
        ("people eating, chewing", "dog barking"),
        ("",),
        ("audio", "frames"),
        "VGGSound",
        "vggsound100/vggsound.csv",
        "../x,0,dog barking,train",
        "x,0",
        "vggsound100/video/v1_000030.mp4",
        told=True,
    ),
    "uestc_mmea": Layout(
        make_uestc,
        SPLITS,
        ("downstairs", "drink"),
        ("",),
        ("audio", "frames", "motion"),
        "UESTC-MMEA-CL",
        "uestc_mmea/train.txt",
        "sensor/10_drink/..",
        "10_drink_2020_12_15",
        "uestc_mmea/sensor/10_drink/10_drink_2020_12_15_15_58_40.csv",
    ),
    "samsemo": Layout(
        make_samsemo,
        SPLITS,
        ("happiness", "anger"),
        ("EN", "PL"),
        ("audio", "frames", "text"),
        "samsungnlp/samsemo",
        "samsemo/splits/train_split_EN.txt",
        "../../x",
        "not_in_the_table_1",
        "samsemo/data/EN/entrain_1/video.mp4",
    ),
    "stamps": Layout(
        make_stamps,
        ("train", "test"),
        ("animals", "toys"),
        ("image", "sound", "speech_recorded", "speech_synth"),
        ("frames", "text"),
        "put it there",
        "stamps/index.csv",
        "x,animals,A cat.,../x.jpg,,,,train,g2,,",
        "x,animals,A cat.,image/x.jpg",
        "stamps/image/frog.jpg",
    ),
    "audiocaps": Layout(
        make_audiocaps,
        SPLITS,
        (),
        ("",),
        ("audio", "text"),
        "cdjkim/audiocaps",
        "audiocaps/train.csv",
        "13,../x,0,A bell",
        "13,x",
        "audiocaps/train/12.wav",
        told=True,
    ),
    "clotho": Layout(
        make_clotho,
        SPLITS,
        (),
        ("",),
        ("audio", "text"),
        "Zenodo",
        "clotho/clotho_captions_development.csv",
        "../x.wav,a,b,c,d,e",
        "x.wav,a,b",
        "clotho/development/development2.wav",
        told=True,
    ),
    "flickr8k": Layout(
        make_flickr8k,
        SPLITS,
        (),
        ("",),
        ("frames", "text"),
        "Flickr8k",
        "flickr8k/Flickr8k.token.txt",
        "../x.jpg#0\tA cat .",
        "x.jpg#0",
        "flickr8k/Flicker8k_Dataset/1_a.jpg",
        told=True,
    ),
    "vggsound_avel": Layout(
        make_avel,
        SPLITS,
        ("engine, idling", "dog barking"),
        ("",),
        ("audio", "frames", "text"),
        "jasongief/CPSP",
        "vggsound_avel/vggsound-avel40k.csv",
        "dog barking,../x,train",
        "dog barking,x",
        "vggsound_avel/video/v3.mp4",
        told=True,
    ),
}


def test_every_reader_is_in_the_table():
    assert LAYOUTS.keys() == READERS.keys()


@pytest.fixture(scope="module", params=LAYOUTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def root(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(name)
    LAYOUTS[name].make(folder)
    return folder


@pytest.fixture
def own_root(name: str, tmp_path: Path) -> Path:
    LAYOUTS[name].make(tmp_path)
    return tmp_path


def test_rows_are_whole_and_the_same_each_time(name: str, root: Path):
    reader, layout = open_dataset(name, root), LAYOUTS[name]
    assert reader.rows == open_dataset(name, root).rows
    assert reader.name.split(":")[0] == name
    assert len({row.id for row in reader.rows}) == len(reader.rows) > 0
    assert {row.split for row in reader.rows} == set(layout.splits)
    assert (reader.classes, set(reader.domains)) == (layout.classes, set(layout.domains))
    for row in reader.rows:
        assert row.group
        assert row.item.label == row.label
        assert all(path.is_file() and path.is_relative_to(root) for path in row.item.files)


def test_no_recording_is_in_two_splits(name: str, root: Path):
    places: dict[str, set[str]] = {}
    for row in open_dataset(name, root).rows:
        places.setdefault(f"{row.label}/{row.group}" if name == "folders" else row.group, set()).add(row.split)
    divided = {group for group, splits in places.items() if len(splits) > 1}
    assert divided == ({"run/run_1", "walk/walk_1"} if name == "folders" else set())  # whose splits its user made


def test_samples_have_what_the_dataset_has(name: str, root: Path):
    reader, layout = open_dataset(name, root), LAYOUTS[name]
    for row in reader.rows[:3]:
        sample = reader.load(row)
        found = tuple(part for part in ("audio", "frames", "motion", "text") if getattr(sample, part) is not None)
        assert (sample.label, found) == (row.label, layout.parts)
        assert str(root) not in sample.source
        assert sample.motion is None or (sample.motion.dtype, sample.motion.shape[1]) == (np.float32, 6)


def test_an_absent_dataset_says_what_to_download_and_where_to_put_it(name: str, tmp_path: Path):
    with pytest.raises(InputError) as caught:
        open_dataset(name, tmp_path)
    folder = "ave" if name == "ave_dil" else name
    message = str(caught.value)
    for words in (f"dataset {folder!r}", str(tmp_path / folder), f"{folder}/", LAYOUTS[name].fetch, "is not there"):
        assert words in message


INDEXED = [name for name, layout in LAYOUTS.items() if layout.index]


@pytest.mark.parametrize("name", INDEXED)
@pytest.mark.parametrize("harm", ["traversal", "short"])
def test_a_line_that_cannot_be_trusted_is_refused_with_its_number(name: str, own_root: Path, harm: str):
    layout = LAYOUTS[name]
    path = own_root / layout.index
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, getattr(layout, harm), ""]))
    with pytest.raises(InputError, match=rf"{path.name}, line {len(lines) + 1}: expected .* but .*; restore"):
        open_dataset(name, own_root)


@pytest.mark.parametrize("name", INDEXED)
def test_an_index_that_is_no_text_is_refused(name: str, own_root: Path):
    path = own_root / LAYOUTS[name].index
    path.write_bytes(b"\xff\xfe\x00" + path.read_bytes())
    with pytest.raises(InputError, match=path.name):
        open_dataset(name, own_root)


@pytest.mark.parametrize("name", INDEXED)
def test_a_lost_file_is_named_or_left_out(name: str, own_root: Path, caplog: pytest.LogCaptureFixture):
    layout = LAYOUTS[name]
    before = open_dataset(name, own_root).rows
    (own_root / layout.lost).unlink()
    reader = open_dataset(name, own_root)
    if layout.told:
        assert len(reader.rows) == len(before) - 1
        assert f"1 of {len(before)} files are not there" in caplog.text
        return
    # SAMSEMO falls back to the plain name it expected
    stem = Path(layout.lost).parent.name if name == "samsemo" else Path(layout.lost).stem
    row = next(row for row in reader.rows if row.item.stem == stem)
    with pytest.raises(MediaError, match=rf"{stem}\."):
        reader.load(row)
