"""Reads the weights of a CTranslate2 model (``model.bin``), and nothing else of it.

Layout, little endian: ``u32`` format version, string spec name, ``u32`` spec revision, ``u32`` number of
variables, then per variable: string name, ``u8`` rank, rank times ``u32`` size, ``u8`` type id,
``u32`` byte count, the bytes. A string is ``u16`` length (with a final NUL), then its bytes.

Rules: every count is checked against the bytes that are left before anything of that size is read, a byte
count must be what shape and type say, a name comes once, and variables outside ``prefix`` are skipped unread.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from mmcl_edge.errors import ExportError

FORMAT_VERSION = 6
MAX_VARIABLES = 100_000
MAX_RANK = 8
MAX_NAME_BYTES = 1024
_DTYPES = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}


def read_weights(path: Path, *, spec: str, prefix: str = "") -> dict[str, NDArray[np.generic]]:
    """Variables of ``path`` whose names begin with ``prefix``, keyed without it.

    Args:
        path: a ``model.bin``.
        spec: the model kind it must declare, for example ``WhisperSpec``.
        prefix: keep only these names.

    Raises:
        ExportError: the file is truncated, malformed, of another version or of another kind.
    """
    with path.open("rb") as file:
        reader = _Reader(file, path.name, path.stat().st_size)
        reader.header(spec)
        found: dict[str, NDArray[np.generic]] = {}
        for name, array in reader.variables(prefix):
            if name in found:
                raise reader.error(f"the variable {name!r} comes twice")
            found[name] = array
    return found


class _Reader:
    """A cursor that never reads past the end."""

    def __init__(self, file: BinaryIO, name: str, size_bytes: int) -> None:
        self.file, self.name, self.left = file, name, size_bytes

    def error(self, found: str) -> ExportError:
        return ExportError(
            f"{self.name} should be a CTranslate2 model of format {FORMAT_VERSION}, but {found}; install it again."
        )

    def take(self, count: int) -> bytes:
        self._spend(count)
        return self.file.read(count)

    def skip(self, count: int) -> None:
        self._spend(count)
        self.file.seek(count, 1)

    def _spend(self, count: int) -> None:
        if count > self.left:
            raise self.error(f"it ends {count - self.left:,} bytes too early")
        self.left -= count

    def number(self, code: str) -> int:
        return int(struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0])

    def text(self) -> str:
        length = self.number("H")
        if not 1 <= length <= MAX_NAME_BYTES:
            raise self.error(f"it holds a name of {length} bytes")
        try:
            return self.take(length).rstrip(b"\0").decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error("it holds a name that is not UTF-8") from error

    def header(self, spec: str) -> None:
        version = self.number("I")
        if version != FORMAT_VERSION:
            raise self.error(f"its format is {version}")
        kind = self.text()
        if kind != spec:
            raise self.error(f"it holds a {kind!r} where {spec!r} was expected")
        self.number("I")  # the spec's revision: variable names are checked by the caller

    def variables(self, prefix: str) -> Iterator[tuple[str, NDArray[np.generic]]]:
        count = self.number("I")
        if count > MAX_VARIABLES:
            raise self.error(f"it declares {count:,} variables")
        for _ in range(count):
            name, shape, dtype, size_bytes = self.text(), self._shape(), self._dtype(), self.number("I")
            if size_bytes != math.prod(shape) * dtype.itemsize:
                raise self.error(f"{name!r} of shape {shape} and type {dtype} has {size_bytes:,} bytes")
            if name.startswith(prefix):
                yield name[len(prefix) :], np.frombuffer(self.take(size_bytes), dtype).reshape(shape)
            else:
                self.skip(size_bytes)

    def _shape(self) -> tuple[int, ...]:
        rank = self.number("B")
        if rank > MAX_RANK:
            raise self.error(f"it holds a tensor of rank {rank}")
        return tuple(self.number("I") for _ in range(rank))

    def _dtype(self) -> np.dtype[np.generic]:
        code = self.number("B")
        if code not in _DTYPES:
            raise self.error(f"it holds a tensor of type id {code} (known: {sorted(_DTYPES)})")
        return np.dtype(_DTYPES[code])
