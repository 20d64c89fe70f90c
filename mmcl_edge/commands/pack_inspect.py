"""``mmcl-edge pack inspect``: what is in a pack or an archive, in tables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mmcl_edge.commands.console import emit, json_option, table
from mmcl_edge.commands.pack_place import pack_folder
from mmcl_edge.errors import PackError
from mmcl_edge.packs import PackManifest, read_pack
from mmcl_edge.packs.archive import is_archive, read_archive
from mmcl_edge.packs.delta import DELTA_TENSORS_NAME
from mmcl_edge.packs.manifest import CONFIG_NAME, EVAL_NAME, SIGNATURES_NAME, TENSORS_NAME
from mmcl_edge.packs.precision import precision_of
from mmcl_edge.packs.signing import claimed_keys, signature_bytes
from mmcl_edge.packs.spaces import SpaceSummary, space_summary
from mmcl_edge.packs.tensors import TensorEntry, parse_layout


@click.command()
@click.argument("pack", default="current")
@json_option
def inspect(pack: str, as_json: bool) -> None:
    """Show what is in PACK: a pack of the workspace, a folder, or an archive (its parent need not be here).

    \b
    Examples:
      mmcl-edge pack inspect birds.mmclpack
      mmcl-edge pack inspect current --json
    """  # noqa: D301
    result = _of_archive(Path(pack)) if is_archive(Path(pack)) else _of_folder(pack)
    emit(result, as_json, _text)


def _of_folder(pack: str) -> dict[str, Any]:
    found = read_pack(pack_folder(pack))
    size = sum(file.stat().st_size for file in found.path.iterdir())
    facts = {"path": str(found.path), "kind": "folder", "size_bytes": size, "delta_from": None}
    keys = claimed_keys(signature_bytes(found.path), found.manifest, found.digest)
    facts["space"] = _space(dict(found.module), found.entries)
    return _result(facts, found.manifest, found.digest, found.entries, keys, dict(found.evaluation), {})


def _of_archive(file: Path) -> dict[str, Any]:
    found = read_archive(file)
    origins = {name: "parent" for name in (found.delta.from_parent if found.delta else ())}
    origins |= {name: "steps from parent" for name in (found.delta.in_steps if found.delta else ())}
    if found.delta is None:
        entries, _ = parse_layout(found.files[TENSORS_NAME])
    else:
        size = found.manifest.file(TENSORS_NAME).size_bytes
        entries, _ = parse_layout(found.files[DELTA_TENSORS_NAME], size_bytes=size)
    evaluation, config = (_parsed(found.files, name, file) for name in (EVAL_NAME, CONFIG_NAME))
    facts = {
        "path": str(file),
        "kind": "archive" if found.delta is None else "delta archive",
        "size_bytes": file.stat().st_size,
        "delta_from": found.delta.parent if found.delta else None,
        "space": _space(config.get("module") if isinstance(config, dict) else None, entries),
    }
    keys = claimed_keys(found.files.get(SIGNATURES_NAME), found.manifest, found.digest)
    return _result(facts, found.manifest, found.digest, entries, keys, evaluation, origins)


def _parsed(files: Mapping[str, bytes], name: str, file: Path) -> Any:
    try:
        return json.loads(files[name])
    except (ValueError, RecursionError) as error:
        raise PackError(f"{name} in {file} should be JSON, but does not parse; export the pack again.") from error


def _space(module: Any, entries: Mapping[str, TensorEntry]) -> dict[str, Any] | None:
    shapes = {name: entry.shape for name, entry in entries.items()}
    found = space_summary(module if isinstance(module, dict) else {}, shapes)
    return None if found is None else found.as_json()


def _result(
    facts: Mapping[str, Any],
    manifest: PackManifest,
    digest: str,
    entries: Mapping[str, TensorEntry],
    keys: tuple[str, ...],
    evaluation: Any,
    origins: Mapping[str, str],
) -> dict[str, Any]:
    tensors = [
        {
            "name": name,
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "size_bytes": entry.end - entry.begin,
            "from": origins.get(name, "here"),
        }
        for name, entry in sorted(entries.items())
    ]
    return {
        "digest": digest,
        **facts,
        "precision": precision_of(entries),
        "manifest": manifest.model_dump(mode="json"),
        "tensors": tensors,
        "signatures": list(keys),
        "evaluation": evaluation,
    }


def _text(result: Mapping[str, Any]) -> str:
    manifest = result["manifest"]
    counts = manifest["sample_counts"]
    labels = [(one["index"], one["name"], one["id"], counts.get(one["name"], 0)) for one in manifest["labels"]]
    experts = [
        (one["block"], one["id"], "frozen" if one["frozen"] else "", one["owner"] or "") for one in manifest["experts"]
    ]
    tensors = [
        (
            one["name"],
            one["dtype"],
            "x".join(map(str, one["shape"])) or "scalar",
            f"{one['size_bytes']:,}",
            one["from"],
        )
        for one in result["tensors"]
    ]
    signatures = [(keyid, "not verified: see 'pack verify --key'") for keyid in result["signatures"]]
    evaluation = result["evaluation"] if isinstance(result["evaluation"], Mapping) else {}
    figures = [(name, value) for name, value in sorted(evaluation.items()) if isinstance(value, int | float | str)]
    space = [] if result["space"] is None else SpaceSummary(**result["space"]).rows()
    parts = (
        table(("fact", "value"), _facts(result)),
        *([table(("fact", "value"), space, title="Shared space")] if space else ()),
        table(("index", "class", "id", "training samples"), labels, title="Classes"),
        table(("block", "expert", "state", "owner"), experts, title="Experts"),
        table(("tensor", "dtype", "shape", "bytes", "from"), tensors, title="Tensors"),
        table(("key", "signature"), signatures, title="Signatures") if signatures else "Not signed.",
        table(("figure", "value"), figures, title="Evaluation"),
    )
    return "\n\n".join(parts)


def _facts(result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    manifest, tensors = result["manifest"], result["tensors"]
    parents = ", ".join(f"{one['digest'][:16]} ({one['method']})" for one in manifest["parents"])
    values = sum(math.prod(one["shape"]) for one in tensors)
    return [
        ("pack", result["digest"]),
        (result["kind"], result["path"]),
        ("size", f"{result['size_bytes']:,} bytes"),
        *([("delta against", result["delta_from"])] if result["delta_from"] else []),
        ("version", manifest["version"]),
        ("bundle", manifest["bundle_digest"]),
        ("parents", parents or "none"),
        ("experiences", ", ".join(manifest["experiences"]) or "none"),
        ("weights", f"{values:,} values in {len(tensors)} tensors, {result['precision']}"),
        ("confidence", "calibrated" if manifest.get("confidence") else "not calibrated"),
        ("needs at least", f"mmcl-edge {manifest['minimum_runtime']}"),
    ]
