"""What signs: keys that this machine holds, found by key id."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Metadata

from mmcl_edge.packs.keys import KeyStore
from mmcl_edge.packs.private_keys import KEY_VARIABLE


class Signers(Protocol):
    """Finds the signer of a key."""

    def signer(self, key: Key) -> Signer | None:
        """What signs with ``key``; ``None`` where its private part is not here."""
        ...


class HeldSigners:
    """Signers that are in memory."""

    def __init__(self, signers: Iterable[Signer] = ()) -> None:
        self._signers = {signer.public_key.keyid: signer for signer in signers}

    def signer(self, key: Key) -> Signer | None:
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

    def signer(self, key: Key) -> Signer | None:
        """What signs with ``key``: the key of today's name, or one that it took the place of.

        Raises:
            KeyFileError: the key is here, but cannot be opened.
        """
        if key.keyid not in self._opened:
            found = self._find(key.keyid)
            if found is None:
                return None
            name, keyid = found
            locked = self._keys.is_encrypted(name, keyid=keyid)
            self._opened[key.keyid] = self._keys.signer(name, self._passphrase(name) if locked else None, keyid=keyid)
        return self._opened[key.keyid]

    def _find(self, keyid: str) -> tuple[str, str | None] | None:
        """Name of the key, and its id where it has ended."""
        for name in dict.fromkeys((*self._keys.names(), *_names_in_environment())):
            current = self._keys.public(name)
            if current.keyid == keyid:
                return name, None if current.status == "active" else keyid
            if keyid in {key.keyid for key in self._keys.ended(name)}:
                return name, keyid
        return None


def _names_in_environment() -> tuple[str, ...]:
    names = (name for name, value in os.environ.items() if name.startswith(KEY_VARIABLE) and value)
    return tuple(name.removeprefix(KEY_VARIABLE).lower().replace("_", "-") for name in names)


def sign(metadata: Metadata[Any], keys: Iterable[Key], signers: Signers) -> int:
    """Replace the signatures of ``metadata`` by those of all ``keys`` that are here; returns how many that are."""
    found = [signer for key in keys if (signer := signers.signer(key)) is not None]
    metadata.signatures.clear()
    for signer in found:
        metadata.sign(signer, append=True)
    return len(found)
