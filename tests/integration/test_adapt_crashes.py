"""An adapt that is killed, cut off or out of space: the pack in use stays valid, and the same command goes on."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import signal
import time
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmcl_edge.runtime import holdout
from mmcl_edge.runtime.adapt import AdaptEvents, AdaptRequest, adapt
from mmcl_edge.runtime.run_record import RunRecord
from mmcl_edge.runtime.workspace import Workspace
from tests.adapting import adapt_in_child, in_use, method, request, write_task
from tests.builders import on_full_disk
from tests.conftest import TinyBundle

KILLS = 30
FIRST, SECOND = {"low": "pair", "high": "pair"}, {"middle": "pair", "hum": "pair"}


@pytest.fixture(scope="module")
def children() -> ForkServerContext:
    """Makes children from a process that has imported everything and runs no threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.adapting", "mmcl_edge.runtime.adapt"])
    return context


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, tiny: TinyBundle) -> Path:
    """A workspace that has learned the first of two tasks."""
    made = Workspace(tmp_path_factory.mktemp("crash") / "home").create()
    made.install_bundle(tiny().path)
    write_task(made, "first", FIRST)
    write_task(made, "second", SECOND)
    assert adapt(made, request("first", method=method(placement="inline"))).accepted
    return made.root


def copy_of(template: Path, root: Path) -> Workspace:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(template, root, symlinks=True)
    return Workspace(root).open()


def start(children: ForkServerContext, workspace: Workspace, asked: AdaptRequest, **how: Any) -> BaseProcess:
    """A child that adapts; returns when it is about to begin."""
    begun = children.Event()
    child = children.Process(target=adapt_in_child, args=(workspace.root, asked, begun), kwargs=how)
    child.start()
    assert begun.wait(120)
    return child


def asked(**changes: Any) -> AdaptRequest:
    return request("second", **{"tolerance": 1.0, "method": method(epochs=4, placement="inline")} | changes)


@pytest.mark.parametrize("epoch", [1, 3, 4])
def test_a_killed_run_goes_on_and_ends_with_the_same_pack(tmp_path: Path, template: Path, children, epoch: int):
    """An epoch's checkpoint is on disk before the callback that kills; epoch 4 is the last."""
    whole, cut = copy_of(template, tmp_path / "whole"), copy_of(template, tmp_path / "cut")
    old = in_use(cut)
    child = start(children, cut, asked(), die_after_epoch=epoch)
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    assert in_use(cut.open()) == old
    report, expected = adapt(cut, asked()), adapt(whole, asked())
    assert (report.resumed_from_epoch, expected.resumed_from_epoch) == (epoch, None)
    assert report.pack_digest == expected.pack_digest == in_use(cut)


def test_thirty_kills_at_random_moments(tmp_path: Path, template: Path, children):
    workspace = copy_of(template, tmp_path / "whole")
    old, started = in_use(workspace), time.monotonic()
    child = start(children, workspace, asked())
    begun = time.monotonic()
    child.join(120)
    duration_s = time.monotonic() - begun
    new = in_use(workspace)
    assert child.exitcode == 0
    assert new != old
    rng, seen, finished = np.random.default_rng(0), [], 0
    workspace = copy_of(template, tmp_path / "cut")
    for _ in range(KILLS):
        child = start(children, workspace, asked())
        time.sleep(rng.uniform(0, duration_s))
        child.kill()  # SIGKILL; nothing happens where it has ended
        child.join(60)
        seen.append(in_use(workspace.open()))
        if seen[-1] == new:
            finished += 1
            assert adapt(workspace, asked()).repeated
            workspace = copy_of(template, tmp_path / "cut")
    logging.getLogger(__name__).info("%d of %d runs ended, %.0f s", finished, KILLS, time.monotonic() - started)
    assert set(seen) <= {old, new}
    assert seen.count(old) >= KILLS // 3
    assert adapt(workspace, asked()).pack_digest == new == in_use(workspace)


@pytest.mark.parametrize("epoch", [1, 2])
def test_ctrl_c_leaves_the_old_pack_and_the_run_resumable(tmp_path: Path, template: Path, epoch: int):
    workspace = copy_of(template, tmp_path / "home")
    old = in_use(workspace)

    def interrupt(done: int, losses: object) -> None:
        if done == epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapt(workspace, asked(), AdaptEvents(on_epoch=interrupt))
    assert in_use(workspace) == old
    assert adapt(workspace, asked()).resumed_from_epoch == epoch


