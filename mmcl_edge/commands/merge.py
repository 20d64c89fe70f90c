"""``mmcl-edge merge``: what many devices learned, as one pack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from mmcl_edge.commands.console import emit, json_option, progress
from mmcl_edge.commands.merge_view import human
from mmcl_edge.commands.options import FiniteRange, provider_option, threads_option
from mmcl_edge.errors import BundleError, InputError, MergeError
from mmcl_edge.runtime.workspace import Workspace

if TYPE_CHECKING:
    from mmcl_edge.fleet.engines import EngineName
    from mmcl_edge.fleet.merge import MergeOptions
    from mmcl_edge.fleet.merge.evaluation import Evaluator
    from mmcl_edge.fleet.merge.evaluation_pairs import PairEvaluator

METHODS = ("auto", "union", "mean", "task-arithmetic", "ties", "dare", "slerp", "fisher", "median", "krum")
ENGINES = ("thread", "process", "ray")


@click.command()
@click.argument("packs", nargs=-1, required=True, metavar="PACK...")
@click.option("--method", type=click.Choice(METHODS), default="auto", show_default=True, help="How tensors are merged.")
@click.option(
    "--weights",
    metavar="W",
    help="Numbers, one a pack, as in 2,1,1; or 'samples', by training samples.  [default: equal]",
)
@click.option("--base", metavar="PACK", help="The pack that all were adapted from.  [default: a common parent]")
@click.option(
    "--eval",
    "data",
    type=click.Path(path_type=Path),
    metavar="DATA",
    help="A task folder that parents and result are judged on.",
)
@click.option(
    "--eval-pairs",
    "pairs",
    multiple=True,
    metavar="MODALITY=DIR",
    help="A pair folder that shared spaces are judged on, as in speech=DIR; repeatable.",
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A bundle for --eval and --eval-pairs.  [default: the installed one]",
)
@click.option(
    "--tolerance",
    type=FiniteRange(min=0, max=1),
    default=0.02,
    show_default=True,
    metavar="X",
    help="Accuracy that a parent's classes may lose, 0 to 1, before the result is refused; of pairs, mean reciprocal "
    "rank.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of packs.  [default: the workspace's]",
)
@click.option(
    "--density", type=FiniteRange(min=0, max=1, min_open=True), metavar="X", help="ties: share that is kept.  [0.2]"
)
@click.option(
    "--drop-rate",
    type=FiniteRange(min=0, max=1, max_open=True),
    metavar="X",
    help="dare: share that is dropped.  [0.5]",
)
@click.option("--scale", type=FiniteRange(), metavar="X", help="Factor of the merged task vector.")
@click.option("--seed", type=click.IntRange(min=0), metavar="S", help="dare: of what is dropped.  [0]")
@click.option(
    "--alike", type=FiniteRange(min=0), metavar="X", help="Cosine above which two experts are one; 2: never.  [0.999]"
)
@click.option(
    "--poisoned", type=FiniteRange(min=0, max=0.5, max_open=True), metavar="X", help="krum: share to allow for.  [0.2]"
)
@click.option("--keep", type=click.IntRange(min=1), metavar="N", help="krum: packs that are averaged; 1: Krum proper.")
@click.option(
    "--outliers/--no-outliers", default=None, help="Name packs that lie far from the others.  [median, krum, few packs]"
)
@click.option(
    "--skip-broken/--no-skip-broken", default=None, help="Leave out packs that cannot be read.  [median, krum]"
)
@click.option("--engine", type=click.Choice(ENGINES), default="thread", show_default=True, help="What reads the packs.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Of the engine.  [default: every core]")
@provider_option
@threads_option
@json_option
def command(
    packs: tuple[str, ...],
    method: str,
    weights: str | None,
    base: str | None,
    data: Path | None,
    pairs: tuple[str, ...],
    bundle: Path | None,
    tolerance: float,
    out: Path | None,
    engine: str,
    workers: int | None,
    provider: str,
    threads: int | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Merge packs of one bundle. PACK is a folder, an archive, a folder full of either, or a digest's first letters.

    Experts are united, classes matched by name; what several packs share is merged by the method. Shared spaces become
    one beside the classes. With --eval, parents and result are judged class by class; 'auto' tries several methods and
    takes the best; with --eval-pairs, spaces are judged by retrieval. A result that is worse than the tolerance allows
    is refused with exit code 3, and nothing is written.

    \b
    Examples:
      mmcl-edge merge packs/3fa94c... packs/b02d11...
      mmcl-edge merge inbox --method median --out merged
      mmcl-edge merge inbox --base current --eval ./samples --tolerance 0.05 --json
      mmcl-edge merge inbox --eval-pairs speech=./voices --eval-pairs image=./pictures
    """  # noqa: D301
    from mmcl_edge.fleet.engines import open_engine
    from mmcl_edge.fleet.merge import MergeOptions, MergeRejectedError, merge_packs

    workspace = _workspace()
    asked = {"drop_rate": chosen["drop_rate"], "liars": chosen["poisoned"]}
    asked |= {name: value for name, value in chosen.items() if name not in ("drop_rate", "poisoned")}
    options = MergeOptions(
        find=None if workspace is None else Finder(workspace),
        **{name: value for name, value in asked.items() if value is not None},
    )
    with (
        nullcontext() if workspace is None or out is not None else workspace.lock(),  # nobody sweeps what is half done
        progress("Merging", quiet=as_json) as report,
        _evaluator(workspace, data, bundle, provider, threads) as evaluator,
        _pair_evaluator(workspace, _folders(pairs), bundle, provider, threads) as pair_evaluator,
        nullcontext()
        if engine == "thread" and workers is None
        else open_engine(_engine(engine), workers=workers) as pool,
    ):
        try:
            found = merge_packs(
                [_place(workspace, name) for name in packs],
                _out(workspace, out),
                method=method,
                weights=_weights(weights),
                base=None if base is None else _place(workspace, base),
                evaluate=evaluator,
                evaluate_pairs=pair_evaluator,
                tolerance=tolerance,
                options=_with_fisher(options, evaluator),
                executor=pool,
                on_progress=report,
            )
        except MergeRejectedError as error:
            emit(error.report.as_json(), as_json, human)
            if not as_json:
                raise
            click.get_current_context().exit(error.exit_code)
    emit(found.as_json(), as_json, human)


