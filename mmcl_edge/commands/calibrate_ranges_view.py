"""The result of ``mmcl-edge calibrate ranges``, as a dictionary and as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcl_edge.commands.console import table

if TYPE_CHECKING:
    from mmcl_edge.calibration.ranges import RangesReport
    from mmcl_edge.calibration.samples import CalibrationData

NO_DOT_PRODUCTS = (
    "this machine has no 8-bit dot products (VNNI), so int8 gains little time here, and its times say nothing about "
    "a machine that has them"
)


def result_of(report: RangesReport, data: CalibrationData, *, place: Path, installed: bool) -> dict[str, Any]:
    """Everything that was measured."""
    record, last = report.record, report.steps[-1]
    return {
        "digest": report.bundle.digest,
        "quantized_from": report.bundle.family,
        "path": str(place),
        "installed": installed,
        "method": record.method,
        "per_channel": record.per_channel,
        "reduce_range": record.reduce_range,
        "int8_support": report.int8_support,
        "samples": {"calibrate": len(data.calibrate), "measure": len(data.measure), "set_aside": data.set_aside},
        "accuracy": {
            "of": report.trial.judge.kind,
            "against": report.trial.kind,
            "float": round(report.trial.float_accuracy, 4),
            "int8": round(last.accuracy, 4),
            "loss": round(report.trial.float_accuracy - last.accuracy, 4),
            "same_answers": round(last.agreement, 4),
            "steps": [{"float_nodes": step.float_nodes, "accuracy": round(step.accuracy, 4)} for step in report.steps],
        },
        "size_ratio": _ratio([(one.size_bytes, one.float_size_bytes) for one in record.graphs]),
        "latency_ratio": _latency_ratio(report),
        "graphs": [{**one.model_dump(mode="json"), **_speed(report, one.graph)} for one in record.graphs],
        "warnings": _warnings(report, data),
    }


def _speed(report: RangesReport, graph: str) -> dict[str, Any]:
    speed = report.speeds.get(graph)
    if speed is None:
        return {"float_ms": None, "int8_ms": None, "latency_ratio": None}
    return {
        "float_ms": round(speed.float_ms, 3),
        "int8_ms": round(speed.int8_ms, 3),
        "latency_ratio": round(speed.ratio, 3),
    }


def _latency_ratio(report: RangesReport) -> float | None:
    """Of all graphs that were timed, each in the form that the bundle holds."""
    int8 = {one.graph for one in report.record.graphs if one.int8}
    pairs = [(s.int8_ms if path in int8 else s.float_ms, s.float_ms) for path, s in report.speeds.items()]
    return _ratio(pairs) if pairs else None


def _ratio(pairs: list[tuple[float, float]]) -> float:
    return round(sum(one for one, _ in pairs) / sum(other for _, other in pairs), 3)


def _warnings(report: RangesReport, data: CalibrationData) -> list[str]:
    found = []
    if report.int8_support is None:
        found.append(NO_DOT_PRODUCTS)
    if len(data.measure) < 200:
        share = 100 / len(data.measure)
        found.append(f"accuracy was measured on {len(data.measure)} samples: one of them is {share:.1f} points")
    if report.trial.judge.kind != "pack":
        found.append("no pack was in use, so accuracy is that of the nearest class mean; calibrate again after adapt")
    if data.set_aside:
        found.append(f"{data.set_aside} samples were silent, of one colour or not readable, and were set aside")
    return found


def human(result: Mapping[str, Any]) -> str:
    """For people."""
    accuracy, samples = result["accuracy"], result["samples"]
    share = f"{100 * accuracy['float']:.1f} % -> {100 * accuracy['int8']:.1f} %"
    header = ("graph", "form", "SNR dB", "size", "float ms", "int8 ms", "left in float")
    lines = [
        table(header, [_row(one) for one in result["graphs"]]),
        "",
        f"Accuracy   {share} ({accuracy['of']} against {accuracy['against']}, {samples['measure']} samples; "
        f"{100 * accuracy['same_answers']:.1f} % equal answers)",
        f"Size       {result['size_ratio']:.2f} x of the float forward graphs",
    ]
    if result["latency_ratio"] is not None:
        lines.append(
            f"Time       {result['latency_ratio']:.2f} x of the float forward graphs "
            f"({result['int8_support'] or 'no 8-bit dot products'})"
        )
    lines.append(f"Bundle     {result['digest'][:16]} in {result['path']}")
    if result["way_back"]:
        lines.append(f"Way back   {result['way_back']}")
    return "\n".join([*lines, *(f"Warning    {text}" for text in result["warnings"])])


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        one["graph"],
        "int8" if one["int8"] else "float",
        "" if one["snr_db"] is None else f"{one['snr_db']:.1f}",
        f"{one['size_bytes'] / one['float_size_bytes']:.2f} x",
        "" if one["float_ms"] is None else f"{one['float_ms']:.2f}",
        "" if one["int8_ms"] is None else f"{one['int8_ms']:.2f}",
        one["reason"] or ", ".join(one["float_nodes"]),
    )
