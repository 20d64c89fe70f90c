"""The public part of a key: a small file that is handed out, and carries nothing that must stay secret."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError, model_validator

from mmcl_edge.errors import IntegrityError, KeyFileError
from mmcl_edge.fileio import read_bounded
from mmcl_edge.packs.manifest import validation_sentence
from mmcl_edge.types import FrozenModel

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

NAME_PATTERN = r"[a-z][a-z0-9-]{0,31}"
MAX_PUBLIC_BYTES = 4096

_TIME = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"

Status = Literal["active", "rotated", "revoked"]


class PublicKey(FrozenModel):
    """The public part of a key: contents of ``<name>.pub.json``, and what a fleet is given to enrol a device."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=rf"^{NAME_PATTERN}$")
    keyid: str = Field(pattern=r"^[0-9a-f]{64}$", description="sha256 of the public part.")
    keytype: Literal["ed25519"] = "ed25519"
    public: str = Field(pattern=r"^[0-9a-f]{64}$", description="The 32 bytes of the public key.")
    made: str = Field(pattern=_TIME, description="When it was made, UTC.")
    status: Status = "active"
    ended: str | None = Field(None, pattern=_TIME, description="When it ended, UTC.")

    @model_validator(mode="after")
    def _consistent(self) -> PublicKey:
        if self.key.keyid != self.keyid:
            raise ValueError(f"the key id should be {self.key.keyid[:16]}..., but is {self.keyid[:16]}...")
        if (self.status == "active") != (self.ended is None):
            raise ValueError("a key has an end exactly where its status is not 'active'")
        return self

    @property
    def key(self) -> SSlibKey:
        """The key as securesystemslib and python-tuf take it."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from securesystemslib.signer import SSlibKey

        return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public)))

    @property
    def fingerprint(self) -> str:
        """The first 128 bits of the key id in groups of four, to be compared by eye or by telephone."""
        return " ".join(self.keyid[start : start + 4] for start in range(0, 32, 4))


def read_public_key(file: Path) -> PublicKey:
    """The public key in ``file``, checked against its own id.

    Raises:
        KeyFileError: missing, too large, or not a public key.
    """
    try:
        return PublicKey.model_validate_json(read_bounded(file, MAX_PUBLIC_BYTES), strict=True)
    except ValidationError as error:
        problem = validation_sentence(error)
        raise KeyFileError(
            f"{file} should be a public key (NAME.pub.json), but is none: {problem}; "
            "write it again with 'mmcl-edge keys show NAME --public-out FILE'."
        ) from error
    except IntegrityError as error:
        raise KeyFileError(str(error)) from error
