"""docs/performance.md from rows. Pure: rows in, text out; a figure that no row gives is ``not measured``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sections import SECTIONS, Check, Section

Row = Mapping[str, Any]
NOT_MEASURED = "not measured"
FACTS, FAILED = "facts", "failed"
"""Kinds of rows that the runner adds: what a program ran on, and why it gave no figures."""
_HIDDEN = ("benchmark", "job", "targets", "cores", "load_1min", "torch", "onnxruntime")
_HEAD = """\
# Performance

Made by `make bench` (and `make bench-all` for the parts that take longer or need data) from the rows in
[performance.jsonl](performance.jsonl); do not edit it. Every time is a median over rounds in which the contestants took
turns, beside the least and the greatest round. Machines are noisy: trust the ratios, each the median over the rounds of
ours / theirs within one round. Batch 1 unless a row says otherwise. Below 1, ours is faster or smaller.
"""
_OTHERS = f"""\
## Not compared

- On a GPU: {NOT_MEASURED}.
- ExecuTorch: {NOT_MEASURED}; it is not among the packages that this project installs. ONNX Runtime's own format for
  mobile devices stands in the tables as `ort_format`.
"""


def page(rows: Iterable[Row]) -> str:
    """The whole page."""
    known = list(rows)
    parts = [_HEAD, _machines(known)]
    parts += [section_text(one, [row for row in known if row["job"] == one.job]) for one in SECTIONS]
    return "\n".join([*parts, _OTHERS])


def section_text(section: Section, rows: Sequence[Row]) -> str:
    """One part of the page from the rows of its job."""
    lines = [f"## {section.title}", "", section.text, ""]
    failures = [row for row in rows if row["benchmark"] == FAILED]
    figures = [row for row in rows if row["benchmark"] not in (FACTS, FAILED)]
    lines += [f"{NOT_MEASURED}: {row['reason']}\n" for row in failures]
    if not rows:
        lines += [f"{NOT_MEASURED}\n"]
    for made in (_targets(section, figures), _times(section, figures), *_rest(section, figures)):
        lines += [*made, ""] if made else []
    return "\n".join(lines)


def verdict(row: Row, check: Check) -> tuple[float, float | None, str] | None:
    """Target, figure, and ``met``, ``missed`` or ``not measured``; ``None`` where the row has no such target."""
    bound = row.get("targets", {}).get(check.target)
    if bound is None or check.benchmark not in (None, row["benchmark"]):
        return None
    found = at(row, check.path)
    if found is None:
        return bound, None, NOT_MEASURED
    return bound, found, "met" if found <= bound else "missed"


def at(row: Row, path: str) -> Any:
    """The field at a path of names joined by dots, or ``None``."""
    found: Any = row
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def table(heads: Sequence[str], lines: Iterable[Sequence[object]]) -> list[str]:
    """A table; empty if there are no lines."""
    written = [f"| {' | '.join(map(_cell, line))} |" for line in lines]
    return [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}", *written] if written else []


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:,.10g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _name(section: Section, row: Row) -> str:
    """What tells a row from others of its section."""
    found = [str(row[key]) if isinstance(row[key], str) else f"{key} {row[key]}" for key in section.keys if key in row]
    return ", ".join(found) or row["benchmark"]


def _targets(section: Section, rows: Sequence[Row]) -> list[str]:
    lines = []
    for row in rows:
        for check in section.checks:
            found = verdict(row, check)
            if found is not None:
                bound, value, word = found
                lines.append((_name(section, row), check.meaning, f"<= {bound:g}", value, word))
    return table(("row", "what", "target", "found", "result"), lines)


def _is_contestant(value: object) -> bool:
    return isinstance(value, Mapping) and "median_ms" in value


def _times(section: Section, rows: Sequence[Row]) -> list[str]:
    lines = []
    for row in rows:
        for name, value in row.items():
            if _is_contestant(value):
                figures = [value.get(key) for key in ("median_ms", "min_ms", "max_ms", "ours_to_it")]
                lines.append((_name(section, row), f"`{name}`", *figures))
    return table(("row", "contestant", "median ms", "min", "max", "ours / it"), lines)


def _rest(section: Section, rows: Sequence[Row]) -> list[list[str]]:
    """All other figures: one table for each kind of row, a column a row."""
    made = []
    for kind in dict.fromkeys(row["benchmark"] for row in rows):
        same = [row for row in rows if row["benchmark"] == kind]
        flat = [dict(_flat(row, skip=(*_HIDDEN, *section.keys))) for row in same]
        names = dict.fromkeys(name for one in flat for name in one)
        heads = (kind.replace("_", " "), *(_name(section, row) for row in same))
        made.append(table(heads, [(name, *(one.get(name) for one in flat)) for name in names]))
    return made


def _flat(row: Row, *, skip: Sequence[str] = (), prefix: str = "") -> Iterable[tuple[str, object]]:
    for name, value in row.items():
        if name in skip:
            continue
        if isinstance(value, Mapping):
            shown = ("median_ms", "min_ms", "max_ms", "ours_to_it") if _is_contestant(value) and not prefix else ()
            yield from _flat(value, skip=shown, prefix=f"{prefix}{name}: ")
        else:
            yield f"{prefix}{name}".replace("_", " "), value


def _machines(rows: Sequence[Row]) -> str:
    """Which program ran when and on what; a program that was run again has a line of its own facts."""
    facts = [row for row in rows if row["benchmark"] == FACTS]
    lines = [f"## Machine and versions\n\n{'' if facts else NOT_MEASURED}"]
    heads = ("program", "date", "commit", "processor", "cores", "VNNI", "GiB", "kernel", "load before", "Python")
    names = ("job", "date", "commit", "processor", "cores", "vnni", "memory_gib", "kernel", "load_before", "python")
    lines += table(heads, [[row.get(name) for name in names] for row in facts])
    packages = dict.fromkeys(name for row in facts for name in row.get("versions", {}))
    versions = [(row["job"], *(row["versions"].get(name) for name in packages)) for row in facts]
    return "\n".join([*lines, "", *table(("program", *packages), versions), ""])
