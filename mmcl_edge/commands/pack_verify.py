"""``mmcl-edge pack verify``: every check, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mmcl_edge.commands.console import emit, json_option, table
from mmcl_edge.commands.pack_place import key_options, opened, public_keys
from mmcl_edge.packs import Pack
from mmcl_edge.packs.archive import is_archive, read_archive
from mmcl_edge.packs.precision import precision_of
from mmcl_edge.packs.signing import claimed_signers, require_signature
from mmcl_edge.runtime.workspace import Workspace


@click.command()
@click.argument("pack", default="current")
@key_options
@json_option
def verify(pack: str, keys: tuple[Path, ...], threshold: int, as_json: bool) -> None:
    """Verify PACK (a pack of the workspace, a folder or an archive), and say each check that was done.

    A check that fails ends the command with its sentence. Nothing is changed.

    \b
    Examples:
      mmcl-edge pack verify birds.mmclpack --key root.pub.json
      mmcl-edge pack verify current --json
    """  # noqa: D301
    trusted = public_keys(keys)
    with opened(pack) as found:
        checks = [*_archive(Path(pack)), *_pack(found), _bundle(found)]
        if keys:
            signers = sorted(require_signature(found, trusted, threshold=threshold))
            done = f"{len(signers)} of {len(trusted)} trusted keys have signed: {', '.join(k[:16] for k in signers)}"
        else:
            claimed, signers = claimed_signers(found), []
            done = f"{len(claimed)} found, none verified: no --key was given" if claimed else "none"
        checks.append(("signatures", done))
        rows = [{"check": name, "found": text} for name, text in checks]
        emit({"digest": found.digest, "valid": True, "signers": signers, "checks": rows}, as_json, _text)


def _archive(file: Path) -> list[tuple[str, str]]:
    if not is_archive(file):
        return []
    found = read_archive(file)
    rows = [("archive", f"{len(found.files)} plain members in their order, {file.stat().st_size:,} bytes, no more")]
    if found.delta is not None:
        equal, steps = len(found.delta.from_parent), len(found.delta.in_steps)
        parent = f"the pack {found.delta.parent[:16]}, which is here"
        rows.append(("delta", f"{equal} tensors are those of {parent}, {steps} are steps away; digests fit"))
    return rows


def _pack(found: Pack) -> list[tuple[str, str]]:
    manifest = found.manifest
    stored = precision_of(found.entries)
    return [
        ("manifest", f"canonical, schema {manifest.schema_version}, digest {found.digest}"),
        ("classes", f"{len(manifest.labels)}, ids derived from their names"),
        ("experts", f"{len(manifest.experts)}, ids unique in each block"),
        ("files", f"{len(manifest.files) + 1}, no other; sizes and sha256 as stated"),
        ("tensors", f"{len(found.entries)}, well formed ({stored}); values finite and of a sane magnitude"),
        ("configuration", f"valid, learner {found.config.learner}"),
        *_space(found),
    ]


def _space(found: Pack) -> list[tuple[str, str]]:
    if found.space() is None and found.config.space is None:
        return []
    from mmcl_edge.learners.comet.storage import space_of

    stored = space_of(found)
    assert stored is not None
    codes = len(stored.tensors["codebook.codes"])
    return [("shared space", f"whole: {', '.join(stored.facts.modalities)}; {codes} codes, shapes as configured")]


def _bundle(found: Pack) -> tuple[str, str]:
    workspace = Workspace()
    here = workspace.bundle_family() if workspace.exists() else None
    wanted = found.manifest.bundle_digest
    if here is None:
        return "bundle", f"made for {wanted[:16]}; there is none here to compare it with"
    return "bundle", f"made for the bundle here, {wanted[:16]}" if here == wanted else (
        f"made for {wanted[:16]}, NOT for the bundle here, {here[:16]}"
    )


def _text(result: Mapping[str, Any]) -> str:
    return table(("check", "found"), [(row["check"], row["found"]) for row in result["checks"]]) + "\n\nValid."
