"""What a figure depends on and the reader should know: the machine, the versions, the date, who else was computing."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("mmcl-edge", "torch", "onnxruntime", "onnx", "timm", "numpy")


def facts(revision: str) -> dict[str, object]:
    """Facts of this machine, without anything that names it, and the revision that is measured."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": processor(_read("/proc/cpuinfo")),
        "cores": len(os.sched_getaffinity(0)),
        "vnni": has_vnni(_read("/proc/cpuinfo")),
        "memory_gib": memory_gib(_read("/proc/meminfo")),
        "kernel": f"{platform.system()} {re.match(r'[0-9.]*', platform.release())[0]}",  # type: ignore[index]
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": revision,
    }


def processor(cpuinfo: str) -> str:
    """The processor's name."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def has_vnni(cpuinfo: str) -> bool:
    """Whether the processor multiplies int8 in one instruction."""
    return re.search(r"^flags\s*:.*\b(avx512_vnni|avx_vnni)\b", cpuinfo, re.MULTILINE) is not None


def memory_gib(meminfo: str) -> float | None:
    """Memory of the machine."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    return round(int(found[1]) / 1024**2, 1) if found else None


def commit() -> str:
    """The revision measured; ``+`` says that files differed from it."""
    try:
        words = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
        done = subprocess.run(words, cwd=Path(__file__).parent, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
