"""What single readers know of their datasets: orders, splits, units, and files of other names."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mmcl_edge.data.datasets import AVE_CIL_TASKS, AVE_SUPER_CLASSES, UestcSettings, open_dataset, read_uestc_mmea
from mmcl_edge.data.readers.ave import AVE_CLASSES, DOMAINS
from mmcl_edge.data.readers.index_files import hashed_split
from mmcl_edge.data.readers.samsemo import emotions
from mmcl_edge.data.readers.uestc_mmea import G_MEAN, G_STD, median_filtered, motion_of, summed_up
from mmcl_edge.errors import InputError, MediaError
from tests.contract.test_reader_contract import make_ave, make_kinetics, make_samsemo, make_uestc, make_vggsound
from tests.integration.test_data_makers import tone, write_sound


def test_ave_has_four_tasks_of_seven_that_cover_its_classes_once():
    assert [len(task) for task in AVE_CIL_TASKS] == [7, 7, 7, 7]
    assert len(set(AVE_CLASSES)) == 28
    counts = {name: len(members) for name, members in AVE_SUPER_CLASSES.items()}
    assert counts == {"Music": 8, "Vehicle": 7, "Things": 5, "Animal": 5, "Human": 3}
    assert sorted(name for members in AVE_SUPER_CLASSES.values() for name in members) == sorted(AVE_CLASSES)


def test_every_domain_of_ave_has_every_super_class(tmp_path: Path):
    make_ave(tmp_path)
    (tmp_path / "ave/trainSet.txt").write_text("".join(f"{name}&v{i}&good&0&9\n" for i, name in enumerate(AVE_CLASSES)))
    rows = [row for row in open_dataset("ave_dil", tmp_path).rows if row.split == "train"]
    assert {(row.domain, row.label) for row in rows} == {(d, name) for d in DOMAINS for name in AVE_SUPER_CLASSES}


def test_a_video_of_ave_with_two_events_is_one_group_of_two_rows(tmp_path: Path):
    make_ave(tmp_path)
    rows = [row for row in open_dataset("ave", tmp_path).rows if row.group == "Bb_3"]
    assert [row.id for row in rows] == ["Bb_3", "Bb_3#2"]


def test_an_unknown_class_of_ave_is_refused(tmp_path: Path):
    make_ave(tmp_path)
    (tmp_path / "ave/valSet.txt").write_text("Dragon&v&good&0&10\n")
    with pytest.raises(InputError, match=r"valSet\.txt, line 1"):
        open_dataset("ave", tmp_path)


def test_the_hashed_split_is_near_its_shares_and_never_changes():
    shares = Counter(hashed_split(f"recording {number}") for number in range(10_000))
    assert [round(shares[split] / 10_000, 1) for split in ("train", "val", "test")] == [0.7, 0.1, 0.2]
    assert " ".join(hashed_split(name) for name in "abcdefgh") == "val train train train train train test train"


def test_folders_without_splits_are_divided_by_group_across_classes(tmp_path: Path):
    for label in ("run", "walk"):
        (tmp_path / "mine" / label).mkdir(parents=True)
        for name in (f"take{take}--{part}.wav" for take in range(30) for part in range(2)):
            (tmp_path / "mine" / label / name).touch()
    reader = open_dataset("folders:mine", tmp_path)
    assert (reader.name, len(reader.rows), reader.classes) == ("folders:mine", 120, ("run", "walk"))
    places = {(row.group, row.split) for row in reader.rows}
    assert len(places) == 30
    assert {split for _, split in places} == {"train", "val", "test"}


def test_folders_take_other_words_for_validation_and_no_hidden_files(tmp_path: Path):
    for place in ("train/a/x.wav", "validation/a/y.wav", "test/a/.z.wav", "test/a/z.wav", "test/a/notes.txt"):
        (tmp_path / "mine" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / place).touch()
    rows = open_dataset("folders:mine", tmp_path).rows
    assert [(row.id, row.split) for row in rows] == [
        ("test/a/z.wav", "test"),
        ("train/a/x.wav", "train"),
        ("validation/a/y.wav", "val"),
    ]


def test_folders_keep_the_text_beside_a_file(tmp_path: Path):
    (tmp_path / "mine/a").mkdir(parents=True)
    write_sound(tmp_path / "mine/a/x.wav", tone(0.2))
    (tmp_path / "mine/a/x.txt").write_text("A bell.")
    reader = open_dataset("folders:mine", tmp_path)
    assert [reader.load(row).text for row in reader.rows] == ["A bell."]


@pytest.mark.parametrize("name", ["folders:..", "folders:", "folders:a/b"])
def test_folders_elsewhere_are_refused(tmp_path: Path, name: str):
    with pytest.raises(InputError, match="plain name"):
        open_dataset(name, tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path):
    (tmp_path / "mine" / "a").mkdir(parents=True)
    with pytest.raises(InputError, match="should hold files"):
        open_dataset("folders:mine", tmp_path)


def test_kinetics_takes_its_other_name_for_validation_and_a_list_of_classes(tmp_path: Path):
    make_kinetics(tmp_path)
    folder = tmp_path / "kinetics_sounds"
    (folder / "val.csv").rename(folder / "validate.csv")
    (folder / "classes.txt").write_text("tap dancing\n")
    reader = open_dataset("kinetics_sounds", tmp_path)
    assert (reader.classes, len(reader.rows)) == (("tap dancing",), 3)


def test_a_list_of_classes_that_repeats_one_is_refused(tmp_path: Path):
    make_kinetics(tmp_path)
    (tmp_path / "kinetics_sounds/classes.txt").write_text("tap dancing\ntap dancing\n")
    with pytest.raises(InputError, match="name each class once"):
        open_dataset("kinetics_sounds", tmp_path)


def test_vggsound_without_a_list_takes_every_class(tmp_path: Path):
    make_vggsound(tmp_path)
    (tmp_path / "vggsound100/classes.txt").unlink()
    with_wind = open_dataset("vggsound100", tmp_path)
    assert set(with_wind.classes) == {"dog barking", "people eating, chewing", "wind"}


def test_videos_that_are_all_lost_mean_that_the_dataset_is_not_there(tmp_path: Path):
    make_vggsound(tmp_path)
    for path in (tmp_path / "vggsound100/video").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="VGGSound"):
        open_dataset("vggsound100", tmp_path)


def test_the_published_spread_of_uestc_gives_gravity():
    """With 8,192 counts a g; the reader's default rests on it."""
    assert sum(np.square(G_MEAN) + np.square(G_STD)) ** 0.5 == pytest.approx(1.0, abs=0.02)


