"""Reading packs: a folder is checked whole before anything in it is used."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mmcl_edge.config import MethodConfig
from mmcl_edge.errors import IntegrityError, PackError
from mmcl_edge.fileio import canonical_json, read_bounded, sha256_bytes
from mmcl_edge.packs.manifest import (
    CONFIG_NAME,
    DETACHED_NAMES,
    EVAL_NAME,
    MANIFEST_NAME,
    MAX_BYTES,
    MAX_SIGNATURES_BYTES,
    SCHEMA_VERSION,
    TENSORS_NAME,
    PackManifest,
    Parent,
    validation_sentence,
)
from mmcl_edge.packs.precision import check_forms, plain_name, restored
from mmcl_edge.packs.spaces import SpaceSummary, space_summary
from mmcl_edge.packs.tensors import TensorEntry, check_tensors

if TYPE_CHECKING:
    import torch

MAX_DEPTH = 32
"""Most levels of objects and lists in a pack's JSON: what is deeper cannot be written again."""
_ADVICE = "fetch it again, or use another (mmcl-edge pack list)"


@dataclass(frozen=True, eq=False, slots=True)
class Pack:
    """An opened, verified pack. Use ``read_pack``.

    Attributes:
        path: the folder, links resolved.
        manifest: its manifest.
        digest: sha256 of ``pack.json``: names the content everywhere.
        config: the method's configuration.
        module: what else is needed to rebuild the module.
        evaluation: figures of ``eval.json``.
        entries: where each tensor lies in the tensors file.
    """

    path: Path
    manifest: PackManifest
    digest: str
    config: MethodConfig
    module: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    entries: Mapping[str, TensorEntry]

    @property
    def plain_names(self) -> frozenset[str]:
        """Names of the tensors, whatever form they are stored in."""
        return frozenset(map(plain_name, self.entries))

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by name, in their own memory (the file is never mapped); reduced ones as float32 again.

        Raises:
            PackError: the file changed since ``read_pack``.
        """
        return restored(self.stored_tensors(), lambda value: value.float())

    def stored_tensors(self) -> dict[str, torch.Tensor]:
        """The tensors as they are stored, by stored name (see ``packs.precision``).

        Raises:
            PackError: the file changed since ``read_pack``.
        """
        from safetensors.torch import load

        return load(_content(self.path, self.manifest, TENSORS_NAME))

    def space(self) -> SpaceSummary | None:
        """What it says of its shared space; ``None`` where it has none. Nothing of it is checked yet."""
        return space_summary(self.module, {name: entry.shape for name, entry in self.entries.items()})

    def as_parent(self, *, weight: float = 1.0, method: str = "adapt") -> Parent:
        """This pack as an entry of another pack's ``parents``."""
        return Parent(digest=self.digest, weight=weight, method=method)


def next_version(parents: Iterable[Pack]) -> int:
    """The version of a pack made from ``parents``: one above the largest of theirs; 1 without parents."""
    return max((pack.manifest.version for pack in parents), default=0) + 1


def read_manifest(path: Path | str) -> tuple[PackManifest, str]:
    """Manifest and digest of the pack in folder ``path``: rules 1 to 4 of ``read_pack``, for listings.

    Raises:
        PackError: one of them fails.
    """
    folder = Path(path)
    with _readable(folder):
        data = _manifest_bytes(folder)
    return parse_manifest(data, str(folder))


def parse_manifest(data: bytes, place: str) -> tuple[PackManifest, str]:
    """Manifest and digest of a pack, from the bytes of its ``pack.json``: rules 1 to 4 of ``read_pack``.

    Args:
        data: no more than ``MAX_BYTES`` allows.
        place: what messages call the pack's folder or archive.

    Raises:
        PackError: a rule fails.
    """
    folder = Path(place)
    _check_schema_version(_parse_canonical(data, folder), folder)
    manifest = _validated(data, folder)
    _check_minimum_runtime(manifest, folder)
    return manifest, sha256_bytes(data)


