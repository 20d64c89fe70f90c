"""Write what the story needs from the dataset ``stamps``: pairs to teach, an album to search, and voices that ask.

python examples/find_pictures_by_voice/pairs.py FOLDER [DATA]

DATA holds stamps/ (by default MMCL_EDGE_DATA). FOLDER gets
  pictures/   of every other group of training captions, with captions.csv
  voices/     of the other groups, spoken by people and by a synthesiser, with captions.csv: none says what a picture
              of pictures/ shows
  album/      the test pictures; their captions were never taught
  questions/  a voice for each of their captions; answers.csv says which pictures it means

The voices that ask are the synthesiser's: people recorded animals alone, so who speaks would tell what to look for.
"""

import csv
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from mmcl_edge.data.datasets import open_dataset
from mmcl_edge.data.readers.rows import Row


def main(folder: str, data: str | None = None) -> None:
    rows = open_dataset("stamps", None if data is None else Path(data)).rows
    taught = sorted({row.group for row in rows if row.split == "train"})
    seen, heard = set(taught[::2]), set(taught[1::2])
    pictures = [row for row in rows if row.domain == "image"]
    album = [row for row in pictures if row.split == "test"]
    questions = [row for row in rows if row.domain == "speech_synth" and row.split == "test"]
    place = Path(folder)
    write(place / "pictures", [row for row in pictures if row.group in seen])
    write(place / "voices", [row for row in rows if row.domain.startswith("speech") and row.group in heard])
    write(place / "album", album, told=False)
    write(place / "questions", questions, told=False)
    with (place / "answers.csv").open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(("question", "picture"))
        for asked in questions:
            lines.writerows((name(asked), name(shown)) for shown in album if same(asked, shown))


def same(one: Row, other: Row) -> bool:
    return one.captions[0].lower() == other.captions[0].lower()


def name(row: Row) -> str:
    """Of the copy of a row's file; a stamp may have voices of both kinds."""
    return row.id.replace("/", "-") + file_of(row).suffix


def file_of(row: Row) -> Path:
    return next(iter(row.item.files))


def write(folder: Path, rows: Sequence[Row], *, told: bool = True) -> None:
    """Copies of the rows' files, with their captions if they are told."""
    folder.mkdir(parents=True)
    for row in rows:
        shutil.copyfile(file_of(row), folder / name(row))
    if told:
        with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("file", "caption"), *((name(row), row.captions[0]) for row in rows)])


if __name__ == "__main__":
    main(*sys.argv[1:])
