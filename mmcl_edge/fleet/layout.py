"""What lies where in a fleet's store, and the documents in it.

::

    fleet.json                                marker: which layout this store has; unsigned, decides nothing
    metadata/<n>.root.json, ..., timestamp.json    signed metadata of The Update Framework (TUF)
    targets/<folder>/<sha256>.<name>          signed content under its own hash (consistent snapshots)
    inbox/<key id>/<pack digest>/...          what devices upload

Names of targets (paths as the metadata knows them, without the hash)::

    settings.json              ``Settings``   signed by the role ``targets``
    channels/<channel>.json    ``Release``    signed by the role ``channels``
    devices.json               ``Devices``    signed by the role ``devices``
    packs/<digest>.pack        an archive of a whole pack, signed by one of the bins
    packs/<digest>.from-<parent digest>.pack  a delta archive, likewise

Every document is canonical JSON, has a size limit, carries its ``schema_version``, and is refused with unknown fields.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from mmcl_edge.errors import FleetError, IntegrityError
from mmcl_edge.fileio import canonical_json
from mmcl_edge.packs.keys import PublicKey
from mmcl_edge.packs.manifest import Digest, validation_sentence
from mmcl_edge.types import FrozenModel

MARKER = "fleet.json"
METADATA = "metadata"
TARGETS = "targets"
INBOX = "inbox"

SETTINGS_TARGET = "settings.json"
DEVICES_TARGET = "devices.json"
CHANNELS_FOLDER = "channels"
PACKS_FOLDER = "packs"

CHANNELS_ROLE = "channels"
DEVICES_ROLE = "devices"
PACKS_ROLE = "packs"
BIN_PREFIX = "bins"

STABLE, BETA = "stable", "beta"

MAX_DOCUMENT_BYTES = 64 << 10
"""Of settings, a release or an upload."""
MAX_DEVICES_BYTES = 32 << 20
MAX_ARCHIVE_BYTES = (1 << 30) + (16 << 20)
MAX_METADATA_BYTES = 8 << 20
"""Of any one role's metadata."""
MAX_EARLIER = 8
"""Releases of a channel that are remembered, to go back to and to make deltas from."""
MAX_WITHDRAWN = 256
MAX_DELTAS = 3

ChannelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
DeviceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
KeyId = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Model = TypeVar("Model", bound=FrozenModel)


class Lifetimes(FrozenModel):
    """For how many days signed metadata is good."""

    root_days: int = Field(365, ge=1, le=3650)
    targets_days: int = Field(90, ge=1, le=3650, description="Of targets, channels, devices, packs and the bins.")
    snapshot_days: int = Field(7, ge=1, le=3650)
    timestamp_days: int = Field(7, ge=1, le=3650)


class Settings(FrozenModel):
    """What the whole fleet goes by."""

    schema_version: Literal[1] = 1
    bins: int = Field(256, ge=2, le=65536, description="Bins that the archives are spread over; a power of two.")
    lifetimes: Lifetimes = Lifetimes()
    require_signatures: bool = Field(
        False, description="Whether a released pack must carry a signature of one of the fleet's release keys."
    )

    @model_validator(mode="after")
    def _power_of_two(self) -> Settings:
        if self.bins & (self.bins - 1):
            raise ValueError(f"bins should be a power of two, not {self.bins}")
        return self


class ReleasedPack(FrozenModel):
    """One pack that a channel names, and the archives that carry it."""

    pack: Digest
    version: int = Field(ge=1, description="The pack's own version.")
    bundle: Digest = Field(description="The bundle that it was made for.")
    size_bytes: int = Field(ge=1, description="Of the whole archive.")
    deltas: dict[Digest, Annotated[int, Field(ge=1)]] = Field(
        {},
        max_length=MAX_DELTAS,
        description="Digest of a pack that a delta starts from, to the delta's size in bytes.",
    )

    @property
    def archive(self) -> str:
        """Target path of the whole archive."""
        return archive_target(self.pack)

    def delta(self, parent: str) -> str:
        """Target path of the delta from ``parent``, one of ``deltas``."""
        return delta_target(self.pack, parent)


class Release(FrozenModel):
    """What devices of one channel should use. ``counter`` rises by one with every change of the channel."""

    schema_version: Literal[1] = 1
    channel: ChannelName
    counter: int = Field(ge=1)
    current: ReleasedPack
    earlier: tuple[ReleasedPack, ...] = Field((), max_length=MAX_EARLIER, description="Newest first.")
    withdrawn: tuple[Digest, ...] = Field(
        (), max_length=MAX_WITHDRAWN, description="Packs that no device of the channel should use, newest first."
    )

    @property
    def pack(self) -> str:
        """Digest of the pack to use."""
        return self.current.pack

    @property
    def version(self) -> int:
        """Version of the pack to use."""
        return self.current.version

    @property
    def bundle(self) -> str:
        """Digest of the bundle that the pack was made for."""
        return self.current.bundle

    @property
    def archive(self) -> str:
        """Target path of the whole archive of the pack."""
        return self.current.archive

    @property
    def deltas(self) -> dict[str, str]:
        """Digest of a pack that a delta starts from, to the delta's target path."""
        return {parent: self.current.delta(parent) for parent in self.current.deltas}

    @model_validator(mode="after")
    def _withdrawn_are_gone(self) -> Release:
        if {item.pack for item in (self.current, *self.earlier)} & set(self.withdrawn):
            raise ValueError("a withdrawn pack should not be named as a release")
        return self


