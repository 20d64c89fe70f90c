"""``Runtime.predict`` at batch 1 against raw ONNX Runtime, against torch eager and against torch.compile.

One sample is 5 s of sound and one picture of 256 x 256 pixels. Contestants take turns in one process:

* ``ours``: ``Runtime.predict`` from raw arrays to ``Prediction`` (checks, resizing, adapters and all).
* ``monolith_*``: each backbone as one ONNX graph, no adapters, on prepared input, in plain ONNX Runtime sessions; with
  its default options, with a spinning thread a core, and without spinning. The fastest is the peer.
* ``ort_format``: the same graphs optimised beforehand and stored in ONNX Runtime's own (mobile) format.
* ``onnx_alone``: the bundle's segments run back to back on prepared input, without any adapter.
* ``torch_N``: the same weights in torch with fused attention, from raw arrays to probabilities, with N threads. The
  fastest is the peer.
* ``compiled_N``: the same under ``torch.compile``; where that fails, the row says why.

Afterwards single predictions are timed one by one for the tail (p50, p99). Under ``busy`` another process computes
without a pause all the while.

    python benchmarks/bench_predict.py [--pair default|vit-tiny|vit-base] [--bundle DIR] [--rounds 7] [--repeats 15]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import monolith
import numpy as np
import torch
from common import (
    best_peer,
    example,
    milliseconds,
    new_pack,
    parser,
    ratio,
    report,
    scratch_bundle,
    summary,
    take_turns,
)
from figures import percentile, tail
from neighbour import LOADS, neighbour
from numpy.typing import NDArray
from pairs import DEFAULT_PAIR, PAIRS
from torch_peers import (
    THREADS,
    call_with_threads,
    compiled,
    method_for,
    peer_model,
    predict_in_torch,
    why_not_compiled,
)

from mmcl_edge.adapters.inputs import collate
from mmcl_edge.bundle import Bundle
from mmcl_edge.runtime.engine import Runtime

Call = Callable[[], object]
TO_MONOLITH = {"default": 1.08, "vit-base": 1.05}
TO_TORCH = {"idle": round(1 / 1.5, 3), "busy": round(1 / 3, 3)}
TAIL = {"idle": 1.5}


def main() -> None:
    arguments = parse()
    with scratch_bundle(arguments.bundle, pair=arguments.pair) as (folder, bundle):
        os.environ |= {"TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        for placement in arguments.placements.split(","):
            model = peer_model(arguments.pair, placement)
            pack = new_pack(folder / "packs", bundle, model, method_for(placement))
            with Runtime.open(bundle, pack, "cpu") as runtime:
                calls = bare_calls(bundle, runtime, folder / "monoliths") | torch_calls(runtime, model)
                words = (arguments.pair, placement, str(bundle.path), str(pack))
                why = add_compiled(calls, runtime, model, words, arguments.compile_timeout_s)
                for load in arguments.loads.split(","):
                    with neighbour(load):
                        compare(calls, runtime, arguments, placement=placement, load=load, not_compiled=why)


def parse() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--pair", choices=PAIRS, default=DEFAULT_PAIR, help="backbones; --bundle is one of this pair")
    options.add_argument("--placements", default="inline,ladder")
    options.add_argument("--loads", default=",".join(LOADS), help="idle, busy or both")
    options.add_argument("--repeats", type=int, default=15, help="timed calls in a turn")
    options.add_argument("--singles", type=int, default=300, help="single predictions timed for the tail")
    options.add_argument("--compile-timeout-s", type=float, default=300.0, help="0 leaves torch.compile out")
    return options.parse_args()


def bare_calls(bundle: Bundle, runtime: Runtime, folder: Path) -> dict[str, Call]:
    """``ours``, the segments alone, and the monoliths, which are checked to compute what the segments compute."""
    sample, inputs = example(), prepared(runtime)
    calls: dict[str, Call] = {"ours": partial(runtime.predict, sample.audio, sample.frames)}
    calls["onnx_alone"] = segments = partial(run_segments, runtime, inputs)
    for name, call in monolith.contestants(bundle, folder, inputs).items():
        for modality, value in call().items():
            np.testing.assert_allclose(value, segments()[modality], rtol=1e-2, atol=1e-3, err_msg=name)
        calls[name] = call
    return calls


def prepared(runtime: Runtime) -> dict[str, NDArray[np.float32]]:
    """What the backbones get of the sample."""
    inputs = collate([runtime.preprocess(example())])
    return {name: inputs[name].values.numpy() for name in runtime.backbones}


def run_segments(runtime: Runtime, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    found = {}
    for name, backbone in runtime.backbones.items():
        value = inputs[name]
        for graph in backbone.graphs(training=False):
            value = graph.session.run(["y"], {"x": value})[0]
        found[name] = value
    return found


def torch_calls(runtime: Runtime, model) -> dict[str, Call]:
    sample = example()
    eager = partial(predict_in_torch, runtime, model, sample)
    found = runtime.predict(sample.audio, sample.frames).probabilities.values()
    torch.testing.assert_close(torch.tensor(list(found)), torch.tensor(eager()), rtol=1e-3, atol=1e-5)
    return {f"torch_{count}": eager for count in THREADS}


def add_compiled(
    calls: dict[str, Call], runtime: Runtime, model, words: tuple[str, ...], timeout_s: float
) -> str | None:
    """Add the compiled peer if it works; returns why it does not."""
    why = why_not_compiled(words, timeout_s) if timeout_s else "left out of this run"
    if why is None:
        call = partial(predict_in_torch, runtime, compiled(model), example())
        calls |= {f"compiled_{count}": call for count in THREADS}
    return why


def compare(calls: Mapping[str, Call], runtime: Runtime, arguments: argparse.Namespace, **names: object) -> None:
    peers = ("torch_", "compiled_")
    before = {
        name: call_with_threads(name) if name.startswith(peers) else runtime.sessions.plan.apply for name in calls
    }
    times = take_turns(calls, rounds=arguments.rounds, repeats=arguments.repeats, before=before)
    best = {prefix: best_peer(times, f"{prefix}_") for prefix in ("monolith", "torch")}
    runtime.sessions.plan.apply()
    rows = {name: summary(values) | {"ours_to_it": ratio(times["ours"], values)} for name, values in times.items()}
    pair, load = arguments.pair, str(names["load"])
    targets = {"to_monolith": TO_MONOLITH.get(pair), "to_torch": TO_TORCH[load], "tail": TAIL.get(load)}
    report(
        "predict",
        pair=pair,
        **{name: value for name, value in names.items() if value is not None},
        **rows,
        ratio_to_monolith=ratio(times["ours"], times[best["monolith"]]),
        best_monolith=best["monolith"],
        ratio_to_torch=ratio(times["ours"], times[best["torch"]]),
        best_torch=best["torch"],
        tail={name: singles(calls[name], arguments.singles) for name in ("ours", best["monolith"])},
        preprocess_share=preprocess_share(calls["ours"], arguments.repeats),
        targets={name: value for name, value in targets.items() if value is not None},
    )


def singles(call: Call, count: int) -> dict[str, float]:
    """Percentiles over ``count`` calls timed one by one."""
    call()
    return tail([milliseconds(call) for _ in range(count)])


def preprocess_share(predict: Call, count: int) -> float:
    """Median part of a prediction's time that goes into checking and resizing the arrays."""
    found = [predict().latency_ms for _ in range(count)]
    return round(percentile([one["preprocess"] / one["total"] for one in found], 50), 3)


if __name__ == "__main__":
    main()
