"""The device's view of a fleet: metadata that is verified before anything it names is believed (TUF, by python-tuf).

Rules:

1. Trust begins with one root metadata file that the device was given (``pin``), and follows the chain of roots from
   there: each is signed by the threshold of the one before and by its own.
2. Timestamp, snapshot, targets and delegated roles are signed by the keys that the newest root names, never older than
   those seen before, consistent with each other, not expired, and no larger than their limits.
3. A file is what the metadata says, to the byte, and lands where the caller says, never where its name points.
4. What fails says which of three it is: an attack or damage (``TrustError``), metadata that has expired
   (``ExpiredError``), or a store that does not answer (``StoreError``). Whatever fails, what was trusted stays.

The folder belongs to one process at a time: callers hold the workspace's lock.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, TargetFile, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from mmcl_edge.errors import (
    ExpiredError,
    IntegrityError,
    MissingObjectError,
    OversizedObjectError,
    StoreError,
    TrustError,
)
from mmcl_edge.fileio import read_bounded, sha256_bytes, storage_errors, write_atomic
from mmcl_edge.fleet.layout import (
    MAX_DOCUMENT_BYTES,
    MAX_METADATA_BYTES,
    METADATA,
    TARGETS,
    Release,
    channel_target,
    metadata_path,
    parse,
    target_path,
)

if TYPE_CHECKING:
    from mmcl_edge.fleet.store import Store

ROOT_NAME = "root.json"
MAX_ROOT_BYTES = 512_000
MAX_ROOTS = 256
"""Changes of root that a device follows at once."""
_CONFIG = UpdaterConfig(
    max_root_rotations=MAX_ROOTS,
    root_max_length=MAX_ROOT_BYTES,
    snapshot_max_length=MAX_METADATA_BYTES,
    targets_max_length=MAX_METADATA_BYTES,
)
_STAYS = "nothing was changed, and the pack in use stays in use"


class FleetClient:
    """What a device has verified of a fleet, kept in ``folder`` from call to call.

    Example:
        >>> client = FleetClient(workspace.trust_path / "fleet", Store.open(url))  # doctest: +SKIP
        >>> client.refresh()  # doctest: +SKIP
        >>> client.release("stable").pack  # doctest: +SKIP
    """

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder
        self.store = store
        self._fetcher = _StoreFetcher(store)
        self._updater: Updater | None = None

    @property
    def pinned(self) -> bool:
        """Whether the device has root metadata to begin with."""
        return (self.folder / ROOT_NAME).is_file()

    def refresh(self) -> None:
        """Follow the fleet to its newest metadata; once a client.

        Raises:
            TrustError: the metadata is not what the keys that this device trusts have signed.
            ExpiredError: it is, but has expired.
            StoreError: the store does not answer, or is no fleet.
            StorageError: the folder cannot be written.
        """
        with _told(self.folder, self._fetcher):
            self._sweep()
            root = read_bounded(self.folder / ROOT_NAME, MAX_ROOT_BYTES)
            self._updater = Updater(
                str(self.folder / "metadata"),
                METADATA,
                target_base_url=TARGETS,
                fetcher=self._fetcher,
                config=_CONFIG,
                bootstrap=root,
            )
            self._updater.refresh()

    def expires(self) -> datetime | None:
        """End of the newest timestamp that was downloaded or kept, believed or not; ``None`` without one."""
        return _expiry(self._fetcher.last.get("timestamp")) or _expiry(self._kept("timestamp.json"))

    def release(self, channel: str) -> Release:
        """What ``channel`` releases.

        Raises:
            StoreError: there is no such channel.
            TrustError: see ``refresh``; also: its document is no release of this channel.
        """
        path = channel_target(channel)
        try:
            release = parse(Release, self.read(path, MAX_DOCUMENT_BYTES), f"{path} of the fleet")
        except TrustError:
            raise
        except IntegrityError as error:
            raise TrustError(f"{error} ({_STAYS}.)") from error
        if release.channel != channel:
            raise TrustError(
                f"{path} of the fleet should be the release of {channel!r}, but is that of {release.channel!r}; "
                f"{_STAYS}. {_TELL}"
            )
        return release

    def has(self, path: str) -> bool:
        """Whether the fleet has a target of that path."""
        with _told(self.folder, self._fetcher):
            return self._refreshed().get_targetinfo(path) is not None

    def read(self, path: str, max_bytes: int) -> bytes:
        """The bytes of the small target ``path``, verified.

        Raises:
            StoreError: the fleet has no such target, or the store does not answer.
            TrustError: it is not what the metadata says, or larger than ``max_bytes``.
        """
        info = self._target(path)
        self._check_size(path, info.length, max_bytes)
        with _told(self.folder, self._fetcher):
            data = self._fetcher.download_bytes(target_path(path, info.hashes["sha256"]), info.length)
            info.verify_length_and_hashes(data)
        return data

    def fetch(self, path: str, into: Path, *, max_bytes: int) -> Path:
        """Download the target ``path`` to the file ``into``, which appears verified or not at all.

        Raises:
            StoreError: the fleet has no such target, or the store does not answer.
            TrustError: it is not what the metadata says, or larger than ``max_bytes``.
            StorageError: the file cannot be written.
        """
        write_atomic(into, self.read(path, max_bytes))
        return into

    def _target(self, path: str) -> TargetFile:
        with _told(self.folder, self._fetcher):
            info = self._refreshed().get_targetinfo(path)
        if info is None:
            raise MissingObjectError(
                f"The fleet should have {path!r}, but has not; see that the channel's name is right, and that "
                "something was published there ('mmcl-edge fleet status')."
            )
        return info

    def _check_size(self, path: str, size: int, limit: int) -> None:
        if size > limit:
            raise TrustError(
                f"{path} of the fleet has {size:,} bytes, but at most {limit:,} are accepted there; {_STAYS}."
            )

    def _refreshed(self) -> Updater:
        if self._updater is None:
            self.refresh()
        assert self._updater is not None
        return self._updater

    def _kept(self, name: str) -> bytes | None:
        with suppress(IntegrityError):
            return read_bounded(self.folder / "metadata" / name, MAX_ROOT_BYTES)
        return None

    def _sweep(self) -> None:
        """Remove what a cut left of metadata being written."""
        folder = self.folder / "metadata"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in folder.glob("tmp*"):
            path.unlink(missing_ok=True)


class _StoreFetcher(FetcherInterface):
    """Gives python-tuf the objects of a store, none larger than it says."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.last: dict[str, bytes] = {}
        """The last metadata downloaded of each role, for messages."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        raise NotImplementedError  # everything goes through the two below, which know their limits

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """The object ``url``, of at most ``max_length`` bytes."""
        try:
            data = self._store.get(url, max_length)
        except MissingObjectError as error:
            raise exceptions.DownloadHTTPError(str(error), 404) from error
        except OversizedObjectError as error:
            raise exceptions.DownloadLengthMismatchError(str(error)) from error
        role = url.removeprefix("metadata/").removesuffix(".json")
        self.last[role.lstrip("0123456789").removeprefix(".")] = data
        return data

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO[Any]]:
        """The same as a file."""
        yield io.BytesIO(self.download_bytes(url, max_length))


def pin(folder: Path, root: bytes) -> str:
    """Let trust begin with ``root``, the bytes of a root metadata file; returns its fingerprint (sha256).

    Raises:
        TrustError: it is no root metadata signed by its own keys.
        StorageError: the folder cannot be written.
    """
    check_root(root)
    write_atomic(folder / ROOT_NAME, root, mode=0o600)
    return sha256_bytes(root)


def check_root(root: bytes) -> None:
    """Refuse ``root`` unless it is root metadata that its own keys have signed.

    Raises:
        TrustError: it is not.
    """
    try:
        metadata = Metadata[Root].from_bytes(root)
        if metadata.signed.type != Root.type:
            raise exceptions.RepositoryError(f"it is {metadata.signed.type!r} metadata")
        metadata.signed.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    except (DeserializationError, exceptions.RepositoryError, AttributeError) as error:
        raise TrustError(
            f"Expected root metadata of a fleet, signed by its own keys, but it is not: {error}; ask the fleet's admin "
            "for the file that 'mmcl-edge fleet init' wrote."
        ) from error


def first_root(store: Store, *, fingerprint: str | None = None) -> bytes:
    """The root metadata in ``store`` whose sha256 is ``fingerprint``; without one, the first there.

    It is not verified here: with a fingerprint it needs no more, without one nothing could.

    Raises:
        TrustError: none of them has the fingerprint.
        StoreError: the store does not answer, or is no fleet.
    """
    version = 0
    for version in range(1, MAX_ROOTS + 1):
        try:
            data = store.get(metadata_path("root", version), MAX_ROOT_BYTES)
        except MissingObjectError as error:
            if version == 1:
                raise MissingObjectError(
                    f"Expected a fleet at {store.url}, but it holds no root metadata; check the address."
                ) from error
            break
        if fingerprint is None or sha256_bytes(data) == fingerprint:
            return data
    raise TrustError(
        f"None of the {version} root metadata files at {store.url} has the fingerprint {str(fingerprint)[:16]}...; "
        "this is another fleet, or somebody changed it. Compare the fingerprint with the fleet's admin."
    )


@contextmanager
def _told(folder: Path, fetcher: _StoreFetcher) -> Iterator[None]:
    """Turn what python-tuf raises into the three errors of rule 4."""
    try:
        with storage_errors(folder):
            yield
    except exceptions.ExpiredMetadataError as error:
        raise ExpiredError(_expired_sentence(str(error), fetcher)) from error
    except exceptions.DownloadHTTPError as error:
        raise MissingObjectError(
            f"The store should hold all of a fleet, but a part is missing ({error}); {_STAYS}. Try again later; if it "
            "stays so, the fleet's admin should run 'mmcl-edge fleet refresh'."
        ) from error
    except exceptions.DownloadLengthMismatchError as error:
        raise TrustError(f"The store sends more than it should ({error}); {_STAYS}. {_TELL}") from error
    except exceptions.DownloadError as error:
        raise StoreError(f"The store did not answer as it should ({error}); {_STAYS}. Try again later.") from error
    except (exceptions.RepositoryError, DeserializationError) as error:
        raise TrustError(f"{_cause(error)} ({error}); {_STAYS}. {_TELL}") from error


_TELL = "If it stays so, tell the fleet's admin."
_CAUSES: tuple[tuple[type[Exception], str], ...] = (
    (
        exceptions.UnsignedMetadataError,
        "The fleet's metadata should be signed by enough of the keys that this device trusts, but is not",
    ),
    (exceptions.BadVersionNumberError, "The fleet's metadata is older than, or inconsistent with, what was seen here"),
    (exceptions.LengthOrHashMismatchError, "A file of the fleet is not the one that its signed metadata names"),
    (DeserializationError, "The store answers with something that is no metadata of a fleet"),
)


def _cause(error: Exception) -> str:
    for kind, sentence in _CAUSES:
        if isinstance(error, kind):
            return sentence
    return "The fleet's metadata is not what it should be"


def _expired_sentence(problem: str, fetcher: _StoreFetcher) -> str:
    role = next((name for name in ("root", "timestamp", "snapshot", "targets") if name in problem), "")
    end = _expiry(fetcher.last.get(role))
    when = "" if end is None else f" on {end:%Y-%m-%d %H:%M} UTC"
    return (
        f"The fleet's metadata has expired{when} ({problem}; this device's clock says "
        f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC): nobody has refreshed it, or somebody holds newer metadata "
        f"back; {_STAYS}. If the clock is right, the fleet's admin should run 'mmcl-edge fleet refresh'."
    )


def _expiry(data: bytes | None) -> datetime | None:
    """The end that metadata states, unverified: for messages only."""
    if data is None:
        return None
    with suppress(DeserializationError):
        return Metadata[Timestamp].from_bytes(data).signed.expires.replace(tzinfo=timezone.utc)
    return None
