"""``mmcl-edge warmup``: every graph once, with its times; what cannot run is a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime as ort
import pytest
from click.testing import CliRunner

from mmcl_edge.commands.main import cli
from tests.conftest import TinyBundle


@pytest.mark.parametrize("pair", ["cnn", "vit"])
def test_every_graph_runs_once(tiny: TinyBundle, pair: str):
    bundle = tiny(pair)
    done = CliRunner().invoke(cli, ["warmup", "--bundle", str(bundle.path), "--provider", "cpu", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.output)
    expected = [
        file.path
        for entry in bundle.manifest.backbones
        for file in (entry.stem, *(one.forward for one in (*entry.segments, entry.output)))
    ]
    assert [row["graph"] for row in report["graphs"]] == expected
    assert all(row["load_ms"] > 0 and row["run_ms"] > 0 for row in report["graphs"])
    assert report["provider"] == "CPUExecutionProvider"


def test_a_person_sees_a_table(home: Path):
    done = CliRunner().invoke(cli, ["warmup"])
    assert done.exit_code == 0, done.output
    assert "first run ms" in done.output
    assert "audio/stem.onnx" in done.output


def test_a_provider_that_would_not_run_is_refused(tiny: TinyBundle, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    done = CliRunner().invoke(cli, ["warmup", "--bundle", str(tiny().path), "--provider", "tensorrt"])
    assert done.exit_code == 2
    assert "'tensorrt' was asked for, but ONNX Runtime offers CPUExecutionProvider" in done.output
