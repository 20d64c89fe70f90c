"""An index on disk: one document in canonical JSON, and the files that it names by their digests.

Layout of an index's folder::

    index.json                                      origin, width, root, and of each modality its items and files
    vectors-<modality>-<first 16 letters>.safetensors    float32 ``(n, D)``, in the order of the items
    graph-<modality>-<first 16 letters>.usearch          only of large modalities; may be removed at any time

Rules of ``write_index``: the files first, under names that follow from their content; then ``index.json``, by rename;
last, the files that it no longer names are removed. A cut at any moment leaves the old index or the new one.

Rules of ``read_index``, in this order:
1. ``index.json`` is bounded, of a known schema, names plain files and relative sources, and its origin is that in use.
2. Every file of vectors has its size and digest, the shape that the items need, and finite unit vectors.
3. A graph that is missing, damaged or does not fit is passed over: searches are exact then.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mmcl_edge.errors import IntegrityError, VectorIndexError
from mmcl_edge.fileio import canonical_json, read_bounded, read_json, sha256_bytes, sweep_staging, write_atomic
from mmcl_edge.runtime.index import VectorIndex
from mmcl_edge.runtime.index_items import Entry, Origin
from mmcl_edge.runtime.index_shelf import Vectors
from mmcl_edge.types import FrozenModel

INDEX_NAME = "index.json"
MAX_INDEX_BYTES = 1 << 30
MAX_FILE_BYTES = 16 << 30
_LENGTH_SLACK = 1e-3
_OURS = re.compile(r"(vectors|graph)-[a-z]{1,16}-[0-9a-f]{16}\.(safetensors|usearch)")
_AGAIN = "run 'mmcl-edge index build' on the same files to make it again"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=1 << 63)]


class StoredFile(FrozenModel):
    """A file of an index."""

    path: str = Field(pattern=rf"^{_OURS.pattern}$")
    sha256: Digest
    size_bytes: Count


class Shelved(FrozenModel):
    """The items of one modality: ``(id, source, size in bytes, time of change, sha256)``, sorted by source."""

    modality: str = Field(pattern=r"^[a-z]{1,16}$")
    items: tuple[tuple[Count, str, Count, int, str], ...] = Field(min_length=1)
    vectors: StoredFile
    graph: StoredFile | None = None

    @model_validator(mode="after")
    def _items_are_plain(self) -> Shelved:
        sources = [item[1] for item in self.items]
        if sources != sorted(set(sources)) or len({item[0] for item in self.items}) != len(sources):
            raise ValueError(f"the items of {self.modality} should be sorted, each there once")
        for source in sources:
            if any(part in ("", ".", "..") for part in source.split("/")) or not source.isprintable():
                raise ValueError(f"{source[:80]!r} is not a relative path inside the root")
        return self


class Document(FrozenModel):
    """Contents of ``index.json``. ``root`` is where sources start, relative to the index's folder."""

    schema_version: Literal[1] = 1
    space: Digest
    stages: int = Field(ge=1)
    bundle: Digest
    dim: int = Field(ge=0, le=1 << 16)
    root: str
    shelves: tuple[Shelved, ...]

    @model_validator(mode="after")
    def _nothing_comes_twice(self) -> Document:
        modalities = [shelf.modality for shelf in self.shelves]
        if len(set(modalities)) != len(modalities):
            raise ValueError("each modality should be there once")
        ids = [item[0] for shelf in self.shelves for item in shelf.items]
        if len(set(ids)) != len(ids):
            raise ValueError("no two items should have one id")
        return self

    @property
    def origin(self) -> Origin:
        """What embedded the items."""
        return Origin(self.space, self.stages, self.bundle)


def exists(folder: Path) -> bool:
    """Whether the folder holds an index."""
    return (folder / INDEX_NAME).is_file()


def write_index(index: VectorIndex, folder: Path, root: Path) -> None:
    """Write an index into a folder, in place of the one that is there (the rules stand in the module docstring).

    Raises:
        StorageError: no space, read-only, no permission; the old index stays.
    """
    shelves, graphs = [], index.graphs
    for modality in index.modalities:
        entries, ids, vectors = index.rows(modality)
        items = tuple(
            (int(one), entry.source, entry.size_bytes, entry.mtime_ns, entry.sha256)
            for one, entry in zip(ids, entries, strict=True)
        )
        stored = _store(folder, "vectors", modality, "safetensors", save({"vectors": np.ascontiguousarray(vectors)}))
        graph = graphs.get(modality)
        kept = None if graph is None else _store(folder, "graph", modality, "usearch", graph.save())
        shelves.append(Shelved(modality=modality, items=items, vectors=stored, graph=kept))
    origin = index.origin
    document = Document(
        space=origin.space,
        stages=origin.stages,
        bundle=origin.bundle,
        dim=index.dim,
        root=Path(os.path.relpath(root.resolve(), folder.resolve())).as_posix(),
        shelves=tuple(shelves),
    )
    write_atomic(folder / INDEX_NAME, canonical_json(document.model_dump(mode="json")))
    _sweep(folder, document)


