"""Texts from callers and from files: what is taken, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmcl_edge.data.items import MediaItem
from mmcl_edge.data.media import load_sample
from mmcl_edge.data.texts import as_text, load_text
from mmcl_edge.errors import InputError, MediaError

REFUSED = {
    "no str": (b"dog", "should be a str, but it is a bytes"),
    "empty": ("", "say something, but it is empty"),
    "blank": (" \t\u3000\n", "say something"),
    "control characters": ("\x00\x07\u200b", "say something"),
    "too long": ("x" * 10_001, "at most 10,000 characters, but it has 10,001"),
    "half a pair": ("dog \ud83d", "lone surrogates"),
}


@pytest.mark.parametrize("text, words", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_text_is_refused(text: object, words: str):
    with pytest.raises(InputError, match=words):
        as_text(text)


def test_a_text_is_kept_as_it_is():
    assert as_text("  Ein Hund, der „wuff“ sagt 🐶\n") == "Ein Hund, der „wuff“ sagt 🐶"
    assert as_text("x" * 10_000) == "x" * 10_000


def test_a_file_is_one_text(tmp_path: Path):
    path = tmp_path / "bark.txt"
    path.write_bytes("\ufeffA dog\r\nbarks  loudly.\n".encode())
    assert load_text(path) == "A dog barks loudly."
    sample = load_sample(MediaItem("dog", "bark", text=path))
    assert (sample.text, sample.label, sample.source, sample.audio) == ("A dog barks loudly.", "dog", "bark.txt", None)


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "empty"),
        (b" \n", "say something"),
        (b"caf\xe9", "UTF-8"),
        (b"x" * 65_537, "at most 64 KiB"),
        (b"x" * 20_000, "10,000 characters"),
    ],
    ids=["no bytes", "blank", "Latin-1", "large", "long"],
)
def test_a_file_that_is_no_text_is_refused_by_name(tmp_path: Path, data: bytes, words: str):
    path = tmp_path / "bark.txt"
    path.write_bytes(data)
    with pytest.raises(MediaError, match=words) as caught:
        load_text(path)
    assert "bark.txt" in str(caught.value)
    with pytest.raises(MediaError, match="there is none"):
        load_text(tmp_path / "gone.txt")