def read_pack(path: Path | str, *, expected_digest: str | None = None, bundle_digest: str | None = None) -> Pack:
    """Verify the pack in folder ``path`` and return it.

    Rules, performed in this order, each refusing before the next is tried; no tensor is loaded before all hold:

    1. ``pack.json`` is a file, no link, of at most 4 MiB, and is canonical JSON.
    2. Its ``schema_version`` is one this release knows.
    3. It fits the schema: unknown fields are refused; it lists exactly the known files, each within its size limit;
       label indices are 0, 1, 2, ..., label names are unique and their ids derived from them.
    4. Its ``minimum_runtime`` is not above this release.
    5. The folder holds the listed files, at most a file of signatures, and nothing else: no folder, no link.
    6. Its digest is the expected one, if the caller expects one.
    7. Every file has its stated size (looked at before reading) and its stated sha256.
    8. It was made for the bundle ``bundle_digest``, if the caller names one.
    9. The tensors file is well formed: bounded header, accepted dtypes, consistent shapes and offsets; each reduced
       tensor is whole (``packs.precision``).
    10. Every value is finite and of a magnitude that training can give.
    11. ``adapter_config.json`` and ``eval.json`` parse, at most ``MAX_DEPTH`` deep, and the configuration is valid.

    Raises:
        PackError: a rule fails; the message names the file and says what to do.
    """
    folder = Path(path).resolve()
    manifest, digest = read_manifest(folder)
    with _readable(folder):
        _check_entries(folder)
        _check_digest(folder, digest, expected_digest)
        contents = {entry.path: _content(folder, manifest, entry.path) for entry in manifest.files}
    _check_bundle(manifest, digest, bundle_digest)
    entries = check_tensors(contents[TENSORS_NAME])
    check_forms(entries)
    config, module = _config(contents[CONFIG_NAME], folder)
    evaluation = _object(contents[EVAL_NAME], folder / EVAL_NAME)
    return Pack(folder, manifest, digest, config, module, evaluation, entries)


def holds_pack(path: Path, digest: str) -> bool:
    """Whether ``path`` is a whole pack of this digest."""
    try:
        read_pack(path, expected_digest=digest)
    except PackError:
        return False
    return True


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PackError(f"The pack at {folder} cannot be read ({error.strerror}); {_ADVICE}.") from error


def _manifest_bytes(folder: Path) -> bytes:
    file = folder / MANIFEST_NAME
    if file.is_symlink() or not file.is_file():
        raise PackError(f"Expected a pack (a folder with {MANIFEST_NAME}) at {folder}, but there is none; {_ADVICE}.")
    return _bounded(file, MAX_BYTES[MANIFEST_NAME])


def _bounded(file: Path, max_bytes: int) -> bytes:
    try:
        return read_bounded(file, max_bytes)
    except IntegrityError as error:
        raise PackError(str(error)) from error


def _parse_canonical(data: bytes, folder: Path) -> dict[str, Any]:
    raw = _object(data, folder / MANIFEST_NAME)
    try:
        canonical = canonical_json(raw)
    except (ValueError, RecursionError):
        canonical = b""
    if canonical != data:
        raise PackError(f"{folder / MANIFEST_NAME} should be canonical JSON, but was reformatted or edited; {_ADVICE}.")
    return raw


def _object(data: bytes, file: Path) -> dict[str, Any]:
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PackError(f"{file} should be JSON, but it does not parse ({error}); {_ADVICE}.") from error
    if not isinstance(raw, dict):
        raise PackError(f"{file} should hold a JSON object, but holds a {type(raw).__name__}; {_ADVICE}.")
    if not _is_shallow(raw):
        raise PackError(f"{file} should nest at most {MAX_DEPTH} deep, but nests deeper; {_ADVICE}.")
    return raw


