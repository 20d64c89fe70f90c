"""Ask an album by voice, from Python: open a bundle and a pack once, ask many times.

python examples/find_pictures_by_voice/ask.py FOLDER

FOLDER is what pairs.py wrote. The workspace (MMCL_EDGE_HOME) has learned image and speech, and its index holds the
album. Prints what some voices find, and how often the right picture is among the first ten.
"""

import csv
import sys
from math import comb
from pathlib import Path

from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.workspace import Workspace

FIRST, SHOWN = 10, 5


def main(folder: Path) -> None:
    workspace, right = Workspace().open(), answers(folder / "answers.csv")
    album = sum(1 for _ in (folder / "album").iterdir())
    found = 0
    with Runtime.open(workspace.bundle_path, workspace.current_pack()) as runtime:
        for number, (voice, wanted) in enumerate(right.items()):
            hits = runtime.retrieve(folder / "questions" / voice, FIRST, read_as="speech", modality="image")
            rank = next((rank for rank, hit in enumerate(hits, start=1) if Path(hit.path).name in wanted), None)
            found += rank is not None
            if number < SHOWN:
                print(f"{voice}: {f'found at {rank}' if rank else 'not found'}; first {hits[0].source}")
    lucky = sum(1 - comb(album - len(wanted), FIRST) / comb(album, FIRST) for wanted in right.values())
    print(f"{found} of {len(right)} voices find their picture in the first {FIRST} of {album}; by chance {lucky:.1f}")


def answers(path: Path) -> dict[str, set[str]]:
    """Voice to the pictures it means."""
    right: dict[str, set[str]] = {}
    with path.open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            right.setdefault(line["question"], set()).add(line["picture"])
    return right


if __name__ == "__main__":
    main(Path(sys.argv[1]))
