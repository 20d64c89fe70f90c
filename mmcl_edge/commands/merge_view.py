"""What ``mmcl-edge merge`` shows a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmcl_edge.commands.console import table

MOST_PARENTS = 20
"""Rows of parents that are shown; all are in the JSON."""


def human(result: Mapping[str, Any]) -> str:
    """Facts, then a table of each kind of finding that there is."""
    return "\n\n".join([_facts(result), *_tables(result), *result["notes"]])


def _facts(result: Mapping[str, Any]) -> str:
    rows = [
        ("pack", result["path"] if result["accepted"] else f"refused, not written ({result['digest'][:16]})"),
        ("method", f"{result['method']}. {result['reason']}"),
        ("version", result["version"]),
        ("classes", len(result["labels"])),
        ("experts", result["experts"]),
        ("took", f"{result['duration_s']:.1f} s"),
    ]
    if result["base"]:
        rows.insert(2, ("base", result["base"][:16]))
    if result["repeated"]:
        rows.append(("named twice", ", ".join(f"{one[:16]} (counted once)" for one in result["repeated"])))
    if result["judgement"]:
        rows.append(("accuracy", _percent(result["judgement"]["accuracy"])))
    return table(("merge", ""), rows)


def _tables(result: Mapping[str, Any]) -> Iterator[str]:
    yield _parents(result)
    if result["judgement"]:
        yield table(
            ("class", "samples", "best parent", "merged"),
            [
                (one["label"], one["samples"], _percent(one["before"]), _percent(one["after"]))
                for one in result["judgement"]["classes"]
            ],
            title="Each class before and after",
        )
    if result["space"]:
        yield _space(result["space"])
    if result["pairs"]:
        yield table(
            ("parent", "pairs of", "parent alone", "merged"),
            [
                (one["digest"][:16], one["modality"], f"{one['before']:.3f}", f"{one['after']:.3f}")
                for one in result["pairs"]["figures"]
            ],
            title="Mean reciprocal rank on pairs before and after",
        )
    if result["broken"]:
        yield table(("left out", "because"), [(one["path"], one["reason"]) for one in result["broken"]])
    if result["clashes"]:
        names = [(one["kept"], ", ".join(one["others"])) for one in result["clashes"]]
        yield table(("class", "also written"), names, title="Names taken for one class")
    if result["folded"]:
        alike = [(one["block"], one["kept"], one["dropped"], f"{one['similarity']:.4f}") for one in result["folded"]]
        yield table(("block", "kept", "dropped", "cosine"), alike, title="Experts that are alike")
    if result["impostors"]:
        false = [(digest[:16], expert) for digest, expert in result["impostors"]]
        yield table(("pack", "expert"), false, title="Packs that use an expert's id for other weights")
    if result["outliers"]:
        away = [(one["digest"][:16], _far(one), _exchanged(one)) for one in result["outliers"]]
        yield table(("outlier", "far in (times the median distance)", "classes exchanged"), away)


def _space(space: Mapping[str, Any]) -> str:
    rows = [
        (
            one["modality"],
            "the mean of several" if one["combined"] else "as it was",
            ", ".join(f"{digest[:8]}" for digest in one["packs"][:4]) + (", ..." if len(one["packs"]) > 4 else ""),
            one["pairs"] or "",
        )
        for one in space["modalities"]
    ]
    title = (
        f"Shared space of {space['packs']} packs: {space['codes']} codes ({space['codes_matched']} matched, "
        f"{space['codes_joined']} joined), {space['experts']} experts"
    )
    return table(("modality", "became", "of packs", "pairs"), rows, title=title)


def _parents(result: Mapping[str, Any]) -> str:
    parents = result["parents"]
    judged = {one["digest"]: one for one in (result["judgement"] or {}).get("parents", ())}
    rows = []
    for one in parents[:MOST_PARENTS]:
        figures = judged.get(one["digest"])
        row = (one["digest"][:16], f"{one['weight']:.4g}")
        rows.append((*row, _percent(figures and figures["before"]), _percent(figures and figures["after"])))
    title = f"The first {MOST_PARENTS} of {len(parents)} parents" if len(parents) > MOST_PARENTS else "Parents"
    if not judged:
        return table(("parent", "weight"), [row[:2] for row in rows], title=title)
    return table(("parent", "weight", "its classes", "merged"), rows, title=title)


def _far(outlier: Mapping[str, Any]) -> str:
    shown = [f"{one['part']} ({one['ratio']:g})" for one in outlier["far"][:3]]
    more = len(outlier["far"]) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _exchanged(outlier: Mapping[str, Any]) -> str:
    return ", ".join(f"{one} and {other}" for one, other in outlier["exchanged"])


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"