class Device(FrozenModel):
    """One enrolled device. Its key signs what it uploads, and nothing else."""

    name: DeviceName
    key: PublicKey

    @property
    def keyid(self) -> str:
        """Id of its key."""
        return self.key.keyid


class Devices(FrozenModel):
    """Every enrolled device, and the ids of keys that were revoked: their uploads are no longer collected."""

    schema_version: Literal[1] = 1
    devices: tuple[Device, ...] = ()
    revoked: tuple[Device, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> Devices:
        everyone = [*self.devices, *self.revoked]
        if len({device.keyid for device in everyone}) != len(everyone):
            raise ValueError("a key should be enrolled once")
        if len({device.name for device in self.devices}) != len(self.devices):
            raise ValueError("names of devices should be unique")
        return self

    def enrolled(self, keyid: str) -> Device | None:
        """The device with that key, unless it was revoked."""
        return next((device for device in self.devices if device.keyid == keyid), None)

    def was_revoked(self, keyid: str) -> bool:
        """Whether that key was revoked."""
        return any(device.keyid == keyid for device in self.revoked)


class Upload(FrozenModel):
    """What a device says of one upload; ``upload.json`` holds it in a signed envelope and is written last."""

    schema_version: Literal[1] = 1
    keyid: KeyId
    pack: Digest
    version: int = Field(ge=1)
    bundle: Digest
    archive_sha256: Digest
    size_bytes: int = Field(ge=1, le=MAX_ARCHIVE_BYTES)
    chunk_bytes: int = Field(ge=1 << 10, le=64 << 20)
    parent: Digest | None = Field(None, description="The pack that the archive is a delta from; none: it is whole.")
    counter: int = Field(0, ge=0, description="Rises with every upload of the device: an older one is a replay.")
    exemplars_sha256: Digest | None = Field(None, description="Of shared training samples; none unless asked for.")
    exemplars_bytes: int = Field(0, ge=0, le=MAX_ARCHIVE_BYTES)


def archive_target(pack: str) -> str:
    """Target path of the whole archive of ``pack``."""
    return f"{PACKS_FOLDER}/{pack}.pack"


def delta_target(pack: str, parent: str) -> str:
    """Target path of the archive that makes ``pack`` from ``parent``."""
    return f"{PACKS_FOLDER}/{pack}.from-{parent}.pack"


def channel_target(channel: str) -> str:
    """Target path of a channel's ``Release``."""
    return f"{CHANNELS_FOLDER}/{check_channel(channel)}.json"


def check_channel(channel: str) -> str:
    """``channel`` itself, if it may be the name of one.

    Raises:
        FleetError: other characters than small letters, digits, ``-`` and ``_``, or longer than 63.
    """
    return _checked(ChannelName, channel, "a channel", "small letters, digits, '-' and '_', at most 63")


def check_device_name(name: str) -> str:
    """``name`` itself, if a device may be called so.

    Raises:
        FleetError: other characters than letters, digits, ``.``, ``-`` and ``_``, or longer than 63.
    """
    return _checked(DeviceName, name, "a device", "letters, digits, '.', '-' and '_', at most 63")


def _checked(kind: Any, name: str, what: str, rule: str) -> str:
    try:
        return str(TypeAdapter(kind).validate_python(name))
    except ValidationError as error:
        raise FleetError(f"Expected the name of {what} ({rule}), but found {name[:80]!r}; choose another.") from error


def metadata_path(role: str, version: int | None = None) -> str:
    """Where a role's metadata lies in the store; only the timestamp has no version in its name."""
    return f"{METADATA}/{role}.json" if version is None else f"{METADATA}/{version}.{role}.json"


def target_path(target: str, sha256: str) -> str:
    """Where a target lies in the store: its name carries its hash."""
    folder, slash, name = target.rpartition("/")
    return f"{TARGETS}/{folder}{slash}{sha256}.{name}"


def inbox_path(keyid: str, pack: str, *names: str) -> str:
    """Where a device uploads a pack."""
    return "/".join((INBOX, keyid, pack, *names))


def dump(document: FrozenModel) -> bytes:
    """``document`` as canonical JSON."""
    return canonical_json(document.model_dump(mode="json"))


def parse(model: type[Model], data: bytes, what: str) -> Model:
    """The document in ``data``.

    Raises:
        IntegrityError: it is of another schema version, does not parse, or has unknown fields.
    """
    try:
        return model.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise IntegrityError(
            f"{what} is not a document that this release reads: {validation_sentence(error)}; "
            "update mmcl-edge, or have the fleet's admin look at it."
        ) from error
