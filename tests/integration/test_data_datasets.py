"""Dataset readers, on tiny copies of each layout and on the real sets where they are."""

from collections import Counter
from pathlib import Path

import pytest

from mmcl_edge.data.datasets import DATA_VARIABLE, open_dataset, select
from mmcl_edge.data.streams import class_incremental
from mmcl_edge.data.task_folder import decode_task, read_task
from mmcl_edge.errors import InputError, MediaError
from tests.integration.test_data_makers import shared_data, tone, write_picture, write_sound

LAYOUTS = {
    "av21": ("id,class,split,group", ["cat_0,cat,train,g0", "cat_1,cat,test,g1", "ant_0,ant,train,g2"], "{2}/{1}"),
    "digits": ("id,digit,domain,split", ["a,7,0,train", "b,7,1,test", "c,3,1,train"], "{2}/{3}/{1}"),
}


def make(root: Path, name: str) -> Path:
    header, lines, place = LAYOUTS[name]
    for line in lines:
        fields = line.split(",")
        folder = root / name / place.format(*fields)
        folder.mkdir(parents=True, exist_ok=True)
        write_sound(folder / f"{fields[0]}.flac", tone(0.2))
        write_picture(folder / f"{fields[0]}.jpg")
    (root / name / "index.csv").write_text("\n".join([header, *lines, ""]))
    return root


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_are_listed_in_order_and_decoded_when_asked(tmp_path, monkeypatch, name):
    monkeypatch.setenv(DATA_VARIABLE, str(make(tmp_path, name)))
    reader = open_dataset(name)
    assert reader.name == name
    assert [row.id for row in reader.rows] == [line.split(",")[0] for line in LAYOUTS[name][1]]
    assert [row.split for row in reader.rows] == ["train", "test", "train"]
    for row in reader.rows:
        sample = reader.load(row)
        assert (sample.label, sample.audio.shape, sample.frames.shape) == (row.label, (3_200,), (1, 64, 96, 3))


def test_classes_groups_and_domains_come_from_the_index(tmp_path):
    make(tmp_path, "av21"), make(tmp_path, "digits")
    av21, digits = open_dataset("av21", tmp_path), open_dataset("digits", tmp_path)
    assert (av21.classes, av21.domains) == (("cat", "ant"), ("",))
    assert [row.group for row in av21.rows] == ["g0", "g1", "g2"]
    assert (digits.classes, digits.domains) == (("7", "3"), ("0", "1"))
    assert [row.id for row in select(digits.rows, split="train", domains=["1"])] == ["c"]
    assert [row.id for row in select(av21.rows, classes=["cat"])] == ["cat_0", "cat_1"]


def test_a_missing_dataset_says_what_belongs_where(tmp_path, monkeypatch):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    with pytest.raises(InputError, match=f"set {DATA_VARIABLE}"):
        open_dataset("av21")
    with pytest.raises(InputError, match=r"digits/<domain>/<split>/<digit>/<id>\.flac and \.jpg"):
        open_dataset("digits", tmp_path)
    with pytest.raises(InputError, match="av21, digits"):
        open_dataset("imagenet", tmp_path)


BROKEN = {
    "a missing column": "id,split,group\na,train,g\n",
    "a short line": "id,class,split,group\na,cat\n",
    "a path that leads out": "id,class,split,group\n../../x,cat,train,g\n",
    "a parent folder": "id,class,split,group\na,..,train,g\n",
    "bytes that are not UTF-8": b"id,class,split,group\n\xff\xfe,cat,train,g\n",
}


@pytest.mark.parametrize("index", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_index_is_refused(tmp_path, index):
    (tmp_path / "av21").mkdir()
    (tmp_path / "av21" / "index.csv").write_bytes(index if isinstance(index, bytes) else index.encode())
    with pytest.raises(InputError, match=r"index\.csv"):
        open_dataset("av21", tmp_path)


def test_a_missing_file_is_named_when_it_is_loaded(tmp_path):
    reader = open_dataset("av21", make(tmp_path, "av21"))
    (tmp_path / "av21" / "train" / "cat" / "cat_0.jpg").unlink()
    with pytest.raises(MediaError, match=r"cat_0\.jpg"):
        reader.load(reader.rows[0])


EXPECTED = {"av21": (617, 243, 21, 1), "digits": (840, 360, 10, 6)}


@pytest.mark.parametrize("name, counts", EXPECTED.items(), ids=EXPECTED.keys())
def test_the_real_sets_are_whole(name, counts):
    reader = open_dataset(name, shared_data())
    splits = Counter(row.split for row in reader.rows)
    assert (splits["train"], splits["test"], len(reader.classes), len(reader.domains)) == counts
    assert len({row.id for row in reader.rows}) == len(reader.rows)
    assert all(path.is_file() for row in reader.rows for path in row.item.files)
    groups = {split: {row.group for row in select(reader.rows, split=split)} for split in splits}
    assert name == "av21" or not groups["train"] & groups["test"]


def test_nine_classes_of_av21_form_three_experiences():
    reader = open_dataset("av21", shared_data())
    order = reader.classes[:9]
    splits = {s: [reader.load(row) for row in select(reader.rows, split=s, classes=order)] for s in ("train", "test")}
    stream = class_incremental(splits, classes_per_experience=3, class_order=order)
    assert [(len(e.train), len(e.test)) for e in stream] == [(120, 42), (120, 42), (77, 31)]
    for sample in (s for e in stream for s in (*e.train, *e.test)):
        assert 0.19 * 16_000 <= len(sample.audio) <= 4.01 * 16_000
        assert sample.frames.shape == (1, 64, 64, 3)


def test_a_split_of_av21_is_a_task_folder():
    task = read_task(shared_data() / "av21" / "test", min_samples=5)
    samples, skipped = decode_task(task)
    assert (len(task.classes), len(samples), skipped, task.ignored) == (21, 243, [], 0)
