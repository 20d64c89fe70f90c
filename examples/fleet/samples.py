"""Write the samples of the story: digits, spoken and written, one folder a device.

python examples/fleet/samples.py FOLDER

FOLDER/digits_0_3/<class>/... and so on are what the devices learn; FOLDER/check/<class>/... holds samples of all ten
classes, of speakers and pictures that nobody learned from.
"""

import shutil
import sys
from pathlib import Path

from mmcl_edge.data.spoken_digits import TEST_FOLDER, write_spoken_digits

SAMPLES_PER_CLASS = 12


def main(folder: Path) -> None:
    write_spoken_digits(folder, samples_per_class=SAMPLES_PER_CLASS, seed=0)
    (folder / "check").mkdir()
    for name in sorted((folder / TEST_FOLDER).glob("*/*")):
        shutil.move(name, folder / "check" / name.name)
    shutil.rmtree(folder / TEST_FOLDER)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
