"""One inline training step (forward, all four losses, backward, clipping, AdamW) against the same step in torch eager.

Time: ``recompute`` and ``save`` (ONNX segments and their products, from a bundle of either kind, samples prepared as
``adapt`` prepares them) and ``torch_1``, ``torch_2`` (the same weights in torch with fused attention, on one and on
two threads; every step starts from raw sound and pixels; the faster one is the peer) take turns in one process.
Beside wall time stands the time of all processors, which a busy machine distorts less.

Memory: each runs in a process of its own. After the model is made and one forward pass of batch 1 is done, the
resident size is read (idle) and the kernel's high-water mark is reset; then the experience begins (samples are
prepared, the teacher answers), three steps are made, and the mark is read: the row gives the difference. The peer's
is that of the thread setting that needs less.

Frozen experts: bytes of gradients, of optimizer state, and saved by torch for backward, by how many of the experts of
every block are frozen.

One sample is 5 s of sound and one picture. The experience is the second one, so that every loss takes part.

    python benchmarks/bench_adapt_step.py [--bundle DIR --save-bundle DIR] [--rounds 5] [--batches 4,16]
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from common import LABELS, best_peer, example, new_model, parser, ratio, report, scratch_bundle, summary, take_turns

from mmcl_edge.adapters.inputs import collate
from mmcl_edge.bundle import Bundle
from mmcl_edge.config import AdapterConfig, MethodConfig
from mmcl_edge.data.streams import Experience
from mmcl_edge.export.exporter import export_bundle
from mmcl_edge.export.torch_backbone import torch_backbones
from mmcl_edge.learners.experience_run import ExperienceRun
from mmcl_edge.learners.features import FeatureCache
from mmcl_edge.learners.mmcl import MmclLearner
from mmcl_edge.runtime.feature_store import DiskFeatures
from mmcl_edge.runtime.preprocess import Preprocessor
from mmcl_edge.runtime.segments import open_backbones
from mmcl_edge.runtime.sessions import SessionFactory
from mmcl_edge.runtime.threads import ThreadPlan

STEPS = 3
TARGETS = {"time": 0.6, "peak_memory": 0.5}
OURS = ("recompute", "save")
PEERS = tuple(f"torch_{count}" for count in sorted({1, len(os.sched_getaffinity(0))}))
Contestant = str
"""A VJP mode, or ``torch_N`` with N threads."""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--save-bundle", type=Path, help="the same pair exported with --vjp save")
    options.add_argument("--repeats", type=int, default=5, help="timed steps in a turn")
    options.add_argument("--batches", default="4,16")
    options.add_argument("--memory-of", help="(internal) print the memory row of one contestant")
    arguments = options.parse_args()
    batches = [int(batch) for batch in arguments.batches.split(",")]
    if arguments.memory_of:
        print(json.dumps(measure_memory(arguments.memory_of, arguments.bundle, batches[0])))
        return
    with scratch_bundle(arguments.bundle) as (scratch, bundle):
        saving = arguments.save_bundle
        saves = Bundle.open(saving) if saving else export_bundle(scratch / "save", vjp="save")
        bundles = dict(zip(OURS, (bundle, saves), strict=True)) | dict.fromkeys(PEERS, bundle)
        frozen_experts(bundle)
        for batch in batches:
            compare(bundles, batch, arguments.rounds, arguments.repeats)


def compare(bundles: dict[Contestant, Bundle], batch: int, rounds: int, repeats: int) -> None:
    runs = {name: begin(name, new_learner(name, bundles[name]), batch) for name in (*OURS, PEERS[0])}
    calls = {name: partial(step, runs.get(name, runs[PEERS[0]]), batch) for name in bundles}
    before = {name: partial(set_threads, name) for name in bundles}
    times = take_turns(calls, rounds=rounds, repeats=repeats, before=before, patience_s=6.0)
    processors = {name: processor_ms(calls[name], before[name]) for name in bundles}
    memory = {name: memory_in_subprocess(name, bundle, batch) for name, bundle in bundles.items()}
    best = best_peer(times, "torch_")
    leanest = min(PEERS, key=lambda name: memory[name]["above_idle_mb"])
    report(
        "adapt_step",
        batch=batch,
        **{name: summary(times[name]) | {"cpu_ms": processors[name]} | memory[name] for name in bundles},
        ratio_to_torch={name: ratio(times[name], times[best]) for name in OURS},
        cpu_ratio_to_torch_1={name: round(processors[name] / processors[PEERS[0]], 3) for name in OURS},
        best_torch=best,
        memory_ratio_to_torch={
            name: round(memory[name]["above_idle_mb"] / memory[leanest]["above_idle_mb"], 3) for name in OURS
        },
        leanest_torch=leanest,
        targets=TARGETS,
    )


def processor_ms(call: Callable[[], object], before: Callable[[], None], calls: int = 5) -> float:
    """Least time that all processors together spent on one call."""
    before()
    found = []
    for _ in range(calls):
        start = resource.getrusage(resource.RUSAGE_SELF)
        call()
        end = resource.getrusage(resource.RUSAGE_SELF)
        found.append(end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime)
    return round(1e3 * min(found), 1)


def frozen_experts(bundle: Bundle, batch: int = 4) -> None:
    """One row for every other number of frozen experts; torch counts what it saves, every storage once."""
    for frozen in range(0, MethodConfig().adapter.experts + 1, 2):
        learner = new_learner("recompute", bundle)
        for block in learner.model.blocks:
            block.bank.freeze(range(frozen), "before")
        learner.config = learner.config.model_copy(update={"adapter": AdapterConfig(active_experts=1)})
        run = begin("recompute", learner, batch)
        saved: dict[int, int] = {}

        def count(tensor: torch.Tensor, saved: dict[int, int] = saved) -> torch.Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            step(run, batch)
        experts = [value for block in learner.model.blocks for value in block.bank.parameters() if value.numel()]
        state = [run.optimizer.state[value] for value in experts]
        report(
            "frozen_experts",
            batch=batch,
            frozen=frozen,
            experts=[len(block.bank) for block in learner.model.blocks],
            gradient_bytes=sum(value.grad.nbytes for value in experts if value.grad is not None),
            optimizer_bytes=sum(one[key].nbytes for one in state for key in ("exp_avg", "exp_avg_sq") if key in one),
            saved_bytes=sum(saved.values()),
        )


def set_threads(name: Contestant) -> None:
    """The torch threads of a contestant; ours follows the runtime's plan."""
    torch.set_num_threads(int(name.split("_")[1]) if name in PEERS else ThreadPlan.for_machine().torch)


