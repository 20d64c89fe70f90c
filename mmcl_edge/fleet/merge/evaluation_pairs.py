"""Evaluation pairs as ``EvaluatePairs``: pair folders, decoded once, that any number of packs of one bundle answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmcl_edge.errors import MergeError

if TYPE_CHECKING:
    from mmcl_edge.runtime.engine import Runtime
    from mmcl_edge.runtime.replay_store import HeldPair

LEAST_THINGS = 3
"""Among fewer different things, everything is found."""


@dataclass(frozen=True)
class PairEvaluator:
    """Retrieval of packs on the pairs of some folders.

    Attributes:
        runtime: of the packs' bundle.
        pairs: decoded.
        skipped: files that could not be decoded.
    """

    runtime: Runtime
    pairs: tuple[HeldPair, ...]
    skipped: int

    def __call__(self, folder: Path) -> dict[str, float]:
        """Mean reciprocal rank, both ways, of each modality with pairs that the pack in ``folder`` knows.

        Raises:
            PackError: the pack is broken or of another bundle.
        """
        from mmcl_edge.runtime.holdout import retrieval_of

        self.runtime.load_pack(folder)
        known = set(self.runtime.modalities)
        asked = [one for one in self.pairs if {one.modality, one.mediator} <= known]
        return retrieval_of(self.runtime.embed, asked)


@contextmanager
def open_pair_evaluator(
    bundle: Path, folders: Mapping[str, Path], *, provider: str = "auto", threads: int | None = None
) -> Iterator[PairEvaluator]:
    """The pairs of text in ``folders``, by modality, and a runtime on ``bundle``, for the time of a ``with`` block.

    Raises:
        InputError: a modality is unknown.
        TaskDataError: a folder is no pair folder.
        BundleError: the bundle is broken.
        MergeError: the pairs of a modality show too few different things to search among.
    """
    from mmcl_edge.config import AdaptConfig
    from mmcl_edge.data.clips import clipped
    from mmcl_edge.data.pair_folder import decode_pairs, read_pairs
    from mmcl_edge.runtime.engine import Runtime
    from mmcl_edge.runtime.replay_store import HeldPair

    how, pairs, skipped = AdaptConfig(), list[HeldPair](), 0
    for modality, folder in folders.items():
        found, left = decode_pairs(
            read_pairs(folder, modality),
            max_frames=how.max_frames,
            transform=lambda sample: clipped(sample, how.clip_s),
        )
        things = len(set(found.groups))
        if things < LEAST_THINGS:
            raise MergeError(
                f"Expected pairs of {modality} that show {LEAST_THINGS} different things or more in {folder}, but "
                f"found {things}; add pairs."
            )
        skipped += len(left)
        pairs += [
            HeldPair(sample, modality, found.mediator, captions)
            for sample, captions in zip(found.samples, found.captions, strict=True)
        ]
    with Runtime.open(bundle, provider=provider, threads=threads) as runtime:
        yield PairEvaluator(runtime, tuple(pairs), skipped)
