"""``mmcl-edge predict``: say what files sound and look like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmcl_edge.commands.console import Reporter, emit, json_option, progress, table
from mmcl_edge.commands.options import FiniteRange, provider_option, threads_option
from mmcl_edge.errors import InputError, MediaError, PackError

if TYPE_CHECKING:
    from mmcl_edge.data.items import MediaItem
    from mmcl_edge.runtime.engine import Runtime
    from mmcl_edge.types import Prediction

BATCH = 8
"""Windows that are in memory at once."""
MAX_WINDOW_S = 30.0
MIN_HOP_S = 0.1


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--pack", metavar="P", help="A pack's folder or digest.  [default: the one in use]")
@click.option(
    "--bundle", type=click.Path(path_type=Path), metavar="DIR", help="A bundle's folder.  [default: the installed one]"
)
@click.option(
    "--top", type=click.IntRange(min=1), default=3, show_default=True, metavar="K", help="Classes shown, best first."
)
@click.option(
    "--window-s",
    type=FiniteRange(min=0.1, max=MAX_WINDOW_S),
    default=5.0,
    show_default=True,
    metavar="S",
    help="Longer sounds and videos are cut into windows of this length.",
)
@click.option(
    "--hop-s",
    type=FiniteRange(min=MIN_HOP_S),
    metavar="S",
    help="From the start of a window to the next.  [default: the window's length]",
)
@click.option(
    "--coverage",
    type=FiniteRange(min=0, max=1, min_open=True, max_open=True),
    metavar="X",
    help="Also list the classes that hold the right one with this probability; needs a calibrated pack.",
)
@provider_option
@threads_option
@json_option
def command(
    files: tuple[Path, ...],
    pack: str | None,
    bundle: Path | None,
    top: int,
    window_s: float,
    hop_s: float | None,
    coverage: float | None,
    provider: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Say what sounds (wav flac ogg mp3), pictures (jpg png webp), videos (mp4 mkv webm), motion (csv), text (txt) are.

    Files of one name in one folder are one sample. Long files are answered window by window.

    \b
    Examples:
      mmcl-edge predict clip.mp4
      mmcl-edge predict bark.wav bark.jpg --top 5
      mmcl-edge predict hour.flac --window-s 5 --hop-s 2.5 --json
      mmcl-edge predict walk.mp4 walk.csv
      mmcl-edge predict bark.wav --coverage 0.9
      mmcl-edge predict bark.wav --bundle ./bundle --pack ./pack
    """  # noqa: D301
    items = _items(files)
    spacing = {"window_s": window_s, "hop_s": window_s if hop_s is None else hop_s}
    with progress("Predicting", quiet=as_json) as report, open_runtime(pack, bundle, provider, threads) as runtime:
        rows = [row for item in items for row in _rows(runtime, item, report, top=top, coverage=coverage, **spacing)]
        digest = runtime.pack.digest
    emit({"pack_digest": digest, **spacing, "predictions": rows}, as_json, _human)


def _items(files: tuple[Path, ...]) -> tuple[MediaItem, ...]:
    """The files grouped into samples; a missing one is refused before anything is opened."""
    from mmcl_edge.data.items import pair_files

    for path in files:
        name = click.format_filename(path)
        if not path.exists():
            raise InputError(f"Expected a file at {name}, but there is none; check the path.")
        if not path.is_file():
            raise InputError(f"Expected a file at {name}, but it is a folder; name the files in it.")
    return pair_files(dict.fromkeys(files))


def open_runtime(pack: str | None, bundle: Path | None, provider: str, threads: int | None) -> Runtime:
    """The runtime on what was named, and on the workspace's bundle and pack for what was not.

    Raises:
        InputError: there is no workspace, bundle or pack, or they are broken or do not fit.
    """
    from mmcl_edge.runtime.workspace import Workspace

    workspace = Workspace()
    if bundle is None or pack is None or not Path(pack).is_dir():
        workspace.open()
    if pack is None:
        folder = workspace.current_pack()
    else:
        folder = Path(pack) if Path(pack).is_dir() else workspace.resolve_pack(pack)
    if folder is None:
        raise PackError(
            f"Expected a pack in use in {workspace.root}, but nothing has been learned yet; "
            "run 'mmcl-edge adapt' first (--task NAME, or --modality M), or name a pack with --pack."
        )
    from mmcl_edge.runtime.engine import Runtime

    return Runtime.open(bundle or workspace.bundle_path, folder, provider, threads)


