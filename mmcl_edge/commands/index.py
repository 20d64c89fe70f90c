"""``mmcl-edge index``: make files findable by any modality that the pack in use has in its shared space."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mmcl_edge.commands.console import emit, json_option, progress, table
from mmcl_edge.commands.options import provider_option, threads_option
from mmcl_edge.data.crossmodal import MODALITIES
from mmcl_edge.errors import InputError

if TYPE_CHECKING:
    from mmcl_edge.runtime.index_files import Document
    from mmcl_edge.runtime.index_items import Origin

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
MAX_LISTED = 5
"""Skipped files that are named; all are counted."""


def _modality(text: str) -> Callable[[Decorated], Decorated]:
    return click.option("--modality", type=click.Choice(MODALITIES), metavar="M", help=text)


def _place(name: str) -> Callable[[Decorated], Decorated]:
    text = "The index's folder.  [default: index/ in the workspace]"
    return click.option(name, "folder", type=click.Path(path_type=Path), metavar="DIR", help=text)


_pack_option = click.option("--pack", metavar="P", help="A pack's folder or digest.  [default: the one in use]")
_bundle_option = click.option(
    "--bundle", type=click.Path(path_type=Path), metavar="DIR", help="A bundle's folder.  [default: the installed one]"
)


@click.group()
def command() -> None:
    """Make files findable by what they show, sound like or say.

    The pack in use must have a shared space (mmcl-edge adapt --modality M --mediator text).
    """


@command.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR|FILE...")
@_modality("Take every file as this: text image video sound speech motion.  [default: by its kind; sounds as sound]")
@_place("--out")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the names in a new index start.  [default: the deepest folder that holds everything in it]",
)
@_pack_option
@_bundle_option
@provider_option
@threads_option
@json_option
def build(
    paths: tuple[Path, ...],
    modality: str | None,
    folder: Path | None,
    root: Path | None,
    pack: str | None,
    bundle: Path | None,
    provider: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Put files in the index, or bring it up to date with them.

    Files that did not change are not read again, and those that are gone from a folder named are taken out. A run that
    was interrupted goes on where it was. After a modality was learned, the index is made anew from what is named: name
    all that was in it.

    \b
    Examples:
      mmcl-edge index build ~/Pictures --root ~
      mmcl-edge index build ~/Recordings --modality speech
      mmcl-edge index build photos sounds --root . --out ./index --json
    """  # noqa: D301
    from mmcl_edge.commands.predict import open_runtime
    from mmcl_edge.runtime.index_build import update_index
    from mmcl_edge.runtime.index_files import write_index
    from mmcl_edge.runtime.index_graph import APPROXIMATE_FROM
    from mmcl_edge.runtime.index_sources import find_files
    from mmcl_edge.runtime.lock import workspace_lock

    place = _folder(folder)
    _check_paths(paths)
    with open_runtime(pack, bundle, provider, threads) as runtime:
        origin = runtime.origin
        place.mkdir(parents=True, exist_ok=True)
        with workspace_lock(place), progress("Indexing", quiet=as_json) as report:
            index, start, earlier = _open_or_new(place, origin, paths, root)
            anew = earlier is not None
            found, untaught = find_files(paths, start, modality).known(runtime.modalities)
            try:
                done = update_index(
                    index,
                    found,
                    runtime,
                    modality=modality,
                    on_progress=report,
                    save=lambda part: write_index(part, place, start),
                )
                if len(index) >= APPROXIMATE_FROM:
                    report("bringing the graph of neighbours up to date")
                index.build_graphs()
            finally:
                if len(index) or not anew:
                    write_index(index, place, start)
    result = {
        "index": click.format_filename(place),
        "root": click.format_filename(start),
        "items": len(index),
        "modalities": {name: sum(entry.modality == name for entry in index.entries) for name in index.modalities},
        "made_anew": anew,
        "dropped": len((earlier or frozenset()) - {entry.key for entry in index.entries}),
        "ignored": found.ignored,
        "untaught": untaught,
        **asdict(done),
    }
    emit(result, as_json, _build_text)


