"""The device workspace: one folder that holds the bundle, the packs and the tasks, and survives a cut at any moment.

Layout of ``MMCL_EDGE_HOME``::

    workspace.json       marks the folder as a workspace and carries the layout's version
    bundle               link to bundles/<digest>
    bundles/<digest>/    the installed bundle, as exported
    packs/<digest>/      every pack this device has, each checked before it got here
    packs/lineage/       manifests of packs that were removed for their space
    current, previous    links to packs/<digest>
    tasks/<name>/        what the user wants learned: <class>/<files>
    replay/              exemplars of earlier experiences
    features/            what training keeps of samples, a cache under a byte budget: may be removed at any time
    trust/               keys and trusted metadata
    runs/<id>/           work in progress of adapt; never read by predict

Every change happens under ``lock()`` and is one rename at its heart, so a process killed at any moment leaves the
state before or the state after. What an interrupted change leaves beside it begins with ``.staging-`` and is
swept by the next ``open()``.
"""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import platformdirs

from mmcl_edge.bundle import Bundle
from mmcl_edge.errors import BundleError, InputError, LockedError, PackError, StorageError
from mmcl_edge.fileio import (
    STAGING_PREFIX,
    canonical_json,
    read_json,
    storage_errors,
    sweep_staging,
    write_atomic,
)
from mmcl_edge.packs import Pack, check_name, nfc, read_pack
from mmcl_edge.packs.lineage import LINEAGE_FOLDER
from mmcl_edge.packs.manifest import MANIFEST_NAME as PACK_MANIFEST
from mmcl_edge.runtime.install import bring_bundle, bring_pack, family_of
from mmcl_edge.runtime.links import DIGEST, DigestLink
from mmcl_edge.runtime.lock import workspace_lock
from mmcl_edge.runtime.trial import TrialRecord

HOME_VARIABLE = "MMCL_EDGE_HOME"
MARKER_NAME = "workspace.json"
LAYOUT_VERSION = 1
MAX_NAME_CHARS = 64
MIN_PREFIX = 6
_FOLDERS = ("bundles", "packs", "tasks", "replay", "features", "trust", "runs")


ENGINES_NAME = "engines"
"""Folder of the workspace where TensorRT's engines are kept."""

INDEX_FOLDER = "index"
"""Folder of the workspace where the index of its files is kept."""


def home() -> Path:
    """Where the workspace is: ``MMCL_EDGE_HOME``, or ``mmcl-edge`` in the user's data folder."""
    chosen = os.environ.get(HOME_VARIABLE)
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_data_path("mmcl-edge")


