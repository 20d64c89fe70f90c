"""Execution providers: asked for by name, given their options in one place, verified after the session is made.

``--provider`` and ``provider=`` take ``NAME[:DEVICE][,memory=MB]``: ``auto``, ``cpu``, ``cuda``, ``tensorrt``,
``cuda:1,memory=4096``. A CPU build of ONNX Runtime that is asked for CUDA answers with a CPU session and a warning
nobody reads. Here that is an error unless the caller allowed the fallback.

TensorRT builds an engine for each graph, which takes minutes. Engines are kept in a folder whose name holds all that
they depend on (``engine_key``), with explicit shape profiles, so that no shape met later makes it build again;
``mmcl-edge warmup`` builds them with progress.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnxruntime as ort
import torch

from mmcl_edge.errors import ProviderError
from mmcl_edge.fileio import sha256_file

logger = logging.getLogger(__name__)

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""Our name to ONNX Runtime's."""

_AUTO_ORDER = ("cuda", "cpu")
_FORM = re.compile(r"(?P<name>[a-z]+)(:(?P<device>\d+))?(,memory=(?P<memory>[1-9]\d*))?")
_DEFAULT_WORKSPACE_BYTES = 1 << 30

Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]
"""Input name to the smallest, the usual and the largest shape."""


@dataclass(frozen=True, slots=True)
class ProviderChoice:
    """What ``NAME[:DEVICE][,memory=MB]`` says.

    Attributes:
        name: ``auto`` or one of ``PROVIDERS``.
        device: index of the GPU.
        memory_bytes: most that ONNX Runtime may take of it; ``None``: as much as there is.
    """

    name: str
    device: int = 0
    memory_bytes: int | None = None

    @classmethod
    def parse(cls, text: str) -> ProviderChoice:
        """Read the form above.

        Raises:
            ProviderError: the text has another form, names no provider, or limits the CPU.
        """
        found = _FORM.fullmatch(text)
        known = ("auto", *PROVIDERS)
        if found is None or found["name"] not in known:
            raise ProviderError(
                f"The provider should be one of {', '.join(known)}, as in 'cuda' or 'cuda:1,memory=4096' (device, MB), "
                f"but is {text!r}."
            )
        if found["name"] == "cpu" and text != "cpu":
            raise ProviderError(
                f"A device and a memory cap are for GPUs, but the provider is {text!r}; write 'cpu', and bound its "
                "threads where it shall take less."
            )
        memory = None if found["memory"] is None else int(found["memory"]) << 20
        return cls(found["name"], int(found["device"] or 0), memory)


def candidates(choice: ProviderChoice) -> list[str]:
    """ONNX Runtime's names to try, best first."""
    if choice.name == "auto":
        return [PROVIDERS[name] for name in _AUTO_ORDER if PROVIDERS[name] in ort.get_available_providers()]
    return list(dict.fromkeys([PROVIDERS[choice.name], PROVIDERS["cpu"]]))


def check_available(choice: ProviderChoice, *, allow_fallback: bool) -> None:
    """Refuse early what this build of ONNX Runtime cannot do at all.

    Raises:
        ProviderError: the provider is not in this build and the fallback was not allowed.
    """
    wanted = candidates(choice)[0]
    if wanted not in ort.get_available_providers() and not allow_fallback:
        raise _not_selected(choice.name, ort.get_available_providers())


def verify(choice: ProviderChoice, selected: Sequence[str], *, allow_fallback: bool) -> str:
    """The provider that a session really uses.

    Args:
        choice: what the caller asked for.
        selected: ``session.get_providers()``.
        allow_fallback: take another one, with a warning in the log.

    Raises:
        ProviderError: another one was selected.
    """
    if choice.name == "auto" or selected[0] == PROVIDERS[choice.name]:
        return selected[0]
    if not allow_fallback:
        raise _not_selected(choice.name, selected)
    logger.warning("provider %s was asked for, %s is used", choice.name, selected[0])
    return selected[0]


def options_of(
    provider: str, choice: ProviderChoice, *, model: Path, profile: Profile | None, engines: Path | None
) -> dict[str, str]:
    """Options of one provider for one graph, as ONNX Runtime takes them.

    Args:
        provider: ONNX Runtime's name.
        choice: device and memory cap.
        model: the graph's file.
        profile: shapes of its inputs.
        engines: where TensorRT's engines are kept; ``None`` keeps none.
    """
    if provider == PROVIDERS["cuda"]:
        options = {"device_id": str(choice.device), "arena_extend_strategy": "kSameAsRequested"}
        if choice.memory_bytes is not None:
            options["gpu_mem_limit"] = str(choice.memory_bytes)
        return options
    if provider == PROVIDERS["tensorrt"]:
        return _tensorrt_options(choice, model=model, profile=profile or {}, engines=engines)
    return {}


def _tensorrt_options(choice: ProviderChoice, *, model: Path, profile: Profile, engines: Path | None) -> dict[str, str]:
    workspace = min(choice.memory_bytes or _DEFAULT_WORKSPACE_BYTES, _DEFAULT_WORKSPACE_BYTES)
    options = {"device_id": str(choice.device), "trt_max_workspace_size": str(workspace)}
    for number, kind in enumerate(("min", "opt", "max")):
        shapes = (f"{name}:{'x'.join(map(str, shape[number]))}" for name, shape in profile.items())
        options[f"trt_profile_{kind}_shapes"] = ",".join(shapes)
    if engines is not None:
        folder = engines / engine_key(model, tensorrt_version(), device_name(choice.device))
        folder.mkdir(parents=True, exist_ok=True)
        options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder)}
        options |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": str(engines)}
    return {name: value for name, value in options.items() if value}


def engine_key(model: Path, tensorrt: str, device: str) -> str:
    """Names an engine by all that it depends on: graph, the weights beside it, TensorRT's version, the device.

    A graph keeps its large arrays in another file, so that backbones of one make have equal graphs.

    Raises:
        OSError: a file cannot be read.
    """
    files = (model, *sorted(model.parent.glob("*.bin")))
    digest = hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()[:16]
    return re.sub(r"[^A-Za-z0-9._-]+", "_", f"{digest}-trt{tensorrt}-{device}")


def tensorrt_version() -> str:
    """Of the installed TensorRT; ``unknown`` where it cannot be told."""
    for name in ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    try:
        return str(ctypes.CDLL("libnvinfer.so").getInferLibVersion())
    except (OSError, AttributeError):
        return "unknown"


def device_name(index: int) -> str:
    """Name and compute capability of a GPU; ``unknown`` where torch cannot see it."""
    if not torch.cuda.is_available():
        return "unknown"
    major, minor = torch.cuda.get_device_capability(index)
    return f"{torch.cuda.get_device_name(index)}-sm{major}{minor}"


def _not_selected(provider: str, found: Sequence[str]) -> ProviderError:
    return ProviderError(
        f"The provider {provider!r} was asked for, but ONNX Runtime offers {', '.join(found)} here. "
        "Install a build with that provider and its driver, or allow the fallback (allow_fallback=True)."
    )
