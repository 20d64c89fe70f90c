"""What every way of adapting shares: a workspace at work on one run, its identity, and the swap at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from mmcl_edge.config import AdaptConfig
from mmcl_edge.fileio import canonical_json, sha256_bytes
from mmcl_edge.learners.features import FeatureCache
from mmcl_edge.learners.persistence import CALIBRATE
from mmcl_edge.learners.protocol import OnProgress
from mmcl_edge.packs import Confidence, PackContents, read_pack, write_pack
from mmcl_edge.packs.lineage import known_manifest
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.feature_store import DiskFeatures
from mmcl_edge.runtime.replay_store import Exemplars, ReplayStore
from mmcl_edge.runtime.run_record import AdaptReport, RunRecord
from mmcl_edge.runtime.workspace import Workspace


@dataclass(frozen=True)
class AdaptEvents:
    """Callbacks of a run, for progress: the stage that begins, the step done, the epoch done."""

    on_stage: Callable[[str], None] = lambda stage: None
    on_progress: OnProgress = lambda progress: None
    on_epoch: Callable[[int, Mapping[str, float]], None] = lambda epoch, losses: None


class Adaptation:
    """One run in a workspace that is locked.

    Args:
        workspace: where to learn.
        how: treatment of the data, and the acceptance rule.
        provider: execution provider of the backbones.
        threads: of the backbones; ``None`` takes every core.
        events: for progress.
    """

    def __init__(
        self, workspace: Workspace, how: AdaptConfig, provider: str, threads: int | None, events: AdaptEvents
    ) -> None:
        self.workspace = workspace
        self.how = how
        self.events = events
        self.started = time.monotonic()
        self.store = ReplayStore(workspace.replay_path)
        self.runtime = Runtime.open(workspace.bundle_path, provider=provider, threads=threads)
        current = workspace.current_pack()
        self.parent = None if current is None else read_pack(current, bundle_digest=self.runtime.bundle.family)

    def request_digest(self, asked: Mapping[str, Any]) -> str:
        """Digest of what was asked, whatever pack it starts from."""
        return sha256_bytes(canonical_json({**asked, "adapt": self.how.model_dump(mode="json"), **self._engine()}))

    def _engine(self) -> dict[str, Any]:
        """What computes, and how: everything but the request that decides the bits of a result."""
        threads = self.runtime.sessions.plan
        return {
            "bundle": self.runtime.bundle.digest,
            "threads": [threads.onnx, threads.torch],
            "provider": self.runtime.sessions.provider,
            "versions": {name: version(name) for name in ("mmcl-edge", "torch", "onnxruntime")},
        }

    def features(self) -> FeatureCache:
        """Features of samples, kept in the workspace for every run by the same engine."""
        scope = sha256_bytes(canonical_json(self._engine()))
        store = DiskFeatures(self.workspace.features_path, self.how.feature_budget_bytes)
        return FeatureCache(store, self.how.feature_precision, scope)

    def run_id(self, request_digest: str) -> str:
        """Names the run: what was asked, and what it starts from."""
        parent = None if self.parent is None else self.parent.digest
        return sha256_bytes(canonical_json([request_digest, parent]))[:16]

    def finished(self, wanted: str) -> AdaptReport | None:
        """The record of the run that made the pack in use, or that was refused, if ``wanted`` names its request."""
        own = RunRecord(self.workspace.run_folder(self.run_id(wanted)))
        refused = own.report()
        if refused is not None and not refused.accepted and self.how.max_minutes is None:
            own.drop_checkpoint()  # a cut right after the report left it
            return replace(refused, repeated=True)
        made = self._same_model()
        for folder in sorted(self.workspace.runs_path.glob("*")):
            record = RunRecord(folder)
            report = record.report()
            if report is None or report.pack_digest not in made:
                continue
            if report.request_digest == wanted:
                record.drop_checkpoint()  # a cut right after the swap left it
                assert self.parent is not None  # its digest is among those
                found = self.parent.manifest.confidence
                return replace(
                    report, repeated=True, pack_digest=self.parent.digest, calibration_error=calibration_error(found)
                )
        return None

    def _same_model(self) -> set[str]:
        """Digests of the pack in use and of those that it was only calibrated anew from."""
        found: set[str] = set()
        digest, manifest = (None, None) if self.parent is None else (self.parent.digest, self.parent.manifest)
        while digest is not None:
            found.add(digest)
            parents = manifest.parents if manifest else ()
            digest = next((one.digest for one in parents if one.method == CALIBRATE), None)
            manifest = None if digest is None else known_manifest(digest, self.workspace.packs_path)
        return found

    def accepts(self, before: float | None, after: float | None) -> bool:
        """Whether what was known before stands: it lost no more than the tolerance."""
        return before is None or (after or 0.0) >= before - self.how.tolerance - 1e-9

    def refuse(self, report: AdaptReport, record: RunRecord) -> AdaptReport:
        """Record a run whose result is not kept."""
        record.finish(report)
        return report

    def swap(self, report: AdaptReport, contents: PackContents, exemplars: Exemplars, record: RunRecord) -> AdaptReport:
        """Write the pack, its exemplars and the record; last, the pack comes into use."""
        digest = write_pack(self.workspace.packs_path, contents)
        self.store.write(digest, exemplars)
        report = replace(report, pack_digest=digest, calibration_error=calibration_error(contents.confidence))
        record.finish(report)
        self.workspace.use_pack(digest)
        for folder in self.workspace.runs_path.glob("*"):  # this run's, and those begun from the pack before
            RunRecord(folder).drop_checkpoint()
        self.store.collect(path.name for path in self.workspace.list_packs())
        return report


def calibration_error(found: Confidence | None) -> dict[str, float] | None:
    """Expected calibration error ``before`` and ``after``, where a pack's confidence was calibrated."""
    return None if found is None else {"before": found.ece_before, "after": found.ece_after}
