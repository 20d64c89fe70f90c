"""WordPiece: text to the token ids that a BERT-like backbone takes, with the vocabulary of its bundle.

Rules, in this order (those of uncased BERT; J. Devlin et al., BERT, NAACL 2019):
1. Control characters are left out; any white space is a space; a CJK ideograph is a word of its own.
2. Where the vocabulary is uncased: accents are taken off (Unicode NFD without non-spacing marks), then lower case.
3. Words end at spaces; every punctuation mark is a word of its own.
4. A word is cut from its front into the longest pieces that the vocabulary has (``##`` marks a piece inside a word). A
   word that cannot be cut so, or is longer than 100 characters, is ``[UNK]``.
5. ``[CLS]``, the pieces as far as there is room, ``[SEP]``.

Special tokens that stand in the text itself (``[SEP]``) are plain text: cut at their brackets like any other.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mmcl_edge.errors import BundleError

CLS, SEP, UNK = "[CLS]", "[SEP]", "[UNK]"
MAX_WORD_LENGTH = 100
INSIDE = "##"
_CONTROL = ("Cc", "Cf", "Co", "Cs")
"""Not ``Cn``: what a version of Unicode does not know yet is part of a word, and stays one."""
_IDEOGRAPHS = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


class WordPiece:
    """A tokenizer for one vocabulary; safe in many threads.

    Args:
        pieces: the vocabulary; a piece's place is its id.
        lowercase: whether the vocabulary is uncased.
        name: what messages call the vocabulary.

    Raises:
        BundleError: a piece stands twice, or a special token is missing.
    """

    def __init__(self, pieces: Sequence[str], *, lowercase: bool = True, name: str = "the vocabulary") -> None:
        self._ids = {piece: number for number, piece in enumerate(pieces)}
        if len(self._ids) != len(pieces):
            raise BundleError(
                f"{name} should hold each piece once, but {len(pieces) - len(self._ids)} of its {len(pieces)} lines "
                "are repeated; export the bundle again."
            )
        missing = [token for token in (CLS, SEP, UNK) if token not in self._ids]
        if missing:
            raise BundleError(f"{name} should hold {' '.join(missing)}, but does not; export the bundle again.")
        self._unknown = self._ids[UNK]
        self._longest = max(len(piece) for piece in pieces)
        self.lowercase = lowercase

    @classmethod
    def of_bytes(cls, data: bytes, *, lowercase: bool = True, name: str = "the vocabulary") -> WordPiece:
        """The tokenizer of a ``vocab.txt``: UTF-8, one piece a line.

        Raises:
            BundleError: it is no such file.
        """
        return cls(pieces_of(data, name=name), lowercase=lowercase, name=name)

    def __len__(self) -> int:
        return len(self._ids)

    def encode(self, text: str, *, max_tokens: int) -> NDArray[np.int64]:
        """Token ids ``(N,)`` of ``text`` with ``[CLS]`` before and ``[SEP]`` after them, ``2 <= N <= max_tokens``.

        What does not fit is cut off at the end.
        """
        room = max_tokens - 2
        ids: list[int] = []
        for word in words(text, lowercase=self.lowercase):
            ids += self._cut(word)
            if len(ids) >= room:
                break
        return np.array([self._ids[CLS], *ids[:room], self._ids[SEP]], dtype=np.int64)

    def _cut(self, word: str) -> list[int]:
        """Ids of a word's pieces."""
        if len(word) > MAX_WORD_LENGTH:
            return [self._unknown]
        ids, start = [], 0
        while start < len(word):
            prefix = INSIDE if start else ""
            for end in range(min(len(word), start + self._longest), start, -1):
                found = self._ids.get(prefix + word[start:end])
                if found is not None:
                    break
            else:
                return [self._unknown]
            ids.append(found)
            start = end
        return ids


def pieces_of(data: bytes, *, name: str = "the vocabulary") -> list[str]:
    """The lines of a ``vocab.txt``; only a line feed ends one.

    Raises:
        BundleError: not UTF-8.
    """
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise BundleError(f"{name} should be UTF-8, but is not ({error}); export the bundle again.") from error
    return [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]


def words(text: str, *, lowercase: bool = True) -> Iterator[str]:
    """The words of ``text`` (rules 1 to 3)."""
    plain = "".join(_plain(text))
    if lowercase:
        bare = (one for one in unicodedata.normalize("NFD", plain) if unicodedata.category(one) != "Mn")
        plain = "".join(one.lower() for one in bare)
    for chunk in plain.split(" "):
        yield from _between_marks(chunk)


def _plain(text: str) -> Iterator[str]:
    """Without control characters; every white space a space; ideographs between spaces."""
    for one in text:
        category = unicodedata.category(one)
        if one in "\t\n\r" or category[0] == "Z":
            yield " "
        elif category in _CONTROL or one == "\N{REPLACEMENT CHARACTER}":
            continue
        else:
            yield f" {one} " if _is_ideograph(one) else one


def _is_ideograph(one: str) -> bool:
    return any(first <= ord(one) <= last for first, last in _IDEOGRAPHS)


def _between_marks(chunk: str) -> Iterable[str]:
    """A chunk without spaces, cut around punctuation."""
    found: list[str] = []
    open_word = False
    for one in chunk:
        if _is_mark(one):
            found.append(one)
            open_word = False
        elif open_word:
            found[-1] += one
        else:
            found.append(one)
            open_word = True
    return found


def _is_mark(one: str) -> bool:
    """Punctuation: all of ASCII that is no letter, digit or space, and Unicode's own."""
    if ord(one) < 128:
        return "!" <= one <= "/" or ":" <= one <= "@" or "[" <= one <= "`" or "{" <= one <= "~"
    return unicodedata.category(one)[0] == "P"
