"""Atomic writes, bounded reads, canonical JSON."""

import errno
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from mmcl_edge.errors import IntegrityError, StorageError
from mmcl_edge.fileio import (
    STAGING_PREFIX,
    atomic_folder,
    canonical_json,
    keep_file,
    point_link,
    pretty_json,
    read_bounded,
    read_json,
    remove_folder,
    sha256_bytes,
    sha256_file,
    sweep_staging,
    write_atomic,
)
from tests.builders import snapshot

STORAGE_ERRORS = {
    "disk full": (errno.ENOSPC, "no space is left"),
    "quota": (errno.EDQUOT, "quota"),
    "read-only file system": (errno.EROFS, "read-only"),
    "permission": (errno.EACCES, "permission"),
    "file too large": (errno.EFBIG, "larger than"),
    "failing disk": (errno.EIO, "input/output"),
}


def _write_file(root):
    write_atomic(root / "file", b"new" * 100)


def _write_folder(root):
    with atomic_folder(root / "folder", replace=True) as staging:
        (staging / "inner").mkdir()
        (staging / "inner" / "file").write_bytes(b"new")


def _move_link(root):
    point_link(root / "link", "folder")


WRITES = {"file": _write_file, "folder": _write_folder, "link": _move_link}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    return tmp_path


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize(("number", "words"), STORAGE_ERRORS.values(), ids=STORAGE_ERRORS)
def test_a_refused_write_is_a_sentence_and_changes_nothing(root, monkeypatch, write, number, words):
    before = snapshot(root)

    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StorageError, match=words):
        write(root)
    monkeypatch.undo()
    sweep_staging(root)
    assert snapshot(root) == before


def test_a_folder_that_cannot_be_replaced_comes_back(root, monkeypatch):
    before, replace = snapshot(root), os.replace

    def refuse_the_new_one(source, target):
        if target == root / "folder" and os.path.basename(source) != "old":
            raise OSError(errno.ENOSPC, "full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse_the_new_one)
    with pytest.raises(StorageError, match="no space is left"):
        _write_folder(root)
    sweep_staging(root)
    assert snapshot(root) == before


@pytest.mark.parametrize("write", [_write_file, _write_folder], ids=["file", "folder"])
def test_disk_full_at_fsync_changes_nothing(root, monkeypatch, write):
    before = snapshot(root)

    def full(handle):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no space is left"):
        write(root)
    assert snapshot(root) == before


def test_a_file_size_limit_is_a_sentence(root):
    code = """
import resource, signal, sys
from pathlib import Path
from mmcl_edge.errors import StorageError
from mmcl_edge.fileio import write_atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(Path(sys.argv[1]) / "file", bytes(5000))
except StorageError as error:
    print(error)
"""
    before = snapshot(root)
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    assert "larger than" in done.stdout
    assert snapshot(root) == before


def test_a_read_only_folder_is_a_sentence(root):
    root.chmod(0o555)
    try:
        if os.access(root, os.W_OK):
            pytest.skip("this user may write anywhere; the refusal is simulated in the table above")
        with pytest.raises(StorageError, match="permission"):
            write_atomic(root / "file", b"new")
    finally:
        root.chmod(0o755)


KILLED_WRITER = """
import itertools, sys
from pathlib import Path
from mmcl_edge.fileio import atomic_folder, point_link, write_atomic
root = Path(sys.argv[1])
print("ready", flush=True)
for number in itertools.count():
    text = b"%d" % number * 2000
    write_atomic(root / "file", text)
    with atomic_folder(root / f"folder-{number % 50}-{number}") as staging:
        for name in ("a", "b"):
            (staging / name).write_bytes(text)
    point_link(root / "link", f"folder-{number % 50}-{number}")
"""


def test_a_killed_writer_leaves_old_or_new(tmp_path):
    chance = random.Random(7)
    for round_ in range(8):
        root = tmp_path / str(round_)
        root.mkdir()
        with subprocess.Popen([sys.executable, "-c", KILLED_WRITER, str(root)], stdout=subprocess.PIPE) as child:
            child.stdout.readline()
            time.sleep(chance.uniform(0.005, 0.08))
            child.send_signal(signal.SIGKILL)
        _assert_whole(root)


def _assert_whole(root):
    sweep_staging(root)
    assert not list(root.glob(f"{STAGING_PREFIX}*"))
    for folder in root.glob("folder-*"):
        data = (folder / "a").read_bytes()
        assert data == (folder / "b").read_bytes() == folder.name.split("-")[2].encode() * 2000
    if (root / "file").exists():
        data = (root / "file").read_bytes()
        assert data == data[: len(data) // 2000] * 2000
    assert (root / "link").is_dir() or not (root / "link").is_symlink()


def test_atomic_folder_refuses_to_overwrite(root):
    with pytest.raises(StorageError, match="exists already"), atomic_folder(root / "folder"):
        pass
    assert (root / "folder" / "file").read_bytes() == b"old"


def test_an_error_while_filling_leaves_nothing(root):
    before = snapshot(root)
    with pytest.raises(ZeroDivisionError), atomic_folder(root / "folder", replace=True) as staging:
        (staging / "half").write_bytes(b"half" * (1 // 0))
    assert snapshot(root) == before


BAD_JSON = {"not json": b"{", "not text": b"\xff\xfe", "nested too deep": b"[" * 100_000}


@pytest.mark.parametrize("data", BAD_JSON.values(), ids=BAD_JSON)
def test_read_json_refuses(tmp_path, data):
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(IntegrityError, match="does not parse"):
        read_json(tmp_path / "x.json")


def test_read_bounded_refuses_before_reading(tmp_path):
    (tmp_path / "big").write_bytes(bytes(101))
    assert len(read_bounded(tmp_path / "big", 101)) == 101
    with pytest.raises(IntegrityError, match="at most 100"):
        read_bounded(tmp_path / "big", 100)
    with pytest.raises(IntegrityError, match="there is none"):
        read_bounded(tmp_path / "missing", 100)
    with pytest.raises(IntegrityError, match="there is none"):
        read_bounded(tmp_path, 100)


def test_json_has_one_form():
    assert canonical_json({"b": 1, "a": ["ä", 0.5]}) == '{"a":["ä",0.5],"b":1}'.encode()
    assert pretty_json({"b": 1, "a": 2}).endswith(b"}\n")
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": float("nan")})


def test_digests_agree(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 500_000)
    assert sha256_file(tmp_path / "x") == sha256_bytes(b"abc" * 500_000)


def test_a_folder_goes_with_its_links_but_not_with_what_they_name(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("stays")
    folder = tmp_path / "going"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "mine")
    (folder / "file").write_text("goes")
    remove_folder(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine" / "file").read_text() == "stays"


def test_a_kept_file_outlives_its_first_name(tmp_path):
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    source.write_bytes(b"content")
    keep_file(source, target, max_bytes=7)
    source.unlink()
    assert target.read_bytes() == b"content"


def test_a_kept_file_has_a_limit(tmp_path):
    (tmp_path / "source").write_bytes(b"content")
    with pytest.raises(IntegrityError, match="at most 6"):
        keep_file(tmp_path / "source", tmp_path / "target", max_bytes=6)
    assert not (tmp_path / "target").exists()