def new_learner(name: Contestant, bundle: Bundle) -> MmclLearner:
    """A learner before its second experience, after one forward pass of batch 1."""
    set_threads(name)
    if name in PEERS:
        backbones = torch_backbones(blocks=bundle.manifest.blocks)
    else:
        backbones = open_backbones(bundle, SessionFactory(ThreadPlan.for_machine(), provider="cpu"))
    method, prepare = MethodConfig(), Preprocessor.of(bundle)
    model = new_model(backbones, method)
    features = FeatureCache(DiskFeatures(Path(tempfile.mkdtemp()), 1 << 30))
    learner = MmclLearner(model, method, preprocess=prepare, seed=0, labels=LABELS, experiences=1, features=features)
    learner.predict([example()])
    return learner


def begin(name: Contestant, learner: MmclLearner, batch: int) -> ExperienceRun:
    """The second experience, ready to train on ``batch`` samples; the teacher has answered."""
    samples = [example(number) for number in range(batch)]
    run = learner.begin(Experience("second", samples, [], LABELS))
    if name in PEERS:  # every step starts from raw input
        run.prepared = [learner.preprocess(sample) for sample in samples]
        learner.model.encoder.collate = collate
    return run


def step(run: ExperienceRun, batch: int) -> None:
    run.train_step(torch.arange(batch), torch.Generator().manual_seed(0))


def memory_in_subprocess(name: Contestant, bundle: Bundle, batch: int) -> dict[str, float]:
    """The memory row of one contestant, measured in a fresh process."""
    command = [sys.executable, __file__, "--memory-of", name, "--bundle", str(bundle.path), "--batches", str(batch)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def measure_memory(name: Contestant, bundle: Path, batch: int) -> dict[str, float]:
    learner = new_learner(name, Bundle.open(bundle))
    idle = memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    run = begin(name, learner, batch)
    for _ in range(STEPS):
        step(run, batch)
    return {"idle_mb": round(idle, 1), "above_idle_mb": round(memory_mb("VmHWM") - idle, 1)}


def memory_mb(field: str) -> float:
    """A line of ``/proc/self/status`` in MiB."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
