"""The private part of a key: PKCS #8 in PEM, from a file that only its owner can read, or from the environment."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmcl_edge.errors import IntegrityError, KeyFileError
from mmcl_edge.fileio import read_bounded

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import CryptoSigner

KEY_VARIABLE = "MMCL_EDGE_KEY_"
"""Followed by a key's name in capitals, dashes as underscores: the private part itself, in PEM."""

PASSPHRASE_VARIABLE = "MMCL_EDGE_PASSPHRASE"
"""Holds the passphrase of encrypted private parts; empty says that there is none."""

MAX_PRIVATE_BYTES = 16384
ENCRYPTED = b"BEGIN ENCRYPTED PRIVATE KEY"


def variable(name: str) -> str:
    """The environment variable that may hold the private part of ``name``."""
    return KEY_VARIABLE + name.upper().replace("-", "_")


def from_environment(name: str, environment: Mapping[str, str] = os.environ) -> bytes | None:
    """The private part of ``name`` that the environment holds, if it does."""
    found = environment.get(variable(name))
    return found.encode() if found else None


def check_folder(folder: Path) -> None:
    """Refuse a folder of keys in which others could put keys of their own; one that is missing is fine.

    Raises:
        KeyFileError: group or others can write to it.
    """
    if folder.is_dir() and stat.S_IMODE(folder.stat().st_mode) & 0o022:
        raise KeyFileError(
            f"{folder} holds keys, but other users can write to it; run 'chmod 700 {folder}' and look at what is in it."
        )


def make_folder(folder: Path) -> None:
    """Make a folder of keys, closed to others whatever the umask says; one that is there stays as it is.

    Raises:
        OSError: it cannot be made.
    """
    if not folder.is_dir():
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        folder.chmod(0o700)


def pem(signer: CryptoSigner, passphrase: str | None) -> bytes:
    """The private part of ``signer``, encrypted where there is a passphrase."""
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    if not passphrase:
        return signer.private_bytes
    key = load_pem_private_key(signer.private_bytes, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase.encode()))


def read_private(file: Path, name: str) -> bytes:
    """The private part of ``name`` in ``file``.

    Raises:
        KeyFileError: missing, readable by others, or too large.
    """
    if not file.is_file():
        raise KeyFileError(
            f"Expected the private part of the key {name!r} at {file}, but there is none; restore it, or set "
            f"{variable(name)} to its text."
        )
    if stat.S_IMODE(file.stat().st_mode) & 0o077:
        raise KeyFileError(f"{file} could be read by other users; run 'chmod 600 {file}' and ask who has read it.")
    try:
        return read_bounded(file, MAX_PRIVATE_BYTES)
    except IntegrityError as error:
        raise KeyFileError(str(error)) from error


def load_private(data: bytes, passphrase: str | None, name: str) -> Ed25519PrivateKey:
    """The key in ``data``.

    Raises:
        KeyFileError: not ed25519 in PEM, or its passphrase is missing or wrong.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    encrypted = ENCRYPTED in data
    if encrypted and not passphrase:
        raise KeyFileError(f"The key {name!r} needs its passphrase; set MMCL_EDGE_PASSPHRASE, or type it when asked.")
    try:
        key = load_pem_private_key(data, passphrase.encode() if encrypted and passphrase else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        hint = "the passphrase is wrong, or the file is damaged" if encrypted else "it is no private key in PEM"
        raise KeyFileError(f"The private part of the key {name!r} cannot be read: {hint}; try again.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(
            f"The key {name!r} should be ed25519, but is another kind; make one with 'mmcl-edge keys new'."
        )
    return key
