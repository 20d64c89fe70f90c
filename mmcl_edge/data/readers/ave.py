"""AVE: 4,143 clips of ten seconds with an event that is both seen and heard, in 28 classes (Tian et al., ECCV 2018).

Layout, as the authors publish it::

    ave/Annotations.txt                     Category&VideoID&Quality&StartTime&EndTime
    ave/trainSet.txt, valSet.txt, testSet.txt   lines of the same form, without a header
    ave/AVE/<VideoID>.mp4

A video with several events has several rows; they share its group. The whole clip is the sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mmcl_edge.data.items import MediaItem
from mmcl_edge.data.readers.index_files import Place, broken_line, plain, read_lines
from mmcl_edge.data.readers.rows import DatasetReader, IndexedReader, Row

AVE_CIL_TASKS: tuple[tuple[str, ...], ...] = (
    (
        "Acoustic guitar",
        "Cat",
        "Fixed-wing aircraft, airplane",
        "Frying (food)",
        "Ukulele",
        "Helicopter",
        "Mandolin",
    ),
    (
        "Bus",
        "Train horn",
        "Male speech, man speaking",
        "Clock",
        "Race car, auto racing",
        "Toilet flush",
        "Female speech, woman speaking",
    ),
    ("Violin, fiddle", "Chainsaw", "Flute", "Church bell", "Motorcycle", "Banjo", "Rodents, rats, mice"),
    ("Truck", "Bark", "Baby cry, infant cry", "Horse", "Accordion", "Shofar", "Goat"),
)
"""Classes of each step in the class-incremental protocol of AV-CIL (Pian et al., ICCV 2023), in its order.

AV-CIL's own lists hold 3,294 / 391 / 394 clips; the published split files hold a few more.
"""

AVE_CLASSES: tuple[str, ...] = tuple(name for task in AVE_CIL_TASKS for name in task)
"""All 28 classes in AV-CIL's order."""

AVE_SUPER_CLASSES: dict[str, tuple[str, ...]] = {
    "Music": (
        "Acoustic guitar",
        "Ukulele",
        "Mandolin",
        "Violin, fiddle",
        "Flute",
        "Banjo",
        "Accordion",
        "Shofar",
    ),
    "Vehicle": (
        "Fixed-wing aircraft, airplane",
        "Helicopter",
        "Bus",
        "Train horn",
        "Race car, auto racing",
        "Motorcycle",
        "Truck",
    ),
    "Things": ("Frying (food)", "Clock", "Toilet flush", "Chainsaw", "Church bell"),
    "Animal": ("Cat", "Rodents, rats, mice", "Bark", "Horse", "Goat"),
    "Human": ("Male speech, man speaking", "Female speech, woman speaking", "Baby cry, infant cry"),
}
"""Super-class to its classes, for the domain-incremental proposal of ``read_ave_dil``."""

DOMAINS = ("one", "two", "three")
_SPLIT_FILES = {"train": "trainSet.txt", "val": "valSet.txt", "test": "testSet.txt"}
_LAYOUT = "ave/trainSet.txt, valSet.txt, testSet.txt and ave/AVE/<VideoID>.mp4"
_SOURCE = "AVE_Dataset of the project AVE-ECCV18 (Audio-Visual Event Localization in Unconstrained Videos)"


def read_ave(root: Path) -> DatasetReader:
    """AVE with its 28 classes, in AV-CIL's order, in one domain.

    Raises:
        InputError: the dataset is not there or an index is broken.
    """
    rank = {name: number for number, name in enumerate(AVE_CLASSES)}
    rows = _with_ids(row for split in _SPLIT_FILES for row in _rows(root, split))
    return IndexedReader("ave", tuple(sorted(rows, key=lambda row: rank[row.label])))


def read_ave_dil(root: Path) -> DatasetReader:
    """AVE for domain-incremental learning: five super-classes; their classes arrive in three domains.

    This is our own proposal [I]: which domains others used is not published. Classes of a super-class are dealt out to
    the domains in turn, so that every domain has every super-class (Human has only three classes).

    Raises:
        InputError: the dataset is not there or an index is broken.
    """
    places = {
        name: (over, DOMAINS[number % len(DOMAINS)])
        for over, names in AVE_SUPER_CLASSES.items()
        for number, name in enumerate(names)
    }
    return IndexedReader("ave_dil", tuple(_moved(row, *places[row.label]) for row in read_ave(root).rows))


def _moved(row: Row, label: str, domain: str) -> Row:
    return replace(row, label=label, domain=domain, item=replace(row.item, label=label))


def _rows(root: Path, split: str) -> Iterator[Row]:
    place = Place(root / "ave", _LAYOUT, _SOURCE)
    path = place.file(_SPLIT_FILES[split])
    for number, line in read_lines(path):
        if line.startswith("Category&"):
            continue
        fields = [one.strip() for one in line.split("&")]
        if len(fields) != 5 or fields[0] not in AVE_CLASSES:
            raise broken_line(path, number, "Category&VideoID&Quality&StartTime&EndTime of AVE", f"it reads {line!r}")
        label, video = fields[0], plain(path, number, fields[1], "of a video")
        item = MediaItem(label, video, video=place.folder / "AVE" / f"{video}.mp4")
        yield Row(video, label, split, video, "", item)


def _with_ids(rows: Iterator[Row]) -> list[Row]:
    """Second and further rows of one video get a number."""
    seen: Counter[str] = Counter()
    named = []
    for row in rows:
        seen[row.group] += 1
        named.append(row if seen[row.group] == 1 else replace(row, id=f"{row.id}#{seen[row.group]}"))
    return named
