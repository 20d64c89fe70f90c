"""A fused graph (``mmcl-edge export --fuse``) against the live runtime and against raw ONNX Runtime, in turns.

* ``fused``: ``FusedRuntime.predict``: bundle and pack in one graph whose weights are constants.
* ``live``: ``Runtime.predict`` with the same bundle and pack, whose weights may change at any moment.
* ``monolith_*`` and ``ort_format``: the backbones alone, on prepared input (see ``bench_predict.py``).

    python benchmarks/bench_fused.py [--bundle DIR] [--rounds 7] [--repeats 15]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import monolith
from bench_predict import prepared
from common import best_peer, example, new_model, new_pack, parser, ratio, report, scratch_bundle, summary, take_turns

from mmcl_edge.bundle import Bundle
from mmcl_edge.config import AdapterConfig, MethodConfig
from mmcl_edge.export.fuse import fuse
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.fused import FusedRuntime


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=15, help="timed calls in a turn")
    options.add_argument("--placements", default="inline,ladder")
    arguments = options.parse_args()
    with scratch_bundle(arguments.bundle) as (folder, bundle):
        for placement in arguments.placements.split(","):
            compare(bundle, folder / placement, placement, arguments.rounds, arguments.repeats)


def compare(bundle: Bundle, folder: Path, placement: str, rounds: int, repeats: int) -> None:
    method, sample = MethodConfig(adapter=AdapterConfig(placement=placement)), example()
    with Runtime.open(bundle, provider="cpu") as live:
        pack = new_pack(folder / "packs", bundle, new_model(live.backbones, method), method)
        live.load_pack(pack)
        done = fuse(bundle, pack, folder / "fused")
        with FusedRuntime.open(folder / "fused", "cpu") as fused:
            calls: dict[str, Callable[[], object]] = {
                "fused": partial(fused.predict, sample.audio, sample.frames),
                "live": partial(live.predict, sample.audio, sample.frames),
            }
            calls |= monolith.contestants(bundle, folder / "monoliths", prepared(live))
            times = take_turns(calls, rounds=rounds, repeats=repeats, before={})
    best = best_peer(times, "monolith_")
    rows = {name: summary(values) | {"ours_to_it": ratio(times["fused"], values)} for name, values in times.items()}
    report(
        "fused",
        placement=placement,
        **rows,
        ratio_to_live=ratio(times["fused"], times["live"]),
        ratio_to_monolith=ratio(times["fused"], times[best]),
        best_monolith=best,
        size_mb=round(done.size_bytes / 1e6, 1),
        largest_difference=float(f"{done.largest_difference:.1e}"),
    )


if __name__ == "__main__":
    main()
