"""What the settings of the Flower server mean. Flower itself is not needed here: its names are stood in for."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from mmcl_edge.errors import InputError, TaskDataError
from mmcl_edge.fleet.rounds.device import take_part
from mmcl_edge.runtime.workspace import Workspace
from tests.adapting import write_task
from tests.bundles import tiny_bundle

FLOWER = {
    "flwr": MagicMock(),
    "flwr.app": MagicMock(),
    "flwr.clientapp": MagicMock(),
    "flwr.serverapp": MagicMock(),
    "flwr.serverapp.strategy": SimpleNamespace(Strategy=object, Result=object),
}
OURS = [f"mmcl_edge.fleet.rounds.flower_{name}" for name in ("server", "strategy", "device")]


@pytest.fixture
def server(monkeypatch):
    for name, module in FLOWER.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in OURS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module(OURS[0])
    for name in OURS:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture
def device(tmp_path, bundle):
    """A workspace with samples to learn and others to measure on."""
    workspace = Workspace(tmp_path / "device").create()
    workspace.install_bundle(bundle.path)
    write_task(workspace, "rounds", {"low": "pair", "high": "pair"}, count=6, seed=0)
    write_task(workspace, "eval", {"low": "pair", "high": "pair"}, count=3, seed=1)
    return workspace


@pytest.fixture
def settings(tmp_path, bundle):
    return {"folder": str(tmp_path / "server"), "bundle": str(bundle.path)}


def test_new_packs_are_measured_where_the_settings_name_samples(server, settings, device, monkeypatch):
    settings |= {"eval": str(device.tasks_path / "eval"), "tolerance": 0.25}
    measured = []

    def start(strategy, grid, num_rounds):
        merge = strategy.rounds._merge
        assert merge.tolerance == 0.25
        counted = merge.evaluate
        object.__setattr__(merge, "evaluate", lambda folder: measured.append(counted(folder)) or measured[-1])
        answer = take_part(device, strategy.rounds.order(), task="rounds", provider="cpu", threads=1)
        assert strategy.rounds.receive(answer, sender="porch") is None
        assert strategy.rounds.close().rejected is None

    monkeypatch.setattr(server.MergeStrategy, "start", start)
    server.main(None, SimpleNamespace(run_config=settings))
    assert [{name: total for name, (_, total) in counts.items()} for counts in measured] == [{"low": 3, "high": 3}]
    assert sum(right for right, _ in measured[0].values()) == 6


def test_without_samples_nothing_is_measured(server, settings):
    with server.evaluator_of(settings) as evaluate:
        merge = server.strategy_of(settings, evaluate=evaluate).rounds._merge
    assert (evaluate, merge.evaluate, merge.tolerance) == (None, None, 0.02)


def test_samples_that_are_not_there_are_refused_before_any_round(server, settings, tmp_path):
    with pytest.raises(TaskDataError), server.evaluator_of({**settings, "eval": str(tmp_path / "nothing")}):
        pass


@pytest.mark.parametrize("missing", ["folder", "bundle"])
def test_a_needed_setting_is_named(server, settings, missing):
    del settings[missing]
    with pytest.raises(InputError, match=f"Expected the setting '{missing}'"):
        server.strategy_of(settings)
