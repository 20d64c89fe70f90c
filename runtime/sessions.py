"""ONNX Runtime sessions that share one memory arena and exchange tensors with torch without copies."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from mmcl_edge.errors import BundleError
from mmcl_edge.runtime.providers import (
    PROVIDERS,
    Profile,
    ProviderChoice,
    candidates,
    check_available,
    options_of,
    verify,
)
from mmcl_edge.runtime.threads import ThreadPlan, spinning

_LOG_ERRORS_ONLY = 3
_POWERS_OF_TWO = 0
ORT_ERRORS = (
    ort_state.EPFail,
    ort_state.Fail,
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.InvalidProtobuf,
    ort_state.NoModel,
    ort_state.NoSuchFile,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
)
"""What ONNX Runtime raises of its own; they have no base class in common but ``Exception``."""


_arena_lock = threading.Lock()


@cache
def _register_shared_arena() -> None:
    """One CPU arena for the whole process (registering it twice is an error of ONNX Runtime).

    It grows by powers of two: regions of the size just asked for would not serve the next size, and an adapt step
    would hold twice what it needs (measured by benchmarks/bench_adapt_step.py).
    """
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(info, ort.OrtArenaCfg({"arena_extend_strategy": _POWERS_OF_TWO}))


class Graph:
    """One ONNX file as a function of torch tensors; the session is made at the first call. Safe in many threads."""

    def __init__(
        self, path: Path, factory: SessionFactory, *, frugal: bool = False, profile: Profile | None = None
    ) -> None:
        self.path = path
        self.profile = profile
        self._frugal = frugal
        self._factory = factory
        self._session: ort.InferenceSession | None = None
        self._lock = threading.Lock()

    @property
    def session(self) -> ort.InferenceSession:
        """The session, made when first needed."""
        if self._session is None:
            with self._lock:
                if self._session is None:
                    self._session = self._factory.create(self.path, frugal=self._frugal, profile=self.profile)
        return self._session

    def __call__(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Sequence[int]]) -> list[Tensor]:
        """Run into tensors made for the purpose.

        Args:
            inputs: name to float32 tensor.
            outputs: name to the exact shape of what comes out.
        """
        device = next(iter(inputs.values())).device
        results = {name: torch.empty(tuple(shape), device=device) for name, shape in outputs.items()}
        self.run_into(inputs, results)
        return list(results.values())

    def run_into(
        self, inputs: Mapping[str, Tensor], results: Mapping[str, Tensor], fresh: Sequence[str] = ()
    ) -> list[Tensor]:
        """Run into tensors that are there already.

        Args:
            inputs: name to float32 tensor.
            results: name to the dense tensor, of the exact shape, that the output is written into.
            fresh: further outputs, of shapes not known before; they are returned in this order.
        """
        binding, keep = self._bind(inputs)
        for name, result in results.items():
            binding.bind_output(name, *place_of(result), np.float32, result.shape, result.data_ptr())
        for name in fresh:
            binding.bind_output(name, *place_of(keep[0]))
        self.session.run_with_iobinding(binding)
        del keep
        return [from_dlpack(value) for value in binding.get_outputs()[len(results) :]] if fresh else []

    def run_any_shape(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> list[Tensor]:
        """Run where shapes are not known before: ONNX Runtime allocates, torch takes over by DLPack."""
        return self.run_into(inputs, {}, outputs)

    def _bind(self, inputs: Mapping[str, Tensor]) -> tuple[ort.IOBinding, list[Tensor]]:
        binding = self.session.io_binding()
        keep = []
        for name, value in inputs.items():
            dense = value.detach().contiguous()
            keep.append(dense)
            dtype = np.int64 if dense.dtype == torch.int64 else np.float32
            binding.bind_input(name, *place_of(dense), dtype, dense.shape, dense.data_ptr())
        if keep and keep[0].is_cuda:
            torch.cuda.current_stream(keep[0].device).synchronize()  # ONNX Runtime reads them on a stream of its own
        return binding, keep


def place_of(tensor: Tensor) -> tuple[str, int]:
    """Where a tensor lies, in ONNX Runtime's words: tensors on a GPU are bound there, not copied."""
    return tensor.device.type, tensor.device.index or 0


class SessionFactory:
    """Makes sessions of one provider and thread plan.

    Args:
        plan: threads.
        provider: ``NAME[:DEVICE][,memory=MB]`` (``providers.py``).
        allow_fallback: accept another provider than the one asked for.
        engines: where TensorRT's engines are kept; ``None`` keeps none.

    Attributes:
        provider: the one really selected (ONNX Runtime's name), known after the first session.
    """

    def __init__(
        self,
        plan: ThreadPlan,
        *,
        provider: str = "auto",
        allow_fallback: bool = False,
        engines: Path | None = None,
    ) -> None:
        self.choice = ProviderChoice.parse(provider)
        check_available(self.choice, allow_fallback=allow_fallback)
        self.plan = plan
        self.provider: str | None = None
        self.engines = engines
        self._allow_fallback = allow_fallback

    @property
    def on_gpu(self) -> bool:
        """Whether sessions run on a GPU (of what will be tried first, before there is one)."""
        return (self.provider or self._candidates()[0]) != PROVIDERS["cpu"]

    @property
    def device(self) -> torch.device:
        """Where tensors should lie, so that nothing is copied between sessions; the host if torch sees no GPU."""
        if self.on_gpu and torch.cuda.is_available():
            return torch.device("cuda", self.choice.device)
        return torch.device("cpu")

    def create(self, path: Path, *, frugal: bool = False, profile: Profile | None = None) -> ort.InferenceSession:
        """A session for one file.

        Args:
            path: the file.
            frugal: for graphs of training, where memory counts more than a call's last microseconds. A run's memory is
                not taken as one block (blocks of many sizes leave holes in the arena that nothing else fits), and
                weights are read where the file is mapped, not copied into another layout (a large matrix product
                arranges its factors anyway).
            profile: shapes that its inputs can have; TensorRT builds for them.

        Raises:
            BundleError: ONNX Runtime cannot load the file.
            ProviderError: another provider than the one asked for was selected.
        """
        with _arena_lock:
            _register_shared_arena()
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.plan.onnx
        options.inter_op_num_threads = 1
        options.log_severity_level = _LOG_ERRORS_ONLY
        options.enable_mem_pattern = not frugal
        options.add_session_config_entry("session.disable_prepacking", "1" if frugal else "0")
        for name, value in spinning().items():
            options.add_session_config_entry(f"session.intra_op.{name}", value)
        options.add_session_config_entry("session.use_env_allocators", "1")
        chain = [
            (name, options_of(name, self.choice, model=path, profile=profile, engines=self.engines))
            for name in self._candidates()
        ]
        try:
            session = ort.InferenceSession(
                str(path), options, providers=chain, disabled_optimizers=["ConstantFolding"] if frugal else None
            )
        except (RuntimeError, ValueError, *ORT_ERRORS) as error:
            raise BundleError(f"ONNX Runtime cannot load {path} ({error}); export the bundle again.") from error
        self.provider = verify(self.choice, session.get_providers(), allow_fallback=self._allow_fallback)
        return session

    def _candidates(self) -> list[str]:
        """Those to try that this build of ONNX Runtime has, best first."""
        known = ort.get_available_providers()
        return [name for name in candidates(self.choice) if name in known]

    def graph(self, path: Path, *, frugal: bool = False, profile: Profile | None = None) -> Graph:
        """A lazily opened graph (``create`` says what the arguments mean)."""
        return Graph(path, self, frugal=frugal, profile=profile)
