"""The workspace's states and the moves between them, also when cut short."""

import errno
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from mmcl_edge.bundle import Bundle
from mmcl_edge.errors import BundleError, InputError, LockedError, PackError, StorageError
from mmcl_edge.fileio import sha256_bytes
from mmcl_edge.packs import holds_pack, write_pack
from mmcl_edge.runtime.workspace import HOME_VARIABLE, Workspace, home
from tests.builders import int8_version, on_full_disk, pack_contents, snapshot, write_bundle


@pytest.fixture
def workspace(tmp_path):
    """A workspace with a bundle."""
    workspace = Workspace(tmp_path / "home").create()
    workspace.install_bundle(write_bundle(tmp_path / "bundle").path)
    return workspace


@pytest.fixture
def packs(workspace):
    """Digests of three packs for its bundle."""
    digest = workspace.bundle_digest()
    contents = [pack_contents(bundle_digest=digest, value=float(number)) for number in range(3)]
    return [write_pack(workspace.packs_path, item) for item in contents]


def _in_use(workspace):
    folders = workspace.current_pack(), workspace.previous_pack()
    return tuple(folder.name if folder else None for folder in folders)


def test_home_is_chosen_by_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    assert home() == tmp_path == Workspace().root
    monkeypatch.setenv(HOME_VARIABLE, "~/here")
    assert home().is_absolute()
    monkeypatch.delenv(HOME_VARIABLE)
    assert home().name == "mmcl-edge"


def test_create_twice_changes_nothing(workspace):
    before = snapshot(workspace.root)
    Workspace(workspace.root).create()
    assert snapshot(workspace.root) == before


def test_opening_nothing_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match="mmcl-edge init"):
        Workspace(tmp_path / "none").open()
    assert not (tmp_path / "none").exists()


def test_another_layout_is_refused(workspace):
    (workspace.root / "workspace.json").write_text('{"layout_version": 2}')
    with pytest.raises(InputError, match="layout version 2"):
        workspace.open()


def test_a_file_in_the_way_is_a_sentence(tmp_path):
    (tmp_path / "home").write_text("")
    with pytest.raises(InputError, match="is a file"):
        Workspace(tmp_path / "home").create()


def test_a_read_only_home_is_a_sentence(workspace, packs, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "read-only")

    before = snapshot(workspace.root)
    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(StorageError, match="read-only"):
        workspace.use_pack(packs[0])
    assert snapshot(workspace.root) == before


def test_a_pack_can_be_read_where_nothing_can_be_written(workspace, packs, monkeypatch):
    workspace.use_pack(packs[0])
    (workspace.root / ".staging-left").mkdir()

    def refuse(*args, **kwargs):
        raise StorageError("read-only")

    monkeypatch.setattr("mmcl_edge.runtime.workspace.workspace_lock", refuse)
    assert Workspace(workspace.root).open().current_pack().name == packs[0]


# name: (moves, (current, previous)); numbers are packs, "<" is a rollback
HISTORIES = {
    "nothing yet": ("", (None, None)),
    "first": ("0", (0, None)),
    "second": ("01", (1, 0)),
    "same again": ("011", (1, 0)),
    "third": ("012", (2, 1)),
    "back": ("01<", (0, 1)),
    "back and forth": ("01<<", (1, 0)),
    "back, then on": ("01<2", (2, 0)),
    "to an older one": ("0120", (0, 2)),
}


@pytest.mark.parametrize(("moves", "expected"), HISTORIES.values(), ids=HISTORIES)
def test_histories(workspace, packs, moves, expected):
    for move in moves:
        _ = workspace.rollback() if move == "<" else workspace.use_pack(packs[int(move)])
    assert _in_use(workspace) == tuple(None if number is None else packs[number] for number in expected)


REFUSED_ROLLBACKS = {"no pack": "", "no previous pack": "0"}


@pytest.mark.parametrize("moves", REFUSED_ROLLBACKS.values(), ids=REFUSED_ROLLBACKS)
def test_rollback_without_a_previous_pack_is_refused(workspace, packs, moves):
    for move in moves:
        workspace.use_pack(packs[int(move)])
    before = snapshot(workspace.root)
    with pytest.raises(PackError, match="previous pack"):
        workspace.rollback()
    assert snapshot(workspace.root) == before


def test_a_change_cut_after_its_first_link_is_valid_and_can_be_completed(workspace, packs):
    workspace.use_pack(packs[0])
    os.symlink(f"packs/{packs[0]}", workspace.root / "previous")
    with pytest.raises(PackError, match="in use"):
        workspace.rollback()
    workspace.use_pack(packs[1])
    assert _in_use(workspace) == (packs[1], packs[0])


def test_disk_full_at_any_write_of_use_pack(workspace, packs):
    workspace.use_pack(packs[0])
    workspace.use_pack(packs[1])
    with workspace.lock():
        for refused in on_full_disk(lambda: workspace.use_pack(packs[2])):
            current, previous = _in_use(workspace)
            assert current in (packs[1:] if refused else packs[2:])
            assert previous in packs
    assert _in_use(workspace) == (packs[2], packs[1])