@pytest.mark.parametrize("damage", [b"", b"garbage", None], ids=["empty", "garbage", "truncated"])
def test_a_damaged_checkpoint_starts_the_run_over(tmp_path: Path, template: Path, children, damage: bytes | None):
    workspace = copy_of(template, tmp_path / "home")
    child = start(children, workspace, asked(), die_after_epoch=2)
    child.join(120)
    (checkpoint,) = workspace.runs_path.glob("*/checkpoint.safetensors")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100] if damage is None else damage)
    report = adapt(workspace, asked())
    assert (report.accepted, report.resumed_from_epoch, report.epochs) == (True, None, 4)


def test_a_full_disk_at_every_write_leaves_the_old_pack(tmp_path: Path, template: Path):
    """Also: the note beside the lock may fail unharmed, and once the link is moved, the whole new pack is in use."""
    workspace = copy_of(template, tmp_path / "home")
    small = asked(method=method(epochs=1, exemplars=2, placement="inline"), holdout_per_class=1)
    old, seen = in_use(workspace), []
    for refused in on_full_disk(lambda: adapt(workspace, small)):
        seen.append((None if refused is None else str(refused), in_use(workspace.open())))
        copy_of(template, workspace.root)
    new = seen[-1][1]
    assert new != old
    kept = [sentence for sentence, digest in seen if digest == old]
    assert len(kept) > 30
    assert [sentence for sentence in kept if sentence is None or "no space is left" not in sentence] == []
    late = [sentence for sentence, digest in seen if digest != old and sentence is not None]
    assert len(late) <= 1, "only the last flush of the link may fail after it was moved"
    assert {digest for _, digest in seen} == {old, new}


def test_after_each_full_disk_the_same_command_gets_further(tmp_path: Path, template: Path):
    workspace = copy_of(template, tmp_path / "home")
    one = method(epochs=1, exemplars=2, placement="inline")
    small = asked(method=one, holdout_per_class=1, feature_budget_bytes=0)  # a cache that cannot write refuses nothing
    with workspace.lock():  # else the note beside the lock would be the first write, and may fail unharmed
        refusals = list(on_full_disk(lambda: adapt(workspace, small)))
    assert len(refusals) > 10
    assert refusals[-1] is None
    assert in_use(workspace) == adapt(copy_of(template, tmp_path / "fresh"), small).pack_digest


@pytest.mark.parametrize("accepted", [True, False], ids=["after the swap", "after the report of a refusal"])
def test_the_checkpoint_that_a_late_cut_left_is_cleared(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch, accepted: bool
):
    workspace = copy_of(template, tmp_path / "home")
    monkeypatch.setattr(holdout, "accuracy", lambda learner, samples: 1.0 if len(learner.labels) == 2 else 0.0)
    asked_for = asked(tolerance=float(accepted))

    def cut(record: RunRecord) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunRecord, "drop_checkpoint", cut)
        with pytest.raises(KeyboardInterrupt):
            adapt(workspace, asked_for)
    assert list(workspace.runs_path.glob("*/checkpoint*"))
    again = adapt(workspace, asked_for)
    assert (again.repeated, again.accepted) == (True, accepted)
    assert not list(workspace.runs_path.glob("*/checkpoint*"))


def test_the_pack_does_not_depend_on_the_features_that_were_kept(tmp_path: Path, template: Path):
    """All kept, kept by an earlier run and then lost, some kept, none kept."""
    whole, lost, some, none = (copy_of(template, tmp_path / name) for name in ("whole", "lost", "some", "none"))
    shutil.rmtree(lost.features_path)
    expected = adapt(whole, asked()).pack_digest
    kept = sum(path.stat().st_size for path in whole.features_path.iterdir())
    assert adapt(lost, asked()).pack_digest == expected
    assert adapt(some, asked(feature_budget_bytes=kept // 3)).pack_digest == expected
    assert 0 < sum(path.stat().st_size for path in some.features_path.iterdir()) <= kept // 3
    assert adapt(none, asked(feature_budget_bytes=0)).pack_digest == expected
    assert not list(none.features_path.iterdir())