@command.command()
@click.argument("query", metavar="FILE|TEXT")
@click.option(
    "--as",
    "read_as",
    type=click.Choice(MODALITIES),
    metavar="M",
    help="What the query is.  [default: by its kind; a sound is a sound, words are text]",
)
@_modality("What to look for: text image video sound speech motion.  [default: all]")
@click.option("-k", type=click.IntRange(min=1), default=5, show_default=True, metavar="K", help="Answers, best first.")
@_place("--index")
@_pack_option
@_bundle_option
@provider_option
@threads_option
@json_option
def query(
    query: str,
    read_as: str | None,
    modality: str | None,
    k: int,
    folder: Path | None,
    pack: str | None,
    bundle: Path | None,
    provider: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Find what is nearest to a file, or to words.

    A score of 1 is the same direction in the shared space, 0 no relation.

    \b
    Examples:
      mmcl-edge index query "a dog that barks" --modality image
      mmcl-edge index query question.wav --as speech --modality image -k 3
      mmcl-edge index query photo.jpg --index ./index --json
    """  # noqa: D301
    from mmcl_edge.commands.predict import open_runtime
    from mmcl_edge.runtime.index_files import read_document
    from mmcl_edge.runtime.retrieving import read_query

    place = _folder(folder)
    sample, asked_as = read_query(_query(query, read_as), read_as)
    document = read_document(place)
    with open_runtime(pack, bundle, provider, threads) as runtime:
        hits = runtime.retrieve(sample, k, modality=modality, read_as=asked_as, index=place)
    result = {
        "query": click.format_filename(query),
        "as": asked_as,
        "modality": modality,
        "items": sum(len(shelf.items) for shelf in document.shelves),
        "hits": [{**asdict(hit), "path": click.format_filename(hit.path)} for hit in hits],
    }
    emit(result, as_json, _query_text)


@command.command()
@_place("--index")
@json_option
def info(folder: Path | None, as_json: bool) -> None:
    """Say what the index holds, which shared space made it, and whether that is the one in use.

    \b
    Examples:
      mmcl-edge index info
      mmcl-edge index info --index ./index --json
    """  # noqa: D301
    from mmcl_edge.runtime.index_files import read_document, root_of

    place = _folder(folder)
    document = read_document(place)
    result = {
        "index": click.format_filename(place),
        "root": click.format_filename(root_of(place, document)),
        "space": document.space,
        "stages": document.stages,
        "bundle": document.bundle,
        "width": document.dim,
        "usable": _in_use(document),
        "modalities": {shelf.modality: len(shelf.items) for shelf in document.shelves},
        "graphs": [shelf.modality for shelf in document.shelves if shelf.graph is not None],
        "size_bytes": sum(
            file.size_bytes for shelf in document.shelves for file in (shelf.vectors, shelf.graph) if file is not None
        ),
    }
    emit(result, as_json, _info_text)


def _folder(folder: Path | None) -> Path:
    from mmcl_edge.runtime.workspace import INDEX_FOLDER, Workspace

    return (Workspace().open().root / INDEX_FOLDER) if folder is None else folder.expanduser().absolute()


def _check_paths(paths: tuple[Path, ...]) -> None:
    """Refuse what is not there before anything is opened."""
    for path in paths:
        if not path.exists():
            name = click.format_filename(path)
            raise InputError(f"Expected a file or a folder at {name}, but there is none; check the path.")


def _in_use(document: Document) -> bool | None:
    """Whether the pack in use has the index's shared space; ``None`` where none is in use."""
    from mmcl_edge.runtime.workspace import Workspace

    workspace = Workspace()
    folder = workspace.current_pack() if workspace.exists() else None
    if folder is None:
        return None
    from mmcl_edge.learners.comet.storage import space_of
    from mmcl_edge.packs import read_pack

    space = space_of(read_pack(folder))
    return space is not None and space.digest == document.space


def _open_or_new(
    place: Path, origin: Origin, paths: tuple[Path, ...], root: Path | None
) -> tuple[Any, Path, frozenset[tuple[str, str]] | None]:
    """The index to bring up to date, where its sources start, and, of a new one, the keys of the one it replaces.

    One that is broken, or of another shared space, gives way to a new one of the same root: it can be made again. Where
    something named lies outside the root, the root becomes the deepest folder that holds it too, unless ``--root`` says
    otherwise.
    """
    from mmcl_edge.errors import VectorIndexError
    from mmcl_edge.runtime.index import VectorIndex
    from mmcl_edge.runtime.index_files import exists, read_document, read_index, root_of
    from mmcl_edge.runtime.index_sources import common_root, led

    wanted, earlier = None if root is None else root.resolve(), frozenset[tuple[str, str]]()
    if exists(place):
        try:
            document = read_document(place)
            known = root_of(place, document)
            start = known if wanted else common_root(paths, known)
            prefix = known.relative_to(start).as_posix()
            earlier = frozenset(
                (shelf.modality, led(prefix, item[1])) for shelf in document.shelves for item in shelf.items
            )
            if wanted not in (None, known):
                raise InputError(
                    f"Expected the root of the index in {place}, which is {known}, but --root is {wanted}; "
                    "leave it out, or make another index with --out."
                )
            wanted = start
            index = read_index(place, origin, document=document)
            index.lead(prefix)
            return index, start, None
        except VectorIndexError as error:
            click.echo(f"The index is made anew: {error}", err=True)
    return VectorIndex(origin), wanted or common_root(paths), earlier


def _query(query: str, read_as: str | None) -> str | Path:
    """The path of a file that is there, or words."""
    from mmcl_edge.data.items import kind_of

    path = Path(query)
    if os.path.isfile(query):  # and not path.is_file(): words may be too long to be a path
        return path
    if read_as not in (None, "text") or kind_of(path) is not None:
        raise InputError(f"Expected a file at {click.format_filename(path)}, but there is none; check the path.")
    return query


def _build_text(result: Mapping[str, Any]) -> str:
    held = ", ".join(f"{count} {name}" for name, count in result["modalities"].items()) or "nothing"
    lines = [
        f"{result['items']} items ({held}) in {result['index']}",
        f"embedded {result['embedded']}, unchanged {result['unchanged']}, taken out {result['removed']}, "
        f"skipped {len(result['skipped'])}, of other kinds {result['ignored']}",
        *(f"skipped: {reason}" for _, reason in result["skipped"][:MAX_LISTED]),
    ]
    if len(result["skipped"]) > MAX_LISTED:
        lines.append(f"and {len(result['skipped']) - MAX_LISTED} more")
    if result["dropped"]:
        lines.append(
            f"dropped: {result['dropped']} that the index held before it was made anew, and these folders do not; "
            "build it on theirs too"
        )
    if result["untaught"]:
        held = ", ".join(f"{count} {name}" for name, count in result["untaught"].items())
        lines.append(f"left out, for the space was not taught them (mmcl-edge adapt --modality): {held}")
    return "\n".join(lines)


def _query_text(result: Mapping[str, Any]) -> str:
    if not result["hits"]:
        return f"Nothing found: the index has no {result['modality'] or 'items'}."
    rows = [(f"{hit['score']:.3f}", hit["modality"], hit["path"]) for hit in result["hits"]]
    return table(("score", "modality", "file"), rows)


def _info_text(result: Mapping[str, Any]) -> str:
    usable = {None: "no pack is in use", True: "in use", False: "not in use: build the index again"}[result["usable"]]
    rows = [
        ("index", result["index"]),
        ("names start at", result["root"]),
        ("shared space", f"{result['space'][:16]}, {result['stages']} stages ({usable})"),
        ("bundle", result["bundle"][:16]),
        ("items", ", ".join(f"{count} {name}" for name, count in result["modalities"].items()) or "none"),
        ("width", result["width"]),
        ("graphs", ", ".join(result["graphs"]) or "none: every search is exact"),
        ("size", f"{result['size_bytes'] / 1e6:.1f} MB"),
    ]
    return table(("fact", "value"), rows)