def test_disk_full_at_any_write_of_install_bundle(workspace, packs, tmp_path):
    old, new = workspace.bundle_digest(), write_bundle(tmp_path / "new", seed=1)
    with workspace.lock():
        for refused in on_full_disk(lambda: workspace.install_bundle(new.path, replace=True)):
            assert workspace.bundle_digest() in ((old, new.digest) if refused else (new.digest,))
            assert workspace.bundle_path.is_dir()


def test_damaged_packs_are_not_put_in_use(workspace, packs):
    workspace.use_pack(packs[0])
    (workspace.packs_path / packs[1] / "eval.json").write_text("{}")
    before = snapshot(workspace.root)
    with pytest.raises(PackError, match=r"eval\.json"):
        workspace.use_pack(packs[1])
    with pytest.raises(PackError, match="there is none"):
        workspace.use_pack("0" * 64)
    assert snapshot(workspace.root) == before


def test_packs_are_found_by_prefix_path_and_word(workspace, packs):
    workspace.use_pack(packs[0])
    folder = workspace.packs_path / packs[0]
    for name in (packs[0], packs[0][:6], str(folder), folder, "current"):
        assert workspace.resolve_pack(name) == folder
    assert workspace.list_packs() == tuple(sorted(workspace.packs_path / digest for digest in packs))


UNRESOLVED = {"too short": "abc", "unknown": "0" * 10, "no folder": "/nowhere", "empty": "", "not in use": "previous"}


@pytest.mark.parametrize("name", UNRESOLVED.values(), ids=UNRESOLVED)
def test_a_pack_that_is_not_meant_clearly_is_refused(workspace, packs, name):
    with pytest.raises(PackError, match="mmcl-edge pack list"):
        workspace.resolve_pack(name)


def test_an_ambiguous_prefix_is_refused(workspace):
    for digest in ("a" * 64, "a" * 63 + "b"):
        (workspace.packs_path / digest).mkdir()
    with pytest.raises(PackError, match="fits 2 of 2"):
        workspace.resolve_pack("a" * 10)


def test_install_pack_copies_once_and_repairs(workspace, tmp_path):
    contents = pack_contents(bundle_digest=workspace.bundle_digest())
    digest = write_pack(tmp_path / "inbox", contents)
    assert workspace.install_pack(tmp_path / "inbox" / digest) == digest
    before = snapshot(workspace.root)
    (workspace.packs_path / digest / "README.md").write_text("")
    workspace.install_pack(tmp_path / "inbox" / digest)
    assert snapshot(workspace.root) == before
    assert workspace.current_pack() is None


def test_a_bundle_is_installed_by_copy_or_move(tmp_path):
    source = write_bundle(tmp_path / "bundle")
    copied, moved = Workspace(tmp_path / "a").create(), Workspace(tmp_path / "b").create()
    assert copied.install_bundle(source.path).digest == source.digest
    assert source.path.is_dir()
    assert moved.install_bundle(source.path, move=True).path == moved.bundle_path
    assert not source.path.exists()
    assert snapshot(copied.root) == snapshot(moved.root)


def test_a_damaged_bundle_is_repaired_by_installing_it_again(workspace, tmp_path):
    before = snapshot(workspace.root)
    (workspace.bundle_path / "frames" / "stem.onnx").write_bytes(b"")
    workspace.install_bundle(tmp_path / "bundle")
    assert snapshot(workspace.root) == before


def test_another_bundle_needs_consent_and_takes_no_pack_away(workspace, packs, tmp_path):
    workspace.use_pack(packs[0])
    other, before = write_bundle(tmp_path / "other", seed=1), snapshot(workspace.root)
    with pytest.raises(BundleError, match="--replace"):
        workspace.install_bundle(other.path)
    assert snapshot(workspace.root) == before
    workspace.install_bundle(other.path, replace=True)
    assert workspace.bundle_digest() == other.digest
    assert _in_use(workspace) == (None, None)
    assert len(workspace.list_packs()) == 3
    with pytest.raises(PackError, match=other.digest[:16]):
        workspace.use_pack(packs[0])


def test_packs_stay_in_use_between_a_bundle_and_its_int8_version_and_the_way_back_is_kept(workspace, packs, tmp_path):
    workspace.use_pack(packs[0])
    workspace.use_pack(packs[1])
    plain = Bundle.open(tmp_path / "bundle")
    int8, other = int8_version(tmp_path / "int8", plain), int8_version(tmp_path / "int8b", plain, seed=1)
    assert int8.digest != plain.digest == int8.family == other.family
    for bundle in (int8, other):
        workspace.install_bundle(bundle.path)
        assert workspace.bundle_digest() == bundle.digest
        assert workspace.bundle_family() == plain.digest
        assert {folder.name for folder in (workspace.root / "bundles").iterdir()} == {plain.digest, bundle.digest}
        assert _in_use(workspace) == (packs[1], packs[0])
    assert workspace.rollback().digest == packs[0]
    workspace.install_bundle(workspace.root / "bundles" / plain.digest)
    assert workspace.bundle_digest() == plain.digest
    assert [folder.name for folder in (workspace.root / "bundles").iterdir()] == [plain.digest]
    assert _in_use(workspace) == (packs[0], packs[1])


