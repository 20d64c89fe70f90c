"""Verified packs, seen as numbers that lie in a file: read a piece at a time, into little memory, without torch.

Rules, performed in this order:

1. ``verify`` reads a pack once, whole, by all the rules of ``read_pack``, and its sums, if it has some, by those of
   ``addends_of``, its shared space by those of ``space_of``; then it keeps what merging needs to know of it (labels,
   experts, where each tensor lies) and forgets the values. What many packs say alike is kept once.
2. Tensors that are stored as fp16 are seen under their plain names; those of a pack stored as int8 are widened once,
   into a scratch file.
3. Values are read later, in pieces. A file that is not the one that was verified any more (another inode, size or time
   of change) is refused.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mmcl_edge.config import MethodConfig
from mmcl_edge.errors import PackError
from mmcl_edge.fileio import canonical_json, write_atomic
from mmcl_edge.packs import Expert, PackManifest, Parent, read_pack
from mmcl_edge.packs.manifest import TENSORS_NAME
from mmcl_edge.packs.precision import plain_name, precision_of, restored
from mmcl_edge.packs.tensors import DTYPES, SUMS_PREFIX, TensorEntry

Array = NDArray[Any]
Layout = tuple[tuple[str, TensorEntry], ...]
Stamp = tuple[int, int, int, int]
_KINDS = {dtype: kind for kind, dtype in DTYPES.items() if kind not in ("BF16", "BOOL")}
Kept = TypeVar("Kept", bound=Hashable)

REAL = frozenset({"F64", "F32", "F16", "BF16"})
"""Dtypes whose values can be averaged."""


@dataclass(frozen=True, slots=True)
class Source:
    """One verified pack.

    Attributes:
        path: its folder.
        digest: its digest.
        bundle_digest: the bundle it was made for.
        version: its version.
        labels: class names in the order of the head's rows.
        experts: in the order of the manifest.
        parents: the packs it was made from.
        sample_counts: ``(class, samples)`` pairs.
        experiences: names of what was learned.
        privacy: ``(setting, value)`` pairs.
        minimum_runtime: oldest release that reads it.
        config: the method's configuration as JSON text.
        module: what else rebuilds the module, as JSON text.
        layout: where each tensor lies, by name.
        exact: whether its weights are what was trained, not rounded to fewer bits.
        file: where the values lie: the pack's tensors file, or its scratch file.
        begin: byte of that file where values begin.
        stamp: device, inode, size and time of change of that file when it was verified.
    """

    path: Path
    digest: str
    bundle_digest: str
    version: int
    labels: tuple[str, ...]
    experts: tuple[Expert, ...]
    parents: tuple[Parent, ...]
    sample_counts: tuple[tuple[str, int], ...]
    experiences: tuple[str, ...]
    privacy: tuple[tuple[str, Any], ...]
    minimum_runtime: str
    config: str
    module: str
    layout: Layout
    exact: bool
    file: Path
    begin: int
    stamp: Stamp

    @property
    def method(self) -> MethodConfig:
        """The method's configuration."""
        return MethodConfig.model_validate_json(self.config)

    def entries(self) -> dict[str, TensorEntry]:
        """Where each tensor lies, by name."""
        return dict(self.layout)


