"""Texts from callers and from files: a caption, a transcript, a sentence.

Rules, in this order, each refusing before the next is tried:
1. A ``str``, or a file of at most 64 KiB in UTF-8 (a byte order mark is left out).
2. At most 10,000 characters, none of them half of a pair (a lone surrogate).
3. Something to read: not blank, and not made of control characters alone.
The text is kept as it is, but for white space at its ends.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

from mmcl_edge.data.containers import broken, check_file
from mmcl_edge.errors import InputError, MediaError

MAX_CHARACTERS = 10_000
MAX_FILE_BYTES = 64 << 10


def as_text(text: object) -> str:
    """A text that can be read.

    Raises:
        InputError: anything else; the message says what was expected, what was found and what to do.
    """
    if not isinstance(text, str):
        raise InputError(f"The text should be a str, but it is a {type(text).__name__}; pass one text at a time.")
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"The text should have at most {MAX_CHARACTERS:,} characters, but it has {len(text):,}; pass a sentence."
        )
    if any("\ud800" <= one <= "\udfff" for one in text):
        raise InputError("The text should be valid Unicode, but it has lone surrogates; decode its bytes again.")
    bare = text.strip()
    if not any(unicodedata.category(one)[0] not in "CZ" for one in bare):
        raise InputError("The text should say something, but it is empty; pass None where there is no text.")
    return bare


def load_text(path: Path | str) -> str:
    """A text file as one text; line ends inside it count as spaces.

    Raises:
        MediaError: missing, empty, not UTF-8, or too long.
    """
    path = Path(path)
    check_file(path)
    if path.stat().st_size > MAX_FILE_BYTES:
        raise broken(path, f"expected a text of at most {MAX_FILE_BYTES >> 10} KiB, but the file is larger")
    try:
        return as_text(" ".join(path.read_text(encoding="utf-8-sig").split()))
    except UnicodeDecodeError as error:
        raise broken(path, f"expected text in UTF-8, but it does not parse ({error.reason})") from error
    except InputError as error:
        raise MediaError(f"{path}: {error}") from error
