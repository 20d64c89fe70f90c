"""The tensors file: checked as bytes, before any library parses it.

Layout of safetensors: 8 bytes header length (little endian), a JSON header
``{name: {"dtype", "shape", "data_offsets"}}``, then the raw values. Packs carry no ``__metadata__``: free text belongs
in the manifest. The check needs numpy alone.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmcl_edge.errors import PackError

if TYPE_CHECKING:
    import torch

MAX_HEADER_BYTES = 4 << 20
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 8
MAX_LENGTH = 1 << 31
MAX_WEIGHT = 1e6
"""Trained weights end up below 100: gradients are clipped and weights decay. Four orders of magnitude above that, no
training of ours has been; a few such weights would decide every answer, and spoil a mean they are merged into.
"""

MAX_SUM = 1e15
"""Sums of the analytic head and statistics of a calibration: a thousand million samples whose features are 1,000."""

SUMS_PREFIX = "analytic."
"""Names of tensors that are sums of the analytic learner begin so; they stay exact."""
SPACE_PREFIX = "space."
"""Names of tensors that are parts of a shared space begin so."""
_SUMS = (SUMS_PREFIX, "confidence.")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,255}")
_ADVICE = "fetch the pack again"

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("u1"),
}
"""Accepted dtypes, with the numpy type their bytes are checked as (BF16 as bit patterns)."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies: ``begin`` and ``end`` in bytes from the start of the values."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def serialise(tensors: Mapping[str, torch.Tensor | NDArray[Any]]) -> bytes:
    """``tensors`` as the bytes of a safetensors file: the same bytes for the same names and values.

    Arrays of numpy alone are written without torch.
    """
    arrays = {name: value for name, value in tensors.items() if isinstance(value, np.ndarray)}
    if len(arrays) == len(tensors):
        from safetensors.numpy import save as save_arrays

        return save_arrays(
            {name: np.ascontiguousarray(arrays[name]).reshape(arrays[name].shape) for name in sorted(arrays)}
        )
    import torch
    from safetensors.torch import save

    values = {
        name: value if isinstance(value, torch.Tensor) else torch.from_numpy(value) for name, value in tensors.items()
    }
    return save({name: values[name].detach().cpu().contiguous().clone() for name in sorted(values)})


def check_tensors(data: bytes) -> dict[str, TensorEntry]:
    """The entries of a tensors file, after checking in this order:

    1. the header's length is bounded and inside the file; 2. it is a JSON object without repeated names;
    3. names, dtypes, shapes and offsets are well formed; 4. the tensors fill the file with no gap and no overlap;
    5. every value is finite, and its magnitude within ``limit_of`` the tensor.

    Raises:
        PackError: a rule fails; the message names the tensor.
    """  # noqa: D415
    header, values = _split(data)
    entries = {name: _entry(name, raw) for name, raw in _parse(header).items()}
    _check_layout(entries, len(values))
    for name, entry in entries.items():
        _check_values(name, entry, values)
    return entries


def parse_layout(data: bytes, *, size_bytes: int | None = None) -> tuple[dict[str, TensorEntry], int]:
    """The entries of a tensors file and the byte where its values begin: rules 1 to 4 of ``check_tensors``.

    Args:
        data: the file, or its beginning up to the end of the header at least.
        size_bytes: of the whole file, where ``data`` is not all of it.

    Raises:
        PackError: a rule fails.
    """
    header, _ = _split(data)
    start = 8 + len(header)
    entries = {name: _entry(name, raw) for name, raw in _parse(header).items()}
    _check_layout(entries, (len(data) if size_bytes is None else size_bytes) - start)
    return entries, start


def _refuse(problem: str) -> PackError:
    return PackError(f"The pack's tensors file is malformed: {problem}; {_ADVICE}.")


