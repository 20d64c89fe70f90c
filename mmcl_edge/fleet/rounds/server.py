"""The server's part of a round.

Rules, in this order:

1. An order names the round and carries the fleet's pack; whoever gets it learns on top of that.
2. An answer is believed nothing: it must be to an order of a round that was, name the pack that this order carried,
   hold an archive that stands every check, for the fleet's bundle, and a pack that was made from the order's and has
   its shared space to the bit, or like it none: rounds teach classes, and nothing here measures what a merged space
   would find. What fails is told and left out; nothing else stops. The same pack twice counts once.
3. A round closes when the caller says so. What came until then is merged, however old the order that it answers. An
   answer's age counts how often the fleet's pack has changed since that order; what age takes from an answer goes to
   the fleet's pack (``staleness.shares``). Sums of the analytic learner are not weighted: a contribution counts in
   full, once, whenever it comes, and the fleet's own are never left out, whatever the answers hold.
   No device counts for more than a few times the median device, whatever it says it has learned from.
4. If the packs cannot be merged, those that cannot be merged with any other on their own are left out; of sums also
   those that cannot be added to the fleet's.
5. The new pack is evaluated if the caller can, also where one answer came alone, and refused if it is worse than the
   tolerance, the fleet's pack being one of those that it is compared with: that one stays, and the round says so.
6. The new pack is written whole, then the journal that names it: a server that is killed goes on from its last
   closed round.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import Literal, Protocol

from pydantic import Field, ValidationError

from mmcl_edge.config import AdaptConfig, MethodConfig
from mmcl_edge.errors import InputError, IntegrityError, MergeError, MmclEdgeError, RejectedError
from mmcl_edge.fileio import pretty_json, read_bounded, storage_errors, sweep_staging, write_atomic
from mmcl_edge.fleet.rounds.messages import Answer, Order, unpacked
from mmcl_edge.fleet.rounds.spaces import same_space
from mmcl_edge.fleet.rounds.staleness import EXPONENT, shares
from mmcl_edge.packs import Pack, read_pack
from mmcl_edge.packs.lineage import ancestors
from mmcl_edge.packs.manifest import Digest
from mmcl_edge.types import FrozenModel

JOURNAL_NAME = "rounds.json"
MAX_JOURNAL_BYTES = 16 << 20
MOST_MEDIANS = 4
"""A device counts for at most so many median devices of its round."""


@dataclass(frozen=True)
class Outcome:
    """What packs became.

    Attributes:
        pack: digest of the new pack, ``out/<digest>``, or of the one that was there before.
        outliers: digest of a pack that is unlike the others to a sentence that says in what.
    """

    pack: str
    outliers: Mapping[str, str] = field(default_factory=dict)


class Merge(Protocol):
    """Makes one pack of one or more, with weights that add up to 1."""

    def __call__(
        self, packs: Sequence[Path], weights: Sequence[float], out: Path, *, before: Path | None = None
    ) -> Outcome:
        """See ``Merge``.

        Args:
            packs: folders.
            weights: theirs.
            out: where the result goes, as ``out/<digest>``.
            before: the fleet's pack, whose place the result takes: it may not be much worse, and sums of it stay.

        Raises:
            RejectedError: the result is worse than its tolerance.
            MmclEdgeError: the packs cannot be merged.
        """
        ...


class _Closed(FrozenModel):
    round: int = Field(ge=1)
    pack: Digest | None = Field(None, description="The fleet's pack after this round.")
    merged: tuple[Digest, ...] = ()


class _Journal(FrozenModel):
    schema_version: Literal[1] = 1
    bundle: Digest
    first: Digest | None = Field(None, description="The pack that round 1 starts from.")
    closed: tuple[_Closed, ...] = ()


@dataclass(frozen=True)
class RoundReport:
    """What one round did.

    Attributes:
        round: its number.
        pack: the fleet's pack after it; ``None`` before the first merge.
        merged: digests of the answers' packs, with their shares and ages in rounds.
        kept: share of the fleet's pack before.
        refused: who was left out, and why.
        rejected: why the merged pack was not taken; ``None`` if it was, or nothing came.
        outliers: whose sums are unlike the others', and in what. They were merged all the same.
    """

    round: int
    pack: str | None
    merged: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    kept: float = 0.0
    refused: Mapping[str, str] = field(default_factory=dict)
    rejected: str | None = None
    outliers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Arrived:
    folder: Path
    sender: str
    samples: int
    age: int


@dataclass(frozen=True)
class _Merged:
    pack: str | None
    shares: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    kept: float = 0.0
    outliers: Mapping[str, str] = field(default_factory=dict)


class Rounds:
    """The state of a server's rounds, in a folder that survives it.

    Args:
        folder: made where it is not there.
        bundle: digest (family) of the fleet's bundle.
        method: configuration that all devices learn by.
        adapt: how they treat their data.
        merge: merges packs (``merging.PackMerge``).
        exponent: a of the staleness weight.
        first: pack to start from in a new folder; ``None``: the devices start from nothing.

    Raises:
        InputError: the folder belongs to another bundle.
        IntegrityError: its journal is damaged.
        StorageError: it cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        bundle: str,
        method: MethodConfig | None = None,
        adapt: AdaptConfig | None = None,
        merge: Merge,
        exponent: float = EXPONENT,
        first: Path | None = None,
    ) -> None:
        self.folder, self.packs = folder, folder / "packs"
        self.scratch, self.trials = folder / "scratch", folder / "scratch" / "trials"
        self.method, self.adapt = method or MethodConfig(), adapt or AdaptConfig()
        self._merge, self._exponent = merge, exponent
        for place in (self.packs, self.scratch):
            with storage_errors(place):
                place.mkdir(parents=True, exist_ok=True)
            sweep_staging(place)
        self._journal = self._read(bundle)
        if self._journal.bundle != bundle:
            raise InputError(
                f"Expected rounds for the bundle {bundle[:16]}..., but those in {folder} are for "
                f"{self._journal.bundle[:16]}...; choose another folder."
            )
        if first is not None and not self._journal.closed:
            self._journal = self._journal.model_copy(update={"first": self._taken_in(first)})
        self._arrived: dict[str, _Arrived] = {}
        self._refused: dict[str, str] = {}

    @property
    def number(self) -> int:
        """Of the round that is open, from 1."""
        return len(self._journal.closed) + 1

    @property
    def pack(self) -> Path | None:
        """Folder of the fleet's pack; ``None`` before the first merge."""
        return self._pack_of(self.number)

    @property
    def arrived(self) -> int:
        """How many answers this round has to merge."""
        return len(self._arrived)

    def order(self) -> Order:
        """What devices are asked in this round."""
        return Order.of(self.number, self.pack, self.method, self.adapt, scratch=self.scratch)

    def receive(self, answer: Answer, *, sender: str) -> str | None:
        """Take an answer in for this round; returns why it is left out, or ``None``.

        Args:
            answer: from a device.
            sender: who it is, for the report.
        """
        try:
            problem = answer.refused or self._take(answer, sender)
        except MmclEdgeError as error:
            problem = str(error)
        if problem:
            self._refused[sender] = problem
        return problem or None

    def close(self) -> RoundReport:
        """Merge what came and go on to the next round (rules 3 to 6).

        Raises:
            StorageError: it cannot be written; the round stays open.
        """
        before, rejected = self.pack, None
        try:
            merged = self._merged(before)
        except (RejectedError, MergeError) as error:
            rejected, merged = str(error), _Merged(None if before is None else before.name)
        report = RoundReport(
            round=self.number,
            pack=merged.pack,
            merged=merged.shares,
            kept=merged.kept,
            refused=dict(self._refused),
            rejected=rejected,
            outliers={self._arrived[digest].sender: said for digest, said in merged.outliers.items()},
        )
        self._write(_Closed(round=self.number, pack=merged.pack, merged=tuple(merged.shares)))
        self._sweep()
        self._refused = {}
        return report

    def _take(self, answer: Answer, sender: str) -> str | None:
        """Rule 2."""
        if answer.round > self.number:
            return f"it answers round {answer.round}, but this is round {self.number}"
        asked = self._pack_of(answer.round)
        if answer.base != (None if asked is None else asked.name):
            return f"it was not learned on top of the pack that round {answer.round} sent"
        if answer.pack is None:
            return "it holds no pack"
        if answer.pack == answer.base:
            return "it brings the fleet's own pack back: nothing was learned"
        if any(answer.pack in closed.merged for closed in self._journal.closed):
            return "it was merged before"
        folder = unpacked(
            answer.archive,
            answer.pack,
            self.packs,
            scratch=self.scratch,
            bundle_digest=self._journal.bundle,
            parent_of=lambda digest: asked if asked is not None and digest == asked.name else None,
        )
        problem = self._unlike_the_order(read_pack(folder), answer.base)
        if problem is not None:
            self._discard([answer.pack])
            return problem
        self._arrived.setdefault(answer.pack, _Arrived(folder, sender, answer.samples, self._age(answer.round)))
        return None

    def _unlike_the_order(self, pack: Pack, base: str | None) -> str | None:
        """What a verified pack, that should have been learned on top of ``base``, shows that it was not ordered."""
        if base is not None and base not in ancestors(pack.manifest, self.packs):
            return f"it was not learned on top of the pack {base[:16]}..., which it does not name among its parents"
        for part in ("learner", "adapter", "head"):
            if getattr(pack.config, part) != getattr(self.method, part):
                return f"it was learned with another configuration ({part}) than the one ordered"
        if not same_space(pack, None if base is None else read_pack(self.packs / base)):
            return (
                "it has another shared space than the pack of the order; rounds teach classes alone, so push it instead"
            )
        return None

    def _age(self, number: int) -> int:
        """How often the fleet's pack has changed since the order of round ``number``."""
        packs = [self._pack_of(later) for later in range(number, self.number + 1)]
        return sum(one != other for one, other in pairwise(packs))

    def _merged(self, before: Path | None) -> _Merged:
        """Rules 3 to 5."""
        try:
            return self._merge_all(before)
        except MergeError:
            if not self._leave_out_strangers(before):
                raise
            return self._merge_all(before)

    def _merge_all(self, before: Path | None) -> _Merged:
        arrived = sorted(self._arrived.items())
        if not arrived:
            return _Merged(None if before is None else before.name)
        most = MOST_MEDIANS * max(1, median_low([one.samples for _, one in arrived]))
        ages = [one.age if before is not None else 0 for _, one in arrived]
        own, kept = shares([min(one.samples, most) for _, one in arrived], ages, self._exponent)
        packs, weights = [one.folder for _, one in arrived], own
        if before is not None and kept > 0 and not self._sums:
            packs, weights = [*packs, before], [*own, kept]
        outcome = self._merge(packs, weights, self.packs, before=before)
        found = dict(zip((digest for digest, _ in arrived), zip(own, ages, strict=True), strict=True))
        outliers = {digest: said for digest, said in outcome.outliers.items() if digest in found}
        return _Merged(outcome.pack, found, kept, outliers)

    @property
    def _sums(self) -> bool:
        return self.method.learner == "analytic"

    def _leave_out_strangers(self, before: Path | None) -> bool:
        """Rule 4: whether some pack was left out and others are there."""
        folders = {digest: one.folder for digest, one in self._arrived.items()}
        strangers = {digest for digest in folders if self._is_stranger(digest, before)}
        if len(strangers) == len(folders):
            return False
        for digest in strangers:
            self._refused[self._arrived.pop(digest).sender] = "it cannot be merged with any other pack of the round"
        self._discard(strangers)
        shutil.rmtree(self.trials, ignore_errors=True)
        return bool(strangers)

    def _is_stranger(self, digest: str, before: Path | None) -> bool:
        if before is not None and self._sums and not self._fit([digest], before):
            return True
        others = [other for other in self._arrived if other != digest]
        return bool(others) and not any(self._fit([digest, other], before) for other in others)

    def _fit(self, digests: Sequence[str], before: Path | None) -> bool:
        """Whether packs of this round can be merged."""
        packs = [self.packs / digest for digest in digests]
        try:
            return bool(self._merge(packs, [1 / len(packs)] * len(packs), self.trials, before=before).pack)
        except RejectedError:
            return True
        except MergeError:
            return False

    def _sweep(self) -> None:
        """Remove what devices sent and was merged; the fleet's own packs stay, for answers that come late."""
        merged, self._arrived = self._arrived, {}
        self._discard(merged)

    def _discard(self, digests: Iterable[str]) -> None:
        """Remove packs that are neither the fleet's, of any round, nor waiting to be merged."""
        kept = {self._journal.first, *(closed.pack for closed in self._journal.closed), *self._arrived}
        for digest in set(digests) - kept:
            shutil.rmtree(self.packs / digest, ignore_errors=True)

    def _pack_of(self, number: int) -> Path | None:
        """The pack that the order of round ``number`` carries."""
        digest = self._journal.first if number == 1 else self._journal.closed[number - 2].pack
        return None if digest is None else self.packs / digest

    def _taken_in(self, pack: Path) -> str:
        from mmcl_edge.runtime.install import bring_pack

        opened = read_pack(pack, bundle_digest=self._journal.bundle)
        bring_pack(opened, self.packs / opened.digest)
        return opened.digest

    def _read(self, bundle: str) -> _Journal:
        path = self.folder / JOURNAL_NAME
        if not path.is_file():
            return _Journal(bundle=bundle)
        try:
            return _Journal.model_validate_json(read_bounded(path, MAX_JOURNAL_BYTES))
        except ValidationError as error:
            raise IntegrityError(
                f"{path} should be the journal of federated rounds, but is damaged; choose another folder."
            ) from error

    def _write(self, closed: _Closed) -> None:
        journal = self._journal.model_copy(update={"closed": (*self._journal.closed, closed)})
        write_atomic(self.folder / JOURNAL_NAME, pretty_json(journal.model_dump(mode="json")))
        self._journal = journal
