"""Does this processor multiply 8-bit integers fast, and without saturating?"""

from __future__ import annotations

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_FAST = {
    "avx512_vnni": "VNNI (avx512_vnni)",
    "avx_vnni": "VNNI (avx_vnni)",
    "asimddp": "dot products (asimddp)",
}


def int8_support(cpuinfo: Path = CPUINFO) -> str | None:
    """The processor's 8-bit dot products in words; ``None`` where it has none, or none is known."""
    flags = _flags(cpuinfo)
    return next((text for flag, text in _FAST.items() if flag in flags), None)


def may_saturate(cpuinfo: Path = CPUINFO) -> bool:
    """Whether sums of 8-bit products can overflow 16 bits: on x86 without VNNI."""
    return platform.machine().lower() in ("x86_64", "amd64", "i686") and int8_support(cpuinfo) is None


def _flags(cpuinfo: Path) -> set[str]:
    if not cpuinfo.is_file():
        return set()
    lines = cpuinfo.read_text(errors="replace").splitlines()
    return {flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split()}
