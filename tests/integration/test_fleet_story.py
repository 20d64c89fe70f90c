"""examples/fleet: three devices and a store on one machine, from the key ceremony to devices that know everything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmcl_edge.data.spoken_digits import WORDS
from mmcl_edge.data.task_folder import decode_task, read_task
from mmcl_edge.export.exporter import export_bundle
from mmcl_edge.packs import read_pack
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.workspace import Workspace
from tests.bundles import tiny_bundle

STORY = Path(__file__).resolve().parents[2] / "examples" / "fleet" / "story.sh"
DEVICES = ("kitchen", "garage", "garden")


def tell(work: Path, bundle: Path, *tolerance: str) -> str:
    """Run the story; what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MMCL_EDGE_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["bash", str(STORY), str(work), str(bundle), *tolerance],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def check(work: Path) -> None:
    """All devices use the one merged pack, which knows every class."""
    (merged,) = (work / "merged").iterdir()
    assert set(read_pack(merged).manifest.label_names) == set(WORDS)
    for name in DEVICES:
        workspace = Workspace(work / name).open()
        current = workspace.current_pack()
        assert current is not None
        assert current.name == merged.name
        assert workspace.trial.read() is None
    assert {path.name for path in (work / "store" / "inbox").iterdir()}
    media = [path for path in (work / "store").rglob("*") if path.suffix in {".wav", ".png"}]
    assert media == []


@pytest.mark.timeout(900)
def test_the_story_on_random_weights(tmp_path: Path):
    """Whatever they are worth: the merged pack comes to every device."""
    printed = tell(tmp_path / "work", tiny_bundle(tmp_path / "bundle").path, "1.0")
    check(tmp_path / "work")
    assert "PRIVATE KEY" not in printed


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_story_on_the_default_backbones(tmp_path: Path):
    """All devices know all digits, of speakers and pictures that nobody learned from."""
    bundle = export_bundle(tmp_path / "bundle")
    tell(tmp_path / "work", bundle.path)
    check(tmp_path / "work")
    samples, _ = decode_task(read_task(tmp_path / "work" / "samples" / "check", min_samples=1))
    for name in DEVICES:
        workspace = Workspace(tmp_path / "work" / name).open()
        with Runtime.open(workspace.bundle_path, workspace.current_pack()) as runtime:
            right = [
                one.label == sample.label for one, sample in zip(runtime.predict_batch(samples), samples, strict=True)
            ]
        assert sum(right) / len(right) >= 0.95