def test_an_int8_version_of_another_bundle_needs_consent(workspace, tmp_path):
    other = int8_version(tmp_path / "int8", write_bundle(tmp_path / "other", seed=1))
    with pytest.raises(BundleError, match="--replace"):
        workspace.install_bundle(other.path)
    workspace.install_bundle(other.path, replace=True)
    assert [folder.name for folder in (workspace.root / "bundles").iterdir()] == [other.digest]


def test_a_broken_bundle_is_not_installed(workspace, tmp_path):
    broken = write_bundle(tmp_path / "broken", seed=2)
    (broken.path / "frames" / "stem.onnx").write_bytes(b"")
    before = snapshot(workspace.root)
    with pytest.raises(BundleError, match="truncated"):
        workspace.install_bundle(broken.path, replace=True)
    assert snapshot(workspace.root) == before


def test_without_a_bundle_the_sentence_says_how_to_get_one(tmp_path):
    with pytest.raises(BundleError, match="init --bundle"):
        _ = Workspace(tmp_path / "home").create().bundle_path


BAD_NAMES = [
    "",
    " ",
    ".",
    "..",
    ".hidden",
    "a/b",
    "a\\b",
    "a\nb",
    "a\0b",
    "x" * 65,
    "\ud800",
    "end ",
    "\U0001f600" * 64,
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=[ascii(name)[:20] for name in BAD_NAMES])
def test_names_that_cannot_be_folders_are_refused(workspace, name):
    with pytest.raises(InputError, match=r"choose another|choose a shorter"):
        workspace.task_folder(name)
    with pytest.raises(InputError, match=r"choose another|choose a shorter"):
        workspace.run_folder(name)


def test_names_are_brought_to_one_unicode_form(workspace):
    assert workspace.task_folder("ca\u0308t") == workspace.task_folder("cät") == workspace.root / "tasks" / "cät"
    assert workspace.run_folder("r1") == workspace.root / "runs" / "r1"


def test_open_sweeps_what_was_interrupted(workspace):
    (workspace.trust_path / "fleet").mkdir()
    before = snapshot(workspace.root)
    for place in (workspace.root, workspace.packs_path, workspace.runs_path, workspace.trust_path / "fleet"):
        (place / ".staging-x").mkdir()
        (place / ".staging-x" / "half").write_text("half")
    workspace.open()
    assert snapshot(workspace.root) == before


HOLDER = """
import sys, time
from mmcl_edge.runtime.workspace import Workspace
with Workspace(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(workspace):
    """Another process that holds the lock."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(workspace.root)], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        yield child
        child.kill()


def test_a_second_process_is_told_which_holds_the_lock(workspace, packs, holder):
    (workspace.root / ".staging-in-use").mkdir()
    with pytest.raises(LockedError, match=f"process {holder.pid} "):
        workspace.use_pack(packs[0])
    workspace.open()
    assert (workspace.root / ".staging-in-use").is_dir()
    assert workspace.current_pack() is None


def test_a_killed_holder_frees_the_lock(workspace, packs, holder):
    holder.kill()
    holder.wait()
    workspace.use_pack(packs[0])
    with workspace.lock(), Workspace(workspace.root).lock():
        Workspace(workspace.root).use_pack(packs[1])


KILLED = """
import itertools, sys
from mmcl_edge.runtime.workspace import Workspace
workspace, inbox = Workspace(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
for number in itertools.count():
    for digest in sys.argv[3:]:
        workspace.install_pack(f"{inbox}/{digest}")
        workspace.use_pack(digest)
    workspace.rollback()
    workspace.use_pack(sys.argv[4])
    for name in ("eval.json", "README.md"):
        (workspace.packs_path / sys.argv[3] / name).unlink()
"""


def test_a_killed_process_leaves_a_whole_pack_in_use(workspace, tmp_path):
    chance, inbox = random.Random(3), tmp_path / "inbox"
    contents = [pack_contents(bundle_digest=workspace.bundle_digest(), value=float(number)) for number in range(2)]
    digests = [write_pack(inbox, item) for item in contents]
    command = [sys.executable, "-c", KILLED, str(workspace.root), str(inbox), *reversed(digests)]
    workspace.install_pack(inbox / digests[0])
    workspace.use_pack(digests[0])
    for _ in range(8):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            child.stdout.readline()
            time.sleep(chance.uniform(0.0, 0.15))
            child.send_signal(signal.SIGKILL)
        current, previous = _in_use(workspace.open())
        assert current in digests
        assert previous in (None, *digests)
        assert holds_pack(workspace.packs_path / digests[0], digests[0])
        assert not list(workspace.root.glob(".staging-*"))


def test_the_workspace_imports_no_tensor_library():
    code = "import sys, mmcl_edge.runtime.workspace; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_pack_names_are_digests_of_their_manifests(workspace, packs):
    for folder in workspace.list_packs():
        assert folder.name == sha256_bytes((folder / "pack.json").read_bytes())
