"""Predict with what is there: sound and picture, sound alone, picture alone.

python examples/missing_modality.py BUNDLE PACK SOUND PICTURE

What is missing is masked out, not replaced by silence or black: the answer comes from the rest alone.
"""

import sys
from pathlib import Path

from mmcl_edge.data.media import load_audio, load_picture
from mmcl_edge.runtime.engine import Runtime


def main(bundle: str, pack: str, sound: str, picture: str) -> None:
    audio, frames = load_audio(Path(sound)), load_picture(Path(picture))
    cases = {
        "sound and picture": (audio, frames),
        "sound alone": (audio, None),
        "picture alone": (None, frames),
    }
    with Runtime.open(bundle, pack) as runtime:
        for name, (heard, seen) in cases.items():
            answer = runtime.predict(heard, seen)
            print(f"{name:<18} {answer.label} ({100 * answer.probabilities[answer.label]:.1f} %)")


if __name__ == "__main__":
    main(*sys.argv[1:])
