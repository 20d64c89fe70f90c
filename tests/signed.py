"""Keys and signed packs for tests."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from securesystemslib.signer import CryptoSigner

from mmcl_edge.packs import write_pack
from mmcl_edge.packs.signing import sign_pack
from tests.builders import pack_contents


@lru_cache
def signer(name: str) -> CryptoSigner:
    """One key pair a name, made once."""
    return CryptoSigner.generate_ed25519()


def signed_pack(folder: Path, *names: str, **changes) -> Path:
    """A tiny pack in ``folder``, signed with the keys of these names."""
    pack = folder / write_pack(folder, pack_contents(**changes))
    for name in names:
        sign_pack(pack, signer(name))
    return pack
