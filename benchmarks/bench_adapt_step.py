"""One inline training step (forward, all four losses, backward, clipping, AdamW) against the same step in torch eager.

Time: ``ours`` (ONNX segments and their products) and ``torch_1``, ``torch_2`` (the same weights in torch with fused
attention, on one and on two threads; the faster one is the peer) take turns in one process.

Memory: each runs in a process of its own. After the model is made and one forward pass of batch 1 is done, the
resident size is read (idle) and the kernel's high-water mark is reset; then the experience begins (the teacher
answers), three steps are made, and the mark is read: the row gives the difference. The peer's is that of the thread
setting that needs less.

One sample is 5 s of sound and one picture. The experience is the second one, so that every loss takes part.

    python benchmarks/bench_adapt_step.py [--bundle DIR] [--rounds 5] [--batches 4,16]
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from common import LABELS, best_peer, example, new_model, parser, ratio, report, scratch_bundle, summary, take_turns

from mmcl_edge.bundle import Bundle
from mmcl_edge.config import MethodConfig
from mmcl_edge.data.streams import Experience
from mmcl_edge.export.torch_backbone import torch_backbones
from mmcl_edge.learners.experience_run import ExperienceRun
from mmcl_edge.learners.mmcl import MmclLearner
from mmcl_edge.runtime.preprocess import Preprocessor
from mmcl_edge.runtime.segments import open_backbones
from mmcl_edge.runtime.sessions import SessionFactory
from mmcl_edge.runtime.threads import ThreadPlan

STEPS = 3
TARGETS = {"time": 1.0, "peak_memory": 1.0}
Contestant = str
"""``ours``, or ``torch_N`` with N threads."""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=5, help="timed steps in a turn")
    options.add_argument("--batches", default="4,16")
    options.add_argument("--memory-of", help="(internal) print the memory row of one contestant")
    arguments = options.parse_args()
    batches = [int(batch) for batch in arguments.batches.split(",")]
    if arguments.memory_of:
        print(json.dumps(measure_memory(arguments.memory_of, arguments.bundle, batches[0])))
        return
    with scratch_bundle(arguments.bundle) as (_, bundle):
        for batch in batches:
            compare(bundle, batch, arguments.rounds, arguments.repeats)


def contestants() -> list[Contestant]:
    """Ours, and torch on one thread and on all cores."""
    return ["ours", *(f"torch_{count}" for count in sorted({1, len(os.sched_getaffinity(0))}))]


def compare(bundle: Bundle, batch: int, rounds: int, repeats: int) -> None:
    names = contestants()
    runs = {name: begin(new_learner(name, bundle), batch) for name in ("ours", "torch_1")}
    calls = {name: partial(step, runs["ours" if name == "ours" else "torch_1"], batch) for name in names}
    before = {name: partial(set_threads, name) for name in names}
    times = take_turns(calls, rounds=rounds, repeats=repeats, before=before, patience_s=6.0)
    memory = {name: memory_in_subprocess(name, bundle, batch) for name in names}
    best = best_peer(times, "torch_")
    leanest = min((name for name in names if name != "ours"), key=lambda name: memory[name]["above_idle_mb"])
    report(
        "adapt_step",
        batch=batch,
        vjp=bundle.manifest.vjp_mode,
        **{name: summary(times[name]) | memory[name] for name in names},
        ratio_to_torch=ratio(times["ours"], times[best]),
        best_torch=best,
        memory_ratio_to_torch=round(memory["ours"]["above_idle_mb"] / memory[leanest]["above_idle_mb"], 3),
        leanest_torch=leanest,
        targets=TARGETS,
    )


def set_threads(name: Contestant) -> None:
    """The torch threads of a contestant; ours follows the runtime's plan."""
    torch.set_num_threads(ThreadPlan.for_machine().torch if name == "ours" else int(name.split("_")[1]))


def new_learner(name: Contestant, bundle: Bundle) -> MmclLearner:
    """A learner before its second experience, after one forward pass of batch 1."""
    set_threads(name)
    if name == "ours":
        backbones = open_backbones(bundle, SessionFactory(ThreadPlan.for_machine(), provider="cpu"))
    else:
        backbones = torch_backbones(blocks=bundle.manifest.blocks)
    method, prepare = MethodConfig(), Preprocessor(bundle.manifest)
    model = new_model(backbones, method)
    learner = MmclLearner(model, method, preprocess=prepare, seed=0, labels=LABELS, experiences=1)
    learner.predict([example()])
    return learner


def begin(learner: MmclLearner, batch: int) -> ExperienceRun:
    """The second experience, ready to train on ``batch`` samples; the teacher has answered."""
    return learner.begin(Experience("second", [example(number) for number in range(batch)], [], LABELS))


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
    run = begin(learner, batch)
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
