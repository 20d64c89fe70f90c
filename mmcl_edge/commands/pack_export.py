"""``mmcl-edge pack export``: one file that carries a pack."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

import click

from mmcl_edge.commands.console import emit, json_option
from mmcl_edge.commands.pack_place import pack_folder, parent_of
from mmcl_edge.commands.passphrase import signer_for
from mmcl_edge.errors import PackError
from mmcl_edge.packs import Pack, read_pack
from mmcl_edge.packs.archive import read_archive, write_archive
from mmcl_edge.packs.precision import PRECISIONS, Reduction, precision_of, write_reduced
from mmcl_edge.packs.signing import sign_pack


@click.command()
@click.argument("pack", default="current")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The archive to write.")
@click.option("--delta-from", metavar="PACK", help="Carry only what differs from PACK; 'parent' is its own parent.")
@click.option(
    "--precision",
    type=click.Choice((*PRECISIONS, "int4")),
    help="Store the weights so; int4: changes since --delta-from in four bits.  [default: as they are]",
)
@click.option("--sign", "key", metavar="KEY", help="Sign it with this key of yours ('device': this device's).")
@json_option
def export(pack: str, out: Path, delta_from: str | None, precision: str | None, key: str | None, as_json: bool) -> None:
    """Write PACK (default: the one in use) to one file, whole or as a delta.

    A pack in another precision is another pack, a child of PACK, with a digest of its own.

    \b
    Examples:
      mmcl-edge pack export --out birds.mmclpack
      mmcl-edge pack export 3fa94c --out birds.mmclpack --delta-from parent --precision int8 --sign device
    """  # noqa: D301
    source = read_pack(pack_folder(pack))
    base = None if delta_from is None else _base(source, delta_from)
    with tempfile.TemporaryDirectory() as scratch:
        folder = _prepared(source, base, precision, Path(scratch), copy=key is not None)
        if key is not None:
            sign_pack(folder, signer_for(key))
        write_archive(folder, out, parent=None if base is None else base.path)
    emit(_result(out), as_json, _text)


def _base(source: Pack, delta_from: str) -> Pack:
    if delta_from != "parent":
        return read_pack(pack_folder(delta_from))
    found = next((folder for one in source.manifest.parents if (folder := parent_of(one.digest))), None)
    if found is None:
        raise PackError(
            f"The pack {source.digest[:16]}... should have a parent in this workspace, but has none here; name the "
            "pack to differ from, or leave --delta-from out."
        )
    return read_pack(found)


def _prepared(source: Pack, base: Pack | None, precision: str | None, scratch: Path, *, copy: bool) -> Path:
    if precision is not None and precision != precision_of(source.entries):
        return scratch / write_reduced(source, _reduction(source, precision), scratch, keep_to=base)
    return Path(shutil.copytree(source.path, scratch / source.digest)) if copy else source.path


def _reduction(source: Pack, precision: str) -> Reduction:
    for known in get_args(Reduction):
        if precision == known:
            return cast(Reduction, known)
    raise PackError(
        f"The pack {source.digest[:16]}... is stored as {precision_of(source.entries)}, which cannot become "
        f"{precision}; export the pack it was made from, or leave --precision out."
    )


def _result(out: Path) -> dict[str, Any]:
    found = read_archive(out, keys=None)
    return {
        "digest": found.digest,
        "file": str(out),
        "size_bytes": out.stat().st_size,
        "delta_from": None if found.delta is None else found.delta.parent,
        "tensors_from_parent": 0 if found.delta is None else len(found.delta.from_parent),
        "tensors_in_steps": 0 if found.delta is None else len(found.delta.in_steps),
        "signed": "signatures.json" in found.files,
    }


def _text(result: Mapping[str, Any]) -> str:
    delta = f", a delta against {result['delta_from'][:16]}" if result["delta_from"] else ""
    signed = ", signed" if result["signed"] else ""
    return f"Wrote {result['file']}: pack {result['digest'][:16]}, {result['size_bytes']:,} bytes{delta}{signed}"
