"""``Runtime.predict`` at batch 1 against the bare ONNX sessions and against the same model in torch eager.

One sample is 5 s of sound and one picture of 256 x 256 pixels. Contestants take turns in one process:

* ``ours``: ``Runtime.predict`` from raw arrays to ``Prediction`` (checks, resizing, adapters and all).
* ``onnx_alone``: the very sessions that ``ours`` uses, run back to back on prepared input, without any adapter.
* ``torch_1``, ``torch_2``: the same weights in torch with fused attention, from raw arrays to probabilities, with
  one and with two threads (as many as there are cores, if more). The faster one is the peer.

    python benchmarks/bench_predict.py [--bundle DIR] [--rounds 7] [--repeats 15]
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import torch
from common import best_peer, example, new_model, new_pack, parser, ratio, report, scratch_bundle, summary, take_turns
from numpy.typing import NDArray

from mmcl_edge.adapters.inputs import collate
from mmcl_edge.adapters.model import Model
from mmcl_edge.config import AdapterConfig, MethodConfig
from mmcl_edge.export.torch_backbone import torch_backbones
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.types import Sample

TARGETS = {"onnx_alone": 1.25, "torch": 0.5}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=15, help="timed calls in a turn")
    arguments = options.parse_args()
    with scratch_bundle(arguments.bundle) as (folder, bundle):
        peers = torch_backbones()
        for placement in ("inline", "ladder"):
            method = MethodConfig(adapter=AdapterConfig(placement=placement))
            pack = new_pack(folder / "packs", bundle, new_model(peers, method), method)
            with Runtime.open(bundle, pack, "cpu") as runtime:
                compare(runtime, new_model(peers, method), placement, arguments.rounds, arguments.repeats)


def compare(runtime: Runtime, peer: Model, placement: str, rounds: int, repeats: int) -> None:
    sample = example()
    ours, eager = (
        partial(runtime.predict, sample.audio, sample.frames),
        partial(predict_in_torch, runtime, peer, sample),
    )
    check_equal(ours().probabilities.values(), eager())
    contestants: dict[str, Callable[[], object]] = {"ours": ours, "onnx_alone": partial(run_sessions, *chains(runtime))}
    threads = sorted({1, len(os.sched_getaffinity(0))})
    contestants |= {f"torch_{count}": eager for count in threads}
    before = {f"torch_{count}": partial(torch.set_num_threads, count) for count in threads}
    before |= dict.fromkeys(("ours", "onnx_alone"), runtime.sessions.plan.apply)
    times = take_turns(contestants, rounds=rounds, repeats=repeats, before=before)
    best = best_peer(times, "torch_")
    runtime.sessions.plan.apply()
    report(
        "predict",
        placement=placement,
        **{name: summary(values) for name, values in times.items()},
        ratio_to_onnx_alone=ratio(times["ours"], times["onnx_alone"]),
        ratio_to_torch=ratio(times["ours"], times[best]),
        best_torch=best,
        targets=TARGETS,
        stages_ms={name: round(value, 2) for name, value in ours().latency_ms.items()},
    )


def chains(runtime: Runtime) -> list[tuple[list[Callable[..., list[NDArray]]], NDArray]]:
    """For each backbone its sessions in order, and its prepared input."""
    inputs = collate([runtime.preprocess(example())])
    return [
        ([graph.session.run for graph in backbone.graphs(training=False)], inputs[name].values.numpy())
        for name, backbone in runtime.backbones.items()
    ]


def run_sessions(*chains: tuple[list[Callable[..., list[NDArray]]], NDArray]) -> None:
    for calls, value in chains:
        for call in calls:
            value = call(["y"], {"x": value})[0]


@torch.inference_mode()
def predict_in_torch(runtime: Runtime, model: Model, sample: Sample) -> list[float]:
    """What ``Runtime.predict`` does, with torch in place of ONNX Runtime."""
    item = runtime.preprocess(runtime.preprocess.sample(sample.audio, sample.frames))
    output = model(model.encoder.collate(model.encoder.prepare([item])))
    return output.logits.softmax(dim=-1)[0].tolist()


def check_equal(ours, theirs: list[float]) -> None:
    """Both contestants do the same work, or the comparison is worth nothing."""
    torch.testing.assert_close(torch.tensor(list(ours)), torch.tensor(theirs), rtol=1e-3, atol=1e-5)


if __name__ == "__main__":
    main()
