"""Plain tar files of one form only: what this module writes, and nothing else, is what it reads.

A member is a 512-byte header of POSIX ustar, its bytes, and zeros up to the next multiple of 512; two blocks of zeros
end the file. Every header states mode 0644, no owner and no time, so a name and a size have one header. The reader
makes that header itself and compares: links, devices, sparse files, extended headers and odd numbers differ, and
are refused before anything of the member is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

from mmcl_edge.errors import PackError

BLOCK = 512
END = bytes(2 * BLOCK)
MAX_NAME_CHARS = 100
_ADVICE = "fetch or export the archive again"

_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device file",
    b"4": "a device file",
    b"5": "a folder",
    b"6": "a pipe",
    b"S": "a sparse file",
    b"K": "an extended header",
    b"L": "an extended header",
    b"g": "an extended header",
    b"x": "an extended header",
}
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"7z\xbc\xaf": "7z",
}


def header(name: str, size: int) -> bytes:
    """The one header of a member ``name`` (ASCII, at most 100 characters) with ``size`` bytes."""
    fields = b"".join(
        (
            name.encode("ascii").ljust(MAX_NAME_CHARS, b"\0"),
            b"0000644\0" + b"0000000\0" * 2,
            b"%011o\0" % size,
            b"%011o\0" % 0,
            b" " * 8,
            b"0".ljust(101, b"\0"),
            b"ustar\0" + b"00",
        )
    ).ljust(BLOCK, b"\0")
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


def archive_bytes(members: Iterable[tuple[str, bytes]]) -> bytes:
    """The file with these members, in this order."""
    parts = [part for name, data in members for part in (header(name, len(data)), data, bytes(-len(data) % BLOCK))]
    return b"".join([*parts, END])


class Members:
    """The members of an open archive, one after the other: ``next()``, then ``data()`` or no more.

    Args:
        file: at its start.
        label: what messages call it.
    """

    def __init__(self, file: BinaryIO, label: str) -> None:
        self._file, self._label = file, label
        self._size = 0

    def next(self) -> tuple[str, int] | None:
        """Name and size in bytes of the next member; ``None`` after the last, where the file must end.

        Raises:
            PackError: the header is not one that this release writes, or bytes follow the end.
        """
        block = self._exactly(BLOCK)
        if block == bytes(BLOCK):
            if self._exactly(BLOCK) != bytes(BLOCK) or self._file.read(1):
                raise self._refuse("more bytes follow its end")
            return None
        name, size = self._fields(block)
        if block != header(name, size):
            raise self._refuse(f"the header of {name!r} is not one that mmcl-edge writes")
        self._size = size
        return name, size

    def data(self) -> bytes:
        """The bytes of the member that ``next`` gave.

        Raises:
            PackError: the file ends before them, or what fills up their last block is not zero.
        """
        data = self._exactly(self._size)
        if any(self._exactly(-self._size % BLOCK)):
            raise self._refuse("what fills up a member's last block should be zero")
        return data

    def _fields(self, block: bytes) -> tuple[str, int]:
        for magic, name in _COMPRESSED.items():
            if block.startswith(magic):
                raise self._refuse(f"it should be plain tar, but is compressed ({name})")
        if block[257:262] != b"ustar":
            raise self._refuse("it is no tar file")
        kind = block[156:157]
        if kind != b"0":
            raise self._refuse(f"it should hold plain files, but holds {_KINDS.get(kind, 'something else')}")
        text, octal = block[:MAX_NAME_CHARS].rstrip(b"\0"), block[124:135]
        if not text.isascii() or not octal.isdigit() or any(digit > ord("7") for digit in octal):
            raise self._refuse("a header's name or size is malformed")
        return text.decode("ascii"), int(octal, 8)

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise self._refuse("it ends in the middle")
        return data

    def _refuse(self, problem: str) -> PackError:
        return PackError(f"{self._label} should be the archive of a pack, but {problem}; {_ADVICE}.")
