"""What signs: keys that this machine holds, found by key id.

1. A key in a file is found by its public part; only the key that signs is opened. The environment's keys are opened
   where no file has the key that is asked for.
2. A key that was rotated here signs until the fleet knows its successor: the fleet goes on in between.
3. A key that was revoked here signs nothing but the metadata that puts another in its place (``succession``): devices
   that know only the old key need its signature there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Metadata

from mmcl_edge.errors import KeyFileError
from mmcl_edge.packs.keys import KeyStore
from mmcl_edge.packs.private_keys import KEY_VARIABLE, from_environment

if TYPE_CHECKING:
    from mmcl_edge.packs.public_keys import PublicKey


class Signers(Protocol):
    """Finds the signer of a key."""

    def signer(self, key: Key, *, succession: bool = False) -> Signer | None:
        """What signs with ``key``; ``None`` where its private part is not here.

        Args:
            key: the public part.
            succession: what is signed puts another key in its place, so a revoked key signs it too.
        """
        ...


class HeldSigners:
    """Signers that are in memory."""

    def __init__(self, signers: Iterable[Signer] = ()) -> None:
        self._signers = {signer.public_key.keyid: signer for signer in signers}

    def signer(self, key: Key, *, succession: bool = False) -> Signer | None:
        """What signs with ``key``."""
        return self._signers.get(key.keyid)


class StoredSigners:
    """Signers of a folder of keys, each opened once, when it is first needed.

    Args:
        keys: the folder.
        passphrase: asked for the passphrase of a key by its name, where the key is encrypted.
    """

    def __init__(self, keys: KeyStore, passphrase: Callable[[str], str | None]) -> None:
        self._keys = keys
        self._passphrase = passphrase
        self._opened: dict[str, Signer] = {}
        self._in_environment: dict[str, Signer] = {}

    def signer(self, key: Key, *, succession: bool = False) -> Signer | None:
        """What signs with ``key``: the key of today's name, or one that it took the place of.

        Raises:
            KeyFileError: the key is here, but cannot be opened, or was revoked and this is no succession.
        """
        found = self._in_files(key.keyid)
        if found is None:
            return self._from_environment(key.keyid)
        if found.status == "revoked" and not succession:
            raise KeyFileError(
                f"The key {found.name!r} ({found.keyid[:16]}) was revoked on {found.ended}, so it signs nothing for "
                f"the fleet any more, but the fleet still names it; make its successor with 'mmcl-edge keys new "
                f"{found.name}', and tell the fleet with 'mmcl-edge fleet keys rotate'."
            )
        if key.keyid not in self._opened:
            self._opened[key.keyid] = self._open(found.name, None if found.status == "active" else found.keyid)
        return self._opened[key.keyid]

    def _in_files(self, keyid: str) -> PublicKey | None:
        """The key of that id that lies in files. One of a name that the environment holds must have ended."""
        for name in self._keys.names():
            current: tuple[PublicKey, ...] = () if from_environment(name) is not None else (self._keys.public(name),)
            for one in (*current, *self._keys.ended(name)):
                if one.keyid == keyid:
                    return one
        return None

    def _from_environment(self, keyid: str) -> Signer | None:
        for name in _names_in_environment():
            if name not in self._in_environment:
                self._in_environment[name] = self._open(name, None)
            if self._in_environment[name].public_key.keyid == keyid:
                return self._in_environment[name]
        return None

    def _open(self, name: str, keyid: str | None) -> Signer:
        locked = self._keys.is_encrypted(name, keyid=keyid)
        return self._keys.signer(name, self._passphrase(name) if locked else None, keyid=keyid)


def _names_in_environment() -> tuple[str, ...]:
    names = (name for name, value in os.environ.items() if name.startswith(KEY_VARIABLE) and value)
    return tuple(name.removeprefix(KEY_VARIABLE).lower().replace("_", "-") for name in names)


def sign(metadata: Metadata[Any], keys: Iterable[Key], signers: Signers, *, succession: bool = False) -> int:
    """Replace the signatures of ``metadata`` by those of all ``keys`` that are here; returns how many that are."""
    found = [signer for key in keys if (signer := signers.signer(key, succession=succession)) is not None]
    metadata.signatures.clear()
    for signer in found:
        metadata.sign(signer, append=True)
    return len(found)