def _is_shallow(value: Any) -> bool:
    layer = [value]
    for _ in range(MAX_DEPTH):
        below = (one.values() if isinstance(one, dict) else one for one in layer if isinstance(one, dict | list))
        layer = [one for inside in below for one in inside]
        if not layer:
            return True
    return False


def _check_schema_version(raw: Mapping[str, Any], folder: Path) -> None:
    version = raw.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise PackError(
            f"The pack at {folder} has schema version {version!r}, but this release reads {SCHEMA_VERSION}; "
            "install the release that made it."
        )


def _validated(data: bytes, folder: Path) -> PackManifest:
    try:
        return PackManifest.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise PackError(
            f"{folder / MANIFEST_NAME} is not a valid manifest: {validation_sentence(error)}; {_ADVICE}."
        ) from error


def _check_minimum_runtime(manifest: PackManifest, folder: Path) -> None:
    release = installed_version("mmcl-edge")
    if _numbers(manifest.minimum_runtime) > _numbers(release):
        raise PackError(
            f"The pack at {folder} needs mmcl-edge {manifest.minimum_runtime} or newer, but this is {release}; "
            "update it."
        )


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release)[:3])


def _check_entries(folder: Path) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            known = entry.name in MAX_BYTES or entry.name in DETACHED_NAMES
            if not known or not entry.is_file(follow_symlinks=False):
                raise PackError(
                    f"The pack at {folder} should hold {len(MAX_BYTES)} plain files and nothing else, "
                    f"but holds {entry.name!r}; {_ADVICE}."
                )
            if entry.name in DETACHED_NAMES and entry.stat(follow_symlinks=False).st_size > MAX_SIGNATURES_BYTES:
                raise PackError(
                    f"{entry.path} may have {MAX_SIGNATURES_BYTES:,} bytes, but has more; it was not read. {_ADVICE}."
                )


def _check_digest(folder: Path, digest: str, expected: str | None) -> None:
    if expected is not None and digest != expected:
        raise PackError(f"Expected the pack {expected[:16]}..., but {folder} holds {digest[:16]}...; {_ADVICE}.")


def _content(folder: Path, manifest: PackManifest, name: str) -> bytes:
    entry, file = manifest.file(name), folder / name
    if file.is_symlink() or not file.is_file():
        raise PackError(f"The pack at {folder} should contain the file {name}, but it does not; {_ADVICE}.")
    size = file.stat().st_size
    if size != entry.size_bytes:
        raise PackError(f"{file} should have {entry.size_bytes:,} bytes, but has {size:,}; {_ADVICE}.")
    data = _bounded(file, MAX_BYTES[name])
    if sha256_bytes(data) != entry.sha256:
        raise PackError(f"{file} should have sha256 {entry.sha256[:16]}..., but its bytes were changed; {_ADVICE}.")
    return data


def _check_bundle(manifest: PackManifest, digest: str, expected: str | None) -> None:
    if expected is not None and manifest.bundle_digest != expected:
        raise PackError(
            f"The pack {digest[:16]}... was made for the bundle {manifest.bundle_digest[:16]}..., "
            f"but the bundle here is {expected[:16]}...; open that bundle, or use a pack made for this one."
        )


def _config(data: bytes, folder: Path) -> tuple[MethodConfig, dict[str, Any]]:
    raw = _object(data, folder / CONFIG_NAME)
    method, module = raw.get("method"), raw.get("module")
    if set(raw) != {"method", "module"} or not isinstance(module, dict):
        raise PackError(
            f"{folder / CONFIG_NAME} should hold 'method' and 'module', but holds {sorted(raw)}; {_ADVICE}."
        )
    try:
        return MethodConfig.model_validate(method), module
    except ValidationError as error:
        raise PackError(
            f"{folder / CONFIG_NAME} is not a valid configuration: {validation_sentence(error)}; {_ADVICE}."
        ) from error
