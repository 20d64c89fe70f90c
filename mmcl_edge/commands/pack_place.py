"""What the argument PACK of a command means: a digest's beginning, ``current``, ``previous``, a folder, an archive."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mmcl_edge.packs import Pack, read_pack
from mmcl_edge.packs.archive import is_archive, open_archive
from mmcl_edge.packs.keys import read_public_key
from mmcl_edge.runtime.workspace import Workspace

if TYPE_CHECKING:
    from securesystemslib.signer import Key

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def pack_folder(pack: str) -> Path:
    """The folder of the pack that is meant; an archive has none.

    Raises:
        PackError: none, or more than one, is meant.
    """
    workspace = Workspace()
    return workspace.open().resolve_pack(pack) if workspace.exists() or not Path(pack).is_dir() else Path(pack)


def parent_of(digest: str) -> Path | None:
    """The folder of a pack in the workspace; ``None`` without one. What ``open_archive`` asks for a delta's parent."""
    folder = Workspace().packs_path / digest
    return folder if folder.is_dir() else None


@contextmanager
def opened(pack: str) -> Iterator[Pack]:
    """The verified pack that is meant, also one in an archive, for as long as the context lasts.

    Raises:
        PackError: it is broken, or not here.
    """
    if not is_archive(Path(pack)):
        yield read_pack(pack_folder(pack))
        return
    with tempfile.TemporaryDirectory() as folder:
        digest = open_archive(Path(pack), Path(folder), parent_of=parent_of)
        yield read_pack(Path(folder) / digest)


def key_options(function: Decorated) -> Decorated:
    """Add ``--key FILE`` (repeatable) and ``--threshold N``, passed as ``keys: tuple[Path, ...]`` and ``threshold``."""
    key = click.option(
        "--key",
        "keys",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="A public key that is trusted ('keys show NAME --public-out FILE'); then a signature is required.",
    )
    threshold = click.option(
        "--threshold",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="How many of them must have signed.",
    )
    return key(threshold(function))


def public_keys(files: Iterable[Path]) -> tuple[Key, ...]:
    """The trusted keys in ``files``.

    Raises:
        KeyFileError: one is no public key.
    """
    return tuple(read_public_key(file).key for file in files)
