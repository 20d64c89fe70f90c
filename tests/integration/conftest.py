"""Workspaces for tests of commands: made once a test run, copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mmcl_edge.config import AdapterConfig, MethodConfig, TrainConfig
from mmcl_edge.runtime.adapt import AdaptRequest, adapt
from mmcl_edge.runtime.workspace import HOME_VARIABLE, Workspace
from tests.conftest import TinyBundle
from tests.integration.commands import write_task


@pytest.fixture(scope="session")
def fresh_template(tmp_path_factory: pytest.TempPathFactory, tiny: TinyBundle) -> Path:
    """A workspace with the tiny bundle that has learned nothing."""
    root = tmp_path_factory.mktemp("fresh") / "home"
    Workspace(root).create().install_bundle(tiny().path)
    return root


@pytest.fixture(scope="session")
def taught_template(tmp_path_factory: pytest.TempPathFactory, fresh_template: Path) -> Path:
    """A workspace that has learned the task ``first`` (classes low and high), ladder, one epoch."""
    root = tmp_path_factory.mktemp("taught") / "home"
    shutil.copytree(fresh_template, root, symlinks=True)
    workspace = Workspace(root).open()
    method = MethodConfig(adapter=AdapterConfig(placement="ladder"), train=TrainConfig(epochs=1, min_steps=0))
    adapt(workspace, AdaptRequest("first", data=write_task(root / "tasks" / "first", "low", "high"), method=method))
    return root


@pytest.fixture
def home(tmp_path: Path, fresh_template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of the test's own, with the tiny bundle."""
    return _copied(fresh_template, tmp_path, monkeypatch)


@pytest.fixture
def taught(tmp_path: Path, taught_template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of the test's own that has learned the classes low and high."""
    return _copied(taught_template, tmp_path, monkeypatch)


def _copied(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "home"
    shutil.copytree(template, root, symlinks=True)
    monkeypatch.setenv(HOME_VARIABLE, str(root))
    return root
