"""SAMSEMO: emotions in film scenes of five languages: video, sound and transcript (Bujnowski et al., Interspeech 2024).

Confirmed by the authors' repository and the listing of their data set: ``samsemo.tsv``, lists
``<split>_split_<LANGUAGE>.txt`` of ids in ``splits/``, and zipped folders of jpg, mp4 and wav for each language in
``data/``. Column names are confirmed by other people's copies. Unpack the archives so::

    samsemo/samsemo.tsv                              utterance_id, language, aggregated_emotions, transcript, ...
    samsemo/splits/<train|valid|test>_split_<EN|DE|ES|PL|KO>.txt    one id a line
    samsemo/data/<LANGUAGE>/<id>/*.mp4, *.wav        or  samsemo/data/<LANGUAGE>/<id>.mp4, .wav

Assumed: the names of files below ``data/`` (both forms are tried), and that several emotions of a scene stand in one
cell, divided by commas, semicolons or bars. A scene may have several: ``Row.labels`` has all, ``Row.label`` the first.
The official measure is multi-label, the average of each emotion's F1, which accuracy over ``label`` is not. Languages
are the domains. Scenes that the table gives no emotion are left out, and counted in the log. Transcripts ride on
``Sample.text``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from mmcl_edge.data.items import MediaItem
from mmcl_edge.data.readers.index_files import Place, broken_line, plain, read_lines, read_table
from mmcl_edge.data.readers.rows import DatasetReader, IndexedReader, Row

LANGUAGES = ("EN", "DE", "ES", "PL", "KO")
_SPLITS = {"train": "train", "valid": "val", "test": "test"}
_COLUMNS = ("utterance_id", "aggregated_emotions", "transcript")
_LAYOUT = (
    "samsemo/samsemo.tsv, samsemo/splits/<train|valid|test>_split_<LANGUAGE>.txt and "
    "samsemo/data/<LANGUAGE>/<id>/ with an mp4 and a wav"
)
_SOURCE = "SAMSEMO of Samsung NLP from Hugging Face (see the project samsungnlp/samsemo)"
_NOTHING = {"", "nd", "none", "nan", "null"}
_log = logging.getLogger(__name__)


def read_samsemo(root: Path) -> DatasetReader:
    """SAMSEMO with languages as domains; languages whose lists are not there are left out.

    Raises:
        InputError: the dataset is not there, no language is, or an index is broken.
    """
    place = Place(root / "samsemo", _LAYOUT, _SOURCE)
    table = _table(place.file("samsemo.tsv"))
    have = [one for one in LANGUAGES if (place.folder / "splits" / f"train_split_{one}.txt").is_file()]
    if not have:
        raise place.missing(place.folder / "splits" / "train_split_EN.txt")
    rows = [row for language in have for split in _SPLITS for row in _rows(place, language, split, table)]
    labelled = tuple(row for row in rows if row.labels)
    if len(labelled) < len(rows):
        _log.warning("%s: %d scenes have no emotion and are left out.", place.folder, len(rows) - len(labelled))
    return IndexedReader("samsemo", labelled)


def _table(path: Path) -> dict[str, dict[str, str]]:
    return {line["utterance_id"]: line for _, line in read_table(path, _COLUMNS, delimiter="\t")}


def _rows(place: Place, language: str, split: str, table: dict[str, dict[str, str]]) -> Iterator[Row]:
    path = place.file(f"splits/{split}_split_{language}.txt")
    for number, line in read_lines(path):
        name = plain(path, number, line, "of a scene")
        if name not in table:
            raise broken_line(path, number, "a scene of samsemo.tsv", f"{name!r} is not in it")
        labels = emotions(table[name]["aggregated_emotions"])
        label = labels[0] if labels else ""
        film = name.rsplit("_", 1)[0]
        item = _item(place.folder / "data" / language, name, label)
        yield Row(name, label, _SPLITS[split], film, language, item, table[name]["transcript"] or None, labels)


def emotions(cell: str) -> tuple[str, ...]:
    """The emotions that a cell names, in its order, in lower case; none where nobody agreed."""
    names = (one.strip(" '\"[]()").lower() for one in re.split(r"[,;|]", cell))
    return tuple(dict.fromkeys(name for name in names if name not in _NOTHING))


def _item(folder: Path, name: str, label: str) -> MediaItem:
    """The files of a scene in either layout; where there is none, those that were expected."""
    inside = sorted((folder / name).glob("*")) if (folder / name).is_dir() else []
    files = {suffix: [one for one in inside if one.suffix.lower() == suffix] for suffix in (".mp4", ".wav")}
    video = files[".mp4"][0] if files[".mp4"] else folder / f"{name}.mp4"
    flat = folder / f"{name}.wav"
    sound = files[".wav"][0] if files[".wav"] else flat if flat.is_file() else None
    return MediaItem(label, name, audio=sound, video=video)
