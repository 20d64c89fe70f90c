"""The peer in torch: the same weights with fused attention, in eager mode and compiled.

Whether ``torch.compile`` works is found out in a process of its own, which may fail or take too long:

    python benchmarks/torch_peers.py PAIR PLACEMENT BUNDLE PACK
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
from common import example, new_model
from pairs import PAIRS

from mmcl_edge.adapters.model import Model
from mmcl_edge.config import AdapterConfig, MethodConfig
from mmcl_edge.export.torch_backbone import torch_backbones
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.threads import available_cores
from mmcl_edge.types import Sample

THREADS = tuple(sorted({1, available_cores()}))


def method_for(placement: str) -> MethodConfig:
    """The default method in one placement."""
    return MethodConfig(adapter=AdapterConfig(placement=placement))


def peer_model(pair: str, placement: str) -> Model:
    """The model with torch backbones, its weights equal to those of the pack that is measured."""
    return new_model(torch_backbones(**PAIRS[pair]), method_for(placement)).eval()


@torch.inference_mode()
def predict_in_torch(runtime: Runtime, model: Model, sample: Sample) -> list[float]:
    """What ``Runtime.predict`` does, with torch in place of ONNX Runtime."""
    item = runtime.preprocess(runtime.preprocess.sample(sample.audio, sample.frames))
    output = model(model.encoder.collate(model.encoder.prepare([item])))
    return output.logits.softmax(dim=-1)[0].tolist()


def compiled(model: Model) -> Model:
    """The model under ``torch.compile``; it is compiled when first called, once for each number of threads."""
    made: Model = torch.compile(model)  # type: ignore[assignment]
    return made


def call_with_threads(name: str) -> Callable[[], None]:
    """Sets torch's threads to the number at the end of ``name``."""
    return partial(torch.set_num_threads, int(name.rpartition("_")[2]))


def why_not_compiled(arguments: Sequence[str], timeout_s: float) -> str | None:
    """Try ``torch.compile`` in another process; the reason why it does not work, or ``None``.

    What that process compiled is kept in torch's cache, so that compiling again here takes little.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return f"the C++ compiler {compiler}, which torch.compile needs, is not installed"
    command = [sys.executable, __file__, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return f"compiling took longer than {timeout_s:g} s"
    return None if done.returncode == 0 else without_paths(last_line(done.stderr))


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")[:300]


def without_paths(text: str) -> str:
    """The text with every absolute path cut down to its last part: pages name no machine's folders."""
    return re.sub(r"(?<![\w.])/(?:[\w.+\-]+/)+([\w.+\-]*)", r"\1", text)


def main(pair: str, placement: str, bundle: str, pack: str) -> None:
    sample, model = example(), peer_model(pair, placement)
    with Runtime.open(bundle, pack, "cpu") as runtime:
        plain = predict_in_torch(runtime, model, sample)
        fast = compiled(model)
        for count in THREADS:
            torch.set_num_threads(count)
            found = predict_in_torch(runtime, fast, sample)
            torch.testing.assert_close(torch.tensor(found), torch.tensor(plain), rtol=1e-3, atol=1e-5)


if __name__ == "__main__":
    main(*sys.argv[1:])
