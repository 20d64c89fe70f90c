"""SIGKILL at random moments of sync and of pack use: afterwards the old pack is in use or the new one, whole."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from mmcl_edge.fileio import STAGING_PREFIX
from mmcl_edge.fleet.joining import Invitation
from mmcl_edge.fleet.sync import SyncRequest, sync
from mmcl_edge.packs import read_pack
from mmcl_edge.runtime.adapt import adapt
from mmcl_edge.runtime.replay_store import ReplayStore
from mmcl_edge.runtime.workspace import Workspace
from tests.adapting import request, write_task
from tests.conftest import TinyBundle
from tests.fleets import FakeExaminer, SmallFleet
from tests.killing import sync_in_child, use_in_child

FEW, MANY = 40, 300
Run = Callable[[Workspace], BaseProcess]


@pytest.fixture(scope="module")
def children() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killing"])
    return context


class Template:
    """A device that uses release 1 of a fleet whose release 2 is out, a delta from it."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.folder = folder
        workspace = Workspace(folder / "home").create()
        workspace.install_bundle(bundle)
        for name, classes in (("first", {"low": "pair", "high": "pair"}), ("second", {"hum": "picture"})):
            write_task(workspace, name, classes)
            assert adapt(workspace, request(name)).accepted
        second, first = workspace.current_pack(), workspace.previous_pack()
        assert first is not None
        assert second is not None
        self.old, self.new = first.name, second.name
        self.source = shutil.copytree(second, folder / "source" / second.name)
        fleet = SmallFleet(folder / "fleet")
        fleet.days = 30
        fleet.publish(first)
        workspace.restore(first.name, None)
        shutil.rmtree(second)
        made = ReplayStore(workspace.replay_path)
        made.collect([first.name])
        report = sync(
            workspace,
            SyncRequest(invitation=Invitation(url=fleet.url, root=fleet.root)),
            make_examiner=FakeExaminer().make,
        )
        assert report.outcome == "up-to-date"
        fleet.publish(self.source, parents=[first])

    def copy(self, root: Path) -> Workspace:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.folder / "home", root, symlinks=True)
        return Workspace(root).open()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, tiny: TinyBundle) -> Template:
    return Template(tmp_path_factory.mktemp("kills"), tiny().path)


def start(children: ForkServerContext, target: Callable[..., None], workspace: Workspace) -> BaseProcess:
    """A child that has opened the workspace and begins."""
    begun = children.Event()
    child = children.Process(target=target, args=(workspace.root, begun))
    child.start()
    assert begun.wait(120)
    return child


def in_use(workspace: Workspace) -> str:
    """Digest of the pack in use, after reading all of it and its exemplars; nothing half-written is beside it."""
    folder, previous = workspace.current_pack(), workspace.previous_pack()
    assert folder is not None
    digest = read_pack(folder, expected_digest=folder.name, bundle_digest=workspace.bundle_family()).digest
    if previous is not None:
        read_pack(previous, expected_digest=previous.name)
    assert ReplayStore(workspace.replay_path).read(digest).holdout
    assert not list(workspace.root.glob(f"**/{STAGING_PREFIX}*"))
    return digest


def kill_at_random_moments(template: Template, tmp_path: Path, run: Run, kills: int, *, follow: bool) -> None:
    """Kill ``run`` at moments uniform over its duration; what a kill left is what the next one begins with."""
    workspace = template.copy(tmp_path / "whole")
    durations = []
    for _ in range(3):
        child = run(template.copy(workspace.root))
        begun = time.monotonic()
        child.join(120)
        durations.append(time.monotonic() - begun)
        assert child.exitcode == 0
        assert in_use(workspace.open()) == template.new
    duration_s, rng = float(np.median(durations)), np.random.default_rng(0)
    workspace, seen, killed, started = template.copy(tmp_path / "cut"), [], 0, time.monotonic()
    while killed < kills:
        child = run(workspace)
        time.sleep(rng.uniform(0, duration_s))
        child.kill()  # SIGKILL; nothing happens where it has ended
        child.join(60)
        killed += child.exitcode == -signal.SIGKILL
        seen.append(in_use(workspace.open()))
        assert seen[-1] in (template.old, template.new)
        if follow and len(seen) % 10 == 0:
            sync(workspace, make_examiner=FakeExaminer().make)
            assert in_use(workspace) == template.new, "the next sync ends what the kill cut short"
        if workspace.current_digest() == template.new or workspace.trial.read() is not None:
            workspace = template.copy(tmp_path / "cut")
    count = seen.count(template.new)
    logging.getLogger(__name__).info(
        "%d kills within %.2f s each; %d left the new pack; %.0f s",
        killed,
        duration_s,
        count,
        time.monotonic() - started,
    )
    assert killed == kills
    assert seen.count(template.old) > kills // 10
    if not follow:  # uniform moments, so some fall behind the swap
        assert count > 0


@pytest.mark.parametrize("examine", [True, False], ids=["with the runtime", "writing alone"])
def test_sync_is_killed(template: Template, tmp_path: Path, children: ForkServerContext, examine: bool):
    target = partial(sync_in_child, examine=examine)
    kill_at_random_moments(template, tmp_path, partial(start, children, target), FEW // 2, follow=True)


def test_pack_use_is_killed(template: Template, tmp_path: Path, children: ForkServerContext):
    target = partial(use_in_child, source=template.source)
    run = partial(start, children, target)
    (template.folder / "home" / "replay" / "index" / f"{template.new}.json").unlink(missing_ok=True)
    kill_at_random_moments(with_exemplars(template), tmp_path, run, FEW, follow=False)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("examine", [True, False], ids=["with the runtime", "writing alone"])
def test_sync_is_killed_three_hundred_times(
    template: Template, tmp_path: Path, children: ForkServerContext, examine: bool
):
    target = partial(sync_in_child, examine=examine)
    kill_at_random_moments(template, tmp_path, partial(start, children, target), MANY, follow=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_pack_use_is_killed_three_hundred_times(template: Template, tmp_path: Path, children: ForkServerContext):
    target = partial(use_in_child, source=template.source)
    kill_at_random_moments(with_exemplars(template), tmp_path, partial(start, children, target), MANY, follow=False)


def with_exemplars(template: Template) -> Template:
    """The template, whose device also has exemplars for the new pack: ``pack use`` brings none."""
    ReplayStore(template.folder / "home" / "replay").follow(template.old, template.new, ("low", "high"))
    return template
