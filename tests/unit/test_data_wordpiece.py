"""WordPiece gives the ids that the reference library gives, and holds its promises on any text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmcl_edge.data.wordpiece import WordPiece, pieces_of, words
from mmcl_edge.errors import BundleError
from tests.texts import PIECES, VOCABULARY

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "wordpiece_v1.json").read_text())
TOKENIZER = WordPiece.of_bytes(VOCABULARY)
CLS, SEP, UNK = (PIECES.index(one) for one in ("[CLS]", "[SEP]", "[UNK]"))


def pieces(text: str, max_tokens: int = 500) -> list[str]:
    return [PIECES[number] for number in TOKENIZER.encode(text, max_tokens=max_tokens)[1:-1]]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: ascii(case["text"])[:30])
def test_ids_are_those_of_the_reference(case: dict[str, object]):
    found = TOKENIZER.encode(str(case["text"]), max_tokens=500)
    assert found.dtype == np.int64
    assert found.tolist() == case["ids"]


def test_the_golden_holds_more_than_unknown_words():
    ids = [number for case in GOLDEN for number in case["ids"]]
    assert len(GOLDEN) >= 25
    assert sum(number == UNK for number in ids) < len(ids) / 4
    assert len(set(ids)) > 50


def test_the_longest_piece_wins_and_a_word_is_known_as_a_whole_or_not_at_all():
    assert pieces("barks barking dogs") == ["bark", "##s", "bark", "##ing", "dog", "##s"]
    assert pieces("bark\u4eba") == ["bark", "[UNK]"]
    assert pieces("dog\u0416") == ["[UNK]"]


def test_special_tokens_in_a_text_are_plain_text():
    assert pieces("[SEP]")[0] == "["
    assert SEP not in TOKENIZER.encode("[SEP] [CLS]", max_tokens=50)[1:-1]


def test_what_does_not_fit_is_cut_off():
    whole = TOKENIZER.encode("dog " * 60, max_tokens=128)
    assert len(whole) == 62
    short = TOKENIZER.encode("dog " * 60, max_tokens=10)
    assert short.tolist() == [CLS, *[PIECES.index("dog")] * 8, SEP]


def test_case_and_accents_stay_where_the_vocabulary_has_them():
    cased = WordPiece(["[UNK]", "[CLS]", "[SEP]", "Dog", "dog", "é"], lowercase=False)
    assert cased.encode("Dog dog DOG é", max_tokens=9).tolist() == [1, 3, 4, 0, 5, 2]
    assert list(words("Ça VA", lowercase=False)) == ["Ça", "VA"]


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(4, 40))
def test_any_text_gives_ids_between_its_ends(text: str, max_tokens: int):
    found = TOKENIZER.encode(text, max_tokens=max_tokens)
    assert 2 <= len(found) <= max_tokens
    assert (found[0], found[-1]) == (CLS, SEP)
    assert ((found >= 0) & (found < len(PIECES))).all()
    assert found.tolist() == TOKENIZER.encode(f" {text}\n", max_tokens=max_tokens).tolist()
    longer = TOKENIZER.encode(text, max_tokens=10_000)
    assert longer[: len(found) - 1].tolist() == found[:-1].tolist()


@settings(deadline=None)
@given(st.lists(st.sampled_from([one for one in PIECES if one.isalpha()]), max_size=20))
def test_words_of_the_vocabulary_are_themselves(chosen: list[str]):
    assert pieces(" ".join(chosen)) == chosen
    assert pieces(", ".join(chosen).upper()) == [x for one in chosen for x in (one, ",")][:-1]


@pytest.mark.parametrize(
    "data, words_",
    [
        (b"[UNK]\n[CLS]\n[SEP]\na\na\n", "hold each piece once, but 1 of its 5 lines"),
        (b"[UNK]\n[CLS]\na\n", r"should hold \[SEP\]"),
        (b"", r"\[CLS\] \[SEP\] \[UNK\]"),
        (b"[UNK]\n\xff\xfe", "UTF-8"),
    ],
    ids=["repeated", "no separator", "empty", "not UTF-8"],
)
def test_a_file_that_is_no_vocabulary_is_refused(data: bytes, words_: str):
    with pytest.raises(BundleError, match=words_):
        WordPiece.of_bytes(data)


def test_only_a_line_feed_ends_a_piece():
    assert pieces_of("a\r\n\u2028\n\x85b\n".encode()) == ["a", "\u2028", "\x85b"]
    assert pieces_of(b"a\nb") == ["a", "b"]