class Finder:
    """Where the pack of a digest is in a workspace.

    Args:
        workspace: an opened one.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.packs = workspace.packs_path

    def __call__(self, digest: str) -> Path | None:
        """Its folder; ``None`` where it is not there."""
        folder = self.packs / digest
        return folder if folder.is_dir() else None


def _engine(name: str) -> EngineName:
    return cast("EngineName", name)


def _workspace() -> Workspace | None:
    workspace = Workspace()
    return workspace.open() if workspace.exists() else None


def _place(workspace: Workspace | None, name: str) -> Path:
    """A path as it is; else a pack of the workspace."""
    if Path(name).exists() or workspace is None:
        return Path(name)
    return workspace.resolve_pack(name)


def _out(workspace: Workspace | None, out: Path | None) -> Path:
    if out is not None:
        return out
    if workspace is None:
        raise InputError(
            f"Expected a folder for the merged pack, as there is no workspace at {Workspace().root}; pass --out."
        )
    return workspace.packs_path


def _weights(text: str | None) -> list[float] | Literal["samples"] | None:
    if text is None:
        return None
    if text == "samples":
        return "samples"
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise MergeError(f"Expected weights as numbers with commas, or 'samples', but found {text!r}.") from error


@contextmanager
def _evaluator(
    workspace: Workspace | None, data: Path | None, bundle: Path | None, provider: str, threads: int | None
) -> Iterator[Evaluator | None]:
    if data is None:
        yield None
        return
    from mmcl_edge.fleet.merge.evaluation import open_evaluator

    with open_evaluator(_bundle(workspace, bundle), data, provider=provider, threads=threads) as evaluator:
        yield evaluator


@contextmanager
def _pair_evaluator(
    workspace: Workspace | None,
    folders: Mapping[str, Path],
    bundle: Path | None,
    provider: str,
    threads: int | None,
) -> Iterator[PairEvaluator | None]:
    if not folders:
        yield None
        return
    from mmcl_edge.fleet.merge.evaluation_pairs import open_pair_evaluator

    with open_pair_evaluator(_bundle(workspace, bundle), folders, provider=provider, threads=threads) as evaluator:
        yield evaluator


def _bundle(workspace: Workspace | None, bundle: Path | None) -> Path:
    if bundle is None and workspace is None:
        raise BundleError("Expected a bundle to evaluate with, as there is no workspace; pass --bundle DIR.")
    return bundle or cast("Workspace", workspace).bundle_path


def _folders(pairs: Sequence[str]) -> dict[str, Path]:
    """Modality to folder."""
    found: dict[str, Path] = {}
    for one in pairs:
        modality, equals, folder = one.partition("=")
        if not (modality and equals and folder) or modality in found:
            raise MergeError(
                f"Expected --eval-pairs MODALITY=DIR, each modality once, as in speech=./voices, but found {one!r}."
            )
        found[modality] = Path(folder)
    return found


def _with_fisher(options: MergeOptions, evaluator: Evaluator | None) -> MergeOptions:
    return options if evaluator is None else replace(options, fisher=evaluator.fisher)
