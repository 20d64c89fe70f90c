"""What push writes and the inbox reads: names, the signed description, shared exemplars. No network here.

An upload of one pack by one device lies in ``inbox/<key id>/<pack digest>/``::

    <32 letters of a sha256>.<number>    pieces of the archive, and of shared exemplars; number has five digits
    upload.json                          ``layout.Upload`` in a DSSE envelope, written last

The pieces of one blob are named by its hash, so those of two attempts never mix.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmcl_edge.errors import IntegrityError, PackError, SignatureError
from mmcl_edge.fileio import sha256_bytes
from mmcl_edge.fleet.layout import MAX_DOCUMENT_BYTES, Upload, dump, parse
from mmcl_edge.packs.envelopes import envelope_bytes, parse_envelope
from mmcl_edge.packs.manifest import Digest
from mmcl_edge.packs.ustar import Members, archive_bytes
from mmcl_edge.types import FrozenModel

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer

UPLOAD_NAME = "upload.json"
PAYLOAD_TYPE = "application/vnd.mmcl-edge.upload+json"
MAX_ENVELOPE_BYTES = 2 * MAX_DOCUMENT_BYTES
CHUNK_BYTES = 256 << 10
MAX_EXEMPLARS = 100_000

_PIECE = re.compile(r"[0-9a-f]{32}\.\d{5}")
_INDEX_NAME = "index.json"
_ADVICE = "ask the device to push it again"


class SharedExemplar(FrozenModel):
    """One training sample that a device shares: its class, and the digest that names it."""

    side: Literal["train", "holdout"]
    label: str = Field(min_length=1, max_length=255)
    object: Digest


class SharedIndex(FrozenModel):
    """Which samples a device shares, in order."""

    schema_version: Literal[1] = 1
    exemplars: tuple[SharedExemplar, ...] = Field((), max_length=MAX_EXEMPLARS)


def piece_name(sha256: str, index: int) -> str:
    """Name of piece ``index`` of the blob with that hash."""
    return f"{sha256[:32]}.{index:05}"


def is_piece(name: str) -> bool:
    """Whether ``name`` is one of a piece."""
    return _PIECE.fullmatch(name) is not None


def pieces(data: bytes, chunk_bytes: int = CHUNK_BYTES) -> Iterator[tuple[str, bytes]]:
    """The pieces of a blob with their names."""
    sha256 = sha256_bytes(data)
    for index, start in enumerate(range(0, len(data), chunk_bytes)):
        yield piece_name(sha256, index), data[start : start + chunk_bytes]


def seal(upload: Upload, signer: Signer) -> bytes:
    """The bytes of ``upload.json``: equal uploads by one key give equal bytes."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(dump(upload), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return envelope_bytes(envelope)


def unseal(data: bytes, key: Key) -> Upload:
    """The upload described by ``data``, verified as signed by ``key``.

    Raises:
        SignatureError: it is no such envelope, or not signed by that key.
        IntegrityError: what was signed is no description of an upload.
    """
    from securesystemslib.exceptions import UnverifiedSignatureError

    envelope = parse_envelope(data, PAYLOAD_TYPE, name=UPLOAD_NAME, advice=_ADVICE)
    if list(envelope.signatures) != [key.keyid]:
        signers = " and ".join(f"{keyid[:16]}..." for keyid in list(envelope.signatures)[:2]) or "nobody"
        raise SignatureError(
            f"{UPLOAD_NAME} should be signed by the key {key.keyid[:16]}... alone, but is by {signers}; {_ADVICE}."
        )
    try:
        key.verify_signature(envelope.signatures[key.keyid], envelope.pae())
    except UnverifiedSignatureError as error:
        raise SignatureError(
            f"The signature of {UPLOAD_NAME} by the key {key.keyid[:16]}... should hold, but does not: it was changed; "
            f"{_ADVICE}."
        ) from error
    return parse(Upload, envelope.payload, UPLOAD_NAME)


def pack_exemplars(index: SharedIndex, objects: Mapping[str, bytes]) -> bytes:
    """One blob with the index and every object that it names once."""
    members = [(_INDEX_NAME, dump(index)), *((f"{digest}.safetensors", objects[digest]) for digest in sorted(objects))]
    return archive_bytes(members)


def unpack_exemplars(data: bytes) -> tuple[SharedIndex, dict[str, bytes]]:
    """The opposite of ``pack_exemplars``; every object is what its name says.

    Raises:
        IntegrityError: anything else.
    """
    members = Members(io.BytesIO(data), "the shared exemplars")
    first = members.next()
    if first is None or first[0] != _INDEX_NAME:
        raise IntegrityError(f"Shared exemplars should begin with {_INDEX_NAME}, but do not; {_ADVICE}.")
    index = parse(SharedIndex, members.data(), f"{_INDEX_NAME} of the shared exemplars")
    named, objects = {one.object for one in index.exemplars}, {}
    while (member := members.next()) is not None:
        digest, content = member[0].removesuffix(".safetensors"), members.data()
        if digest not in named or digest in objects or sha256_bytes(content) != digest:
            raise IntegrityError(f"The shared exemplar {member[0]!r} is not one that the index names; {_ADVICE}.")
        objects[digest] = content
    if named != set(objects):
        raise IntegrityError(f"{len(named - set(objects))} shared exemplars are missing; {_ADVICE}.")
    return index, objects


def check_pieces(blob: str, size_bytes: int, chunk_bytes: int, found: Mapping[str, int]) -> Sequence[str]:
    """Names of the pieces of a blob, all of them there with the right size.

    Args:
        blob: sha256 of the whole.
        size_bytes: of the whole.
        chunk_bytes: of every piece but the last.
        found: names and sizes in bytes of what is there.

    Raises:
        PackError: one is missing or of another size.
    """
    count = -(-size_bytes // chunk_bytes)
    names = [piece_name(blob, index) for index in range(count)]
    for index, name in enumerate(names):
        size = chunk_bytes if index < count - 1 else size_bytes - chunk_bytes * (count - 1)
        if found.get(name) != size:
            state = "is not there" if name not in found else f"has {found[name]:,}"
            raise PackError(f"Piece {index + 1} of {count} should have {size:,} bytes, but {state}; {_ADVICE}.")
    return names
