"""``mmcl-edge adapt``: learn a task folder, and keep the result only if the old classes stand."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from mmcl_edge.commands.adapt_space_text import space_text
from mmcl_edge.commands.adapt_text import task_text
from mmcl_edge.commands.adapt_view import AdaptView, held_warnings
from mmcl_edge.commands.console import emit, json_option
from mmcl_edge.commands.main import INTERRUPTED
from mmcl_edge.commands.options import FiniteRange, provider_option, threads_option
from mmcl_edge.config import AdaptConfig, CometConfig, LearnerName, MethodConfig
from mmcl_edge.data.crossmodal import MEDIATOR, MODALITIES
from mmcl_edge.errors import RejectedError

if TYPE_CHECKING:
    from mmcl_edge.runtime.adapt import AdaptRequest
    from mmcl_edge.runtime.adapt_pairs import PairRequest
    from mmcl_edge.runtime.run_record import AdaptReport
    from mmcl_edge.runtime.workspace import Workspace

_METHOD, _ADAPT, _SPACE = MethodConfig(), AdaptConfig(), CometConfig()


@click.command()
@click.option("--task", "name", metavar="NAME", help="A task of classes; its data is tasks/NAME in the workspace.")
@click.option(
    "--modality",
    type=click.Choice(MODALITIES),
    metavar="M",
    help="Instead of a task: a modality to learn from pairs (image video sound speech motion).",
)
@click.option(
    "--mediator",
    type=click.Choice(MODALITIES),
    metavar="M",
    help=f"What the files of the modality are told by.  [default: {MEDIATOR}]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The task's folder, if it is elsewhere; with --modality, the folder of pairs.",
)
@click.option(
    "--learner",
    type=click.Choice(["mmcl", "analytic"]),
    help="mmcl trains adapters; analytic counts: seconds, no samples kept, and packs of many devices merge to what one "
    "device would have learned from all.  [default: the pack's in use, else mmcl]",
)
@click.option(
    "--placement",
    type=click.Choice(["inline", "ladder"]),
    help="Adapters inside the backbones, or beside them (much faster).  [default: the pack's in use, else inline]",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Passes over the samples.  [default: {_METHOD.train.epochs}, more where samples are few; "
    f"{_SPACE.epochs} with --modality]",
)
@click.option(
    "--max-minutes", type=FiniteRange(min=0, min_open=True), metavar="M", help="Stop after the epoch that exceeds this."
)
@click.option(
    "--memory-exemplars",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"Samples kept for later.  [default: {_METHOD.replay.exemplars}]",
)
@click.option(
    "--tolerance",
    type=FiniteRange(min=0, max=1),
    metavar="X",
    help="What old classes (accuracy) or modalities (mean reciprocal rank) may lose, 0 to 1, before the result is "
    f"refused.  [default: {_ADAPT.tolerance}]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="S", help="Of all chance.")
@provider_option
@threads_option
@json_option
def command(
    name: str | None,
    modality: str | None,
    mediator: str | None,
    data: Path | None,
    learner: LearnerName | None,
    placement: Literal["inline", "ladder"] | None,
    epochs: int | None,
    max_minutes: float | None,
    memory_exemplars: int | None,
    tolerance: float | None,
    seed: int,
    provider: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Learn the classes of a task, or a new modality from pairs, without forgetting what was learned before.

    A task's folder holds one folder a class. A sound and a picture of one name form one sample; videos bring both;
    sounds alone, pictures alone and motion (a table of sensor readings, its first column seconds) work too. A text of
    the same name is part of the sample. Two samples a class are the least, ten or more are better.

    \b
      tasks/new_sounds/dog/bark_1.wav   wav flac ogg mp3
                          /bark_1.jpg   jpg png webp
                          /walk.mp4     mp4 mkv webm
                          /walk.csv     motion, alone or beside the others
                          /walk.txt     a text, beside the others
      tasks/new_sounds/doorbell/...

    A folder of pairs holds files of one modality, each with a text of what it shows or says. All modalities that were
    learned so share one space: then pictures are found by voice, though no picture ever came with a voice
    (mmcl-edge index). A hundred pairs are a beginning, five hundred are good.

    \b
      voices/one.wav  voices/one.txt    a text of the same name, one caption a line
      photos/captions.csv               or a table of all: file,caption
      scenes/sea.flac scenes/sea.jpg    with --mediator image: no words, two files of one name (or a video's own sound)

    A part is held out, to compare before and after. If what was known before lost more than the tolerance, the pack in
    use stays and the exit code is 3. An interrupted run goes on when the same command is given again.

    \b
    Examples:
      mmcl-edge adapt --task new_sounds
      mmcl-edge adapt --task birds --data ./birds --placement ladder --max-minutes 10
      mmcl-edge adapt --task new_sounds --learner analytic
      mmcl-edge adapt --task new_sounds --tolerance 0.2 --json
      mmcl-edge adapt --modality image --data ./photos
      mmcl-edge adapt --modality speech --mediator text --data ./voices
      mmcl-edge adapt --modality sound --mediator image --data ./scenes
    """  # noqa: D301
    from mmcl_edge.runtime.workspace import Workspace

    of_tasks = {"learner": learner, "placement": placement, "max-minutes": max_minutes}
    _check_usage(name, modality, mediator, data, of_tasks | {"memory-exemplars": memory_exemplars})
    workspace = Workspace().open()
    asked = {"tolerance": tolerance, "max_minutes": max_minutes, "seed": seed}
    config = AdaptConfig.model_validate({key: value for key, value in asked.items() if value is not None})
    request: AdaptRequest | PairRequest
    if modality is not None and data is not None:
        from mmcl_edge.runtime.adapt_pairs import PairRequest

        told_by = mediator or MEDIATOR
        request = PairRequest(modality, data, told_by, epochs=epochs, adapt=config, provider=provider, threads=threads)
    else:
        from mmcl_edge.runtime.adapt import AdaptRequest

        method = method_for(
            workspace, learner=learner, placement=placement, epochs=epochs, memory_exemplars=memory_exemplars
        )
        request = AdaptRequest(str(name), data=data, method=method, adapt=config, provider=provider, threads=threads)
    result = run(workspace, request, quiet=as_json)
    emit(result, as_json, task_text if modality is None else space_text)
    if not result["accepted"]:
        click.get_current_context().exit(RejectedError.exit_code)


