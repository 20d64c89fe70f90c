"""A device installs no export library: predicting and adapting must work where importing one is impossible."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

EXPORT_LIBRARIES = ("onnx", "onnxscript", "timm", "torchaudio", "torchvision", "sklearn", "matplotlib")

BLOCKED = f"""
import sys
from importlib.util import find_spec

class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {EXPORT_LIBRARIES!r} else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
if any(find_spec(name) for name in {EXPORT_LIBRARIES!r}):
    raise SystemExit("the blocker does not block")
from mmcl_edge.commands.main import main
sys.argv = ["mmcl-edge", *sys.argv[1:]]
main()
"""


def run(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MMCL_EDGE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BLOCKED, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def write_task(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for label, pitch_hz in (("low", 200), ("high", 2000)):
        (folder / label).mkdir(parents=True)
        for number in range(4):
            wave = np.sin(2 * np.pi * pitch_hz * np.arange(16_000) / 16_000) + 0.1 * rng.standard_normal(16_000)
            soundfile.write(folder / label / f"{number}.wav", 0.5 * wave, 16_000)


def test_init_adapt_predict_without_any_export_library(tmp_path, tiny):
    home = tmp_path / "home"
    write_task(tmp_path / "sounds")
    steps = [
        ("init", "--bundle", str(tiny().path), "--json"),
        ("adapt", "--task", "sounds", "--data", str(tmp_path / "sounds"), "--epochs", "1", "--json"),
        ("predict", str(tmp_path / "sounds" / "low" / "0.wav"), "--json"),
        ("pack", "list", "--json"),
    ]
    for words in steps:
        result = run(home, *words)
        assert result.returncode == 0, result.stderr
        assert isinstance(json.loads(result.stdout), dict)


def test_export_says_which_extra_is_missing(tmp_path):
    result = run(tmp_path / "home", "export", "--out", str(tmp_path / "bundle"))
    assert result.returncode == 2
    assert "mmcl-edge[export" in result.stderr
    assert not (tmp_path / "bundle").exists()
