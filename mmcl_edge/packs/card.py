"""The model card: ``README.md`` of a pack, written from the rest of it and from nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mmcl_edge.packs.contents import PackContents
from mmcl_edge.packs.spaces import space_summary

_FRONT_MATTER = "---\nlibrary_name: mmcl-edge\ntags:\n- continual-learning\n- adapter\n---\n"


def model_card(contents: PackContents) -> str:
    """Markdown that tells a person what the pack knows, from how much data, and how well it did."""
    parts = (_facts, _classes, _space, _figures, _confidence)
    title = "# Adapter pack" if _has_classes(contents) else "# Shared space"
    return "\n".join([_FRONT_MATTER, title, "", *(line for part in parts for line in part(contents))])


def _has_classes(contents: PackContents) -> bool:
    return contents.config.learner != "none"


def _facts(contents: PackContents) -> list[str]:
    size = sum(tensor.nbytes for tensor in contents.tensors.values())
    frozen = sum(expert.frozen for expert in contents.experts)
    adapters = [
        ("placement", contents.config.adapter.placement),
        ("experts", f"{len(contents.experts)}, of them {frozen} frozen"),
    ]
    rows = [
        ("version", contents.version),
        ("for the bundle", contents.bundle_digest),
        ("parents", ", ".join(f"{parent.digest[:16]} ({parent.method})" for parent in contents.parents) or "none"),
        ("experiences", ", ".join(contents.experiences) or "none"),
        *(adapters if _has_classes(contents) else ()),
        ("tensors", f"{len(contents.tensors)} with {size:,} bytes"),
        ("oldest release that reads it", contents.minimum_runtime),
        *((f"privacy: {name}", value) for name, value in sorted(contents.privacy.items())),
    ]
    return [*_table(("fact", "value"), rows), ""]


def _classes(contents: PackContents) -> list[str]:
    if not _has_classes(contents):
        return ["It answers what lies near what, across modalities (`embed`, `retrieve`), and knows no classes.", ""]
    rows = [(index, name, contents.sample_counts.get(name, 0)) for index, name in enumerate(contents.labels)]
    return ["## Classes", "", *_table(("index", "class", "training samples"), rows), ""]


def _space(contents: PackContents) -> list[str]:
    found = space_summary(contents.module, {name: value.shape for name, value in contents.tensors.items()})
    return [] if found is None else ["## Shared space", "", *_table(("fact", "value"), found.rows()), ""]


def _figures(contents: PackContents) -> list[str]:
    rows = [
        (name, value) for name, value in sorted(contents.evaluation.items()) if isinstance(value, int | float | str)
    ]
    return ["## Evaluation", "", *_table(("figure", "value"), rows), "", "All figures are in `eval.json`.", ""]


def _confidence(contents: PackContents) -> list[str]:
    found = contents.confidence
    if found is None:
        return []
    rows = [
        ("held-out samples it was measured on", found.samples),
        ("temperature", found.temperature),
        ("expected calibration error before", found.ece_before),
        ("expected calibration error after", found.ece_after),
        ("known samples that may be called unknown", found.unknown.false_alarm_rate),
    ]
    return ["## Confidence", "", *_table(("fact", "value"), rows), ""]


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(_cell(value) for value in line) + " |" for line in lines]


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    for char in "\\|`<[":
        text = text.replace(char, "\\" + char)
    return " ".join(text.split())