class Alike:
    """Keeps one of each value: packs of a fleet say much that is equal."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Any] = {}

    def one(self, value: Kept) -> Kept:
        """The value equal to ``value`` that was seen first."""
        known: Kept = self._known.setdefault(value, value)
        return known

    def source(self, source: Source) -> Source:
        """``source`` with its large fields shared."""
        return replace(
            source,
            labels=self.one(source.labels),
            experts=self.one(source.experts),
            parents=self.one(source.parents),
            sample_counts=self.one(source.sample_counts),
            experiences=self.one(source.experiences),
            config=self.one(source.config),
            module=self.one(source.module),
            layout=self.one(source.layout),
        )


def verify(path: Path, scratch: Path) -> Source:
    """The pack in folder ``path``, by all the rules of ``read_pack``.

    Args:
        path: the pack.
        scratch: folder for the values of packs that are stored as int8.

    Raises:
        PackError: a rule fails, or the file changed meanwhile.
    """
    before = _stamp(path / TENSORS_NAME)
    pack = read_pack(path)
    if any(name.startswith(SUMS_PREFIX) for name in pack.entries):
        from mmcl_edge.learners.analytic.addends import addends_of

        addends_of(pack)
    if pack.space() is not None or pack.config.space is not None:
        from mmcl_edge.learners.comet.storage import space_of

        space_of(pack)
    manifest: PackManifest = pack.manifest
    precision = precision_of(pack.entries)
    size = max((entry.end for entry in pack.entries.values()), default=0)
    source = Source(
        path=pack.path,
        digest=pack.digest,
        bundle_digest=manifest.bundle_digest,
        version=manifest.version,
        labels=manifest.label_names,
        experts=manifest.experts,
        parents=manifest.parents,
        sample_counts=tuple(sorted(manifest.sample_counts.items())),
        experiences=manifest.experiences,
        privacy=tuple(sorted(manifest.privacy.items())),
        minimum_runtime=manifest.minimum_runtime,
        config=pack.config.model_dump_json(),
        module=_json(pack.module),
        layout=tuple((plain_name(name), pack.entries[name]) for name in sorted(pack.entries)),
        exact=precision == "fp32",
        file=pack.path / TENSORS_NAME,
        begin=manifest.file(TENSORS_NAME).size_bytes - size,
        stamp=before,
    )
    if _stamp(source.file) != before:
        raise _changed(source)
    if precision == "int8":
        return _widened(source, pack.entries, scratch)
    return source


def _widened(source: Source, stored: Mapping[str, TensorEntry], scratch: Path) -> Source:
    """The same pack with its values as float32 in a scratch file."""
    with opened(source) as handle:
        values = restored(
            {name: tensor(handle, source, entry) for name, entry in stored.items()},
            lambda value: value.astype(np.float32),
        )
    file, layout, end = scratch / f"{source.digest}.values", [], 0
    for name, value in sorted(values.items()):
        kind = "BOOL" if value.dtype == np.bool_ else _KINDS[value.dtype]
        layout.append((name, TensorEntry(kind, value.shape, end, end + value.nbytes)))
        end += value.nbytes
    write_atomic(file, b"".join(value.tobytes() for _, value in sorted(values.items())), mode=0o600)
    return replace(source, layout=tuple(layout), file=file, begin=0, stamp=_stamp(file))


def _json(value: Mapping[str, Any]) -> str:
    return canonical_json(dict(value)).decode()


def _stamp(file: Path) -> Stamp:
    try:
        found = file.stat()
    except OSError:
        return (0, 0, 0, 0)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _changed(source: Source) -> PackError:
    return PackError(
        f"The tensors of the pack {source.digest[:16]}... at {source.path} should stay as they were verified, but "
        "changed during the merge; see that nothing writes there and merge again."
    )


@contextmanager
def opened(source: Source) -> Iterator[int]:
    """The tensors file of ``source`` as a descriptor, if it is the one that was verified.

    Raises:
        PackError: it is not.
    """
    try:
        handle = os.open(source.file, os.O_RDONLY)
    except OSError as error:
        raise _changed(source) from error
    try:
        found = os.fstat(handle)
        if (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns) != source.stamp:
            raise _changed(source)
        yield handle
    finally:
        os.close(handle)


def read_bytes(handle: int, begin: int, size: int) -> bytes:
    """``size`` bytes from byte ``begin`` of a file.

    Raises:
        PackError: it is shorter.
    """
    parts = []
    while size > 0:
        part = os.pread(handle, size, begin)
        if not part:
            raise PackError("The tensors of a pack end before their last value; see that nothing writes there.")
        parts.append(part)
        begin, size = begin + len(part), size - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def decode(data: bytes | memoryview, dtype: str) -> Array:
    """Values ``(n,)`` of a dtype; 16-bit ones become float32, others stay in the memory of ``data``."""
    found = np.frombuffer(data, dtype=DTYPES[dtype])
    if dtype == "BF16":
        return (found.astype(np.uint32) << 16).view(np.float32)
    if dtype == "BOOL":
        return found.view(np.bool_)
    return found.astype(np.float32) if dtype == "F16" else found


def out_dtype(dtypes: Iterable[str]) -> np.dtype[Any]:
    """What a tensor that some packs hold in these dtypes is written as: real numbers as float32, or float64."""
    kinds = set(dtypes)
    if kinds <= REAL:
        return np.dtype(np.float64 if "F64" in kinds else np.float32)
    return np.result_type(*(np.dtype(np.bool_) if kind == "BOOL" else DTYPES[kind] for kind in kinds))


def tensor(handle: int, source: Source, entry: TensorEntry) -> Array:
    """One tensor, in its shape."""
    return decode(read_bytes(handle, source.begin + entry.begin, entry.end - entry.begin), entry.dtype).reshape(
        entry.shape
    )
