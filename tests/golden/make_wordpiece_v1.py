"""Makes ``tests/golden/wordpiece_v1.json``: texts, and the ids that the library ``tokenizers`` gives them.

Run ``python -m tests.golden.make_wordpiece_v1 --update`` where that library is installed (made with 0.23.3). It holds
BERT's own normalisation; our tokenizer must give the same ids without it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tests.texts import PIECES

FILE = Path(__file__).parent / "wordpiece_v1.json"
TEXTS = (
    "a dog barks",
    "The DOG, barking at night!",
    "cats,dogs;birds",
    "  spaces\tand\nline\r\nends  ",
    "café CAFÉ cafe\u0301 na\u00efve",
    "Ångström \u212bngstrom ÇÑØß",
    "İstanbul \u0131I ΣΊΣΥΦΟΣ",
    "don't stop-it (now) [SEP] {x} <y> #1 $2 50%",
    "zero\u200bwidth \u00adsoft\u00ad hyphen \ufeffmark",
    "nul\x00 bell\x07 delete\x7f next\x85line",
    "no\u00a0break\u2009thin\u3000wide\u2028line",
    "東京の犬 dog犬dog",
    "한국어 개 हिन्दी कुत्ता",
    "emoji 🐶🔔 and flags 🇩🇪 joined 👩‍🚀",
    "\ufffd replacement",
    "“quotes” \u2018single\u2019 — dash … ellipsis ¿que? «si»",
    "x" * 100,
    "x" * 101,
    "ﬁne ligature ½ ² ①",
    "¡!?.,:;",
    "digits 0123456789",
    "a" + "\u0301" * 5 + "b",
    "$+<=>^`|~ symbols ©®™ €£",
    "\U00020000 \U0002a6e0 far ideographs",
    "dogsingk meows singing",
)


def expected() -> list[dict[str, object]]:
    """Each text with its ids, the special tokens around them."""
    from tokenizers import Tokenizer  # type: ignore[import-not-found,unused-ignore]
    from tokenizers.models import WordPiece  # type: ignore[import-not-found,unused-ignore]
    from tokenizers.normalizers import BertNormalizer  # type: ignore[import-not-found,unused-ignore]
    from tokenizers.pre_tokenizers import BertPreTokenizer  # type: ignore[import-not-found,unused-ignore]

    ids = {piece: number for number, piece in enumerate(PIECES)}
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return [{"text": one, "ids": [ids["[CLS]"], *tokenizer.encode(one).ids, ids["[SEP]"]]} for one in TEXTS]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", required=True)
    parser.parse_args()
    FILE.write_text(json.dumps(expected(), indent=1, ensure_ascii=True) + "\n")
