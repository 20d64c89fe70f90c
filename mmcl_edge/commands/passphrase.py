"""Where commands take keys and passphrases from: the environment, then the terminal, or a sentence that says how."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from mmcl_edge.errors import KeyFileError
from mmcl_edge.packs.keys import DEVICE_KEY, KeyStore, device_keys_folder, release_keys_folder
from mmcl_edge.packs.private_keys import PASSPHRASE_VARIABLE
from mmcl_edge.runtime.workspace import Workspace

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

__all__ = ["PASSPHRASE_VARIABLE", "key_store", "passphrase_for", "signer_for"]


def passphrase_for(name: str, *, confirm: bool = False) -> str | None:
    """The passphrase of the key ``name``; ``None`` where the environment says that there is none (empty).

    Args:
        name: of the key, for the prompt.
        confirm: ask twice, for a key that is being made.

    Raises:
        KeyFileError: the environment has none, and there is no terminal to ask at.
    """
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is not None:
        return given or None
    if not sys.stdin.isatty():
        raise KeyFileError(
            f"A passphrase for the key {name!r} is needed, but there is no terminal to ask at; set "
            f"{PASSPHRASE_VARIABLE}, to nothing for a key without one."
        )
    text: str = click.prompt(
        f"Passphrase of the key {name}",
        hide_input=True,
        confirmation_prompt=confirm,
        default="",
        show_default=False,
        err=True,
    )
    return text or None


def key_store(name: str) -> KeyStore:
    """Where the key ``name`` is: the device's identity in the workspace, all others in the admin's folder.

    Raises:
        InputError: the device's is meant, and there is no workspace.
    """
    if name == DEVICE_KEY:
        return KeyStore(device_keys_folder(Workspace().open().trust_path))
    return KeyStore(release_keys_folder())


def signer_for(name: str, *, keyid: str | None = None) -> CryptoSigner:
    """What signs with the key ``name``; a passphrase is asked for only where the file is encrypted.

    Args:
        name: of the key; ``device`` is this device's identity.
        keyid: names one key of this name, which may have ended.

    Raises:
        KeyFileError: there is no such key, or its passphrase is missing or wrong.
    """
    keys = key_store(name)
    passphrase = passphrase_for(name) if keys.is_encrypted(name, keyid=keyid) else None
    return keys.signer(name, passphrase, keyid=keyid)
