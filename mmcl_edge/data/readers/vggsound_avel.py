"""VGGSound-AVEL: clips of VGGSound with an event both seen and heard, in 141 classes (Zhou et al., TPAMI 2022).

The set that Uni-Code (Xia et al., NeurIPS 2023) is trained on. Confirmed by the code of both projects: a table with the
columns ``category``, ``video_id`` and ``split`` (train, val, test), a list of categories, and a table of one sentence a
category (``label`` and the sentence) that stands for a caption::

    vggsound_avel/vggsound-avel100k.csv             or the 50k or 40k version
    vggsound_avel/VggsoundAVEL100kCategories.txt    one a line, the order of the classes (if it is there; 50k, 40k too)
    vggsound_avel/vggsoundCategories2Prompts.csv    label,prompt (if it is there; else the category is the caption)
    vggsound_avel/video/<video_id>.mp4

Not confirmed: what the folder and the files of the clips are called (the projects read features, see
``readers/cmg.py``), whether ``video_id`` carries the start second, and the name of the prompts' second column, so the
first that is not ``label`` is taken. A caption is that of its class: retrieval finds classes, not clips. Clips that are
no longer to be had are left out, and counted in the log.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

from mmcl_edge.data.items import MediaItem
from mmcl_edge.data.readers.index_files import (
    Place,
    broken_line,
    class_list,
    in_class_order,
    plain,
    read_table,
    read_text,
    whose_files_are_there,
)
from mmcl_edge.data.readers.rows import SPLITS, DatasetReader, IndexedReader, Row
from mmcl_edge.errors import InputError

SIZES = ("100k", "50k", "40k")
TABLES = tuple(f"vggsound-avel{size}.csv" for size in SIZES)
LISTS = tuple(f"VggsoundAVEL{size}Categories.txt" for size in SIZES)
PROMPTS = "vggsoundCategories2Prompts.csv"
_LAYOUT = "vggsound_avel/vggsound-avel100k.csv and vggsound_avel/video/<video_id>.mp4"
_SOURCE = "VGGSound-AVEL (the table of the project jasongief/CPSP, and the clips of VGGSound that it names)"


def read_vggsound_avel(root: Path) -> DatasetReader:
    """VGGSound-AVEL, one row a clip, its class's sentence as caption (the layout stands in the module docstring).

    Raises:
        InputError: the dataset is not there, an index is broken, or not one clip is there.
    """
    place = Place(root / "vggsound_avel", _LAYOUT, _SOURCE)
    rows = avel_rows(place.file(*TABLES), place.folder / PROMPTS, video=place.folder / "video")
    order = next((names for name in LISTS if (names := class_list(place.folder / name))), None)
    return IndexedReader("vggsound_avel", whose_files_are_there(in_class_order(rows, order), place))


def avel_rows(table: Path, prompts: Path, *, video: Path | None) -> Iterator[Row]:
    """The rows of a table of VGGSound-AVEL, with files in the folder ``video``, or without files.

    Raises:
        InputError: a line is broken.
    """
    told = read_prompts(prompts) if prompts.is_file() else {}
    seen: dict[str, int] = {}
    for number, line in read_table(table, ("category", "video_id", "split")):
        name = plain(table, number, line["video_id"], "of a video")
        label, split = line["category"], line["split"]
        if split not in SPLITS or not label:
            raise broken_line(table, number, "a category and a split (train, val or test)", f"it reads {label},{split}")
        if seen.setdefault(name, number) != number:
            raise broken_line(table, number, "each video once", f"{name} is in line {seen[name]} too")
        item = MediaItem(label, name, video=None if video is None else video / f"{name}.mp4")
        caption = told.get(label, label)
        yield Row(name, label, split, name, "", item, caption, (), (caption,))


def read_prompts(path: Path) -> dict[str, str]:
    """Class to the sentence that stands for its caption.

    Raises:
        InputError: the table has no column ``label`` or no other, or a cell is empty.
    """
    columns = next(csv.reader(StringIO(read_text(path))), [])
    other = next((name for name in columns if name not in ("label", "")), None)
    if "label" not in columns or other is None:
        raise InputError(f"{path} should have the columns label and prompt, but has {columns}; restore it.")
    lines = read_table(path, ("label", other))
    for number, line in lines:
        if not line["label"] or not line[other]:
            raise broken_line(path, number, "a label and a sentence", "one is empty")
    return {line["label"]: line[other] for _, line in lines}
