"""Archives: one file, the same bytes for the same pack, and a pack that comes out as it went in."""

import io
import subprocess
import tarfile

import pytest

from mmcl_edge.errors import PackError, SignatureError, StorageError
from mmcl_edge.packs import holds_pack, read_pack
from mmcl_edge.packs.archive import is_archive, open_archive, read_archive, write_archive
from mmcl_edge.packs.signing import verified_signers
from mmcl_edge.packs.ustar import Members, archive_bytes, header
from tests.builders import OTHER_BUNDLE, on_full_disk, snapshot
from tests.signed import signed_pack, signer


def _archive(tmp_path, *names, **changes):
    pack = signed_pack(tmp_path / "source", *names, **changes)
    write_archive(pack, tmp_path / "a.mmclpack")
    return pack, tmp_path / "a.mmclpack"


@pytest.mark.parametrize("names", ["", "a", "ab"])
def test_a_pack_comes_out_as_it_went_in(tmp_path, names):
    pack, file = _archive(tmp_path, *names)
    assert open_archive(file, tmp_path / "packs") == pack.name
    assert snapshot(tmp_path / "packs" / pack.name) == snapshot(pack)
    assert [path.name for path in (tmp_path / "packs").iterdir()] == [pack.name]


def test_equal_packs_give_equal_bytes(tmp_path):
    _, one = _archive(tmp_path / "1", "a", "b")
    _, other = _archive(tmp_path / "2", "b", "a")
    assert one.read_bytes() == other.read_bytes()


def test_common_tools_read_it(tmp_path):
    pack, file = _archive(tmp_path, "a")
    with tarfile.open(file) as archive:
        assert sorted(archive.getnames()) == sorted(path.name for path in pack.iterdir())
        assert {(member.mtime, member.uid, member.uname, member.mode) for member in archive} == {(0, 0, "", 0o644)}
    listed = subprocess.run(["tar", "tf", file], capture_output=True, check=True, text=True).stdout.split()
    assert sorted(listed) == sorted(path.name for path in pack.iterdir())


@pytest.mark.parametrize("sizes", [(0,), (1,), (511, 512, 513)])
def test_members_come_back(sizes):
    members = [(f"m{size}", bytes(range(256)) * 3) for size in sizes]
    members = [(name, data[: int(name[1:])]) for name, data in members]
    reader, found = Members(io.BytesIO(archive_bytes(members)), "it"), []
    while (member := reader.next()) is not None:
        found.append((member[0], reader.data()))
    assert found == members


def test_the_header_is_the_one_of_the_standard():
    info = tarfile.TarInfo.frombuf(header("pack.json", 1234), "ascii", "strict")
    assert (info.name, info.size, info.mode, info.type) == ("pack.json", 1234, 0o644, tarfile.REGTYPE)


def test_reading_says_what_is_inside(tmp_path):
    pack, file = _archive(tmp_path, "a")
    found = read_archive(file, keys=[signer("a").public_key])
    assert (found.digest, found.delta, found.signers) == (pack.name, None, {signer("a").public_key.keyid})
    assert found.manifest == read_pack(pack).manifest


def test_only_archives_look_like_one(tmp_path):
    pack, file = _archive(tmp_path)
    assert is_archive(file)
    assert not is_archive(pack)
    assert not is_archive(pack / "pack.json")
    assert not is_archive(tmp_path / "none")


def test_what_was_expected_is_held_to(tmp_path):
    pack, file = _archive(tmp_path)
    with pytest.raises(PackError, match="Expected the pack"):
        open_archive(file, tmp_path / "packs", expected_digest="0" * 64)
    with pytest.raises(PackError, match="made for the bundle"):
        open_archive(file, tmp_path / "packs", bundle_digest=OTHER_BUNDLE)
    with pytest.raises(SignatureError, match="not signed"):
        open_archive(file, tmp_path / "packs", keys=[signer("a").public_key])
    assert not (tmp_path / "packs").exists()
    assert open_archive(file, tmp_path / "packs", expected_digest=pack.name, bundle_digest="a" * 64) == pack.name


def test_a_pack_that_is_there_gains_signatures_and_nothing_else(tmp_path):
    pack, file = _archive(tmp_path, "a")
    there = signed_pack(tmp_path / "packs", "b")
    assert open_archive(file, tmp_path / "packs") == there.name == pack.name
    keys = [signer(name).public_key for name in "ab"]
    assert len(verified_signers(there, keys)) == 2
    before = snapshot(tmp_path / "packs")
    open_archive(file, tmp_path / "packs")
    assert snapshot(tmp_path / "packs") == before


def test_a_damaged_pack_that_is_there_is_replaced(tmp_path):
    pack, file = _archive(tmp_path)
    there = signed_pack(tmp_path / "packs")
    (there / "eval.json").write_bytes(b"{}")
    assert open_archive(file, tmp_path / "packs") == pack.name
    assert holds_pack(there, pack.name)


def test_a_full_disk_leaves_nothing_or_the_pack(tmp_path):
    pack, file = _archive(tmp_path, "a")
    refusals = 0
    for refused in on_full_disk(lambda: open_archive(file, tmp_path / "packs")):
        there = list((tmp_path / "packs").iterdir()) if (tmp_path / "packs").exists() else []
        if refused is None:
            assert [path.name for path in there] == [pack.name]
            break
        refusals += 1
        assert isinstance(refused, StorageError)
        assert all(holds_pack(path, pack.name) for path in there), "a cut after the rename leaves it whole"
    assert refusals >= 5


def test_a_full_disk_leaves_the_old_archive(tmp_path):
    _, file = _archive(tmp_path)
    other, before = signed_pack(tmp_path / "source", value=1.0), file.read_bytes()
    for refused in on_full_disk(lambda: write_archive(other, file)):
        if refused is None:
            break
        assert file.read_bytes() in (before, _bytes_of(other, tmp_path))
        assert not list(tmp_path.glob(".staging-*"))


def _bytes_of(pack, tmp_path):
    (tmp_path / "again").mkdir(exist_ok=True)
    write_archive(pack, tmp_path / "again" / "a")
    return (tmp_path / "again" / "a").read_bytes()


def test_a_broken_pack_gets_no_archive(tmp_path):
    pack = signed_pack(tmp_path, "a")
    (pack / "eval.json").write_bytes(b"{}")
    with pytest.raises(PackError):
        write_archive(pack, tmp_path / "a")
    assert not (tmp_path / "a").exists()
