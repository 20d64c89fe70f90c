"""Fleets made by our own repository, on stores that can be cut short."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import torch
from securesystemslib.signer import CryptoSigner

from mmcl_edge.fleet.layout import Settings
from mmcl_edge.fleet.repository import Repository
from mmcl_edge.fleet.roles import Ceremony, first_root
from mmcl_edge.fleet.signers import HeldSigners, sign
from mmcl_edge.fleet.store import Store, Stored, Version
from mmcl_edge.packs import write_pack
from tests.builders import pack_contents

START = datetime(2030, 1, 1, tzinfo=timezone.utc)


class Clock:
    """A clock that tests set."""

    def __init__(self, now: datetime | None = None) -> None:
        self.now = now or datetime.now(timezone.utc)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **delta: float) -> None:
        self.now += timedelta(**delta)


class Cut(BaseException):
    """The admin's process ends here."""


class CutStore(Store):
    """A store whose owner is killed before (or right after) the write number ``after``; counts writes."""

    def __init__(self, inner: Store, *, before: int | None = None, after: int | None = None) -> None:
        self.inner, self.before, self.after, self.writes = inner, before, after, 0
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        return self.inner.url

    def read(self, path: str, max_bytes: int) -> Version:
        return self.inner.read(path, max_bytes)

    def exists(self, path: str) -> bool:
        return self.inner.exists(path)

    def list(self, prefix: str) -> Iterator[Stored]:
        return self.inner.list(prefix)

    def flush(self) -> None:
        self.inner.flush()

    def put(self, path: str, data: bytes | Path) -> None:
        self._write(path, lambda: self.inner.put(path, data))

    def create(self, path: str, data: bytes) -> bool:
        return self._write(path, lambda: self.inner.create(path, data))

    def replace(self, path: str, data: bytes, seen: Version) -> bool:
        return self._write(path, lambda: self.inner.replace(path, data, seen))

    def _write(self, path: str, call: Any) -> Any:
        self.writes += 1
        self.paths.append(path)
        if self.writes == self.before:
            raise Cut
        result = call()
        if self.writes == self.after:
            raise Cut
        return result


@dataclass
class Keys:
    """Two root keys, a release key, an online key."""

    root: list[CryptoSigner]
    release: CryptoSigner
    online: CryptoSigner

    def __iter__(self) -> Iterator[CryptoSigner]:
        return iter([*self.root, self.release, self.online])

    @property
    def ceremony(self) -> Ceremony:
        return Ceremony(
            tuple(key.public_key for key in self.root),
            len(self.root),
            (self.release.public_key,),
            (self.online.public_key,),
        )


def new_keys() -> Keys:
    made = [CryptoSigner.generate_ed25519() for _ in range(4)]
    return Keys(made[:2], made[2], made[3])


def signed_root(keys: Keys, clock: Clock, settings: Settings) -> Any:
    root = first_root(keys.ceremony, clock(), settings.lifetimes)
    sign(root, keys.ceremony.root, HeldSigners(keys))
    return root


def founded(
    store: Store, keys: Keys | None = None, *, clock: Clock | None = None, **settings: Any
) -> tuple[Repository, Keys]:
    """A fleet with four bins in ``store``, and the keys that it was made with."""
    keys, clock, chosen = keys or new_keys(), clock or Clock(), Settings(**{"bins": 4, **settings})
    root = signed_root(keys, clock, chosen)
    return Repository.create(store, HeldSigners(keys), root, settings=chosen, clock=clock), keys


def pack(folder: Path, version: int = 1, *, value: float = 0.0, **changes: Any) -> Path:
    """A pack of some kilobytes, most of which its versions share: a delta is worth it."""
    torch.manual_seed(0)
    tensors = {"head.weight": torch.randn(64, 64), "fusion.bias": torch.full((4,), value + version)}
    contents = pack_contents(tensors=tensors, version=version, **changes)
    return folder / write_pack(folder, contents)
