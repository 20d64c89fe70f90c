"""Sync: bring the pack that the fleet released to this device, and keep it only if it works here.

Rules, in this order; whatever refuses, the pack in use stays in use and nothing outside ``trust/`` changes:

1. The workspace is locked. What an interrupted sync left is settled, without the network: a swap whose check did not
   end is checked again (twice at most); a pack whose trial nobody confirmed is given up and remembered as refused.
2. Trust is refreshed (``fleet.client``): attack, expiry, unreachable store and a wrong clock are four different ends.
3. What to do follows from the release and what the device remembers (``fleet.sync_state.decide``).
4. The pack is fetched into a folder of its own and verified (``fleet.staging``).
5. What this device learned and the release lacks is put on top of it, where that is exact (``fleet.carry``).
6. It is examined there: stored canaries and pairs, finite answers, no worse than the pack in use (``fleet.health``).
7. It takes its place in ``packs/``, and the device's exemplars and held-out pairs are indexed for it.
8. The trial is noted, ``previous`` := the pack in use, ``current`` := the new one.
9. The pack is examined once more through the link ``current``. If it fails there, the links go back.
10. Its trial ends; or goes on until somebody confirms it (``mark_good``), if that was asked for. While it goes on,
   ``previous`` stays the last good pack.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

from mmcl_edge.errors import ExpiredError, InputError, IntegrityError, PackError
from mmcl_edge.fleet.health import TOLERANCE, Examination, Examiner, RuntimeExaminer, complaint
from mmcl_edge.fleet.joining import Invitation, Membership, OpenStore, membership
from mmcl_edge.fleet.layout import MAX_DOCUMENT_BYTES, SETTINGS_TARGET, STABLE, Release, Settings, channel_target, parse
from mmcl_edge.fleet.staging import stage, staging_folder
from mmcl_edge.fleet.store import Store
from mmcl_edge.fleet.sync_state import Applied, Verdict, clock_complaint, decide, named_by
from mmcl_edge.fleet.trials import Trials
from mmcl_edge.packs import Pack, read_manifest, read_pack, write_pack
from mmcl_edge.packs.lineage import ancestors, known_manifest
from mmcl_edge.runtime.install import bring_pack
from mmcl_edge.runtime.replay_store import Exemplars, ReplayStore
from mmcl_edge.runtime.trial import Trial
from mmcl_edge.runtime.workspace import Workspace

logger = logging.getLogger(__name__)

_SUSPICIOUS = timedelta(days=30)
"""A timestamp that holds longer than this is compared with the lifetime that the fleet gives its timestamps."""

Outcome = Literal["nothing-released", "in-use", "on-trial", "refused", "rolled-back"] | Verdict
MakeExaminer = Callable[[Exemplars], Examiner]


@dataclass(frozen=True, kw_only=True)
class SyncRequest:
    """What is asked of a sync.

    Attributes:
        invitation: the fleet, the first time.
        trial: the new pack stays on trial until it is confirmed.
        tolerance: share of canaries, and mean reciprocal rank of pairs, by which it may be worse than the pack in use.
        provider: execution provider of the examination.
        threads: of it; ``None`` takes every core.
        on_stage: told what is being done.
    """

    invitation: Invitation = field(default_factory=Invitation)
    trial: bool = False
    tolerance: float = TOLERANCE
    provider: str = "auto"
    threads: int | None = None
    on_stage: Callable[[str], None] = lambda stage: None


@dataclass(frozen=True, kw_only=True)
class SyncReport:
    """What a sync did.

    Attributes:
        outcome: what became of the release.
        channel: that was looked at.
        counter: of its release; 0 where nothing was ever released.
        pack: that it names; ``None`` where nothing was ever released.
        in_use: the pack in use now: the released one, or a child of it with what this device learned.
        before: the pack that was in use when the sync began.
        reason: why it was refused, rolled back or left alone.
        settled: what was done about an interrupted sync or an unconfirmed trial.
        fetched_bytes: downloaded of the pack.
        delta_from: the pack that the download started from.
        accuracy: share of canaries answered rightly, by the pack before and the new one; ``None`` without canaries.
        canaries: how many there were.
        retrieval: mean reciprocal rank of held-out pairs by modality, of the pack before and the new one; ``None``
            without pairs.
        joined: fingerprint of the root metadata, the first time.
    """

    outcome: Outcome
    channel: str
    counter: int
    pack: str | None
    in_use: str | None = None
    before: str | None = None
    reason: str | None = None
    settled: str | None = None
    fetched_bytes: int = 0
    delta_from: str | None = None
    accuracy: dict[str, float | None] | None = None
    canaries: int = 0
    retrieval: dict[str, dict[str, float]] | None = None
    joined: str | None = None


def sync(
    workspace: Workspace,
    request: SyncRequest | None = None,
    *,
    open_store: OpenStore = Store.open,
    make_examiner: MakeExaminer | None = None,
) -> SyncReport:
    """Follow the fleet (the rules stand in the module docstring).

    Args:
        workspace: of the device.
        request: what is asked.
        open_store: opens a store by its URL.
        make_examiner: makes what examines packs on what the device held out; by default ``RuntimeExaminer``.

    Raises:
        LockedError: another process works in the workspace.
        InputError: the device has not joined a fleet and was not told one.
        TrustError: an attack, or a store that was meddled with.
        ExpiredError: the fleet's metadata is too old, or the clock is wrong.
        StoreError: the store does not answer.
        PackError: the released pack is broken or made for another bundle.
        StorageError: a file cannot be written.
    """
    asked = request or SyncRequest()

    def default(held: Exemplars) -> Examiner:
        return RuntimeExaminer(
            workspace.bundle_path, held.holdout, held.pairs, provider=asked.provider, threads=asked.threads
        )

    with workspace.lock():
        return _Sync(workspace, asked, open_store, make_examiner or default).run()


class _Sync:
    """One sync, its steps in the order of the rules."""

    def __init__(
        self, workspace: Workspace, request: SyncRequest, open_store: OpenStore, make_examiner: MakeExaminer
    ) -> None:
        self.workspace = workspace
        self.request = request
        self.open_store = open_store
        self.make_examiner = make_examiner
        self.store = ReplayStore(workspace.replay_path)
        self.trials = Trials(workspace, lambda trial: self._examined_through_the_link(trial, None))

    def run(self) -> SyncReport:
        settled = self.trials.settle()
        if settled is not None:
            logger.warning("%s", settled)
        member = membership(self.workspace.trust_path, self.request.invitation, self.open_store)
        try:
            member, release = self._refreshed(member)
        except BaseException:
            member.abandon()
            raise
        folder = self.workspace.current_pack()
        before = None if folder is None else folder.name
        joined = member.fingerprint if member.joining else None
        if release is None:
            member.keep(member.state.looked(_now()))
            return SyncReport(
                outcome="nothing-released",
                channel=member.state.channel,
                counter=0,
                pack=None,
                in_use=before,
                before=before,
                settled=settled,
                joined=joined,
            )
        verdict = decide(
            member.state,
            release,
            current=before,
            ancestors=self._lineage(before),
            stands_on=self._lineage(before, stop=release.pack),
        )
        state = member.state.saw(release, _now())
        member.keep(state)
        report = SyncReport(
            outcome=verdict,
            channel=release.channel,
            counter=release.counter,
            pack=release.pack,
            in_use=before,
            before=before,
            settled=settled,
            joined=joined,
        )
        if verdict in ("fetch", "go-back"):
            return self._brought(member, release, report)
        refusal = state.refusal(named_by(release))
        return report if refusal is None else replace(report, reason=refusal.reason)

    def _refreshed(self, member: Membership) -> tuple[Membership, Release | None]:
        """Rule 2: the release of the device's channel; ``None`` where a new fleet has released nothing yet."""
        self.request.on_stage("refresh trust")
        now, state, client = _now(), member.state, member.client
        problem = clock_complaint(now, expires=None, refreshed=state.refreshed)
        if problem is not None:
            raise ExpiredError(problem)
        try:
            client.refresh()
            expires = client.expires()
            if expires is not None and expires - now > _SUSPICIOUS:
                data = client.read(SETTINGS_TARGET, MAX_DOCUMENT_BYTES)
                days = parse(Settings, data, SETTINGS_TARGET).lifetimes.timestamp_days
                problem = clock_complaint(now, expires=expires, refreshed=None, lifetime=timedelta(days=days + 2))
                if problem is not None:
                    raise ExpiredError(problem)
        except ExpiredError as error:
            problem = clock_complaint(now, expires=client.expires(), refreshed=None)
            if problem is None or problem in str(error):
                raise
            raise ExpiredError(f"{error} {problem}") from error
        new = state.channel == STABLE and STABLE not in state.seen
        return member, None if new and not client.has(channel_target(STABLE)) else client.release(state.channel)

    def _lineage(self, digest: str | None, *, stop: str | None = None) -> frozenset[str]:
        """Digests of the packs that ``digest`` was learned on top of, as far as they are here."""
        with suppress(PackError):
            if digest is not None:
                manifest, _ = read_manifest(self.workspace.packs_path / digest)
                return ancestors(manifest, self.workspace.packs_path, stop=stop)
        return frozenset()

    def _brought(self, member: Membership, release: Release, report: SyncReport) -> SyncReport:
        """Rules 4 to 10."""
        with staging_folder(self.workspace) as folder:
            staged = stage(self.workspace, member.client, release.current, folder, self.request.on_stage)
            report = replace(report, fetched_bytes=staged.fetched_bytes, delta_from=staged.delta_from)
            released = read_pack(
                staged.folder, expected_digest=release.pack, bundle_digest=self.workspace.bundle_family()
            )
            pack = self._with_own(released, release, folder)
            return self._tried(pack, named_by(release), report)

    def _with_own(self, released: Pack, release: Release, folder: Path) -> Pack:
        """Rule 5: what this device learned and the release lacks, on top of it, where that is exact."""
        own = self._own(release)
        if own is None:
            return released
        from mmcl_edge.fleet.carry import carried

        try:
            contents = carried(released, read_pack(own))
        except InputError as error:
            logger.warning("what this device learned cannot be put on top of the release: %s", error)
            return released
        if contents is None:
            return released
        return read_pack(folder / "own" / write_pack(folder / "own", contents))

    def _own(self, release: Release) -> Path | None:
        """The newest pack here that the pack in use stands on, or it itself, which no withdrawn pack went into."""
        packs, withdrawn = self.workspace.packs_path, set(release.withdrawn)
        current = self.workspace.current_digest()
        left, seen = [] if current is None else [current], set[str]()
        while left:
            digest = left.pop(0)
            manifest = None if digest in seen else known_manifest(digest, packs)
            seen.add(digest)
            if manifest is None:
                continue
            if (packs / digest).is_dir() and not {digest, *self._lineage(digest, stop=release.pack)} & withdrawn:
                return packs / digest
            left += [parent.digest for parent in manifest.parents]  # also of a pack that was pruned
        return None

    def _tried(self, pack: Pack, target: Applied, report: SyncReport) -> SyncReport:
        """Rules 6 to 10 for a pack that lies outside ``packs/``, or is there already."""
        withdrawal = report.outcome == "go-back"
        self.request.on_stage("check its health")
        examiner = self.make_examiner(self._held_out(report.before))
        old = self._examined_now(examiner)
        problem, new = self._examined(examiner, pack.path, old, withdrawal=withdrawal)
        report = _with_figures(report, old, new)
        if problem is not None:
            self.trials.refuse(target, problem)
            return replace(report, outcome="refused", reason=problem)
        self.request.on_stage("swap")
        bring_pack(pack, self.workspace.packs_path / pack.digest)
        self.store.follow(report.before, pack.digest, pack.manifest.label_names, _modalities(pack))
        previous = self.workspace.previous_pack()
        trial = Trial(
            pack=pack.digest,
            released=target.pack,
            good=report.before,
            previous=None if previous is None else previous.name,
            channel=target.channel,
            counter=target.counter,
            withdrawal=withdrawal,
            must_be_confirmed=self.request.trial,
        )
        problem = self.trials.swap(trial, lambda: self._examined_through_the_link(trial, (examiner, old)))
        if problem is not None:
            return replace(report, outcome="rolled-back", reason=problem)
        return replace(report, outcome="on-trial" if self.request.trial else "in-use", in_use=pack.digest)

    def _held_out(self, digest: str | None) -> Exemplars:
        try:
            return self.store.read(digest)
        except IntegrityError as error:
            logger.warning("the stored canaries cannot be used, so none are asked: %s", error)
            return Exemplars()

    def _examined_now(self, examiner: Examiner) -> Examination | None:
        """How the pack in use answers; ``None`` where there is none, or it is broken and so no measure."""
        folder = self.workspace.current_pack()
        if folder is None:
            return None
        try:
            return examiner.examine(folder)
        except PackError as error:
            logger.warning("the pack in use cannot be examined: %s", error)
            return None

    def _examined(
        self, examiner: Examiner, folder: Path, old: Examination | None, *, withdrawal: bool
    ) -> tuple[str | None, Examination | None]:
        try:
            new = examiner.examine(folder)
        except PackError as error:
            return str(error), None
        tolerance = self.request.tolerance
        return complaint(old, new, examiner.asked, tolerance=tolerance, withdrawal=withdrawal), new

    def _examined_through_the_link(self, trial: Trial, known: tuple[Examiner, Examination | None] | None) -> str | None:
        """Rule 9: what is wrong with the pack that ``current`` names; ``None`` if nothing is."""
        folder = self.workspace.current_pack()
        if folder is None or folder.name != trial.pack:
            return "the link 'current' does not name it"
        if known is None:
            examiner = self.make_examiner(self._held_out(trial.good))
            good = None if trial.good is None else self.workspace.packs_path / trial.good
            old = (
                None if good is None or not good.is_dir() else self._examined(examiner, good, None, withdrawal=True)[1]
            )
        else:
            examiner, old = known
        return self._examined(examiner, self.workspace.root / "current", old, withdrawal=trial.withdrawal)[0]


def _with_figures(report: SyncReport, old: Examination | None, new: Examination | None) -> SyncReport:
    found = {"before": old, "after": new}
    ranks = {name: {} if one is None else dict(one.retrieval) for name, one in found.items()}
    return replace(
        report,
        canaries=0 if new is None else new.canaries,
        accuracy={name: None if one is None else one.accuracy for name, one in found.items()},
        retrieval=ranks if any(ranks.values()) else None,
    )


def _modalities(pack: Pack) -> tuple[str, ...]:
    found = pack.space()
    return () if found is None else found.modalities


def _now() -> datetime:
    return datetime.now(timezone.utc)
