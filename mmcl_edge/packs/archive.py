"""Archives: one file that carries one pack, whole or as a delta against another.

A plain tar file (``packs.ustar``) with the members, in this order: ``delta.json`` (a delta alone), ``pack.json``,
``signatures.json`` (if signed), ``adapter_config.json``, ``eval.json``, ``README.md``, then the tensors:
``adapter_model.safetensors``, or ``tensors.delta``. No times, no owners: equal packs give equal bytes.

``open_archive`` performs these rules in this order, each refusing before the next; until rule 8 nothing is written:

1. The file is a plain one and no larger than a pack can be.
2. Members are plain files with the one header that their name and size have, in the order above, each once, and none
   larger than what it may be: known before it is read.
3. ``pack.json`` fits the schema, and has the expected digest; the pack is for the bundle that the caller names.
4. The signatures, if the caller requires some, hold (``packs.signing``), and are of this pack in any case.
5. Every further member has the size that ``pack.json`` states, and its sha256. Nothing follows the last.
6. Of a delta: its schema is known; its parent is here, whole, and is the pack that the delta names.
7. The tensors that a delta tells have the size and sha256 that ``pack.json`` states.
8. The folder is made beside its place, ``read_pack`` accepts it whole, and it takes its place by one rename.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mmcl_edge.errors import PackError
from mmcl_edge.fileio import atomic_folder, sha256_bytes, write_atomic
from mmcl_edge.packs.archive_reader import MAX_ARCHIVE_BYTES, ORDER, ArchiveContents, is_archive, read_archive
from mmcl_edge.packs.delta import DELTA_NAME, DELTA_TENSORS_NAME, Delta, apply_delta, make_delta
from mmcl_edge.packs.manifest import MANIFEST_NAME, MAX_BYTES, SIGNATURES_NAME, TENSORS_NAME
from mmcl_edge.packs.reader import Pack, holds_pack, read_pack
from mmcl_edge.packs.signing import joined, only_by, signature_bytes, verify_signatures
from mmcl_edge.packs.ustar import archive_bytes

if TYPE_CHECKING:
    from securesystemslib.signer import Key

__all__ = [
    "MAX_ARCHIVE_BYTES",
    "ORDER",
    "SUFFIX",
    "ArchiveContents",
    "ParentOf",
    "is_archive",
    "open_archive",
    "read_archive",
    "write_archive",
]

SUFFIX = ".mmclpack"
"""Name of an archive's file, by custom."""

_ADVICE = "fetch or export the archive again"

ParentOf = Callable[[str], Path | None]


def write_archive(pack_folder: Path, file: Path, *, parent: Path | None = None) -> str:
    """Verify the pack in ``pack_folder`` and write it to ``file``; returns the pack's digest.

    Args:
        pack_folder: of the pack; its signatures go along.
        file: appears whole or not at all, and replaces what is there.
        parent: folder of another pack: only the tensors that differ from its are written.

    Raises:
        PackError: one of the packs is broken.
        StorageError: the file cannot be written.
    """
    pack = read_pack(pack_folder)
    write_atomic(file, archive_of(pack, None if parent is None else read_pack(parent)))
    return pack.digest


def archive_of(pack: Pack, parent: Pack | None = None) -> bytes:
    """The bytes of the archive of ``pack``, a verified one: whole, or what differs from ``parent``.

    Raises:
        SignatureError: its signature file is malformed, or of another pack.
    """
    members = {name: (pack.path / name).read_bytes() for name in MAX_BYTES}
    signatures = signature_bytes(pack.path)
    if signatures is not None:
        verify_signatures(signatures, pack.manifest, pack.digest, ())
        members[SIGNATURES_NAME] = signatures
    if parent is not None:
        delta, tensors = make_delta(
            members.pop(TENSORS_NAME), (parent.path / TENSORS_NAME).read_bytes(), parent_digest=parent.digest
        )
        members |= {DELTA_NAME: delta.to_bytes(), DELTA_TENSORS_NAME: tensors}
    return archive_bytes((name, members[name]) for name in ORDER if name in members)


def open_archive(
    file: Path,
    into: Path,
    *,
    parent_of: ParentOf | None = None,
    bundle_digest: str | None = None,
    expected_digest: str | None = None,
    keys: Iterable[Key] | None = None,
    threshold: int = 1,
    only_verified: bool = False,
) -> str:
    """Verify the archive ``file`` by the rules above and make its pack ``into/<digest>``; returns the digest.

    A pack that is there already stays as it is, and gains the signatures of the archive; those that ``keys`` verify
    take the place of others under the same key id.

    Args:
        file: an archive.
        into: a folder of packs.
        parent_of: where the pack of a digest is (``into`` is looked at too); ``None`` where it is not here.
        bundle_digest: what the pack must be made for.
        expected_digest: of the pack.
        keys: trusted keys, of which ``threshold`` must have signed; ``None`` requires no signature.
        threshold: how many.
        only_verified: keep those signatures alone that ``keys`` verify.

    Raises:
        PackError: a rule fails; nothing has changed.
        StorageError: no space, read-only, no permission; nothing has changed.
    """
    found = read_archive(
        file, bundle_digest=bundle_digest, expected_digest=expected_digest, keys=keys, threshold=threshold
    )
    tensors = found.files.get(TENSORS_NAME)
    if found.delta is not None:
        tensors = _rebuilt(found, found.delta, lambda digest: _folder_of(digest, into, parent_of))
    files = {name: data for name, data in found.files.items() if name in MAX_BYTES or name == SIGNATURES_NAME}
    if only_verified and SIGNATURES_NAME in files:
        files[SIGNATURES_NAME] = only_by(found.signers, files[SIGNATURES_NAME], found.manifest, found.digest)
    target = into / found.digest
    if holds_pack(target, found.digest):
        _add_signatures(target, found, files.get(SIGNATURES_NAME))
        return found.digest
    with atomic_folder(target, replace=True) as staging:
        for name, data in {**files, TENSORS_NAME: tensors or b""}.items():
            (staging / name).write_bytes(data)
        read_pack(staging, expected_digest=found.digest, bundle_digest=bundle_digest)
    return found.digest


def _folder_of(digest: str, into: Path, parent_of: ParentOf | None) -> Path | None:
    found = None if parent_of is None else parent_of(digest)
    return found or (into / digest if (into / digest / MANIFEST_NAME).is_file() else None)


def _rebuilt(found: ArchiveContents, delta: Delta, folder_of: ParentOf) -> bytes:
    folder = folder_of(delta.parent)
    if folder is None:
        raise PackError(
            f"The archive is a delta against the pack {delta.parent[:16]}..., which is not here; fetch that one first, "
            "or the whole archive."
        )
    parent = read_pack(folder, expected_digest=delta.parent)
    entry = found.manifest.file(TENSORS_NAME)
    base = (parent.path / TENSORS_NAME).read_bytes()
    data = apply_delta(delta, found.files[DELTA_TENSORS_NAME], base, size_bytes=entry.size_bytes)
    if len(data) != entry.size_bytes or sha256_bytes(data) != entry.sha256:
        raise PackError(
            f"The delta should give tensors with sha256 {entry.sha256[:16]}..., but gives others: it was changed, or "
            f"made against another pack; {_ADVICE}."
        )
    return data


def _add_signatures(target: Path, found: ArchiveContents, new: bytes | None) -> None:
    before = signature_bytes(target)
    after = joined(before, new, found.manifest, found.digest, verified=found.signers)
    if after is not None and after != before:
        write_atomic(target / SIGNATURES_NAME, after)
