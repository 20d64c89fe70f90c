"""AudioCaps: ten-second sounds of AudioSet with captions by people (Kim et al., NAACL 2019).

Confirmed by the authors' repository: ``train.csv``, ``val.csv`` and ``test.csv`` (also in its folder ``dataset/``) with
the columns ``audiocap_id,youtube_id,start_time,caption``; a clip of ``val`` and ``test`` has five lines, one a caption.

The repository ships no sounds, and those who fetch them name them in several ways. Assumed, and tried in this order::

    audiocaps/<split>/, audiocaps/audio/<split>/, audiocaps/waveforms/<split>/, audiocaps/audio/
        <audiocap_id>, <youtube_id>_<start_time>, <youtube_id> or Y<youtube_id>, as .wav, .flac, .ogg or .mp3

The lines of one clip (video and start) are one row with all its captions. Clips that are no longer to be had are left
out, and counted in the log.
"""

from __future__ import annotations

from pathlib import Path

from mmcl_edge.data.readers.captioned import caption_row, files_by_name
from mmcl_edge.data.readers.index_files import Place, broken_line, plain, read_table, whole, whose_files_are_there
from mmcl_edge.data.readers.rows import SPLITS, DatasetReader, IndexedReader, Row

_COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")
_LAYOUT = "audiocaps/<train|val|test>.csv and audiocaps/<train|val|test>/<audiocap_id>.wav"
_SOURCE = "AudioCaps (the csv files of the project cdjkim/audiocaps, and the sounds of AudioSet that they name)"


def read_audiocaps(root: Path) -> DatasetReader:
    """AudioCaps, one row a clip (the layout stands in the module docstring).

    Raises:
        InputError: the dataset is not there, an index is broken, or not one sound is there.
    """
    place = Place(root / "audiocaps", _LAYOUT, _SOURCE)
    rows = [row for split in SPLITS for row in _rows(place, split)]
    return IndexedReader("audiocaps", whose_files_are_there(rows, place))


def _rows(place: Place, split: str) -> list[Row]:
    path = place.file(f"{split}.csv", f"dataset/{split}.csv")
    clips: dict[tuple[str, int], tuple[list[str], list[str]]] = {}
    for number, line in read_table(path, _COLUMNS):
        identity = plain(path, number, line["audiocap_id"], "of a caption")
        video = plain(path, number, line["youtube_id"], "of a video")
        start_s = whole(path, number, line["start_time"], "of the start")
        if not line["caption"]:
            raise broken_line(path, number, "a caption", "it is empty")
        names, captions = clips.setdefault((video, start_s), ([], []))
        names.append(identity)
        captions.append(line["caption"])
    base = place.folder
    there = files_by_name((base / split, base / "audio" / split, base / "waveforms" / split, base / "audio"), "audio")
    return [
        caption_row(
            f"{video}_{start_s}",
            split,
            video,
            captions,
            audio=_file(there, base / split, (*names, f"{video}_{start_s}", video, f"Y{video}")),
        )
        for (video, start_s), (names, captions) in clips.items()
    ]


def _file(there: dict[str, Path], folder: Path, names: tuple[str, ...]) -> Path:
    return next((there[name] for name in names if name in there), folder / f"{names[0]}.wav")
