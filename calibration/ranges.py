"""Range calibration: the int8 version of a bundle.

Rules, in this order; whatever refuses, nothing is written:

1. The bundle is a float one, and the data is fit for it (``samples.py``).
2. The float backbones run on the calibration samples, with the adapters of the pack if there is one, and every
   graph's inputs are kept: what the graphs really see.
3. Every forward graph is quantized (``quantizer.py``). Graphs without anything to quantize, and graphs that int8
   does not make faster on this machine, stay float.
4. Accuracy is measured on other samples; sensitive nodes are returned to float until it holds (``search.py``).
5. A new bundle is written: int8 forward graphs, everything else byte for byte that of the float bundle. It names the
   float bundle in ``quantized_from``, so packs of either serve both.

Gradients stay float: an adapter trained on an int8 bundle sees int8 features and the float graphs' products at them
(a straight-through estimate). In ``vjp_mode`` ``save`` the training forward is the float graph.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmcl_edge.adapters.inputs import Item
from mmcl_edge.bundle import Bundle, QuantizedGraph, RangesRecord
from mmcl_edge.calibration.graphs import Overlay, forward_graphs, record_inputs
from mmcl_edge.calibration.judges import Judge, NearestMeanJudge, PackJudge, Trial
from mmcl_edge.calibration.machine import int8_support, may_saturate
from mmcl_edge.calibration.plans import GraphPlan, Speed, keep_slow_ones_float
from mmcl_edge.calibration.quantizer import GraphQuantizer
from mmcl_edge.calibration.samples import CalibrationData
from mmcl_edge.calibration.search import Step, search
from mmcl_edge.calibration.settings import Progress, RangesConfig
from mmcl_edge.calibration.writing import write_int8_bundle
from mmcl_edge.errors import CalibrationError
from mmcl_edge.fileio import STAGING_PREFIX, storage_errors
from mmcl_edge.packs import Pack
from mmcl_edge.runtime.preprocess import Preprocessor
from mmcl_edge.runtime.segments import open_backbones
from mmcl_edge.runtime.sessions import SessionFactory
from mmcl_edge.runtime.threads import ThreadPlan
from mmcl_edge.types import Sample

MOST_DB = 200.0
"""Stands for an infinite ratio in the manifest, which is JSON."""


@dataclass(frozen=True)
class RangesReport:
    """What became of a bundle.

    Attributes:
        bundle: the int8 bundle.
        record: what its manifest says about each graph.
        speeds: by graph path, of every graph that int8 was tried for; empty with ``any_speed``.
        trial: judge, truth and float accuracy.
        steps: measurements of the search, the last one of the result.
        int8_support: the processor's 8-bit dot products; ``None`` where it has none.
    """

    bundle: Bundle
    record: RangesRecord
    speeds: dict[str, Speed]
    trial: Trial
    steps: list[Step]
    int8_support: str | None


def quantize_bundle(
    bundle: Bundle,
    data: CalibrationData,
    out: Path,
    *,
    pack: Pack | None = None,
    config: RangesConfig | None = None,
    threads: int | None = None,
    progress: Progress = lambda text, done, total: None,
) -> RangesReport:
    """Write the int8 version of ``bundle`` into the folder ``out`` (the rules stand in the module docstring).

    Raises:
        CalibrationError: the bundle is int8 already, or has nothing to quantize, or accuracy cannot be kept.
        StorageError: ``out`` exists or cannot be written.
    """
    config = config or RangesConfig()
    check_float(bundle)
    plan = ThreadPlan.for_machine(threads)
    plan.apply()
    beside = out.parent if out.parent.is_dir() else None  # a workspace sweeps there what a cut left
    with storage_errors(out):
        scratch = Path(tempfile.mkdtemp(dir=beside, prefix=STAGING_PREFIX))
    try:
        run = _Run(bundle, SessionFactory(plan, provider="cpu"), config, scratch, progress)
        return run.run(data, out, pack)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_float(bundle: Bundle) -> None:
    """Refuse what is int8 already.

    Raises:
        CalibrationError: it is.
    """
    if bundle.manifest.quantized_from is not None:
        raise CalibrationError(
            f"Expected a float bundle, but {bundle.digest[:16]}... is int8 already (made from "
            f"{bundle.family[:16]}...); calibrate that one: name it with --bundle, or install it again first."
        )


class _Run:
    """One calibration; its stages in the order of the module's rules."""

    def __init__(
        self, bundle: Bundle, sessions: SessionFactory, config: RangesConfig, scratch: Path, progress: Progress
    ) -> None:
        self.bundle, self.sessions, self.config, self.scratch = bundle, sessions, config, scratch
        self.progress = progress
        self.refs = forward_graphs(bundle.manifest)
        self.reduce_range = may_saturate() if config.reduce_range is None else config.reduce_range

    def run(self, data: CalibrationData, out: Path, pack: Pack | None) -> RangesReport:
        preprocess = Preprocessor.of(self.bundle)
        items = [preprocess(sample) for sample in data.calibrate]
        judge, trial = self._judged(items, data, pack, preprocess)
        plans = self._plans(items, judge)
        if not self.config.any_speed:
            self.progress("measuring speed", None, None)
            keep_slow_ones_float(plans)
        self._check_any(plans)
        steps = search(
            plans,
            lambda: trial.accuracy(open_backbones(self._overlay(plans), self.sessions)),
            float_accuracy=trial.float_accuracy,
            keep_accuracy=self.config.keep_accuracy,
            progress=lambda text: self.progress(text, None, None),
        )
        self._check_any(plans)
        record = self._record(plans, len(items))
        self.progress("writing", None, None)
        written = write_int8_bundle(self.bundle, self._overlay(plans), record, out)
        speeds = {plan.ref.path: plan.speed for plan in plans if plan.speed}
        return RangesReport(written, record, speeds, trial, steps, int8_support())

    def _judged(
        self, items: Sequence[Item], data: CalibrationData, pack: Pack | None, preprocess: Preprocessor
    ) -> tuple[Judge, Trial]:
        self.progress("running the float bundle", None, None)
        backbones = open_backbones(self.bundle, self.sessions)
        labels: Sequence[str | None] = [one.label for one in data.calibrate]
        judge: Judge = NearestMeanJudge(backbones, items, labels) if pack is None else PackJudge(pack)
        measured: list[Sample] = list(data.measure)
        kept = [one.label for one in measured]
        return judge, Trial.of(judge, backbones, [preprocess(one) for one in measured], kept)

    def _plans(self, items: Sequence[Item], judge: Judge) -> list[GraphPlan]:
        self.progress("recording what the graphs see", None, None)
        seen = record_inputs(open_backbones(self.bundle, self.sessions), judge.run, items)
        plans = []
        for number, ref in enumerate(self.refs):
            self.progress(f"quantizing {ref.path}", number, len(self.refs))
            source = self.bundle.file(ref.file)
            quantizer = GraphQuantizer(
                source,
                ref.path,
                seen.pop(ref.path),
                method=self.config.method,
                per_channel=self.config.per_channel,
                reduce_range=self.reduce_range,
            )
            plan = GraphPlan(ref, source, quantizer, self.scratch, self.sessions)
            if plan.reason is None:
                plan.write()
            plans.append(plan)
        return plans

    def _overlay(self, plans: Sequence[GraphPlan]) -> Overlay:
        return Overlay(self.bundle, self.scratch, [plan.ref.path for plan in plans if plan.reason is None])

    def _check_any(self, plans: Sequence[GraphPlan]) -> None:
        if any(plan.reason is None for plan in plans):
            return
        reasons = sorted({plan.reason for plan in plans if plan.reason})
        raise CalibrationError(
            f"Expected at least one graph that int8 serves, but there is none ({'; '.join(reasons)[:300]}); nothing "
            "was written. Keep the float bundle, or insist with --any-speed."
        )

    def _record(self, plans: Sequence[GraphPlan], samples: int) -> RangesRecord:
        config = self.config
        return RangesRecord(
            method=config.method,
            per_channel=config.per_channel,
            reduce_range=self.reduce_range,
            samples=samples,
            graphs=tuple(_described(plan) for plan in plans),
        )


def _described(plan: GraphPlan) -> QuantizedGraph:
    int8, float_size = plan.reason is None, plan.quantizer.float_size_bytes
    return QuantizedGraph(
        modality=plan.ref.modality,
        graph=plan.ref.path,
        int8=int8,
        reason=plan.reason,
        float_nodes=tuple(node for node in plan.quantizer.nodes if int8 and node in plan.float_nodes),
        snr_db=round(min(max(plan.snr_db(), -MOST_DB), MOST_DB), 1) if int8 else None,
        size_bytes=plan.file.stat().st_size if int8 else float_size,
        float_size_bytes=float_size,
    )
