"""DSSE envelopes in JSON: the form of ``signatures.json`` and of an upload's description. No signature is verified.

An envelope is an object of three fields and no further one: ``payload`` (base64), ``payloadType``, ``signatures`` (each
a ``keyid`` and a ``sig`` of 64 bytes in base64). Equal envelopes give equal bytes.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from pydantic import Field

from mmcl_edge.errors import SignatureError
from mmcl_edge.fileio import canonical_json
from mmcl_edge.packs.manifest import Digest, validation_sentence
from mmcl_edge.types import FrozenModel

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope

MAX_SIGNATURES = 64


class _Signature(FrozenModel):
    keyid: Digest
    sig: str = Field(pattern=r"^[A-Za-z0-9+/]{86}==$", description="64 bytes in base64.")


class _File(FrozenModel):
    payload: str = Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$", description="In base64.")
    payloadType: str  # noqa: N815
    signatures: tuple[_Signature, ...] = Field(max_length=MAX_SIGNATURES)


def parse_envelope(data: bytes, payload_type: str, *, name: str, advice: str) -> Envelope:
    """The envelope in ``data``, whose size the caller has bounded; every key signs once.

    Args:
        data: bytes from anywhere.
        payload_type: what it must be an envelope of.
        name: of the file, for errors.
        advice: what to do about a bad one, for errors.

    Raises:
        SignatureError: anything else.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import Signature

    try:
        file = _File.model_validate_json(data)
        payload = base64.b64decode(file.payload, validate=True)
    except ValueError as error:  # of the schema, of base64, of a character that is not ASCII
        raise SignatureError(
            f"{name} should be a signed envelope, but is not: {validation_sentence(error)}; {advice}."
        ) from error
    if file.payloadType != payload_type:
        raise SignatureError(
            f"{name} should be a signed envelope of the type {payload_type}, but is of another; {advice}."
        )
    signatures = {
        one.keyid: Signature(one.keyid, base64.b64decode(one.sig, validate=True).hex()) for one in file.signatures
    }
    if len(signatures) != len(file.signatures):
        raise SignatureError(f"{name} should name each key once, but names one twice; {advice}.")
    return Envelope(payload, payload_type, signatures)


def envelope_bytes(envelope: Envelope) -> bytes:
    """The bytes of ``envelope``, its signatures ordered by key id."""
    signatures = [
        {"keyid": keyid, "sig": base64.b64encode(bytes.fromhex(envelope.signatures[keyid].signature)).decode()}
        for keyid in sorted(envelope.signatures)
    ]
    return canonical_json(
        {
            "payload": base64.b64encode(envelope.payload).decode(),
            "payloadType": envelope.payload_type,
            "signatures": signatures,
        }
    )
