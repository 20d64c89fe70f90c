"""Pruning removes what nothing needs, and nothing else; cut at any moment it leaves a valid workspace."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from mmcl_edge.errors import InputError, IntegrityError, LockedError, PackError
from mmcl_edge.fileio import canonical_json
from mmcl_edge.fleet.joining import FOLDER
from mmcl_edge.fleet.prune import prune
from mmcl_edge.fleet.push import RECORD_NAME, Sent, SentRecord
from mmcl_edge.fleet.sync_state import Applied, DeviceState, Refused, Seen, StateRecord
from mmcl_edge.packs import holds_pack, read_manifest, read_pack, write_pack
from mmcl_edge.packs.lineage import ancestors
from mmcl_edge.runtime.replay_store import Exemplars, ReplayStore
from mmcl_edge.runtime.trial import Trial
from mmcl_edge.runtime.workspace import Workspace
from mmcl_edge.types import Sample
from tests.builders import forge_manifest, on_full_disk, pack_contents, snapshot, write_bundle


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace(tmp_path / "home").create()
    workspace.install_bundle(write_bundle(tmp_path / "bundle").path)
    return workspace


@pytest.fixture
def make(workspace):
    """Makes a pack from others, in the workspace; returns its digest."""

    def make(*parents, value=0.0):
        opened = [read_pack(workspace.packs_path / parent) for parent in parents]
        version = max((pack.manifest.version for pack in opened), default=0) + 1
        contents = pack_contents(
            bundle_digest=workspace.bundle_family(),
            value=value,
            parents=tuple(pack.as_parent() for pack in opened),
            version=version,
        )
        return write_pack(workspace.packs_path, contents)

    return make


@pytest.fixture
def chain(workspace, make):
    """Five packs, each learned on top of the one before, each with an exemplar of its own and one of all."""
    digests = [make()]
    for _ in range(4):
        digests.append(make(digests[-1]))
    store = ReplayStore(workspace.replay_path)
    for number, digest in enumerate(digests):
        workspace.use_pack(digest)
        store.write(digest, Exemplars((_sample(number), _sample(99))))
    return digests


def _sample(number):
    return Sample(np.full(50, number / 100, np.float32), None, "dog", f"dog/{number}")


def _here(workspace):
    return {folder.name for folder in workspace.list_packs()}


def _files(folder):
    return {path.name for path in folder.iterdir()}


def test_a_chain_is_pruned_to_its_last_two(workspace, chain):
    report = prune(workspace)
    assert [one.digest for one in report.removed] == [chain[2], chain[1], chain[0]]
    assert _here(workspace) == set(chain[3:])
    assert report.kept == {chain[4]: "in use", chain[3]: "previous"}
    assert all(holds_pack(workspace.packs_path / digest, digest) for digest in chain[3:])
    assert workspace.rollback().digest == chain[3]


def test_what_a_pack_comes_from_stays_known(workspace, chain):
    prune(workspace)
    manifest = read_manifest(workspace.packs_path / chain[4])[0]
    assert ancestors(manifest, workspace.packs_path) == set(chain[:4])


def test_exemplars_of_the_packs_that_stay_stay(workspace, chain):
    store = ReplayStore(workspace.replay_path)
    before = {digest: [one.source for one in store.read(digest).train] for digest in chain[3:]}
    report = prune(workspace)
    assert {digest: [one.source for one in store.read(digest).train] for digest in chain[3:]} == before
    assert _files(store.indices) == {f"{digest}.json" for digest in chain[3:]}
    assert len(_files(store.objects)) == 3, "one each, and one of both"
    assert report.exemplar_files == 6


def test_it_says_what_it_freed(workspace, chain):
    def size():
        parts = (workspace.packs_path, workspace.replay_path)
        return sum(path.stat().st_size for part in parts for path in part.rglob("*") if path.is_file())

    before = size()
    freed = prune(workspace).freed_bytes
    lineage = sum(path.stat().st_size for path in (workspace.packs_path / "lineage").iterdir())
    assert freed == before - size() + lineage > 0


def test_a_dry_run_changes_nothing_and_names_the_same(workspace, chain):
    before = snapshot(workspace.root)
    dry = prune(workspace, keep=1, dry_run=True)
    assert snapshot(workspace.root) == before
    done = prune(workspace, keep=1)
    assert (dry.removed, dry.kept, dry.left) == (done.removed, done.kept, done.left)
    assert (dry.dry_run, done.dry_run) == (True, False)
    assert 0 < dry.freed_bytes < done.freed_bytes


@pytest.mark.parametrize(("keep", "stay"), [(0, 0), (1, 1), (2, 2), (9, 3)])
def test_the_newest_of_the_others_stay_if_wanted(workspace, chain, keep, stay):
    prune(workspace, keep=keep)
    assert _here(workspace) == set(chain[3 - stay :])


def test_again_there_is_nothing_to_do(workspace, chain):
    prune(workspace)
    before = snapshot(workspace.root)
    assert prune(workspace).removed == ()
    assert snapshot(workspace.root) == before


def test_a_side_line_leaves_no_manifest_behind(workspace, chain, make):
    side = make(chain[1], value=7.0)
    prune(workspace)
    assert side not in _here(workspace)
    assert _files(workspace.packs_path / "lineage") == {f"{digest}.json" for digest in chain[:3]}
    fresh = make(value=8.0)
    for digest in (fresh, make(fresh)):
        workspace.use_pack(digest)
    prune(workspace)
    assert _files(workspace.packs_path / "lineage") == set(), "nothing here comes from them any more"


def _state(workspace, *, applied=(), seen=(), refused=()):
    place = {"channel": "stable", "counter": 1}
    StateRecord(workspace.trust_path / FOLDER).write(
        DeviceState(
            url="memory://",
            channel="stable",
            applied=tuple(Applied(pack=digest, **place) for digest in applied),
            seen={f"c{number}": Seen(pack=digest, counter=1) for number, digest in enumerate(seen)},
            refused=tuple(Refused(pack=digest, reason="it answers worse", **place) for digest in refused),
        )
    )


def _trial(workspace, **digests):
    workspace.trial.write(Trial(**digests, channel="stable", counter=1))


def _upload(workspace, digest):
    sent = Sent(pack=digest, archive_sha256="0" * 64, counter=1)
    path = workspace.trust_path / RECORD_NAME
    path.write_bytes(canonical_json(SentRecord(counter=1, sent=(sent,)).model_dump(mode="json")))


NAMED = {
    "a release that was in use": lambda workspace, one, in_use: _state(workspace, applied=[one]),
    "the newest release of a channel": lambda workspace, one, in_use: _state(workspace, seen=[one]),
    "a pack on trial": lambda workspace, one, in_use: _trial(workspace, pack=one, released=in_use),
    "the release on trial": lambda workspace, one, in_use: _trial(workspace, pack=in_use, released=one),
    "the last good one": lambda workspace, one, in_use: _trial(workspace, pack=in_use, released=in_use, good=one),
    "the previous one before": lambda w, one, in_use: _trial(w, pack=in_use, released=in_use, previous=one),
    "the newest upload": lambda workspace, one, in_use: _upload(workspace, one),
}


@pytest.mark.parametrize("name", NAMED.values(), ids=NAMED)
def test_what_a_record_names_stays(workspace, chain, make, name):
    side = make(value=5.0)  # of no line
    name(workspace, side, chain[4])
    prune(workspace)
    assert _here(workspace) == {side, *chain[3:]}


def test_a_refused_release_goes(workspace, chain):
    _state(workspace, refused=[chain[1]])
    prune(workspace)
    assert _here(workspace) == set(chain[3:])


def test_what_a_release_and_own_learning_were_put_together_from_stays(workspace, make):
    """release 1 -> own, own again; release 2 + own again -> carried, and learned on, and on."""
    first, second = make(), make(value=1.0)
    own = make(first, value=2.0)
    again = make(own, value=2.0)
    carried = make(second, again, value=3.0)
    on = make(carried, value=3.0)
    last = make(on, value=3.0)
    end = make(last, value=3.0)
    _state(workspace, applied=[first, second])
    for digest in (last, end):
        workspace.use_pack(digest)
    assert {one.digest for one in prune(workspace).removed} == {own, carried, on}
    assert _here(workspace) == {first, second, again, last, end}


def test_the_parents_of_a_release_stay_but_not_theirs(workspace, make):
    own = [make()]
    for _ in range(3):
        own.append(make(own[-1]))
    release = make(own[3], value=1.0)
    after = make(release, value=1.0)
    for digest in (after, make(after, value=1.0)):
        workspace.use_pack(digest)
    _state(workspace, applied=[release])
    assert {one.digest for one in prune(workspace).removed} == set(own[:3])


def test_packs_for_another_bundle_go_too(workspace, chain, tmp_path):
    other = write_pack(workspace.packs_path, pack_contents(bundle_digest="c" * 64))
    prune(workspace)
    assert other not in _here(workspace)


def test_a_link_is_left_alone_and_never_followed(workspace, chain, tmp_path):
    elsewhere = tmp_path / "elsewhere" / chain[0]
    shutil.move(workspace.packs_path / chain[0], elsewhere)
    (workspace.packs_path / chain[0]).symlink_to(elsewhere)
    report = prune(workspace)
    assert report.left == {chain[0]: "it is a link"}
    assert holds_pack(elsewhere, chain[0])
    assert (workspace.packs_path / chain[0]).is_symlink()


def test_the_folder_of_packs_may_be_a_link(workspace, chain, tmp_path):
    shutil.move(workspace.packs_path, tmp_path / "disk")
    workspace.packs_path.symlink_to(tmp_path / "disk")
    prune(workspace)
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {"lineage", *chain[3:]}


def test_a_pack_in_use_that_is_a_link_stays(workspace, chain, tmp_path):
    shutil.move(workspace.packs_path / chain[4], tmp_path / chain[4])
    (workspace.packs_path / chain[4]).symlink_to(tmp_path / chain[4])
    report = prune(workspace)
    assert report.kept[chain[4]] == "in use"
    assert report.left == {}


STRANGE = {
    "another folder": lambda packs, digest: (packs / "notes").mkdir(),
    "a file": lambda packs, digest: (packs / "notes").write_text("mine"),
    "a file of the user in a pack": lambda packs, digest: (packs / digest / "notes.txt").write_text("mine"),
    "a folder in a pack": lambda packs, digest: (packs / digest / "notes").mkdir(),
    "a link in a pack": lambda packs, digest: _linked(packs / digest / "README.md"),
    "a changed manifest": lambda packs, digest: forge_manifest(packs / digest, lambda m: m.update(version=9)),
    "no manifest": lambda packs, digest: (packs / digest / "pack.json").unlink(),
    "an empty folder with a digest's name": lambda packs, digest: (packs / ("e" * 64)).mkdir(),
}


def _linked(file):
    file.rename(file.parent.parent.parent / "card.md")
    file.symlink_to(file.parent.parent.parent / "card.md")


@pytest.mark.parametrize("spoil", STRANGE.values(), ids=STRANGE)
def test_what_is_no_pack_of_ours_is_left_alone(workspace, chain, spoil):
    spoil(workspace.packs_path, chain[0])
    before = snapshot(workspace.packs_path)
    (name,) = prune(workspace).left
    after = snapshot(workspace.packs_path)
    mine = {path: content for path, content in before.items() if path.split("/")[0] == name}
    assert {path: content for path, content in after.items() if path.split("/")[0] == name} == mine
    assert _here(workspace) - {name} == set(chain[3:])


def test_a_pack_whose_tensors_are_damaged_can_go(workspace, chain):
    (workspace.packs_path / chain[0] / "adapter_model.safetensors").write_bytes(b"flipped")
    prune(workspace)
    assert chain[0] not in _here(workspace)


def _unset(workspace, chain):
    (workspace.root / "current").unlink()


def _dangling(workspace, chain):
    shutil.rmtree(workspace.packs_path / chain[4])


def _damaged(name):
    return lambda workspace, chain: (workspace.trust_path / name).write_bytes(b"{}x")


def _damaged_state(workspace, chain):
    _state(workspace)
    StateRecord(workspace.trust_path / FOLDER).path.write_bytes(b"{}")


def _damaged_index(workspace, chain):
    (workspace.replay_path / "index" / f"{chain[4]}.json").write_bytes(b"{}x")


REFUSALS = {
    "no pack in use": (_unset, InputError, "Expected a pack in use"),
    "a damaged link": (_dangling, PackError, "should be a link"),
    "a damaged trial": (_damaged("trial.json"), IntegrityError, "on trial"),
    "a damaged record of uploads": (_damaged(RECORD_NAME), IntegrityError, "number the uploads"),
    "a damaged record of the fleet": (_damaged_state, IntegrityError, "its fleet"),
    "a damaged index of exemplars": (_damaged_index, IntegrityError, "JSON"),
}


@pytest.mark.parametrize(("spoil", "error", "words"), REFUSALS.values(), ids=REFUSALS)
def test_where_it_is_not_clear_what_is_needed_nothing_goes(workspace, chain, spoil, error, words):
    spoil(workspace, chain)
    before = snapshot(workspace.root)
    with pytest.raises(error, match=words):
        prune(workspace)
    assert snapshot(workspace.root) == before


def test_another_process_at_work_is_waited_for_by_nobody(workspace, chain):
    code = (
        "import sys; from mmcl_edge.runtime.workspace import Workspace\n"
        "with Workspace(sys.argv[1]).lock(): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(workspace.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(LockedError):
            prune(workspace)
        holder.stdin.close()
    assert _here(workspace) == set(chain)


def _check_valid(workspace, chain):
    """Every pack is whole or gone, those in use are whole, and every exemplar that is listed is there."""
    assert workspace.current_pack().name == chain[4]
    assert workspace.previous_pack().name == chain[3]
    assert all(holds_pack(folder, folder.name) for folder in workspace.list_packs())
    store = ReplayStore(workspace.replay_path)
    assert all(len(store.read(digest).train) == 2 for digest in chain[3:])
    manifest = read_manifest(workspace.packs_path / chain[4])[0]
    assert ancestors(manifest, workspace.packs_path) == set(chain[:4])


def test_on_a_full_disk(workspace, chain):
    for refused in on_full_disk(lambda: prune(workspace)):
        _check_valid(workspace.open(), chain)
        assert refused is None or "no space is left" in str(refused)
    assert _here(workspace) == set(chain[3:])


KILLED = """
import itertools, os, shutil, sys
from pathlib import Path
from mmcl_edge.fleet.prune import prune
from mmcl_edge.runtime.workspace import Workspace

def dies(name, left):
    function = getattr(os, name)
    def guarded(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            os._exit(9)
        return function(*args, **kwargs)
    return guarded

for calls in itertools.count(1):
    home = Path(sys.argv[1]) / str(calls)
    shutil.copytree(sys.argv[2], home, symlinks=True)
    workspace = Workspace(home).open()
    child = os.fork()
    if child == 0:
        left = [calls]
        for name in ("replace", "link", "unlink", "rmdir", "mkdir", "fsync"):
            setattr(os, name, dies(name, left))
        prune(workspace)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        print(calls)
        break
"""


def test_killed_at_any_moment(workspace, chain, tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(workspace.root)]
    calls = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert calls > 20
    for number in range(1, calls + 1):
        cut = Workspace(tmp_path / "killed" / str(number)).open()
        _check_valid(cut, chain)
        prune(cut)
        _check_valid(cut, chain)
        assert _here(cut) == set(chain[3:])
        assert not list(cut.root.rglob(".staging-*"))
        assert len(os.listdir(cut.replay_path / "objects")) == 3


def test_no_tensor_library_is_needed():
    code = "import sys, mmcl_edge.fleet.prune; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
