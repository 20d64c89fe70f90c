"""Names that people give: classes, experiences, tasks. One rule for all, so that a label is a folder name too."""

from __future__ import annotations

import hashlib
import unicodedata

MAX_NAME_BYTES = 255
"""Longest name in UTF-8 bytes: what common file systems take for one folder."""

_LABEL_DOMAIN = b"mmcl-edge label v1\0"


def nfc(name: str) -> str:
    """``name`` in Unicode form NFC: two spellings that look alike become one string."""
    return unicodedata.normalize("NFC", name)


def check_name(name: str) -> str:
    """``name`` itself, if it is safe as a label and as the name of one folder.

    Safe means: NFC, not empty, no separators, no leading dot, no outer blanks, no control characters,
    at most 255 bytes of UTF-8.

    Raises:
        ValueError: the message says what is wrong, without the name.
    """
    problem = _problem(name)
    if problem:
        raise ValueError(problem)
    return name


def _problem(name: str) -> str | None:
    if not name or name != name.strip():
        return "it is empty or has blanks at an end"
    if name.startswith("."):
        return "it starts with a dot"
    if "/" in name or "\\" in name:
        return "it contains a path separator"
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in name):
        return "it contains control characters or line breaks"
    if name != nfc(name):
        return "it is not in Unicode form NFC"
    if len(name.encode("utf-8")) > MAX_NAME_BYTES:
        return f"it is longer than {MAX_NAME_BYTES} bytes"
    return None


def label_id(name: str) -> str:
    """The id that a class keeps on every device: derived from its NFC name alone, written like a UUID.

    >>> label_id("dog") == label_id("dog"), len(label_id("dog"))
    (True, 36)
    """
    digest = hashlib.sha256(_LABEL_DOMAIN + nfc(name).encode("utf-8")).hexdigest()
    return "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32]))