def test_a_median_takes_out_a_spike_and_leaves_a_step():
    values = np.array([0, 0, 9, 0, 0, 0, 0, 5, 5, 5, 5, 5], float)[:, None]
    np.testing.assert_array_equal(median_filtered(values, 5)[:, 0], [0] * 7 + [5] * 5)
    assert median_filtered(values, 1) is values
    with pytest.raises(InputError, match="odd width"):
        median_filtered(values, 4)


def test_turning_is_summed_up_without_its_drift():
    turning = np.array([[1.0], [3.0], [5.0], [3.0]])  # mean 3: -2, 0, 2, 0
    np.testing.assert_allclose(summed_up(turning)[:, 0], [-2, -3, -2, -1])
    drifting = np.full((50, 3), 4.2)
    np.testing.assert_allclose(summed_up(drifting), 0, atol=1e-9)


def test_counts_become_g_and_degrees_a_second():
    counts = np.tile([[8192.0, 0, -4096, 16.4, 0, -164]], (20, 1))
    plain = UestcSettings(median_width=1, gyroscope="rate")
    np.testing.assert_allclose(motion_of(counts, plain)[7], [1, 0, -0.5, 1, 0, -10], atol=1e-6)
    np.testing.assert_allclose(motion_of(counts, plain.model_copy(update={"gyroscope": "angle"}))[7, 3:], 0, atol=1e-6)


def test_the_rate_of_uestc_follows_from_the_video_or_is_given(tmp_path: Path):
    make_uestc(tmp_path)  # 0.6 s of video, 15 readings
    reader = open_dataset("uestc_mmea", tmp_path)
    assert len(reader.load(reader.rows[0]).motion) == pytest.approx(30, abs=2)
    given = read_uestc_mmea(tmp_path, UestcSettings(rate_hz=50, domains="day"))
    assert len(given.load(given.rows[0]).motion) == 15
    assert given.domains == ("2020_12_15", "2020_12_16", "2020_12_17")


def test_a_sensor_file_of_uestc_that_is_no_table_is_named(tmp_path: Path):
    make_uestc(tmp_path)
    reader = open_dataset("uestc_mmea", tmp_path)
    path = reader.rows[0].item.motion
    for text in ("1,2,3\n", "a,b,c,d,e,f\n"):
        path.write_text(text)
        with pytest.raises(MediaError, match=path.name):
            reader.load(reader.rows[0])


CELLS = {
    "happiness": ("happiness",),
    "Happiness, surprise": ("happiness", "surprise"),
    "['anger', 'fear']": ("anger", "fear"),
    "anger|anger": ("anger",),
    "nan": (),
    "": (),
}


@pytest.mark.parametrize(("cell", "found"), CELLS.items(), ids=str)
def test_emotions_of_a_cell(cell: str, found: tuple[str, ...]):
    assert emotions(cell) == found


def test_a_transcript_may_hold_quotes_line_ends_and_rare_separators(tmp_path: Path):
    make_samsemo(tmp_path)
    path = tmp_path / "samsemo/samsemo.tsv"
    said = 'He said "no",\nand\u2028left.'
    quoted = said.replace('"', '""')
    path.write_text(path.read_text().replace("Dzień dobry!", f'"{quoted}"'), encoding="utf-8", newline="")
    reader = open_dataset("samsemo", tmp_path)
    assert {row.text for row in reader.rows} == {said}
    assert len(reader.rows) == 6


def test_samsemo_keeps_all_emotions_and_the_transcript_and_reads_flat_folders(tmp_path: Path):
    make_samsemo(tmp_path)
    folder = tmp_path / "samsemo/data/EN"
    (folder / "entrain_1/video.mp4").rename(folder / "entrain_1.mp4")
    (folder / "entrain_1/audio.wav").rename(folder / "entrain_1.wav")
    (folder / "entrain_1").rmdir()
    reader = open_dataset("samsemo", tmp_path)
    row = reader.rows[0]
    assert (row.id, row.label, row.labels, row.group) == (
        "entrain_1",
        "happiness",
        ("happiness", "surprise"),
        "entrain",
    )
    sample = reader.load(row)
    assert (sample.text, len(sample.audio)) == ("Dzień dobry!", 4_800)  # the wav, not the video's own track
