"""From what a caller names (folders, archives, folders full of either) to verified packs that fit together.

Rules, performed in this order, each refusing before the next:

1. Every name is a pack's folder, an archive, or a folder that holds some. Archives are opened into a scratch folder.
2. Every pack is verified. One that is broken is refused, or left out where the caller asked for that.
3. A pack that is named twice counts once.
4. There are at least two, of one bundle; those with classes are of one configuration of the model. Packs that hold
   nothing but a shared space fit all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mmcl_edge.config import MethodConfig
from mmcl_edge.errors import IntegrityError, MergeError, PackError
from mmcl_edge.fileio import STAGING_PREFIX
from mmcl_edge.fleet.engines import in_order, workers_of
from mmcl_edge.fleet.merge.reading import Alike, Source, verify
from mmcl_edge.fleet.merge.streaming import SHARD, engine
from mmcl_edge.packs.archive import open_archive
from mmcl_edge.packs.manifest import MANIFEST_NAME

FREE = {"adapter": ("experts", "router_noise", "freeze_experts"), "head": ("cosine_scale", "modality_dropout")}
"""Fields of the configuration in which packs may differ: they shape training, not the model."""

OnRead = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Broken:
    """A pack that was left out: where it is, and what is wrong with it."""

    path: str
    reason: str


@dataclass(frozen=True)
class Gathered:
    """What the caller named.

    Attributes:
        sources: verified, each digest once, by digest.
        weights: of each, as the caller gave them; empty if they gave none.
        repeated: digests that were named more than once.
        broken: what was left out.
    """

    sources: tuple[Source, ...]
    weights: tuple[float, ...]
    repeated: tuple[str, ...]
    broken: tuple[Broken, ...]


def gather(
    names: Sequence[Path],
    *,
    scratch: Path,
    weights: Sequence[float] | None = None,
    skip_broken: bool = False,
    find: Callable[[str], Path | None] | None = None,
    executor: Executor | None = None,
    on_read: OnRead | None = None,
) -> Gathered:
    """The packs behind ``names``, by the rules above but the last.

    Args:
        names: folders and archives.
        scratch: an empty folder; archives are opened there.
        weights: one for each pack, in the order of the names (packs of a folder by name).
        skip_broken: leave out what cannot be read.
        find: where the parent of a delta archive is, by digest.
        executor: where packs are verified.
        on_read: hears of progress.

    Raises:
        MergeError: a name is none of these, or the weights do not fit.
        PackError: a pack is broken.
    """
    places = [place for name in names for place in _expand(Path(name))]
    given = _checked_weights(weights, len(places))
    found, broken = _verified(places, scratch, skip_broken, find, executor, on_read)
    known, repeated = dict[str, tuple[Source, float]](), dict[str, None]()
    for source, weight in zip(found, given, strict=True):
        if source is None:
            continue
        if source.digest in known:
            repeated[source.digest] = None
        known.setdefault(source.digest, (source, weight))
    ordered = [known[digest] for digest in sorted(known)]
    return Gathered(
        tuple(source for source, _ in ordered),
        tuple(weight for _, weight in ordered) if weights is not None else (),
        tuple(repeated),
        tuple(broken),
    )


def _expand(name: Path) -> list[Path]:
    if (name / MANIFEST_NAME).exists() or name.is_file():
        return [name]
    if not name.is_dir():
        raise MergeError(
            f"Expected a pack, an archive or a folder of packs at {name}, but there is none; correct the path."
        )
    inside = [path for path in sorted(name.iterdir()) if not path.name.startswith(STAGING_PREFIX)]
    found = [path for path in inside if (path / MANIFEST_NAME).is_file() or (path.is_file() and _named_archive(path))]
    if not found:
        raise MergeError(f"Expected packs or archives in the folder {name}, but it holds none; name another.")
    return found


def _named_archive(path: Path) -> bool:
    from mmcl_edge.packs.archive import SUFFIX

    return path.name.endswith(SUFFIX)


def _checked_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1.0] * count
    if len(weights) != count:
        raise MergeError(
            f"Expected one weight for each of {count} packs, but {len(weights)} were given; packs of a folder count "
            "one by one, in the order of their names."
        )
    if not all(0 <= weight < float("inf") for weight in weights) or sum(weights) <= 0:
        raise MergeError("Expected weights of 0 or more, not all 0, but found others; correct --weights.")
    return [float(weight) for weight in weights]


def _verified(
    places: Sequence[Path],
    scratch: Path,
    skip_broken: bool,
    find: Callable[[str], Path | None] | None,
    executor: Executor | None,
    on_read: OnRead | None,
) -> tuple[list[Source | None], list[Broken]]:
    found: list[Source | None] = []
    broken: list[Broken] = []
    alike = Alike()
    folders = [_opened(place, scratch, find) for place in places]
    shards = [(folders[start : start + SHARD], scratch) for start in range(0, len(folders), SHARD)]
    with engine(executor) as pool:
        for results in in_order(pool, _verify_all, shards, window=workers_of(pool) + 1):
            for result in results:
                if isinstance(result, Source):
                    found.append(alike.source(result))
                    continue
                place = places[len(found)]
                if not skip_broken:
                    raise PackError(f"{result} (named as {place}; --skip-broken leaves such packs out)")
                broken.append(Broken(str(place), result))
                found.append(None)
            if on_read:
                on_read(len(found), len(places))
    return found, broken


def _opened(place: Path, scratch: Path, find: Callable[[str], Path | None] | None) -> Path | str:
    """The pack's folder; of an archive, where it was opened, or why it cannot be."""
    if not place.is_file():
        return place
    try:
        return scratch / open_archive(place, scratch, parent_of=find)
    except PackError as error:
        return str(error)


