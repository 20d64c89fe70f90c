"""How long a person waits: ``mmcl-edge --help`` in a shell, and ``Runtime.open`` to the first answer.

Every figure is the median over fresh processes. ``help`` is the wall time of the whole process; beside it stands
``python -c pass``, which no Python program can undercut. ``first_answer`` runs from after the imports to the first
``Prediction`` (verify the bundle, make the sessions, read the pack, 5 s of sound and one picture); ``open`` is its
first part, and ``import`` what comes before. The peer ``onnx_alone`` makes the same sessions and runs each once.

    python benchmarks/bench_startup.py [--bundle DIR] [--rounds 5]
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from common import milliseconds, new_model, new_pack, parser, ratio, report, scratch_bundle, summary

from mmcl_edge.config import MethodConfig
from mmcl_edge.runtime.segments import open_backbones
from mmcl_edge.runtime.sessions import SessionFactory
from mmcl_edge.runtime.threads import ThreadPlan

TARGETS = {"help_ms": 300, "first_answer_ms": 1500}
OURS = """
import json, sys, time
begun = time.perf_counter()
import numpy as np
from mmcl_edge.runtime.engine import Runtime
imported = time.perf_counter()
with Runtime.open(sys.argv[1], sys.argv[2], "cpu") as runtime:
    opened = time.perf_counter()
    runtime.predict(np.zeros(80_000, np.float32), np.zeros((256, 256, 3), np.uint8))
    answered = time.perf_counter()
parts = {"import": imported - begun, "open": opened - imported, "first_answer": answered - imported}
print(json.dumps({name: 1e3 * value for name, value in parts.items()}))
"""
ONNX_ALONE = """
import json, sys, time
import numpy as np, onnxruntime as ort
begun = time.perf_counter()
options = ort.SessionOptions()
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
inputs = [np.zeros(shape, np.float32) for shape in ((1, 80_000), (1, 3, 224, 224))]
for chain, value in zip(json.loads(sys.argv[1]), inputs):
    for path in chain:
        value = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(["y"], {"x": value})[0]
print(json.dumps({"onnx_alone": 1e3 * (time.perf_counter() - begun)}))
"""


def main() -> None:
    arguments = parser(__doc__).parse_args()
    measure_help(arguments.rounds)
    with scratch_bundle(arguments.bundle) as (folder, bundle):
        backbones = open_backbones(bundle, SessionFactory(ThreadPlan.for_machine(), provider="cpu"))
        method = MethodConfig()
        pack = new_pack(folder / "packs", bundle, new_model(backbones, method), method)
        chains = [[str(graph.path) for graph in one.graphs(training=False)] for one in backbones.values()]
        measure_start([OURS, str(bundle.path), str(pack)], [ONNX_ALONE, json.dumps(chains)], arguments.rounds)


def measure_help(rounds: int) -> None:
    command = shutil.which("mmcl-edge", path=str(Path(sys.executable).parent))
    assert command is not None, "mmcl-edge is not installed beside this Python"
    calls = {"help": [command, "--help"], "python": [sys.executable, "-c", "pass"]}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, words in calls.items():
            run = partial(subprocess.run, words, check=True, stdout=subprocess.DEVNULL)
            times[name].append(min(milliseconds(run) for _ in range(2)))
    rows = {name: summary(values) for name, values in times.items()}
    report("startup_help", **rows, ratio_to_python=ratio(times["help"], times["python"]), targets=TARGETS)


def measure_start(ours: list[str], onnx_alone: list[str], rounds: int) -> None:
    times: dict[str, list[float]] = {"import": [], "open": [], "first_answer": [], "onnx_alone": []}
    for _ in range(rounds):
        for program in (ours, onnx_alone):
            done = subprocess.run([sys.executable, "-c", *program], check=True, stdout=subprocess.PIPE)
            for name, value in json.loads(done.stdout).items():
                times[name].append(value)
    rows = {name: summary(values) for name, values in times.items()}
    against = ratio(times["first_answer"], times["onnx_alone"])
    report("startup_runtime", **rows, ratio_to_onnx_alone=against, targets=TARGETS)


if __name__ == "__main__":
    main()
