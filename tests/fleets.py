"""Small fleets made with python-tuf alone, so that tests can sign anything, also what no admin would."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import torch
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from mmcl_edge.fileio import sha256_bytes
from mmcl_edge.fleet.health import Examination
from mmcl_edge.fleet.joining import Invitation
from mmcl_edge.fleet.layout import ReleasedPack, Settings, channel_target, dump, target_path
from mmcl_edge.fleet.sync import SyncReport, SyncRequest, sync
from mmcl_edge.packs import read_pack, write_pack
from mmcl_edge.packs.archive import write_archive
from mmcl_edge.runtime.workspace import Workspace
from tests.builders import pack_contents, snapshot, write_bundle

ROLES = ("timestamp", "snapshot", "targets")
DELEGATED = {"channels": "channels/*", "devices": "devices.json", "packs": "packs/*"}


def signers(count: int) -> list[CryptoSigner]:
    return [CryptoSigner.generate_ed25519() for _ in range(count)]


class SmallFleet:
    """A fleet in ``folder``; everything is signed at ``commit``, and every role has one key but root."""

    def __init__(self, folder: Path, *, root_keys: int = 1, threshold: int = 1) -> None:
        self.folder = folder
        self.url = str(folder)
        self.days = 5.0
        self.counters: dict[str, int] = {}
        self.keys: dict[str, list[CryptoSigner]] = {"root": signers(root_keys)}
        self.keys |= {role: signers(1) for role in (*ROLES, *DELEGATED)}
        root = Root(consistent_snapshot=True)
        for role in ("root", *ROLES):
            for signer in self.keys[role]:
                root.add_key(signer.public_key, role)
        root.roles["root"].threshold = threshold
        self.roles: dict[str, Metadata[Any]] = {"root": Metadata(root), "targets": Metadata(Targets())}
        self.roles |= {name: Metadata(Targets()) for name in DELEGATED}
        self.roles |= {"snapshot": Metadata(Snapshot()), "timestamp": Metadata(Timestamp())}
        delegations = Delegations({}, {})
        for name, pattern in DELEGATED.items():
            key = self.keys[name][0].public_key
            delegations.keys[key.keyid] = key
            delegations.roles[name] = DelegatedRole(name, [key.keyid], 1, True, [pattern])
        self.roles["targets"].signed.delegations = delegations
        for metadata in self.roles.values():
            metadata.signed.version = 0
        self.put("targets", "settings.json", dump(Settings()))
        self.write("fleet.json", b"{}")
        self.sign("root")
        self.commit("targets", *DELEGATED)

    @property
    def root(self) -> bytes:
        """The first root metadata: what a device is given."""
        return (self.folder / "metadata" / "1.root.json").read_bytes()

    def write(self, path: str, data: bytes) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_bytes(data)

    def put(self, role: str, path: str, data: bytes) -> None:
        """Add a target; ``commit`` signs it."""
        info = TargetFile.from_data(path, data, ["sha256"])
        self.roles[role].signed.targets[path] = info
        self.write(target_path(path, info.hashes["sha256"]), data)

    def sign(self, role: str, *, by: Iterable[CryptoSigner] | None = None, bump: int = 1) -> bytes:
        """Sign a role with the next version number and write it; returns its bytes."""
        metadata = self.roles[role]
        metadata.signed.version += bump
        metadata.signed.expires = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=self.days)
        metadata.signatures.clear()
        for signer in self.keys[role] if by is None else by:
            metadata.sign(signer, append=True)
        data = metadata.to_bytes(JSONSerializer())
        name = "timestamp.json" if role == "timestamp" else f"{metadata.signed.version}.{role}.json"
        self.write(f"metadata/{name}", data)
        return data

    def commit(self, *changed: str) -> None:
        """Sign the changed roles, then snapshot and timestamp."""
        snapshot = self.roles["snapshot"].signed
        for role in changed:
            self.sign(role)
            snapshot.meta[f"{role}.json"] = MetaFile(version=self.roles[role].signed.version)
        self.sign("snapshot")
        self.roles["timestamp"].signed.snapshot_meta = MetaFile(version=snapshot.version)
        self.sign("timestamp")

    def add_pack(self, pack: Path, parents: Sequence[Path] = ()) -> ReleasedPack:
        """Archives of a pack as targets (not committed), whole and as deltas."""
        opened = read_pack(pack)
        sizes = {}
        with tempfile.TemporaryDirectory() as place:
            for parent in (None, *parents):
                write_archive(pack, Path(place) / "archive", parent=parent)
                data = (Path(place) / "archive").read_bytes()
                name = f"{opened.digest}.pack" if parent is None else f"{opened.digest}.from-{parent.name}.pack"
                self.put("packs", f"packs/{name}", data)
                sizes[None if parent is None else parent.name] = len(data)
        return ReleasedPack(
            pack=opened.digest,
            version=opened.manifest.version,
            bundle=opened.manifest.bundle_digest,
            size_bytes=sizes.pop(None),
            deltas=sizes,
        )

    def announce(self, name: str = "stable", current: ReleasedPack | None = None, **changes: Any) -> None:
        """A release document, valid or not (not committed)."""
        self.counters[name] = self.counters.get(name, 0) + 1
        document = {
            "schema_version": 1,
            "channel": name,
            "counter": self.counters[name],
            "current": None if current is None else current.model_dump(mode="json"),
            "earlier": [],
            "withdrawn": [],
        }
        self.put("channels", channel_target(name), json.dumps(document | changes).encode())

    def publish(self, pack: Path, channel: str = "stable", parents: Sequence[Path] = (), **changes: Any) -> str:
        """Release a pack; returns its digest."""
        released = self.add_pack(pack, parents)
        self.announce(channel, released, **changes)
        self.commit("packs", "channels")
        return released.pack

    def next_root(
        self, keys: list[CryptoSigner], *, by: Iterable[CryptoSigner] | None = None, threshold: int = 1
    ) -> None:
        """Replace the root keys; the new root is signed ``by`` these (by default the old and the new ones)."""
        root: Root = self.roles["root"].signed
        old = self.keys["root"]
        for signer in old:
            root.revoke_key(signer.public_key.keyid, "root")
        for signer in keys:
            root.add_key(signer.public_key, "root")
        root.roles["root"].threshold = threshold
        self.keys["root"] = keys
        both = {signer.public_key.keyid: signer for signer in (*old, *keys)}
        self.sign("root", by=both.values() if by is None else by)

    def rotate(self, role: str) -> None:
        """A new key for timestamp, snapshot or targets, in a new root (the role is not signed anew)."""
        root: Root = self.roles["root"].signed
        (old,) = self.keys[role]
        root.revoke_key(old.public_key.keyid, role)
        self.keys[role] = signers(1)
        root.add_key(self.keys[role][0].public_key, role)
        self.sign("root")

    def object(self, target: str) -> Path:
        """Where the newest version of a target lies."""
        role = next(name for name in ("targets", *DELEGATED) if target in self.roles[name].signed.targets)
        return self.folder / target_path(target, self.roles[role].signed.targets[target].hashes["sha256"])


def fingerprint(fleet: SmallFleet) -> str:
    return sha256_bytes(fleet.root)


class FakeExaminer:
    """Examines packs by a rule, without a runtime: ``make`` is what ``sync`` takes as ``make_examiner``."""

    def __init__(self, *, asked: Sequence[str] = (), right: int = 10, canaries: int = 10) -> None:
        self.asked = frozenset(asked)
        self.answers: dict[str, Examination] = {}
        """What a pack answers, by digest; and by ``current`` what any pack does through that link."""
        self.examined: list[str] = []
        self.usual = Examination(right, canaries, frozenset(asked))

    def make(self, canaries: Iterable[Any]) -> FakeExaminer:
        return self

    def examine(self, pack: Path) -> Examination:
        self.examined.append(pack.name)
        read_pack(pack)
        return self.answers.get(pack.name, self.usual)


class FleetDevice:
    """A workspace with a bundle whose graphs are placeholders, and a folder of packs made for it."""

    def __init__(self, folder: Path) -> None:
        self.made = folder / "made"
        self.workspace = Workspace(folder / "home").create()
        self.workspace.install_bundle(write_bundle(folder / "bundle").path)
        self.examiner = FakeExaminer()

    def pack(self, value: float = 0.0, **changes: Any) -> Path:
        """A pack for the bundle; ``value`` tells it from others, which share most of its bytes."""
        tensors = {"blocks.0.experts.e0.audio.down": torch.full((2, 3), value), "shared": torch.ones(64, 64)}
        fields = {"bundle_digest": self.workspace.bundle_family(), "tensors": tensors} | changes
        contents = pack_contents(**fields)
        return self.made / write_pack(self.made, contents)

    def child(self, parent: Path, value: float) -> Path:
        return self.pack(value, parents=(read_pack(parent).as_parent(),), version=2)

    def join(self, fleet: SmallFleet, **changes: Any) -> SyncReport:
        return self.sync(invitation=Invitation(**{"url": fleet.url, "root": fleet.root} | changes))

    def sync(self, **changes: Any) -> SyncReport:
        return sync(self.workspace, SyncRequest(**changes), make_examiner=self.examiner.make)

    def links(self) -> tuple[str | None, str | None]:
        """Digests of ``current`` and ``previous``; both packs are whole."""
        found = [self.workspace.current_pack(), self.workspace.previous_pack()]
        for folder in found:
            if folder is not None:
                read_pack(folder, expected_digest=folder.name)
        return tuple(None if folder is None else folder.name for folder in found)

    def outside_trust(self) -> dict[str, str]:
        """What a refused sync may not change."""
        return {name: kind for name, kind in snapshot(self.workspace.root).items() if not name.startswith("trust")}
