import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mmcl_edge.data.media import MediaItem, kind_of, pair_files
from mmcl_edge.data.task_folder import decode_task, read_task, split_holdout
from mmcl_edge.errors import InputError, TaskDataError
from mmcl_edge.types import Sample

NFC, NFD = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")


def touch(folder: Path, *names: str) -> Path:
    """Files whose bytes are their own names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.fsencode(name))
    return folder


def sound(path: Path, *, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, 1600), 16_000)


PAIRINGS = {
    "a sound and a picture of one stem": (["a.wav", "a.jpg"], ["a.wav+jpg"]),
    "different stems": (["a.wav", "b.jpg"], ["a.wav", "b.jpg"]),
    "sounds only": (["b.flac", "a.ogg"], ["a.ogg", "b.flac"]),
    "pictures only": (["a.png", "b.webp"], ["a.png", "b.webp"]),
    "a video comes alone": (["a.mp4", "a.wav", "a.png"], ["a.wav+png", "a.mp4"]),
    "two sounds, one picture": (["a.flac", "a.wav", "a.jpg"], ["a.flac+jpg", "a.wav"]),
    "capital extensions": (["a.WAV", "a.JPG"], ["a.wav+jpg"]),
    "dots in stems": (["a.b.wav", "a.c.png"], ["a.b.wav", "a.c.png"]),
    "a text beside both": (["a.wav", "a.jpg", "a.txt"], ["a.wav+jpg+txt"]),
    "a text beside a video and a pair": (["a.mp4", "a.wav", "a.txt"], ["a.wav+txt", "a.mp4+txt"]),
    "a text of its own": (["a.wav", "b.txt"], ["a.wav", "b.txt"]),
    "two sounds, one text": (["a.flac", "a.wav", "a.txt"], ["a.flac+txt", "a.wav+txt"]),
    "Unicode forms of one stem": ([f"{NFC}.wav", f"{NFD}.png"], [f"{NFC}.wav+png"]),
}


@pytest.mark.parametrize("names, expected", PAIRINGS.values(), ids=PAIRINGS.keys())
@pytest.mark.parametrize("order", [1, -1], ids=["forwards", "backwards"])
def test_files_pair_up_by_stem(names, expected, order):
    assert [item.source for item in pair_files(map(Path, names[::order]), label="x")] == expected


def test_files_of_different_folders_do_not_pair_up():
    assert len(pair_files([Path("one/a.wav"), Path("two/a.jpg")])) == 2


def test_an_unknown_extension_is_refused():
    assert kind_of(Path("notes.md")) is None
    with pytest.raises(InputError, match=r"\.md"):
        pair_files([Path("notes.md")])


def test_a_task_is_read_in_sorted_order(tmp_path):
    touch(tmp_path / "pets", "dog/b.wav", "dog/a.wav", "dog/a.jpg", "cat/1.png", "cat/2.png")
    task = read_task(tmp_path / "pets")
    assert (task.name, task.classes, task.ignored) == ("pets", ("cat", "dog"), 0)
    assert [(item.label, item.source) for item in task.items] == [
        ("cat", "1.png"),
        ("cat", "2.png"),
        ("dog", "a.wav+jpg"),
        ("dog", "b.wav"),
    ]
    assert read_task(tmp_path / "pets", name="new").name == "new"


def test_texts_count_beside_others_and_where_there_is_nothing_else(tmp_path):
    touch(tmp_path, "dog/a.wav", "dog/a.txt", "dog/b.wav", "dog/README.txt", "song/1.txt", "song/2.txt")
    task = read_task(tmp_path)
    assert [item.source for item in task.items] == ["a.wav+txt", "b.wav", "1.txt", "2.txt"]
    assert task.ignored == 1
    (tmp_path / "dog" / "README.txt").unlink()
    assert read_task(tmp_path).digest == task.digest
    (tmp_path / "dog" / "a.txt").write_text("another")
    assert read_task(tmp_path).digest != task.digest


def test_hidden_is_not_seen_and_the_rest_is_counted(tmp_path):
    touch(tmp_path, ".hidden/a.wav", "dog/.a.wav", "dog/a.wav", "dog/b.wav")
    touch(tmp_path, "readme.md", "loose.wav", "dog/notes.txt", "dog/deep/c.wav")
    task = read_task(tmp_path)
    assert task.classes == ("dog",)
    assert len(task.items) == 2
    assert task.ignored == 4


def test_a_folder_named_like_a_sound_is_no_sound(tmp_path):
    touch(tmp_path, "dog/a.wav", "dog/b.wav", "dog/c.wav/x")
    assert [item.stem for item in read_task(tmp_path).items] == ["a", "b"]


REFUSED = {
    "no folder": ([], {}, "Expected a task folder"),
    "no classes": (["loose.wav"], {}, "should contain class folders"),
    "an empty class": (["dog/a.wav", "dog/b.wav", "cat/notes.md"], {}, "'cat' needs at least 2 samples, but has 0"),
    "too few": (["dog/a.wav", "dog/a.png"], {}, "'dog' needs at least 2 samples, but has 1"),
    "too few of five": ([f"dog/{i}.wav" for i in range(4)], {"min_samples": 5}, "at least 5 samples, but has 4"),
    "case": (["Dog/a.wav", "dog/a.wav"], {"min_samples": 1}, "both 'Dog' and 'dog'"),
    "sharp s": (["Straße/a.wav", "STRASSE/a.wav"], {"min_samples": 1}, "'STRASSE' and 'Straße'"),
    "Unicode form": ([f"{NFC}/a.wav", f"{NFD}/a.wav"], {"min_samples": 1}, "both"),
    "known in another case": (["dog/a.wav"], {"min_samples": 1, "known_classes": ["cat", "DOG"]}, "known as 'DOG'"),
    "unprintable name": (["do\tg/a.wav"], {"min_samples": 1}, "printable"),
    "name that is not UTF-8": (["do\udcffg/a.wav"], {"min_samples": 1}, "printable"),
}


@pytest.mark.parametrize("names, options, message", REFUSED.values(), ids=REFUSED.keys())
def test_bad_tasks_are_refused_with_a_sentence(tmp_path, names, options, message):
    touch(tmp_path / "task", *names)
    with pytest.raises(TaskDataError, match=message):
        read_task(tmp_path / "task", **options)


@pytest.mark.parametrize("folder, known", [("dog", "dog"), (NFD, NFC)])
def test_a_known_class_may_be_taught_again_by_its_name(tmp_path, folder, known):
    touch(tmp_path, f"{folder}/a.wav")
    assert read_task(tmp_path, known_classes=[known, "cat"], min_samples=1).classes == (known,)


LINKS = {"a file outside": "dog/b.wav", "a class outside": "cat"}


@pytest.mark.parametrize("place", LINKS.values(), ids=LINKS.keys())
@pytest.mark.parametrize("target", ["outside", "nowhere"])
def test_links_that_lead_out_are_refused(tmp_path, place, target):
    touch(tmp_path / "outside", "a.wav", "b.wav")
    touch(tmp_path / "task", "dog/a.wav")
    (tmp_path / "task" / place).symlink_to(tmp_path / target)
    with pytest.raises(TaskDataError, match="leads out"):
        read_task(tmp_path / "task", min_samples=1)


def test_links_that_stay_inside_and_a_linked_task_are_fine(tmp_path):
    touch(tmp_path / "task", "dog/a.wav")
    (tmp_path / "task" / "dog" / "b.wav").symlink_to("a.wav")
    (tmp_path / "link").symlink_to("task")
    assert len(read_task(tmp_path / "link").items) == 2


def test_the_digest_names_the_data_and_nothing_else(tmp_path):
    one, two = (touch(tmp_path / name, "dog/a.wav", "dog/b.wav") for name in ("one", "two"))
    assert read_task(one).digest == read_task(two, name="x").digest
    touch(two, "dog/notes.txt", "readme.md")
    assert read_task(one).digest == read_task(two).digest
    (two / "dog" / "b.wav").write_text("changed")
    changed = read_task(two).digest
    (two / "dog" / "b.wav").write_text("dog/b.wav")
    (two / "dog" / "b.wav").rename(two / "dog" / "c.wav")
    assert len({read_task(one).digest, changed, read_task(two).digest}) == 3


def test_corrupt_files_are_skipped_and_reported(tmp_path):
    for name in "abc":
        sound(tmp_path / "dog" / f"{name}.wav")
    (tmp_path / "dog" / "bad.flac").write_bytes(b"fLaC, but no more")
    seen = []
    samples, skipped = decode_task(
        read_task(tmp_path), on_skip=lambda item, error: seen.append((item.stem, str(error)))
    )
    assert [sample.source for sample in samples] == ["dog/a.wav", "dog/b.wav", "dog/c.wav"]
    assert all(sample.label == "dog" for sample in samples)
    assert [(skip.item.stem, skip.reason) for skip in skipped] == seen
    assert "bad.flac" in skipped[0].reason


def test_too_few_samples_after_skipping_are_refused(tmp_path):
    sound(tmp_path / "dog" / "a.wav")
    (tmp_path / "dog" / "b.wav").write_bytes(b"")
    with pytest.raises(TaskDataError, match=r"'dog' needs at least 2 samples, but has 1 .*after skipping 1"):
        decode_task(read_task(tmp_path))


def test_a_file_that_disappears_is_skipped(tmp_path):
    for name in "abc":
        sound(tmp_path / "dog" / f"{name}.wav")
    task = read_task(tmp_path)
    (tmp_path / "dog" / "b.wav").unlink()
    assert [skip.item.stem for skip in decode_task(task)[1]] == ["b"]


def labelled(**counts: int) -> list[Sample]:
    return [Sample(None, None, label, f"{label}{i}") for label, count in counts.items() for i in range(count)]


SPLITS = {
    "a fifth": (dict(cat=10, dog=20), 0.2, dict(cat=2, dog=4)),
    "at least one out": (dict(cat=2, dog=3), 0.01, dict(cat=1, dog=1)),
    "at least one in": (dict(cat=2, dog=3), 0.99, dict(cat=1, dog=2)),
    "a single one trains": (dict(cat=1, dog=4), 0.5, dict(cat=0, dog=2)),
}


@pytest.mark.parametrize("counts, fraction, held", SPLITS.values(), ids=SPLITS.keys())
def test_holdout_is_stratified(counts, fraction, held):
    samples = labelled(**counts)
    train, test = split_holdout(samples, fraction=fraction, seed=3)
    assert {label: sum(sample.label == label for sample in test) for label in counts} == held
    order = [sample.source for sample in samples]
    for part in (train, test):
        places = [order.index(sample.source) for sample in part]
        assert places == sorted(places)
    assert sorted(sample.source for sample in train + test) == sorted(order)


def test_holdout_depends_on_seed_and_class_alone():
    draws = [[s.source for s in split_holdout(labelled(cat=20), fraction=0.3, seed=seed)[1]] for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    with_others = split_holdout(labelled(ant=7, cat=20, dog=9), fraction=0.3, seed=0)[1]
    assert [s.source for s in with_others if s.label == "cat"] == draws[0]


@pytest.mark.parametrize("fraction", [0, 1, -0.5, float("nan")])
def test_holdout_refuses_a_fraction_outside_its_range(fraction):
    with pytest.raises(InputError, match="above 0 and below 1"):
        split_holdout(labelled(cat=3), fraction=fraction, seed=0)


def test_holdout_refuses_samples_without_a_class():
    with pytest.raises(InputError, match="clip"):
        split_holdout([Sample(None, None, None, "clip")], fraction=0.5, seed=0)


def test_an_item_says_where_it_comes_from():
    item = MediaItem("dog", "a", audio=Path("/x/a.WAV"), picture=Path("/x/a.jpg"))
    assert (item.source, item.files) == ("a.wav+jpg", (Path("/x/a.WAV"), Path("/x/a.jpg")))