def read_document(folder: Path) -> Document:
    """``index.json`` alone, checked.

    Raises:
        VectorIndexError: there is none, or it is broken.
    """
    if not exists(folder):
        raise VectorIndexError(f"Expected an index at {folder}, but there is none; run 'mmcl-edge index build' first.")
    try:
        return Document.model_validate(read_json(folder / INDEX_NAME, MAX_INDEX_BYTES))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise VectorIndexError(f"The index in {folder} is broken ({place}: {first['msg']}); {_AGAIN}.") from error
    except IntegrityError as error:
        raise VectorIndexError(f"The index in {folder} is broken: {error} To mend it, {_AGAIN}.") from error


def read_index(folder: Path, in_use: Origin | None = None, *, document: Document | None = None) -> VectorIndex:
    """Read an index (the rules stand in the module docstring).

    Args:
        folder: where ``write_index`` wrote it.
        in_use: what embeds queries; ``None`` does not ask.
        document: from ``read_document``, where it was read already.

    Raises:
        VectorIndexError: there is none, it is broken, or something else than ``in_use`` made it.
    """
    document = document or read_document(folder)
    if in_use is not None:
        document.origin.check(in_use, f"The index in {folder}")
    index = VectorIndex(document.origin, document.dim)
    for shelf in document.shelves:
        entries = [Entry(source, shelf.modality, size, mtime, sha) for _, source, size, mtime, sha in shelf.items]
        index.restore(entries, [item[0] for item in shelf.items], _vectors(folder, shelf, document.dim))
        if shelf.graph is not None:
            with suppress(VectorIndexError):
                index.take_graph(shelf.modality, _read(folder, shelf.graph))
    return index


def root_of(folder: Path, document: Document) -> Path:
    """Where the sources of an index start."""
    return Path(os.path.normpath(folder.resolve() / document.root))


def _store(folder: Path, what: str, modality: str, suffix: str, data: bytes) -> StoredFile:
    digest = sha256_bytes(data)
    name = f"{what}-{modality}-{digest[:16]}.{suffix}"
    path = folder / name
    if not (path.is_file() and path.stat().st_size == len(data) and sha256_bytes(path.read_bytes()) == digest):
        write_atomic(path, data)
    return StoredFile(path=name, sha256=digest, size_bytes=len(data))


def _sweep(folder: Path, document: Document) -> None:
    files = (file for shelf in document.shelves for file in (shelf.vectors, shelf.graph) if file is not None)
    named = {file.path for file in files}
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in named:
            with suppress(OSError):
                path.unlink()
    sweep_staging(folder)


def _read(folder: Path, file: StoredFile) -> bytes:
    path = folder / file.path
    try:
        data = read_bounded(path, min(file.size_bytes, MAX_FILE_BYTES))
    except IntegrityError as error:
        raise VectorIndexError(f"{error} To mend the index, {_AGAIN}.") from error
    if sha256_bytes(data) != file.sha256:
        raise VectorIndexError(f"{path} is not what index.json says (its digest differs); {_AGAIN}.")
    return data


def _vectors(folder: Path, shelf: Shelved, dim: int) -> Vectors:
    try:
        vectors = load(_read(folder, shelf.vectors)).get("vectors")
    except SafetensorError as error:
        raise VectorIndexError(f"{folder / shelf.vectors.path} is no file of vectors ({error}); {_AGAIN}.") from error
    shape = (len(shelf.items), dim)
    if vectors is None or vectors.dtype != np.float32 or vectors.shape != shape:
        found = None if vectors is None else (str(vectors.dtype), vectors.shape)
        raise VectorIndexError(
            f"{folder / shelf.vectors.path} should hold float32 vectors of shape {shape}, but holds {found}; {_AGAIN}."
        )
    length = np.linalg.norm(vectors, axis=1)
    if not (np.abs(length - 1) < _LENGTH_SLACK).all():  # also where a value is not finite
        raise VectorIndexError(f"{folder / shelf.vectors.path} should hold unit vectors, but some are not; {_AGAIN}.")
    checked: Vectors = vectors
    return checked