def _check_usage(
    name: str | None, modality: str | None, mediator: str | None, data: Path | None, of_tasks: dict[str, Any]
) -> None:
    if (name is None) == (modality is None):
        raise click.UsageError("Expected either --task NAME or --modality M; give one of them.")
    if modality is None and mediator is not None:
        raise click.UsageError("--mediator goes with --modality; leave it out, or name the modality.")
    if modality is None:
        return
    if data is None:
        raise click.UsageError("Expected the folder of pairs that teach the modality; name it with --data DIR.")
    for option, value in of_tasks.items():
        if value is not None:
            raise click.UsageError(f"--{option} belongs to --task; leave it out with --modality.")


def method_for(
    workspace: Workspace,
    *,
    learner: LearnerName | None = None,
    placement: Literal["inline", "ladder"] | None = None,
    epochs: int | None = None,
    memory_exemplars: int | None = None,
) -> MethodConfig:
    """Defaults, but with the model of the pack in use, and with what was asked for.

    Raises:
        PackError: the pack in use is broken.
    """
    from mmcl_edge.packs import read_pack

    config, current = MethodConfig(), workspace.current_pack()
    if current is not None:
        model = read_pack(current).config
        if model.learner != "none":
            config = config.model_copy(update={name: getattr(model, name) for name in ("learner", "adapter", "head")})
    changes: dict[str, dict[str, Any]] = {
        "adapter": {"placement": placement},
        "train": {"epochs": epochs, "min_steps": None if epochs is None else 0},
        "replay": {"exemplars": memory_exemplars},
    }
    parts = {part: _with(getattr(config, part), values) for part, values in changes.items()}
    chosen = {} if learner is None else {"learner": learner}
    return config.model_copy(update=parts | chosen)


def _with(part: Any, values: dict[str, Any]) -> Any:
    return part.model_copy(update={name: value for name, value in values.items() if value is not None})


def run(workspace: Workspace, request: AdaptRequest | PairRequest, *, quiet: bool) -> dict[str, Any]:
    """Adapt with progress on stderr; the report as the command's result."""
    from mmcl_edge.runtime.adapt import AdaptRequest, adapt
    from mmcl_edge.runtime.adapt_pairs import PairRequest, adapt_pairs

    started = time.monotonic()
    task = request if isinstance(request, AdaptRequest) else None
    name = request.modality if isinstance(request, PairRequest) else request.name
    with held_warnings() as warnings, AdaptView(name, quiet=quiet) as view:
        try:
            if isinstance(request, PairRequest):
                report = adapt_pairs(workspace, request, view.events())
            else:
                report = adapt(workspace, request, view.events())
        except KeyboardInterrupt:
            view.close()
            click.echo(_interrupted(view.epochs_done if task else 0, view.epochs), err=True)
            click.get_current_context().exit(INTERRUPTED)
    current = workspace.current_pack()
    learner = task.method.learner if task else "comet"
    return {
        **_result(report),
        "learner": learner,
        "placement": task.method.adapter.placement if task and learner == "mmcl" else None,
        "pack_in_use": None if current is None else current.name,
        "skipped_files": warnings.skipped,
        "warnings": warnings.others,
        "duration_s": round(time.monotonic() - started, 1),
    }


def _interrupted(done: int, epochs: int) -> str:
    if done:
        return f"Interrupted; epoch {done} of {epochs} is kept. Run the same command again to go on from there."
    return "Interrupted before an epoch was finished in this run; nothing is lost. Run the same command to go on."


def _result(report: AdaptReport) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(report), "classes": list(report.classes)}