def _split(data: bytes) -> tuple[bytes, memoryview]:
    if len(data) < 8:
        raise _refuse(f"it has {len(data)} bytes, but its header alone needs more")
    (length,) = struct.unpack("<Q", data[:8])
    if length > MAX_HEADER_BYTES or length > len(data) - 8:
        raise _refuse(
            f"its header claims {length:,} bytes, of {len(data) - 8:,} that follow (limit {MAX_HEADER_BYTES:,})"
        )
    return data[8 : 8 + length], memoryview(data)[8 + length :]


def _parse(header: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(header, object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise _refuse(f"its header is not JSON ({error})") from error
    if not isinstance(raw, dict) or len(raw) > MAX_TENSORS:
        raise _refuse(f"its header should be an object of at most {MAX_TENSORS:,} tensors")
    return raw


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice")
    return found


def _entry(name: str, raw: Any) -> TensorEntry:
    if not _NAME.fullmatch(name):
        raise _refuse(f"{name[:80]!r} is not a tensor name")
    if not isinstance(raw, dict) or set(raw) != {"dtype", "shape", "data_offsets"}:
        raise _refuse(f"the entry of {name} should hold dtype, shape and data_offsets alone")
    dtype, shape, offsets = raw["dtype"], raw["shape"], raw["data_offsets"]
    if dtype not in DTYPES if isinstance(dtype, str) else True:
        raise _refuse(f"{name} has dtype {dtype!r}, but accepted are {', '.join(DTYPES)}")
    if not _naturals(shape, MAX_LENGTH) or len(shape) > MAX_DIMENSIONS:
        raise _refuse(f"the shape of {name} should be at most {MAX_DIMENSIONS} lengths, but is {str(shape)[:80]}")
    if not _naturals(offsets, 1 << 62) or len(offsets) != 2:
        raise _refuse(f"the offsets of {name} should be two numbers, but are {str(offsets)[:80]}")
    return TensorEntry(dtype, tuple(shape), offsets[0], offsets[1])


def _naturals(value: Any, limit: int) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= limit for item in value)


def _check_layout(entries: Mapping[str, TensorEntry], size: int) -> None:
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            raise _refuse(f"{name} begins at byte {entry.begin:,}, but the tensor before it ends at {position:,}")
        expected = math.prod(entry.shape) * DTYPES[entry.dtype].itemsize
        if entry.end - entry.begin != expected:
            raise _refuse(f"{name} should take {expected:,} bytes, but takes {entry.end - entry.begin:,}")
        position = entry.end
    if position != size:
        raise _refuse(f"its tensors take {position:,} bytes, but {size:,} are there")


def limit_of(name: str) -> float:
    """Largest magnitude that a floating-point value of the tensor ``name`` may have."""
    if name.startswith(_SUMS):
        return MAX_SUM
    return MAX_WEIGHT / 127 if name.endswith(":scale") else MAX_WEIGHT


def _check_values(name: str, entry: TensorEntry, values: memoryview) -> None:
    array = np.frombuffer(values[entry.begin : entry.end], dtype=DTYPES[entry.dtype])
    if entry.dtype == "BOOL" and array.size and array.max() > 1:
        raise _refuse(f"{name} holds bytes that are neither true nor false")
    finite = (array & 0x7F80) != 0x7F80 if entry.dtype == "BF16" else np.isfinite(array)
    if not finite.all():
        raise PackError(
            f"The pack's tensor {name} should be finite, but {int((~finite).sum()):,} values are not; {_ADVICE}."
        )
    largest = _magnitude(array, entry.dtype)
    if largest > limit_of(name):
        raise PackError(
            f"The pack's tensor {name} should have no value above {limit_of(name):g}, which training never gives, but "
            f"has {largest:g}; {_ADVICE}, and ask where it came from."
        )


def _magnitude(array: NDArray[Any], dtype: str) -> float:
    if not array.size or dtype not in ("F64", "F32", "F16", "BF16"):
        return 0.0
    if dtype == "BF16":
        array = (array.astype("<u4") << 16).view("<f4")
    return float(max(array.max(), -array.min()))
