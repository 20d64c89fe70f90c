"""Signatures of a pack: ``signatures.json`` in its folder, a DSSE envelope that the pack's digest does not cover.

What is signed is ``{"files": {name: sha256}, "pack": digest}`` in canonical JSON. The order in which a signature file
is checked, each step refusing before the next:

1. It is a plain file of at most 64 KiB and an envelope (``packs.envelopes``) in which no key signs twice.
2. Its payload is, byte for byte, what a signature of *this* pack signs: one of another pack is refused.
3. Every signature by a key that the caller trusts holds. Keys the caller does not know count for nothing.
4. At least ``threshold`` different trusted keys have signed, where a signature is required.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mmcl_edge.errors import IntegrityError, SignatureError
from mmcl_edge.fileio import canonical_json, read_bounded, sha256_bytes, write_atomic
from mmcl_edge.packs.envelopes import MAX_SIGNATURES, envelope_bytes, parse_envelope
from mmcl_edge.packs.manifest import MANIFEST_NAME, MAX_SIGNATURES_BYTES, SIGNATURES_NAME, PackManifest
from mmcl_edge.packs.reader import Pack, read_pack

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import Key, Signer

PAYLOAD_TYPE = "application/vnd.mmcl-edge.pack+json"

_ADVICE = "fetch the pack again, or have it signed anew (mmcl-edge pack sign)"


def signed_payload(manifest: PackManifest, digest: str) -> bytes:
    """The bytes that a signature of the pack ``digest`` signs."""
    files = {entry.path: entry.sha256 for entry in manifest.files} | {MANIFEST_NAME: digest}
    return canonical_json({"pack": digest, "files": files})


def sign_pack(folder: Path, signer: Signer) -> str:
    """Verify the pack in ``folder``, add a signature to its ``signatures.json``, and return the pack's digest.

    Signing twice with one key changes nothing.

    Raises:
        PackError: the pack is broken.
        SignatureError: its signature file is malformed, or of another pack.
        StorageError: the folder cannot be written.
    """
    from securesystemslib.dsse import Envelope

    pack = read_pack(folder)
    payload = signed_payload(pack.manifest, pack.digest)
    found = signature_bytes(pack.path)
    envelope = Envelope(payload, PAYLOAD_TYPE, {}) if found is None else _envelope(found, payload)
    envelope.sign(signer)
    if len(envelope.signatures) > MAX_SIGNATURES:
        raise SignatureError(f"{folder} has {MAX_SIGNATURES} signatures, and may not have more; remove some first.")
    write_atomic(pack.path / SIGNATURES_NAME, envelope_bytes(envelope))
    return pack.digest


def signature_bytes(folder: Path) -> bytes | None:
    """``signatures.json`` of the pack in ``folder``, unchecked; ``None`` where it has none.

    Raises:
        SignatureError: it is no plain file, or too large.
    """
    file = folder / SIGNATURES_NAME
    if not file.exists() and not file.is_symlink():
        return None
    if file.is_symlink():
        raise SignatureError(f"{file} should be a plain file, but is a link; {_ADVICE}.")
    try:
        return read_bounded(file, MAX_SIGNATURES_BYTES)
    except IntegrityError as error:
        raise SignatureError(str(error)) from error


def claimed_signers(pack: Pack) -> tuple[str, ...]:
    """Ids of the keys that the pack's signature file names, in order; see ``claimed_keys``.

    Raises:
        SignatureError: the file is malformed, or of another pack.
    """
    return claimed_keys(signature_bytes(pack.path), pack.manifest, pack.digest)


def claimed_keys(data: bytes | None, manifest: PackManifest, digest: str) -> tuple[str, ...]:
    """Ids of the keys that the contents ``data`` of a signature file name; only its form and its pack are verified.

    Raises:
        SignatureError: it is malformed, or of another pack.
    """
    return () if data is None else tuple(sorted(_envelope(data, signed_payload(manifest, digest)).signatures))


def verified_signers(pack: Pack | Path, keys: Iterable[Key]) -> frozenset[str]:
    """Ids of those ``keys`` that have signed ``pack`` (opened, or its folder); empty where it is not signed.

    Raises:
        PackError: the pack is broken.
        SignatureError: the file is malformed, of another pack, or a signature by one of ``keys`` does not hold.
    """
    opened = read_pack(pack) if isinstance(pack, Path) else pack
    return verify_signatures(signature_bytes(opened.path), opened.manifest, opened.digest, keys)


def verify_signatures(data: bytes | None, manifest: PackManifest, digest: str, keys: Iterable[Key]) -> frozenset[str]:
    """The same for the contents ``data`` of a signature file, before the pack has a folder."""
    from securesystemslib.exceptions import UnverifiedSignatureError

    if data is None:
        return frozenset()
    envelope, trusted = _envelope(data, signed_payload(manifest, digest)), {key.keyid: key for key in keys}
    found = {}
    for keyid, signature in envelope.signatures.items():
        if (key := trusted.get(keyid)) is None:
            continue
        try:
            key.verify_signature(signature, envelope.pae())
        except UnverifiedSignatureError as error:
            raise SignatureError(
                f"The signature of the pack {digest[:16]}... by the key {keyid[:16]}... should hold, but does not: "
                f"it was changed; {_ADVICE}."
            ) from error
        found[str(key.keyval["public"])] = keyid
    return frozenset(found.values())


def require_signature(pack: Pack, keys: Iterable[Key], *, threshold: int = 1) -> frozenset[str]:
    """Refuse ``pack`` unless at least ``threshold`` of ``keys`` have signed it; returns the ids of those that have.

    Raises:
        SignatureError: too few have; or see ``verified_signers``.
    """
    return require(signature_bytes(pack.path), pack.manifest, pack.digest, keys, threshold=threshold)


def require(
    data: bytes | None, manifest: PackManifest, digest: str, keys: Iterable[Key], *, threshold: int = 1
) -> frozenset[str]:
    """``require_signature`` for the contents ``data`` of a signature file, before the pack has a folder."""
    trusted = tuple(keys)
    if not 1 <= threshold <= max(len(trusted), 1):
        raise SignatureError(
            f"A threshold should be between 1 and the number of trusted keys, {len(trusted)}, but is {threshold}; "
            "name more keys, or require fewer signatures."
        )
    found = verify_signatures(data, manifest, digest, trusted)
    if len(found) < threshold:
        state = "it is not signed" if data is None else f"{len(found)} have"
        raise SignatureError(
            f"At least {threshold} of {len(trusted)} trusted keys should have signed the pack {digest[:16]}..., but "
            f"{state}; use a pack from a source you trust, or sign it with 'mmcl-edge pack sign'."
        )
    return found


def joined(
    there: bytes | None,
    new: bytes | None,
    manifest: PackManifest,
    digest: str,
    *,
    verified: frozenset[str] = frozenset(),
) -> bytes | None:
    """One signature file with the signatures of both; ``None`` where there is none.

    Of two signatures under one key id, that of ``new`` wins where it was verified, else the one that is there. Of more
    than ``MAX_SIGNATURES``, those verified stay, then those there.

    Args:
        there: the file to add to.
        new: another file of the same pack.
        manifest: of the pack.
        digest: of the pack.
        verified: ids of the keys whose signatures in ``new`` hold. Nothing else is verified here but the form.

    Raises:
        SignatureError: one is malformed, or of another pack.
    """
    payload = signed_payload(manifest, digest)
    envelopes = [_envelope(data, payload) for data in (new, there) if data is not None]
    if not envelopes:
        return None
    newcomers = {} if new is None else envelopes[0].signatures
    before = {} if there is None else envelopes[-1].signatures
    chosen = {keyid: newcomers[keyid] for keyid in sorted(verified & newcomers.keys())}
    for more in (before, newcomers):
        chosen |= {keyid: one for keyid, one in more.items() if keyid not in chosen}
    envelopes[0].signatures = dict(list(chosen.items())[:MAX_SIGNATURES])
    return envelope_bytes(envelopes[0])


def only_by(keyids: frozenset[str], data: bytes, manifest: PackManifest, digest: str) -> bytes:
    """The signature file ``data`` without the signatures of all keys but these.

    Raises:
        SignatureError: it is malformed, or of another pack.
    """
    envelope = _envelope(data, signed_payload(manifest, digest))
    envelope.signatures = {keyid: one for keyid, one in envelope.signatures.items() if keyid in keyids}
    return envelope_bytes(envelope)


def _envelope(data: bytes, payload: bytes) -> Envelope:
    envelope = parse_envelope(data, PAYLOAD_TYPE, name=SIGNATURES_NAME, advice=_ADVICE)
    if envelope.payload != payload:
        raise SignatureError(
            f"{SIGNATURES_NAME} should sign this pack, but it signs something else "
            f"({sha256_bytes(envelope.payload)[:16]}...): it belongs to another pack; {_ADVICE}."
        )
    return envelope
