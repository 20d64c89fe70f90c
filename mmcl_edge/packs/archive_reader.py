"""Reading archives: rules 1 to 5 of ``packs.archive``, before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mmcl_edge.errors import PackError
from mmcl_edge.fileio import sha256_bytes
from mmcl_edge.packs.delta import DELTA_NAME, DELTA_TENSORS_NAME, MAX_DELTA_BYTES, Delta, read_delta
from mmcl_edge.packs.manifest import (
    CARD_NAME,
    CONFIG_NAME,
    EVAL_NAME,
    MANIFEST_NAME,
    MAX_BYTES,
    MAX_SIGNATURES_BYTES,
    SIGNATURES_NAME,
    TENSORS_NAME,
    PackManifest,
)
from mmcl_edge.packs.reader import parse_manifest
from mmcl_edge.packs.signing import require, verify_signatures
from mmcl_edge.packs.ustar import BLOCK, END, Members

if TYPE_CHECKING:
    from securesystemslib.signer import Key

ORDER = (
    DELTA_NAME,
    MANIFEST_NAME,
    SIGNATURES_NAME,
    CONFIG_NAME,
    EVAL_NAME,
    CARD_NAME,
    TENSORS_NAME,
    DELTA_TENSORS_NAME,
)
CAPS = {
    **MAX_BYTES,
    DELTA_NAME: MAX_DELTA_BYTES,
    DELTA_TENSORS_NAME: MAX_BYTES[TENSORS_NAME],
    SIGNATURES_NAME: MAX_SIGNATURES_BYTES,
}
MAX_ARCHIVE_BYTES = sum(CAPS.values()) - CAPS[DELTA_TENSORS_NAME] + len(ORDER) * 2 * BLOCK + len(END)
"""No archive of a pack can be larger."""

_ADVICE = "fetch or export the archive again"


@dataclass(frozen=True)
class ArchiveContents:
    """What is in an archive, checked up to rule 5, as bytes.

    Attributes:
        manifest: of the pack.
        digest: of the pack.
        files: the members by name.
        delta: contents of ``delta.json``; ``None`` in a whole archive.
        signers: ids of the keys, of those required, that have signed.
    """

    manifest: PackManifest
    digest: str
    files: Mapping[str, bytes]
    delta: Delta | None = None
    signers: frozenset[str] = field(default_factory=frozenset)


def is_archive(path: Path) -> bool:
    """Whether ``path`` is a file that begins as an archive does; nothing is verified."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(BLOCK)[257:262] == b"ustar"


def read_archive(
    file: Path,
    *,
    bundle_digest: str | None = None,
    expected_digest: str | None = None,
    keys: Iterable[Key] | None = None,
    threshold: int = 1,
) -> ArchiveContents:
    """What is in the archive ``file``, checked by rules 1 to 5; the arguments are those of ``open_archive``.

    Raises:
        PackError: a rule fails.
    """
    _check_size(file)
    with file.open("rb") as stream:
        reader = _Reader(Members(stream, str(file)), str(file))
        delta_data = reader.take(DELTA_NAME, optional=True)
        delta = None if delta_data is None else read_delta(delta_data)
        manifest_data = reader.take(MANIFEST_NAME)
        manifest, digest = parse_manifest(manifest_data or b"", str(file))
        _check_expected(manifest, digest, bundle_digest, expected_digest, file)
        signatures = reader.take(SIGNATURES_NAME, optional=True)
        signers = _check_signatures(signatures, manifest, digest, keys, threshold)
        for name in (CONFIG_NAME, EVAL_NAME, CARD_NAME):
            reader.take(name, like=manifest)
        if delta is None:
            reader.take(TENSORS_NAME, like=manifest)
        else:
            reader.take(DELTA_TENSORS_NAME, cap=manifest.file(TENSORS_NAME).size_bytes)
        reader.end()
    return ArchiveContents(manifest, digest, reader.files, delta, signers)


class _Reader:
    """Takes members in their order, each checked before it is read; keeps them in ``files``."""

    def __init__(self, members: Members, label: str) -> None:
        self.files: dict[str, bytes] = {}
        self._members, self._label = members, label
        self._next = members.next()

    def take(
        self, name: str, *, optional: bool = False, cap: int | None = None, like: PackManifest | None = None
    ) -> bytes | None:
        """The member ``name``, which is next; ``None`` where it may be missing and is."""
        if self._next is None or self._next[0] != name:
            if optional:
                return None
            raise self._unexpected(name)
        size = self._next[1]
        if like is not None and size != like.file(name).size_bytes:
            raise self._refuse(f"{name} should have {like.file(name).size_bytes:,} bytes, but claims {size:,}")
        limit = CAPS[name] if cap is None else cap
        if size > limit:
            raise self._refuse(f"{name} may have {limit:,} bytes there, but claims {size:,}; it was not read")
        data = self._members.data()
        if like is not None and sha256_bytes(data) != like.file(name).sha256:
            raise self._refuse(
                f"{name} should have sha256 {like.file(name).sha256[:16]}..., but its bytes were changed"
            )
        self.files[name] = data
        self._next = self._members.next()
        return data

    def end(self) -> None:
        """Refuse whatever follows."""
        if self._next is not None:
            raise self._unexpected("no more")

    def _unexpected(self, expected: str) -> PackError:
        found = "its end" if self._next is None else repr(self._next[0])
        return self._refuse(f"expected {expected} as its next member, but found {found}")

    def _refuse(self, problem: str) -> PackError:
        return PackError(f"The archive {self._label} is refused: {problem}; {_ADVICE}.")


def _check_size(file: Path) -> None:
    if not file.is_file():
        raise PackError(f"Expected the archive of a pack at {file}, but there is no such file; {_ADVICE}.")
    size = file.stat().st_size
    if size > MAX_ARCHIVE_BYTES:
        raise PackError(f"{file} may have {MAX_ARCHIVE_BYTES:,} bytes, but has {size:,}; it was not read. {_ADVICE}.")


def _check_expected(
    manifest: PackManifest, digest: str, bundle_digest: str | None, expected: str | None, file: Path
) -> None:
    if expected is not None and digest != expected:
        raise PackError(f"Expected the pack {expected[:16]}..., but {file} carries {digest[:16]}...; {_ADVICE}.")
    if bundle_digest is not None and manifest.bundle_digest != bundle_digest:
        raise PackError(
            f"The pack {digest[:16]}... was made for the bundle {manifest.bundle_digest[:16]}..., "
            f"but the bundle here is {bundle_digest[:16]}...; open that bundle, or use a pack made for this one."
        )


def _check_signatures(
    data: bytes | None, manifest: PackManifest, digest: str, keys: Iterable[Key] | None, threshold: int
) -> frozenset[str]:
    if keys is None:
        return verify_signatures(data, manifest, digest, ())
    return require(data, manifest, digest, keys, threshold=threshold)
