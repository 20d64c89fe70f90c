"""A stage of pairs that is killed, interrupted or out of space: the old pack or the new one, whole."""

from __future__ import annotations

import multiprocessing
import shutil
import time
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from mmcl_edge.learners.comet.learner import CometLearner
from mmcl_edge.packs import read_pack
from mmcl_edge.runtime import adapt_pairs as engine
from mmcl_edge.runtime.adapt_pairs import PairRequest, adapt_pairs
from mmcl_edge.runtime.replay_store import ReplayStore
from mmcl_edge.runtime.workspace import HOME_VARIABLE, Workspace
from tests.builders import on_full_disk, snapshot
from tests.conftest import TinyBundle
from tests.integration.commands import run
from tests.integration.test_adapt_pairs import HOW, ask, write_pairs
from tests.pairing import adapt_pairs_in_child

KILLS = 12


@pytest.fixture(scope="module")
def children() -> ForkServerContext:
    """Makes children from a process that has imported everything and runs no threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.pairing"])
    return context


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, tiny: TinyBundle) -> Path:
    """Pairs of pictures and of voices, and a workspace ``home`` that has learned the pictures."""
    root = tmp_path_factory.mktemp("pairs")
    workspace = Workspace(root / "home").create()
    workspace.install_bundle(tiny("captioned").path)
    for modality in ("image", "speech"):
        write_pairs(root / modality, modality)
    assert adapt_pairs(workspace, ask("image", root / "image")).accepted
    return root


def copy_of(template: Path, root: Path) -> Workspace:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(template / "home", root, symlinks=True)
    return Workspace(root).open()


def second(template: Path) -> PairRequest:
    """The stage that is cut; features are computed anew in every run, so nothing but the result is written."""
    adapt = HOW.model_copy(update={"feature_budget_bytes": 0})
    return ask("speech", template / "speech", space=None, adapt=adapt)


def whole(workspace: Workspace) -> str:
    """The digest of the pack in use, which is whole, and so is what was held out for it."""
    pack = read_pack(workspace.open().current_pack())
    ReplayStore(workspace.replay_path).read(pack.digest)
    return pack.digest


def start(children: ForkServerContext, workspace: Workspace, asked: PairRequest) -> BaseProcess:
    begun = children.Event()
    child = children.Process(target=adapt_pairs_in_child, args=(workspace.root, asked, begun))
    child.start()
    assert begun.wait(120)
    return child


def test_kills_at_random_moments_leave_the_old_pack_or_the_new_one(tmp_path: Path, template: Path, children):
    asked, workspace = second(template), copy_of(template, tmp_path / "whole")
    old, child = whole(workspace), start(children, workspace, asked)
    begun = time.monotonic()
    child.join(120)
    duration_s, new = time.monotonic() - begun, whole(workspace)
    assert child.exitcode == 0
    assert new != old
    rng, seen = np.random.default_rng(0), []
    workspace = copy_of(template, tmp_path / "cut")
    for _ in range(KILLS):
        child = start(children, workspace, asked)
        time.sleep(rng.uniform(0, duration_s))
        child.kill()  # SIGKILL; nothing happens where it has ended
        child.join(60)
        seen.append(whole(workspace))
        if seen[-1] == new:
            assert adapt_pairs(workspace, asked).repeated
            workspace = copy_of(template, tmp_path / "cut")
    assert set(seen) <= {old, new}
    assert seen.count(old) >= KILLS // 4
    assert adapt_pairs(workspace, asked).pack_digest == new == whole(workspace)


def test_a_full_disk_at_every_write_leaves_the_old_pack(tmp_path: Path, template: Path):
    """Also: the note beside the lock may fail unharmed, and once the link is moved, the whole new pack is in use."""
    asked, workspace = second(template), copy_of(template, tmp_path / "home")
    old, seen = whole(workspace), []
    for refused in on_full_disk(lambda: adapt_pairs(workspace, asked)):
        seen.append((None if refused is None else str(refused), whole(workspace)))
        copy_of(template, workspace.root)
    new = seen[-1][1]
    assert new != old
    assert {digest for _, digest in seen} == {old, new}
    kept = [sentence for sentence, digest in seen if digest == old]
    assert len(kept) > 10
    assert [sentence for sentence in kept if sentence is None or "no space is left" not in sentence] == []
    late = [sentence for sentence, digest in seen if digest != old and sentence is not None]
    assert len(late) <= 1, "only the last flush of the link may fail after it was moved"


def test_a_full_disk_while_features_are_kept_refuses_nothing(tmp_path: Path, template: Path):
    """What cannot be kept is computed again: the pack is the same."""
    asked = ask("speech", template / "speech", space=None)
    expected = adapt_pairs(copy_of(template, tmp_path / "fresh"), asked).pack_digest
    workspace = copy_of(template, tmp_path / "home")
    shutil.rmtree(workspace.features_path)
    workspace.features_path.write_bytes(b"in the way")
    assert adapt_pairs(workspace, asked).pack_digest == expected


@pytest.mark.parametrize(
    "moment",
    [(engine, "read_pairs"), (engine, "decode_pairs"), (CometLearner, "observe"), (engine, "retrieval_of")],
    ids=lambda moment: moment[1],
)
def test_ctrl_c_is_told_and_loses_nothing(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch, moment: tuple[object, str]
):
    workspace = copy_of(template, tmp_path / "home")
    monkeypatch.setenv(HOME_VARIABLE, str(workspace.root))
    before = {name: found for name, found in snapshot(workspace.root).items() if not name.startswith("features/")}

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*moment, interrupt)
        result = run("adapt", "--modality", "speech", "--data", template / "speech", "--threads", 1)
    assert result.exit_code == 130
    assert "nothing is lost. Run the same command to go on." in result.stderr
    after = {name: found for name, found in snapshot(workspace.root).items() if not name.startswith("features/")}
    assert after == before
    again = run("adapt", "--modality", "speech", "--data", template / "speech", "--threads", 1, "--tolerance", 1)
    assert again.exit_code == 0, again.output