def _rows(
    runtime: Runtime,
    item: MediaItem,
    report: Reporter,
    *,
    top: int,
    coverage: float | None,
    window_s: float,
    hop_s: float,
) -> Iterator[dict[str, Any]]:
    """One answer a window, a few windows at a time."""
    windows = _windows(item, window_s=window_s, hop_s=hop_s)
    while batch := list(islice(windows, BATCH)):
        start_s, _, first = batch[0]
        report(first.source if start_s is None else f"{first.source} from {start_s:g} s")
        answers = runtime.predict_batch([sample for _, _, sample in batch])
        for (start_s, end_s, sample), answer in zip(batch, answers, strict=True):
            sets = {} if coverage is None else {"label_set": list(answer.label_set(coverage))}
            yield _row(item, sample.source, answer, top=top, start_s=start_s, end_s=end_s) | sets


def _windows(item: MediaItem, *, window_s: float, hop_s: float) -> Iterator[Any]:
    """``(start_s, end_s, Sample)``; a picture alone has no times. A paired picture belongs to every window."""
    from dataclasses import replace

    from mmcl_edge.data.arrays import MIN_DURATION_S
    from mmcl_edge.data.media import load_motion, load_picture, load_sample, load_text
    from mmcl_edge.data.pictures import SHORT_SIDE_PX
    from mmcl_edge.data.windows import motion_between, stream_windows, windows

    timed = item.audio or item.video
    if timed is None:
        sample = load_sample(item)
        cut = [(None, None, sample)] if sample.motion is None else windows(sample, window_s=window_s, hop_s=hop_s)
        yield from cut
        return
    picture = None if item.picture is None else load_picture(item.picture, short_side_px=SHORT_SIDE_PX)
    motion = None if item.motion is None else load_motion(item.motion)
    text = None if item.text is None else load_text(item.text)
    end_s = None
    for start_s, end_s, sample in stream_windows(timed, window_s=window_s, hop_s=hop_s):
        frames = sample.frames if picture is None else picture
        moved = None if motion is None else motion_between(motion, start_s, end_s)
        yield start_s, end_s, replace(sample, frames=frames, motion=moved, text=text, source=item.source)
    if end_s is None:
        raise MediaError(
            f"{click.format_filename(timed)} should hold at least {MIN_DURATION_S:g} s of sound, but holds less; "
            "name a longer one."
        )


def _row(
    item: MediaItem, source: str, answer: Prediction, *, top: int, start_s: float | None, end_s: float | None
) -> dict[str, Any]:
    return {
        "source": source,
        "files": [click.format_filename(path) for path in item.files],
        "start_s": None if start_s is None else round(start_s, 3),
        "end_s": None if end_s is None else round(end_s, 3),
        "label": answer.label,
        "unknown": answer.unknown,
        "unknown_score": answer.unknown_score,
        "top": [{"label": label, "probability": probability} for label, probability in answer.top_k(top)],
    }


def _human(result: Mapping[str, Any]) -> str:
    return table(
        ("file", "seconds", "classes"), [(row["source"], _span(row), _classes(row)) for row in result["predictions"]]
    )


def _classes(row: Mapping[str, Any]) -> str:
    """The best classes; that the sample resembles none of them; the set that was asked for."""
    best = ", ".join(f"{one['label']} {100 * one['probability']:.1f} %" for one in row["top"])
    text = f"unknown (closest: {best})" if row["unknown"] else best
    return f"{text}; one of: {', '.join(row['label_set']) or 'none'}" if "label_set" in row else text


def _span(row: Mapping[str, Any]) -> str:
    return "" if row["start_s"] is None else f"{row['start_s']:.1f} - {row['end_s']:.1f}"
