"""``mmcl-edge pack diff``: what one pack has that another has not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from mmcl_edge.commands.console import emit, json_option, table
from mmcl_edge.commands.pack_place import opened
from mmcl_edge.packs import Pack

if TYPE_CHECKING:
    import torch


@click.command()
@click.argument("old")
@click.argument("new", default="current")
@json_option
def diff(old: str, new: str, as_json: bool) -> None:
    """Compare the packs OLD and NEW (default: the one in use): classes, modalities, experts, tensors, figures.

    The change of a tensor is the norm of the difference over the norm of the old values.

    \b
    Examples:
      mmcl-edge pack diff previous
      mmcl-edge pack diff 3fa94c birds.mmclpack --json
    """  # noqa: D301
    with opened(old) as first, opened(new) as second:
        result = {
            "old": first.digest,
            "new": second.digest,
            "bundle_equal": first.manifest.bundle_digest == second.manifest.bundle_digest,
            "labels": _sets(first.manifest.label_names, second.manifest.label_names),
            "modalities": _sets(_modalities(first), _modalities(second)),
            "experts": _sets(_experts(first), _experts(second)),
            "frozen": sorted(_frozen(second) - _frozen(first)),
            "tensors": _tensors(first.tensors(), second.tensors()),
            "evaluation": _figures(first, second),
        }
    emit(result, as_json, _text)


def _sets(old: Sequence[str], new: Sequence[str]) -> dict[str, list[str]]:
    return {
        "added": [name for name in new if name not in set(old)],
        "removed": [name for name in old if name not in set(new)],
    }


def _modalities(pack: Pack) -> tuple[str, ...]:
    space = pack.space()
    return () if space is None else space.modalities


def _experts(pack: Pack) -> list[str]:
    return [f"{expert.block}/{expert.id}" for expert in pack.manifest.experts]


def _frozen(pack: Pack) -> set[str]:
    return {f"{expert.block}/{expert.id}" for expert in pack.manifest.experts if expert.frozen}


def _tensors(old: Mapping[str, torch.Tensor], new: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    both = [name for name in sorted(new) if name in old]
    changed = [row for name in both if (row := _change(name, old[name], new[name])) is not None]
    return {
        **_sets(sorted(old), sorted(new)),
        "equal": len(both) - len(changed),
        "changed": sorted(changed, key=lambda row: (-(row["relative_change"] or 0.0), row["name"])),
    }


def _change(name: str, old: torch.Tensor, new: torch.Tensor) -> dict[str, Any] | None:
    import torch

    shapes = {"old_shape": list(old.shape), "new_shape": list(new.shape)}
    if old.shape != new.shape:
        return {"name": name, **shapes, "change": None, "relative_change": None}
    if old.dtype == new.dtype and torch.equal(old, new):
        return None
    change = float(torch.linalg.vector_norm(new.double() - old.double()))
    before = float(torch.linalg.vector_norm(old.double()))
    return {"name": name, **shapes, "change": change, "relative_change": change / before if before else None}


def _figures(first: Pack, second: Pack) -> list[dict[str, Any]]:
    names = sorted({*first.evaluation, *second.evaluation})
    rows = [{"figure": name, "old": first.evaluation.get(name), "new": second.evaluation.get(name)} for name in names]
    return [row for row in rows if all(isinstance(row[key], int | float | str | None) for key in ("old", "new"))]


def _text(result: Mapping[str, Any]) -> str:
    tensors = result["tensors"]
    rows = [
        ("classes added", ", ".join(result["labels"]["added"]) or "none"),
        ("classes removed", ", ".join(result["labels"]["removed"]) or "none"),
        *((f"modalities {way}", ", ".join(found)) for way, found in result["modalities"].items() if found),
        ("experts added", len(result["experts"]["added"])),
        ("experts removed", len(result["experts"]["removed"])),
        ("experts frozen since", len(result["frozen"])),
        ("tensors added", len(tensors["added"])),
        ("tensors removed", len(tensors["removed"])),
        ("tensors equal", tensors["equal"]),
        ("tensors changed", len(tensors["changed"])),
        ("made for one bundle", "yes" if result["bundle_equal"] else "NO"),
    ]
    parts = [table(("from " + result["old"][:16], "to " + result["new"][:16]), rows)]
    if tensors["changed"]:
        parts.append(table(("tensor", "shape", "change", "relative"), map(_row, tensors["changed"]), title="Changed"))
    figures = [(row["figure"], _cell(row["old"]), _cell(row["new"])) for row in result["evaluation"]]
    if figures:
        parts.append(table(("figure", "old", "new"), figures, title="Evaluation"))
    return "\n\n".join(parts)


def _row(change: Mapping[str, Any]) -> tuple[str, str, str, str]:
    old, new = ("x".join(map(str, change[key])) or "scalar" for key in ("old_shape", "new_shape"))
    shape = old if old == new else f"{old} -> {new}"
    return change["name"], shape, _cell(change["change"]), _cell(change["relative_change"])


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
