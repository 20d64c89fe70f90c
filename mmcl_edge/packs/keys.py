"""Keys that sign: ed25519 pairs in a folder, one a name.

Layout of a folder of keys (made with 0700)::

    <name>.pem                  private part: PKCS #8, encrypted where a passphrase was given; 0600
    <name>.pub.json             public part: what is handed out (``PublicKey``)
    <name>.<id>.pem, .pub.json  the same of a key that another took the place of; <id> is its key id's beginning

Rules:

1. A key id is the sha256 of the public part, as TUF computes it; a file that states another is refused.
2. A folder that other users could write is refused, and so is a private file that they could read, before any
   file is read.
3. A new name never overwrites a file. ``rotate`` keeps the old key, public and private, under its id: a change of
   keys in a fleet is signed with the old one and the new one. ``forget`` then removes the private part.
4. An ended key (rotated or revoked) signs nothing, unless the caller says that this is what it is for.
5. The environment may hold the private part itself (``MMCL_EDGE_KEY_<NAME>``); then no file is read. Where that is
   encrypted, even its public part needs the passphrase.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from mmcl_edge.errors import KeyFileError
from mmcl_edge.fileio import fsync_folder, pretty_json, storage_errors, write_atomic
from mmcl_edge.packs.private_keys import (
    ENCRYPTED,
    KEY_VARIABLE,
    PASSPHRASE_VARIABLE,
    check_folder,
    from_environment,
    load_private,
    make_folder,
    pem,
    read_private,
    variable,
)
from mmcl_edge.packs.public_keys import NAME_PATTERN, PublicKey, read_public_key

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

__all__ = [
    "DEVICE_KEY",
    "KEYS_VARIABLE",
    "KEY_VARIABLE",
    "KeyStore",
    "PublicKey",
    "device_keys_folder",
    "read_public_key",
    "release_keys_folder",
]

KEYS_VARIABLE = "MMCL_EDGE_KEYS"
DEVICE_KEY = "device"
KEY_ID_CHARS = 16
"""Letters of a key id in the file names of keys that have ended."""

_NAME = re.compile(NAME_PATTERN)


def release_keys_folder() -> Path:
    """Where an admin's keys are: ``MMCL_EDGE_KEYS``, or ``mmcl-edge/keys`` in the user's folder of settings."""
    chosen = os.environ.get(KEYS_VARIABLE)
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_config_path("mmcl-edge") / "keys"


def device_keys_folder(trust_path: Path) -> Path:
    """Where the identity of a device is, in the folder ``trust`` of its workspace."""
    return trust_path / "keys"


@dataclass(frozen=True, slots=True)
class KeyStore:
    """The keys in ``folder``.

    Example:
        >>> keys = KeyStore(release_keys_folder())  # doctest: +SKIP
        >>> keys.new("root", "a long passphrase").fingerprint  # doctest: +SKIP
        '51c0 ...'
    """

    folder: Path

    def new(self, name: str, passphrase: str | None = None) -> PublicKey:
        """Make a key pair; a name whose key was revoked may be taken again.

        Args:
            name: lower-case letters, digits and dashes.
            passphrase: encrypts the private file; ``None`` or empty leaves it plain.

        Raises:
            KeyFileError: the name is no name, or a key of that name is there.
            StorageError: the folder cannot be written.
        """
        self._check_name(name)
        if self._public_file(name).exists() and (old := self.public(name)).status == "revoked":
            self._set_aside(old)
        elif (found := next((f for f in (self._public_file(name), self._file(name)) if f.exists()), None)) is not None:
            raise KeyFileError(
                f"{found} exists already; use that key, put another in its place with 'mmcl-edge keys rotate {name}', "
                "or choose another name."
            )
        return self._write(name, passphrase)

    def names(self) -> tuple[str, ...]:
        """Names of all keys here, in order; keys that another took the place of are not named."""
        files = self.folder.glob("*.pub.json") if self.folder.is_dir() else ()
        return tuple(sorted(name for file in files if _NAME.fullmatch(name := file.name.removesuffix(".pub.json"))))

    def public(self, name: str) -> PublicKey:
        """The public part of the key ``name``; of the one in the environment, if one is there.

        Where the environment holds an encrypted key, its passphrase is there too (``MMCL_EDGE_PASSPHRASE``).

        Raises:
            KeyFileError: there is none, it is broken, or others can write to the folder.
        """
        self._check_name(name)
        if from_environment(name) is not None:
            return _public_of(name, self.signer(name, os.environ.get(PASSPHRASE_VARIABLE)))
        check_folder(self.folder)
        file = self._public_file(name)
        if not file.is_file():
            raise KeyFileError(
                f"Expected a key {name!r} in {self.folder}, but there is none; make it with 'mmcl-edge keys new "
                f"{'--device' if name == DEVICE_KEY else name}'."
            )
        return self._named(read_public_key(file), name, file)

    def ended(self, name: str) -> tuple[PublicKey, ...]:
        """The keys that ``name`` had before, oldest first.

        Raises:
            KeyFileError: one of them is broken, or others can write to the folder.
        """
        self._check_name(name)
        check_folder(self.folder)
        files = sorted(self.folder.glob(f"{name}.{'[0-9a-f]' * KEY_ID_CHARS}.pub.json"))
        found = (self._named(read_public_key(file), name, file) for file in files)
        return tuple(sorted(found, key=lambda key: (key.ended or "", key.keyid)))

    def is_encrypted(self, name: str, *, keyid: str | None = None) -> bool:
        """Whether the private part of ``name`` needs a passphrase.

        Raises:
            KeyFileError: there is none, or other users could read it.
        """
        return ENCRYPTED in self._private(name, keyid)

    def signer(self, name: str, passphrase: str | None = None, *, keyid: str | None = None) -> CryptoSigner:
        """What signs with the key ``name``.

        Args:
            name: of the key.
            passphrase: of its private file, where that is encrypted.
            keyid: names one key of this name, which may have ended: to sign the change to its successor.

        Raises:
            KeyFileError: missing, ended and not asked for by its id, readable by others, or a wrong passphrase.
        """
        from securesystemslib.signer import CryptoSigner

        self._check_name(name)
        signer = CryptoSigner(load_private(self._private(name, keyid), passphrase, name))
        if from_environment(name) is None:
            self._check_pair(name, keyid, signer.public_key.keyid)
        return signer

    def rotate(self, name: str, passphrase: str | None = None) -> PublicKey:
        """Put a new key in the place of ``name``; the old one is kept under its id, and marked with its end.

        Order: public and private part of the old key under its id; private, then public part of the new one. A cut
        in between is mended by the same call.

        Args:
            name: of the key.
            passphrase: encrypts the new private file.

        Raises:
            KeyFileError: there is no such key.
            StorageError: the folder cannot be written.
        """
        self._refuse_environment(name)
        self._set_aside(self.public(name))
        return self._write(name, passphrase)

    def revoke(self, name: str) -> PublicKey:
        """Mark the key ``name`` as revoked, with its end. Its private part stays, and signs only if named by its id.

        Raises:
            KeyFileError: there is no such key.
            StorageError: the folder cannot be written.
        """
        self._refuse_environment(name)
        key = self.public(name)
        if key.status != "active":
            return key
        ended = key.model_copy(update={"status": "revoked", "ended": _now()})
        self._write_public(self._public_file(name), ended)
        return ended

    def forget(self, name: str, keyid: str) -> bool:
        """Remove the private part of a key of ``name`` that has ended; returns whether there was one.

        Raises:
            KeyFileError: no ended key of that id is here.
            StorageError: the folder cannot be written.
        """
        if keyid not in {key.keyid for key in self.ended(name)}:
            raise KeyFileError(
                f"Expected a key {keyid[:16]}... that {name!r} had before, but there is none; "
                "see 'mmcl-edge keys show'."
            )
        file = self._file(name, keyid)
        found = file.exists()
        with storage_errors(file), suppress(FileNotFoundError):
            file.unlink()
            fsync_folder(self.folder)
        return found

    def _write(self, name: str, passphrase: str | None) -> PublicKey:
        from securesystemslib.signer import CryptoSigner

        signer = CryptoSigner.generate_ed25519()
        key = _public_of(name, signer)
        self._make_folder()
        write_atomic(self._file(name), pem(signer, passphrase), mode=0o600)
        self._write_public(self._public_file(name), key)
        return key

    def _write_public(self, file: Path, key: PublicKey) -> None:
        write_atomic(file, pretty_json(key.model_dump(mode="json")))

    def _make_folder(self) -> None:
        with storage_errors(self.folder):
            check_folder(self.folder)
            make_folder(self.folder)

    def _set_aside(self, key: PublicKey) -> None:
        """Keep ``key`` under its id. The private file may already be its successor's, if a change was cut short."""
        public, private = self._public_file(key.name, key.keyid), self._file(key.name, key.keyid)
        if key.status == "active":
            key = key.model_copy(update={"status": "rotated", "ended": _now()})
        if self._file(key.name).exists() and not private.exists():
            write_atomic(private, self._private(key.name, None, ended=True), mode=0o600)
        if not public.exists():
            self._write_public(public, key)

    def _private(self, name: str, keyid: str | None, *, ended: bool = False) -> bytes:
        environment = from_environment(name)
        if environment is not None and keyid is None:
            return environment
        check_folder(self.folder)
        current = self.public(name) if self._public_file(name).is_file() else None
        if keyid is None and current is not None and current.status != "active" and not ended:
            raise KeyFileError(
                f"The key {name!r} was {current.status} on {current.ended}, so it signs nothing any more; "
                f"make another with 'mmcl-edge keys new {name}'."
            )
        is_current = keyid is None or (current is not None and keyid == current.keyid)
        return read_private(self._file(name, None if is_current else keyid), name)

    def _check_pair(self, name: str, keyid: str | None, found: str) -> None:
        expected = keyid or self.public(name).keyid
        if found != expected:
            raise KeyFileError(
                f"The private part of {name!r} belongs to the key {found[:16]}..., but its public part is "
                f"{expected[:16]}...; if a change of keys was cut short, run 'mmcl-edge keys rotate {name}' again."
            )

    def _refuse_environment(self, name: str) -> None:
        if from_environment(name) is not None:
            raise KeyFileError(
                f"The key {name!r} is in the environment ({variable(name)}), where it cannot be changed; "
                "unset that, and make its successor where the environment comes from."
            )

    def _named(self, key: PublicKey, name: str, file: Path) -> PublicKey:
        if key.name != name:
            raise KeyFileError(f"{file} should hold the key {name!r}, but holds {key.name!r}; give the file its name.")
        return key

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise KeyFileError(
                f"{name!r} cannot name a key; use up to 32 lower-case letters, digits and dashes, a letter first."
            )

    def _file(self, name: str, keyid: str | None = None) -> Path:
        return self.folder / (f"{name}.pem" if keyid is None else f"{name}.{keyid[:KEY_ID_CHARS]}.pem")

    def _public_file(self, name: str, keyid: str | None = None) -> Path:
        return self._file(name, keyid).with_suffix(".pub.json")


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _public_of(name: str, signer: CryptoSigner) -> PublicKey:
    key = signer.public_key
    return PublicKey(name=name, keyid=key.keyid, public=key.keyval["public"], made=_now())
