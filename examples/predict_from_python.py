"""Predict from Python: open a bundle and a pack once, ask many times.

python examples/predict_from_python.py BUNDLE PACK FILE...

BUNDLE and PACK are folders; in a workspace they are HOME/bundle and HOME/current.
"""

import sys
from pathlib import Path

from mmcl_edge.data.media import load_sample, pair_files
from mmcl_edge.runtime.engine import Runtime


def main(bundle: str, pack: str, *files: str) -> None:
    with Runtime.open(bundle, pack) as runtime:
        print(f"classes: {', '.join(runtime.labels)}")
        for item in pair_files(map(Path, files)):
            sample = load_sample(item)
            answer = runtime.predict(sample.audio, sample.frames)
            ranked = ", ".join(f"{label} {100 * share:.1f} %" for label, share in answer.top_k(3))
            print(f"{item.source}: {ranked}  ({answer.latency_ms['total']:.0f} ms)")


if __name__ == "__main__":
    main(*sys.argv[1:])
