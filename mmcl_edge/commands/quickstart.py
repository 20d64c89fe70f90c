"""``mmcl-edge quickstart``: the whole job on built-in samples, in a folder of its own."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Literal

import click

from mmcl_edge.commands.console import emit, json_option
from mmcl_edge.errors import MissingExtraError, RejectedError

DEFAULT_HOME = Path("quickstart-home")


@click.command()
@click.option(
    "--home",
    "root",
    type=click.Path(path_type=Path),
    default=DEFAULT_HOME,
    show_default=True,
    metavar="DIR",
    help="Everything is made here; your own workspace is left alone.",
)
@click.option(
    "--samples-per-class",
    type=click.IntRange(min=4, max=116),
    default=12,
    show_default=True,
    metavar="N",
    help="Pairs of a sound and a picture to learn from; half as many more are kept for the test.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=12,
    show_default=True,
    metavar="N",
    help="Passes over the samples.",
)
@click.option(
    "--placement",
    type=click.Choice(["inline", "ladder"]),
    default="inline",
    show_default=True,
    help="Adapters inside the backbones, or beside them (much faster).",
)
@json_option
def command(
    root: Path, samples_per_class: int, epochs: int, placement: Literal["inline", "ladder"], as_json: bool
) -> None:
    """Export the default backbones, learn ten digits in three experiences, measure, predict.

    Handwritten digits (real ones) are paired with spoken ones (synthesised). Nothing is fetched. An interrupted run
    goes on when the same command is given again; a finished one is done again on the same bundle and samples.

    \b
    Examples:
      mmcl-edge quickstart
      mmcl-edge quickstart --placement ladder
      mmcl-edge quickstart --home ./trial --samples-per-class 30 --epochs 20 --json
    """  # noqa: D301
    started = time.monotonic()
    refuse_missing_extras(exporting=not (root / "bundle").is_dir())
    from mmcl_edge.commands.quickstart_place import Settings
    from mmcl_edge.commands.quickstart_run import run
    from mmcl_edge.commands.quickstart_text import human

    settings = Settings(samples_per_class=samples_per_class, epochs=epochs, placement=placement)
    result = run(root.absolute(), settings, quiet=as_json, started=started)
    emit(result, as_json, human)
    if not all(row["accepted"] for row in result["experiences"]):
        click.get_current_context().exit(RejectedError.exit_code)


def refuse_missing_extras(*, exporting: bool) -> None:
    """Say at the start, not after minutes, which optional packages are missing.

    Raises:
        MissingExtraError: some are.
    """
    from mmcl_edge.commands.doctor import EXTRA_MODULES

    extras = ("export", "defaults", "quickstart") if exporting else ("quickstart",)
    modules = [name for extra in extras for name in EXTRA_MODULES[extra]]
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"The quickstart needs the packages {', '.join(missing)}, which are not installed; "
            f"run: pip install 'mmcl-edge[{','.join(extras)}]'"
        )