class Workspace:
    """The device workspace in folder ``root`` (default ``home()``).

    Example:
        >>> workspace = Workspace().open()  # doctest: +SKIP
        >>> bundle, pack = workspace.bundle_path, workspace.current_pack()  # doctest: +SKIP
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = home() if root is None else Path(root).expanduser().absolute()
        self.packs_path = self.root / "packs"
        self.tasks_path = self.root / "tasks"
        self.replay_path = self.root / "replay"
        self.features_path = self.root / "features"
        self.trust_path = self.root / "trust"
        self.runs_path = self.root / "runs"
        self.trial = TrialRecord(self.trust_path)
        self._bundle = DigestLink(self.root, "bundle", "bundles", BundleError, "mmcl-edge init --bundle DIR")
        self._current = DigestLink(self.root, "current", "packs", PackError, "mmcl-edge pack use DIGEST")
        self._previous = DigestLink(self.root, "previous", "packs", PackError, "mmcl-edge pack use DIGEST")

    def create(self) -> Workspace:
        """Make the folders; a workspace that exists already is left as it is.

        Raises:
            InputError: a file is in the way.
            StorageError: the folder cannot be written.
        """
        if self.root.exists() and not self.root.is_dir():
            raise InputError(
                f"The workspace {self.root} should be a folder, but is a file; choose another {HOME_VARIABLE}."
            )
        with storage_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            for name in _FOLDERS:
                (self.root / name).mkdir(exist_ok=True, mode=0o700 if name == "trust" else 0o755)
        if not self.exists():
            write_atomic(self.root / MARKER_NAME, canonical_json({"layout_version": LAYOUT_VERSION}))
        return self.open()

    def exists(self) -> bool:
        """Whether ``root`` is a workspace."""
        return (self.root / MARKER_NAME).is_file()

    def open(self) -> Workspace:
        """Check that this is a workspace of a known layout, and sweep what interrupted work left.

        Raises:
            InputError: there is no workspace, or one of another layout.
        """
        if not self.exists():
            raise InputError(f"Expected a workspace at {self.root}, but there is none; run 'mmcl-edge init' first.")
        marker = read_json(self.root / MARKER_NAME, 4096)
        version = marker.get("layout_version") if isinstance(marker, dict) else None
        if version != LAYOUT_VERSION:
            raise InputError(
                f"The workspace {self.root} has layout version {version!r}, but this release knows {LAYOUT_VERSION}; "
                f"install the release that made it, or set {HOME_VARIABLE} to another folder."
            )
        self._sweep()
        return self

    def lock(self, *, blocking: bool = False) -> AbstractContextManager[None]:
        """Hold the workspace alone; a thread that holds it may take it again.

        Raises:
            LockedError: another process works in it; the message says which.
            StorageError: the folder cannot be written.
        """
        return workspace_lock(self.root, blocking=blocking)

    def _sweep(self) -> None:
        places = [self.root, *(self.root / name for name in _FOLDERS)]
        places.append(self.packs_path / LINEAGE_FOLDER)
        for folder in (self.replay_path, self.runs_path, self.trust_path):
            places += folder.glob("*")
        if not any(next(place.glob(f"{STAGING_PREFIX}*"), None) for place in places):
            return
        with suppress(LockedError, StorageError), self.lock():
            for place in places:
                sweep_staging(place)

    @property
    def bundle_path(self) -> Path:
        """The installed bundle's folder, links resolved, so that a later install does not change it underfoot.

        Raises:
            BundleError: none is installed.
        """
        path = self._bundle.target()
        if path is None:
            raise BundleError(
                f"The workspace {self.root} should hold a bundle, but holds none; "
                "run 'mmcl-edge init --bundle DIR', or 'mmcl-edge init' where the export extra is installed."
            )
        return path

    def bundle_digest(self) -> str | None:
        """Digest of the installed bundle; ``None`` without one. The files are not verified here."""
        return self._bundle.digest()

    def bundle_family(self) -> str | None:
        """What packs of the installed bundle are bound to (``Bundle.family``); ``None`` without one.

        Raises:
            BundleError: its manifest is missing or broken.
        """
        digest = self._bundle.digest()
        return None if digest is None else family_of(self.root / "bundles" / digest)

    def install_bundle(self, path: Path | str, *, move: bool = False, replace: bool = False) -> Bundle:
        """Verify the bundle in folder ``path``, bring it here, and make it the installed one.

        Order: verify; copy to staging and verify the copy; rename; if it replaces a bundle of another family, drop
        the links ``current`` and ``previous`` (their packs stay); swap the link ``bundle``; remove other bundles.
        A cut in between leaves the old bundle, or the new one, whole; at worst with no pack in use.
        Bundles of one family (a float bundle and its int8 versions) share packs: those in use stay in use, and the
        float bundle stays beside its int8 version, for the way back.

        Args:
            path: an exported bundle.
            move: rename the folder instead of copying where both are on one file system.
            replace: allow a bundle of another family than the installed one.

        Raises:
            BundleError: it is broken, or one of another family is installed and ``replace`` is false.
            StorageError: no space, read-only, no permission.
        """
        source = Bundle.open(path)
        with self.lock():
            old = self._bundle.digest_or_none()
            other = old is not None and old != source.digest
            stranger = other and self._family_or_none(str(old)) != source.family
            if stranger and not replace:
                raise self._another_bundle(str(old), source.digest)
            target = self.root / "bundles" / source.digest
            bring_bundle(source, target, move=move)
            if stranger:
                self._current.remove()
                self._previous.remove()
            self._bundle.point(source.digest)
            if other:
                self._remove_bundles(keep={source.digest, source.family})
        return Bundle(target, source.manifest, digest=source.digest)

    def _family_or_none(self, digest: str) -> str | None:
        with suppress(BundleError):
            return family_of(self.root / "bundles" / digest)
        return None

    def _remove_bundles(self, *, keep: set[str]) -> None:
        for folder in (self.root / "bundles").iterdir():
            if DIGEST.fullmatch(folder.name) and folder.name not in keep:
                shutil.rmtree(folder, ignore_errors=True)

    def _another_bundle(self, old: str, new: str) -> BundleError:
        return BundleError(
            f"The workspace {self.root} holds the bundle {old[:16]}..., and packs made for it do not fit "
            f"{new[:16]}...; use another {HOME_VARIABLE}, or run 'mmcl-edge init --bundle DIR --replace'."
        )

    def list_packs(self) -> tuple[Path, ...]:
        """Folders of all packs, by digest. They are not verified here."""
        folders = self.packs_path.iterdir() if self.packs_path.is_dir() else ()
        return tuple(sorted(folder for folder in folders if DIGEST.fullmatch(folder.name)))

    def current_pack(self) -> Path | None:
        """Folder of the pack in use; ``None`` before the first.

        Raises:
            PackError: the link is damaged.
        """
        return self._current.target()

    def current_digest(self) -> str | None:
        """Digest of the pack in use; ``None`` before the first, and where the link is damaged."""
        return self._current.digest_or_none()

    def previous_pack(self) -> Path | None:
        """Folder of the pack that was in use before; ``None`` if there is none.

        Raises:
            PackError: the link is damaged.
        """
        return self._previous.target()

    def resolve_pack(self, prefix_or_path: str | Path) -> Path:
        """Folder of the pack that is meant: ``current``, ``previous``, a digest's first letters, or a folder.

        Raises:
            PackError: none, or more than one, is meant.
        """
        text = str(prefix_or_path)
        for link in (self._current, self._previous):
            if text == link.name:
                return self._in_use(link)
        found = [folder for folder in self.list_packs() if len(text) >= MIN_PREFIX and folder.name.startswith(text)]
        if len(found) == 1:
            return found[0]
        if not found and (Path(text) / PACK_MANIFEST).is_file():
            return Path(text).resolve()
        raise PackError(
            f"Expected a folder or at least {MIN_PREFIX} letters of one pack's digest, but {text!r} fits "
            f"{len(found)} of {len(self.list_packs())} packs; see 'mmcl-edge pack list'."
        )

    def install_pack(self, path: Path | str, *, expected_digest: str | None = None) -> str:
        """Verify the pack in folder ``path`` and copy it here; returns its digest. It is not put in use.

        Raises:
            PackError: it is broken, not the expected one, or made for another bundle than the installed one.
            StorageError: no space, read-only, no permission.
        """
        source = read_pack(path, expected_digest=expected_digest, bundle_digest=self.bundle_family())
        with self.lock():
            bring_pack(source, self.packs_path / source.digest)
        return source.digest

    def use_pack(self, digest: str) -> Pack:
        """Put a pack of this workspace in use.

        Order: verify; ``previous`` := what is current; ``current`` := the new one. A cut in between leaves the old
        pack in use, with ``previous`` naming it too: valid, and the same call completes the change.
        While the current pack is on trial, ``previous`` stays at the last good one.

        Raises:
            PackError: it is not here, broken, or made for another bundle.
        """
        with self.lock():
            pack = self._verified(digest)
            old = self._current.digest_or_none()
            if old != digest:
                if old is not None and not self.trial.covers(old):
                    self._previous.point(old)
                self._current.point(digest)
        return pack

    def rollback(self) -> Pack:
        """Put the previous pack back in use; the one given up becomes the previous one.

        Order: verify; ``current`` := the previous one; ``previous`` := the one given up. A cut in between leaves
        the previous pack in use, with ``previous`` naming it too: valid, and already rolled back.

        Raises:
            PackError: there is no previous pack, or it is broken.
        """
        with self.lock():
            old, digest = self._current.digest_or_none(), self._in_use(self._previous).name
            if digest == old:
                raise PackError(
                    f"Expected an earlier pack to go back to, but the previous one is {digest[:16]}..., which is in "
                    "use; choose one with 'mmcl-edge pack use'."
                )
            pack = self._verified(digest)
            self._current.point(digest)
            if old is not None:
                self._previous.point(old)
        return pack

    def restore(self, current: str | None, previous: str | None) -> None:
        """Set both links, as they were before a trial; ``None`` is no pack.

        Order: verify; ``current``; ``previous``. A cut in between is valid, and the same call completes the change.

        Raises:
            PackError: the pack to put in use is not here, or broken; nothing is changed.
        """
        with self.lock():
            for link, digest in ((self._current, current), (self._previous, previous)):
                if digest is None:
                    link.remove()
                elif link is self._current:
                    self._current.point(self._verified(digest).digest)
                elif (self.packs_path / digest).is_dir():
                    self._previous.point(digest)

    def _verified(self, digest: str) -> Pack:
        return read_pack(self.packs_path / digest, expected_digest=digest, bundle_digest=self.bundle_family())

    def _in_use(self, link: DigestLink) -> Path:
        folder = link.target()
        if folder is None:
            raise PackError(
                f"Expected a {link.name} pack in {self.root}, but there is none; see 'mmcl-edge pack list'."
            )
        return folder

    def task_folder(self, name: str) -> Path:
        """``tasks/<name>``, which may not exist yet; the name is brought to Unicode form NFC.

        Raises:
            InputError: the name cannot be one folder's.
        """
        return self.tasks_path / _folder_name(name, "task")

    def run_folder(self, run_id: str) -> Path:
        """``runs/<run_id>``, which may not exist yet.

        Raises:
            InputError: the id cannot be one folder's name.
        """
        return self.runs_path / _folder_name(run_id, "run")


def _folder_name(name: str, what: str) -> str:
    form = nfc(name)
    try:
        check_name(form)
    except ValueError as error:
        raise InputError(f"{name!r} cannot name a {what}: {error}; choose another name.") from error
    if len(form) > MAX_NAME_CHARS:
        raise InputError(
            f"The name of a {what} should have at most {MAX_NAME_CHARS} characters, but {name[:16]!r}... has "
            f"{len(form)}; choose a shorter one."
        )
    return form
