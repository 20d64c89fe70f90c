"""The runtime in its process: threads, providers, swaps under load, memory."""

from __future__ import annotations

import gc
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest
import torch

from mmcl_edge.errors import BundleError, InputError, ProviderError
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.sessions import SessionFactory
from mmcl_edge.runtime.threads import SPIN_US, ThreadPlan, available_cores, spinning
from tests.conftest import TinyBundle
from tests.predicting import make_pack, picture, samples, sound

SWAPS, READERS = 50, 8
absent_cuda = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this build of ONNX Runtime has CUDA"
)


@pytest.fixture
def torch_threads():
    """Torch's pool belongs to the process: put it back as it was."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory, tiny: TinyBundle) -> list[Path]:
    """Two inline packs and a ladder one, whose answers differ."""
    folder = tmp_path_factory.mktemp("packs")
    kinds = [(0, "inline"), (50, "inline"), (90, "ladder")]
    return [make_pack(folder, tiny(), seed=seed, placement=placement) for seed, placement in kinds]


def test_a_thread_plan_rules_both_pools(tiny: TinyBundle, torch_threads: int):
    torch.set_num_threads(2)
    with Runtime.open(tiny(), provider="cpu", threads=3) as runtime:
        graphs = [graph for backbone in runtime.backbones.values() for graph in backbone.graphs(training=True)]
        options = [graph.session.get_session_options() for graph in graphs]
    assert torch.get_num_threads() == 1
    assert {option.intra_op_num_threads for option in options} == {3}
    assert {option.inter_op_num_threads for option in options} == {1}
    keys = {f"session.intra_op.{name}": value for name, value in spinning().items()}
    keys |= {"session.use_env_allocators": "1"}
    for key, value in keys.items():
        assert {option.get_session_config_entry(key) for option in options} == {value}


def test_workers_spin_only_where_it_can_be_bounded():
    assert spinning("1.30.2") == spinning("1.9.0") == {"allow_spinning": "0"}
    assert spinning("1.31.0") == spinning("2.0.1") == {"allow_spinning": "1", "spin_duration_us": str(SPIN_US)}


@pytest.mark.parametrize(("threads", "onnx"), [(None, available_cores()), (1, 1), (7, 7)])
def test_plans(threads: int | None, onnx: int):
    assert ThreadPlan.for_machine(threads) == ThreadPlan(onnx=onnx, torch=1)


@pytest.mark.parametrize("threads", [0, -2])
def test_a_plan_needs_a_thread(threads: int, torch_threads: int):
    with pytest.raises(InputError, match="at least 1"):
        ThreadPlan.for_machine(threads)
    assert torch.get_num_threads() == torch_threads


@absent_cuda
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_absent_is_an_error(tiny: TinyBundle, provider: str, torch_threads: int):
    torch.set_num_threads(2)
    with pytest.raises(ProviderError, match=f"'{provider}' was asked for.*allow the fallback"):
        Runtime.open(tiny(), provider=provider)
    assert torch.get_num_threads() == 2, "a refused runtime changes no pool"


def test_an_unknown_provider_is_an_error(tiny: TinyBundle):
    with pytest.raises(ProviderError, match=r"one of auto, cpu, cuda, tensorrt.*but is 'CPU'"):
        Runtime.open(tiny(), provider="CPU")


@absent_cuda
def test_an_allowed_fallback_works_and_is_logged(tiny: TinyBundle, packs, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING), Runtime.open(tiny(), packs[0], "cuda", 1, allow_fallback=True) as runtime:
        assert runtime.predict(sound(), None).label
    assert runtime.sessions.provider == "CPUExecutionProvider"
    assert "provider cuda was asked for, CPUExecutionProvider is used" in caplog.text


def test_the_provider_selected_is_known(tiny: TinyBundle):
    with Runtime.open(tiny(), provider="cpu", threads=1) as runtime:
        assert runtime.sessions.provider == "CPUExecutionProvider"


def test_a_session_that_became_another_is_an_error(tiny: TinyBundle, monkeypatch: pytest.MonkeyPatch):
    """What a CPU build does when it is asked for CUDA and says nothing."""
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda session: ["OtherExecutionProvider"])
    with pytest.raises(ProviderError, match="offers OtherExecutionProvider"):
        Runtime.open(tiny(), provider="cpu", threads=1)


def test_a_file_that_is_no_graph_is_named(tmp_path: Path):
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"broken\.onnx"):
        SessionFactory(ThreadPlan(onnx=1), provider="cpu").create(tmp_path / "broken.onnx")


def test_every_answer_comes_from_one_pack_while_packs_are_swapped(tiny: TinyBundle, packs: list[Path]):
    """Eight threads ask while a ninth swaps; each answer is exactly what its pack alone answers."""
    batch = samples()
    expected: dict[str, list[dict[str, float]]] = {}
    with Runtime.open(tiny(), provider="cpu", threads=1) as runtime:
        for pack in packs:
            digest = runtime.load_pack(pack)
            expected[digest] = [dict(runtime.predict(one.audio, one.frames).probabilities) for one in batch]
        done, answers = threading.Event(), []

        def ask(number: int) -> None:
            while not done.is_set():
                which = number % len(batch)
                answer = runtime.predict(batch[which].audio, batch[which].frames)
                answers.append((which, answer.pack_digest, dict(answer.probabilities)))

        with ThreadPoolExecutor(READERS) as pool:
            readers = [pool.submit(ask, number) for number in range(READERS)]
            for swap in range(SWAPS):
                before = len(answers)
                runtime.load_pack(packs[swap % len(packs)])
                while len(answers) == before and not any(reader.done() for reader in readers):
                    done.wait(0.001)
            done.set()
            for reader in readers:
                reader.result()
    assert len(answers) >= SWAPS
    assert {digest for _, digest, _ in answers} == set(expected)
    for which, digest, probabilities in answers:
        assert probabilities == pytest.approx(expected[digest][which], abs=1e-6)


def test_predicting_does_not_gather_memory(tiny: TinyBundle, packs: list[Path]):
    """Clips of fifty lengths and pictures of many sizes, after a warm-up with the same ones."""
    rng = np.random.default_rng(0)
    process = psutil.Process(os.getpid())
    inputs = [(sound(rng.uniform(0.2, 3.0), seed=i), picture(height=64 + i, width=80 + i)) for i in range(50)]
    with Runtime.open(tiny(), packs[0], "cpu", 1) as runtime:

        def all_of_them(rounds: int) -> int:
            for _ in range(rounds):
                for audio, frames in inputs:
                    runtime.predict(audio, frames)
            gc.collect()
            return process.memory_info().rss

        before = all_of_them(2)
        after = all_of_them(6)
    assert after - before < 8 << 20
