"""VGGSound100: 100 classes of VGGSound (Chen et al., ICASSP 2020), as used for class-incremental learning by AV-CIL.

Layout: the authors' index, and the ten-second clips cut from the videos it names::

    vggsound100/vggsound.csv     id,start second,label,split (train or test); no header
    vggsound100/classes.txt      the chosen classes, one a line, in class order
    vggsound100/video/<id>_<start, six digits>.mp4

Which 100 classes AV-CIL took is in its own split files, which do not ship here, so ``classes.txt`` says it; without the
file, every class of the index is taken. VGGSound has no validation part: a tenth of the training videos, drawn by a
stable hash of the video's id, serves as ``val``. Videos that are no longer to be had are left out, and counted in the
log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from mmcl_edge.data.items import MediaItem
from mmcl_edge.data.readers.index_files import (
    Place,
    broken_line,
    class_list,
    in_class_order,
    plain,
    read_table,
    whole,
    whose_files_are_there,
)
from mmcl_edge.data.readers.rows import DatasetReader, IndexedReader, Row

VAL_SHARE = 0.1
_COLUMNS = ("id", "start", "label", "split")
_LAYOUT = "vggsound100/vggsound.csv, classes.txt and vggsound100/video/<id>_<start second in six digits>.mp4"
_SOURCE = "vggsound.csv and the videos of the project VGGSound (Visual Geometry Group, University of Oxford)"


def read_vggsound100(root: Path) -> DatasetReader:
    """VGGSound100 in one domain (the layout stands in the module docstring).

    Raises:
        InputError: the dataset is not there, its index is broken, or not one video is there.
    """
    place = Place(root / "vggsound100", _LAYOUT, _SOURCE)
    chosen = in_class_order(_rows(place), class_list(place.folder / "classes.txt"))
    return IndexedReader("vggsound100", whose_files_are_there(chosen, place))


def _rows(place: Place) -> Iterator[Row]:
    path = place.file("vggsound.csv")
    for number, line in read_table(path, _COLUMNS, header=False):
        video = plain(path, number, line["id"], "of a video")
        start_s = whole(path, number, line["start"], "of the start")
        if line["split"] not in ("train", "test") or not line["label"]:
            raise broken_line(
                path, number, "id,start,label,split (train or test)", f"it reads {','.join(line.values())}"
            )
        stem = f"{video}_{start_s:06d}"
        item = MediaItem(line["label"], stem, video=place.folder / "video" / f"{stem}.mp4")
        split = "val" if line["split"] == "train" and _is_held_out(video) else line["split"]
        yield Row(stem, line["label"], split, video, "", item)


def _is_held_out(video: str) -> bool:
    position = int.from_bytes(hashlib.sha256(video.encode()).digest()[:4], "big") / 2**32
    return position < VAL_SHARE