def _verify_all(work: tuple[Sequence[Path | str], Path]) -> list[Source | str]:
    folders, scratch = work
    return [folder if isinstance(folder, str) else _verify(folder, scratch) for folder in folders]


def _verify(folder: Path, scratch: Path) -> Source | str:
    try:
        return verify(folder, scratch)
    except IntegrityError as error:
        return str(error)


def with_classes(sources: Sequence[Source]) -> list[Source]:
    """Those that answer over classes; the others hold nothing but a shared space."""
    return [source for source in sources if _learner(source.config) != "none"]


@lru_cache(maxsize=64)
def _learner(config: str) -> str:
    return MethodConfig.model_validate_json(config).learner


def lead_of(sources: Sequence[Source]) -> Source:
    """The pack whose configuration is the result's: the first with classes, if there is one."""
    return next(iter(with_classes(sources)), sources[0])


def check_fit(sources: Sequence[Source], base: Source | None = None) -> None:
    """Refuse packs that cannot be one: fewer than two, of several bundles, of several shapes.

    Raises:
        MergeError: names the packs and what differs.
    """
    if len(sources) < 2:
        raise MergeError(f"Expected at least two different packs to merge, but found {len(sources)}; name more.")
    first = lead_of(sources)
    for other in (*sources, *([base] if base else [])):
        if other.bundle_digest != first.bundle_digest:
            raise MergeError(
                f"Expected packs of one bundle, but {first.digest[:16]}... is for {first.bundle_digest[:16]}... and "
                f"{other.digest[:16]}... for {other.bundle_digest[:16]}...; merge packs of one bundle."
            )
        alike = other.config == first.config or len(with_classes([first, other])) < 2
        differing = [] if alike else _differing(first, other)
        if differing:
            raise MergeError(
                f"Expected packs of one configuration, but {first.digest[:16]}... and {other.digest[:16]}... differ in "
                f"{', '.join(differing)}; merge packs that were adapted alike."
            )


def _differing(one: Source, other: Source) -> list[str]:
    """What differs, with both values: the learner, and what shapes the model."""
    a, b = (source.method.model_dump() for source in (one, other))
    found = ["learner"] if a["learner"] != b["learner"] else []
    for part, free in FREE.items():
        names = [name for name in a[part] if name not in free and a[part][name] != b[part][name]]
        found += [f"{part}.{name} ({a[part][name]} and {b[part][name]})" for name in names]
    return found
