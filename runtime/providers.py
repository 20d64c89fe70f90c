"""Execution providers: asked for by name, verified after the session is made.

A CPU build of ONNX Runtime that is asked for CUDA answers with a CPU session and a warning nobody reads.
Here that is an error unless the caller allowed the fallback.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import onnxruntime as ort

from mmcl_edge.errors import ProviderError

logger = logging.getLogger(__name__)

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""Our name to ONNX Runtime's."""

_AUTO_ORDER = ("cuda", "cpu")


def candidates(provider: str) -> list[str]:
    """ONNX Runtime's names to try, best first.

    Raises:
        ProviderError: the name is unknown.
    """
    if provider == "auto":
        return [PROVIDERS[name] for name in _AUTO_ORDER if PROVIDERS[name] in ort.get_available_providers()]
    if provider not in PROVIDERS:
        known = ", ".join(["auto", *PROVIDERS])
        raise ProviderError(f"The provider should be one of {known}, but is {provider!r}.")
    return list(dict.fromkeys([PROVIDERS[provider], PROVIDERS["cpu"]]))


def check_available(provider: str, *, allow_fallback: bool) -> None:
    """Refuse early what this build of ONNX Runtime cannot do at all.

    Raises:
        ProviderError: ``provider`` is not in this build and the fallback was not allowed.
    """
    wanted = candidates(provider)[0]
    if wanted not in ort.get_available_providers() and not allow_fallback:
        raise _not_selected(provider, ort.get_available_providers())


def verify(provider: str, selected: Sequence[str], *, allow_fallback: bool) -> str:
    """The provider that a session really uses.

    Args:
        provider: what the caller asked for.
        selected: ``session.get_providers()``.
        allow_fallback: take another one, with a warning in the log.

    Raises:
        ProviderError: another one was selected.
    """
    if provider == "auto" or selected[0] == PROVIDERS[provider]:
        return selected[0]
    if not allow_fallback:
        raise _not_selected(provider, selected)
    logger.warning("provider %s was asked for, %s is used", provider, selected[0])
    return selected[0]


def _not_selected(provider: str, found: Sequence[str]) -> ProviderError:
    return ProviderError(
        f"The provider {provider!r} was asked for, but ONNX Runtime offers {', '.join(found)} here. "
        "Install a build with that provider and its driver, or allow the fallback (allow_fallback=True)."
    )
