"""The pack that all come from: what task vectors are counted from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mmcl_edge.errors import MergeError
from mmcl_edge.fleet.merge.reading import Source, verify
from mmcl_edge.packs import read_manifest

Find = Callable[[str], Path | None]


def find_base(
    sources: Sequence[Source], *, named: Path | None, find: Find | None, scratch: Path, needed: bool, method: str
) -> Source | None:
    """The base of ``sources``: the one named, else the nearest pack that all come from, if it is here.

    A pack among ``sources`` that all others come from is their base.

    Args:
        sources: verified packs.
        named: folder of a pack.
        find: digest to the folder of a pack, or ``None``; also walks up from parents to their parents.
        scratch: for the values of a pack stored as int8.
        needed: refuse where there is none.
        method: what needs it, for the message.

    Raises:
        MergeError: it is needed and there is none.
        PackError: the one named is broken.
    """
    if named is not None:
        return verify(named, scratch)
    own = {source.digest: source for source in sources}
    lines = [_ancestors(source, own, find) for source in sources]
    common = [digest for digest in lines[0] if all(digest in line for line in lines)]
    for digest in common:
        if digest in own:
            return own[digest]
        folder = find(digest) if find else None
        if folder is not None:
            return verify(folder, scratch)
    if not needed:
        return None
    if common:
        raise MergeError(
            f"Expected the pack that all come from for the method '{method}', which is {common[0][:16]}..., but it is "
            "not here; name its folder with --base."
        )
    raise MergeError(
        f"Expected packs with a common parent for the method '{method}', but {sources[0].digest[:16]}... and others "
        "name none; name the pack they were adapted from with --base, or choose 'mean' or 'median'."
    )


def _ancestors(source: Source, own: dict[str, Source], find: Find | None) -> dict[str, None]:
    """Digests of a pack and of all it comes from, nearest first, as far as they can be followed."""
    found: dict[str, None] = {source.digest: None}
    waiting = [parent.digest for parent in source.parents]
    while waiting:
        digest = waiting.pop(0)
        if digest in found:
            continue
        found[digest] = None
        if digest in own:
            waiting += [parent.digest for parent in own[digest].parents]
            continue
        folder = find(digest) if find else None
        if folder is not None:
            waiting += [parent.digest for parent in read_manifest(folder)[0].parents]
    return found
