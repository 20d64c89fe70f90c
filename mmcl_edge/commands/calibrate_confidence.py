"""``mmcl-edge calibrate confidence``: make the pack in use say how sure it is, and what it does not know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmcl_edge.commands.console import emit, json_option, progress, table
from mmcl_edge.commands.options import FiniteRange, provider_option, threads_option

if TYPE_CHECKING:
    from mmcl_edge.calibration.confidence import ConfidenceReport


@click.command("confidence")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Labelled samples laid out as a task, none of them taught.  [default: what adapt held out]",
)
@click.option(
    "--false-alarm-rate",
    type=FiniteRange(min=0, max=1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    metavar="X",
    help="Share of samples of known classes that may be called unknown.",
)
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw accuracy against confidence (.png or .svg; needs matplotlib).",
)
@provider_option
@threads_option
@json_option
def command(
    data: Path | None,
    false_alarm_rate: float,
    picture: Path | None,
    provider: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Make the pack in use say how sure it is, and what it does not know.

    adapt does this by itself. Do it again with samples of your own (--data), which should be like those that
    predict will see, or with another false-alarm rate. Samples of classes that were never taught, in --data too,
    measure how many strangers are noticed. A new pack is written and put in use; 'mmcl-edge pack rollback' undoes it.

    \b
    Examples:
      mmcl-edge calibrate confidence
      mmcl-edge calibrate confidence --data ./checked --false-alarm-rate 0.05
      mmcl-edge calibrate confidence --picture reliability.svg --json
    """  # noqa: D301
    from mmcl_edge.calibration.confidence import calibrate_confidence
    from mmcl_edge.runtime.workspace import Workspace

    if picture is not None:
        from mmcl_edge.benchmark.pictures import check_picture

        check_picture(picture)
    workspace = Workspace().open()
    with progress("Calibrating", quiet=as_json) as report:
        report("confidence")
        found = calibrate_confidence(
            workspace, data=data, false_alarm_rate=false_alarm_rate, provider=provider, threads=threads
        )
    if picture is not None:
        _draw(picture, found)
    emit(_result(found, picture), as_json, _human)


def _draw(picture: Path, found: ConfidenceReport) -> None:
    from mmcl_edge.benchmark.reliability import write_reliability

    write_reliability(
        picture,
        {"uncalibrated": found.bins["before"], "calibrated": found.bins["after"]},
        title="How often answers of a confidence are right",
        note=f"{found.samples} held-out samples of {found.classes} classes; temperature {found.temperature:.3g}",
    )


def _result(found: ConfidenceReport, picture: Path | None) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(found), "picture": None if picture is None else click.format_filename(picture)}


def _human(result: Mapping[str, Any]) -> str:
    rows = [
        ("samples", f"{result['samples']} held out, of {result['classes']} classes"),
        ("temperature", f"{result['temperature']:.3g}"),
        ("calibration error", f"{result['ece_before']:.3f} before, {result['ece_after']:.3f} after (cross-validated)"),
        (
            "known called unknown",
            f"{_percent(result['false_alarms'])} of {_percent(result['false_alarm_rate'])} allowed",
        ),
    ]
    if result["set_aside"]:
        rows.insert(1, ("set aside", f"{result['set_aside']} that the pack was trained on"))
    if result["strangers"]:
        noticed = f"{_percent(result['detected'])} of {result['strangers']} noticed (AUROC {result['auroc']:.3f})"
        rows.append(("never taught", noticed))
    if result["picture"]:
        rows.append(("picture", result["picture"]))
    digest = result["pack_digest"][:16]
    rows.append(("pack", f"{digest}, now in use" if result["changed"] else f"{digest} says so already, unchanged"))
    return table(("confidence", ""), rows)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
