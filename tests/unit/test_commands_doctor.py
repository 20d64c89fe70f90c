"""``mmcl-edge doctor``: each fault is one line with advice."""

import builtins
import importlib
import json
import shutil
import sys
from collections import namedtuple
from datetime import datetime, timezone

import pytest
from click.testing import CliRunner

from mmcl_edge.commands import doctor
from mmcl_edge.commands.main import cli
from mmcl_edge.fleet.joining import FOLDER
from mmcl_edge.fleet.sync_state import DeviceState, StateRecord
from mmcl_edge.packs import write_pack
from mmcl_edge.runtime.trial import Trial
from mmcl_edge.runtime.workspace import HOME_VARIABLE, Workspace
from tests.builders import pack_contents, write_bundle

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A workspace with a bundle and two packs in use."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    workspace = Workspace().create()
    bundle = workspace.install_bundle(write_bundle(tmp_path / "bundle").path)
    for value in (0.0, 1.0):
        contents = pack_contents(bundle_digest=bundle.digest, value=value)
        workspace.use_pack(write_pack(workspace.packs_path, contents))
    return workspace


def examine():
    """Exit code and checks by name."""
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    report = json.loads(result.stdout)
    assert report["ok"] == (result.exit_code == 0)
    return result.exit_code, {check["name"]: check for check in report["checks"]}


def test_a_healthy_device(workspace):
    code, checks = examine()
    assert code == 0
    assert {check["status"] for check in checks.values()} <= {"ok", "warn"}
    assert {"python", "torch", "onnxruntime", "numpy", "mmcl-edge", "providers", "cores", "memory", "disk"} <= set(
        checks
    )
    assert "CPU" in checks["providers"]["found"]
    assert workspace.bundle_digest()[:16] in checks["bundle"]["found"]
    assert workspace.current_pack().name[:16] in checks["current pack"]["found"]
    assert workspace.previous_pack().name[:16] in checks["previous pack"]["found"]


def test_people_get_lines_with_advice(workspace):
    shutil.rmtree(workspace.bundle_path)
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 1
    assert "fail  bundle" in result.stdout
    assert "-> run 'mmcl-edge init --bundle DIR'" in result.stdout


def _damage(path):
    path.write_bytes(b"{}")


FAULTS = {
    "bundle file changed": (lambda w: _damage(w.bundle_path / "frames" / "stem.onnx"), "bundle", "truncated"),
    "no bundle": (lambda w: (w.root / "bundle").unlink(), "bundle", "holds none"),
    "current pack changed": (lambda w: _damage(w.current_pack() / "eval.json"), "current pack", "eval.json"),
    "previous pack changed": (lambda w: _damage(w.previous_pack() / "eval.json"), "previous pack", "eval.json"),
    "current link dangles": (lambda w: shutil.rmtree(w.current_pack()), "current pack", "damaged"),
    "no workspace": (lambda w: shutil.rmtree(w.root), "workspace", "mmcl-edge init"),
    "workspace marker damaged": (lambda w: (w.root / "workspace.json").write_text("["), "workspace", "JSON"),
}


@pytest.mark.parametrize(("harm", "name", "words"), FAULTS.values(), ids=FAULTS)
def test_faults(workspace, harm, name, words):
    harm(workspace)
    code, checks = examine()
    assert code == 1
    assert checks[name]["status"] == "fail"
    assert words in checks[name]["found"]
    assert checks[name]["advice"]


def test_a_library_that_does_not_import(workspace, monkeypatch):
    real = importlib.import_module

    def broken(name, package=None):
        if name == "soundfile":
            raise OSError("libsndfile.so is missing")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", broken)
    code, checks = examine()
    assert code == 1
    assert "libsndfile" in checks["soundfile"]["found"]


def test_no_onnxruntime(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert doctor.providers().status == "fail"


def test_missing_extras_are_named(monkeypatch):
    monkeypatch.setitem(doctor.EXTRA_MODULES, "export", ("builtins", "no_such_module"))
    found = {check.name: check for check in doctor.extras()}["extra export"]
    assert builtins.__name__ not in found.found
    assert "no_such_module" in found.found
    assert "mmcl-edge[export]" in found.advice


def test_little_disk_and_memory_are_warnings(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10, 9, 1))
    assert doctor.disk(tmp_path / "not" / "yet").status == "warn"
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 1000000 kB\nMemFree: 5 kB\nMemAvailable: 1000 kB\n")
    assert doctor.memory(meminfo).status == "warn"
    assert doctor.memory(tmp_path / "none").status == "ok"


def test_random_weights_are_a_warning(workspace, monkeypatch):
    monkeypatch.setattr("mmcl_edge.bundle.BundleManifest.trained", False)
    code, checks = examine()
    assert code == 0
    assert checks["bundle"]["status"] == "warn"


def joined(workspace, **changes):
    """As after a sync."""
    folder = workspace.trust_path / FOLDER
    folder.mkdir()
    state = DeviceState(url="https://user:secret@example.org/fleet", channel="beta", **changes)
    StateRecord(folder).write(state)


def test_a_device_without_a_fleet_is_no_fault(workspace):
    assert examine()[1]["fleet"]["found"] == "not joined"


def test_the_fleet_and_the_last_sync_are_told_without_a_password(workspace):
    joined(workspace, refreshed=datetime.now(timezone.utc))
    check = examine()[1]["fleet"]
    assert check["status"] == "ok"
    assert check["found"].startswith("https://example.org/fleet, channel beta, last synced 20")


def test_a_device_that_has_not_synced_for_long_is_told(workspace):
    joined(workspace, refreshed=datetime(2020, 1, 2, tzinfo=timezone.utc))
    check = examine()[1]["fleet"]
    assert check["status"] == "warn"
    assert check["found"].endswith("last synced 2020-01-02")


def test_a_pack_on_trial_is_told(workspace):
    joined(workspace)
    workspace.trial.write(
        Trial(pack=workspace.current_digest(), released="0" * 64, channel="beta", counter=1, stage="on-trial")
    )
    check = examine()[1]["fleet"]
    assert check["status"] == "warn"
    assert "mmcl-edge mark-good" in check["found"]


def test_a_damaged_memory_of_the_fleet_fails(workspace):
    joined(workspace)
    (workspace.trust_path / FOLDER / "device.json").write_text("{}")
    code, checks = examine()
    assert code == 1
    assert checks["fleet"]["status"] == "fail"
