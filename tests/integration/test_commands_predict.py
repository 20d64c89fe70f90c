"""``mmcl-edge predict``, run as a person runs it, on a tiny bundle with random weights."""

import json

import numpy as np
import pytest
import soundfile

from mmcl_edge.commands import predict
from mmcl_edge.packs import write_pack
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.workspace import Workspace
from tests.builders import pack_contents, snapshot
from tests.integration.commands import answer, refused, run, write_pair
from tests.integration.test_data_makers import tone, write_picture, write_sound, write_video


@pytest.fixture
def files(tmp_path):
    """A pair, a long sound and a video."""
    sound, picture = write_pair(tmp_path / "pair", "low")
    long = write_sound(tmp_path / "long.flac", tone(7.0))
    return {"sound": sound, "picture": picture, "long": long, "video": write_video(tmp_path / "clip.mp4")}


KINDS = {
    "a sound": (["sound"], [("pair.wav", 0.0, 0.4)]),
    "a picture": (["picture"], [("pair.png", None, None)]),
    "a pair": (["picture", "sound"], [("pair.wav+png", 0.0, 0.4)]),
    "a video": (["video"], [("clip.mp4", 0.0, pytest.approx(2.0, abs=0.05))]),
    "a long sound": (["long"], [("long.flac", 0.0, 5.0), ("long.flac", 5.0, 7.0)]),
    "one file named twice": (["sound", "sound"], [("pair.wav", 0.0, 0.4)]),
}


@pytest.mark.parametrize(("names", "expected"), KINDS.values(), ids=KINDS)
def test_every_kind_of_file(taught, files, names, expected):
    result = answer("predict", *(files[name] for name in names))
    rows = result["predictions"]
    assert [(row["source"], row["start_s"], row["end_s"]) for row in rows] == expected
    assert {row["label"] for row in rows} <= {"low", "high"}
    assert result["pack_digest"] == Workspace(taught).current_pack().name
    assert all(sum(best["probability"] for best in row["top"]) == pytest.approx(1.0) for row in rows)


def test_a_pair_is_heard_and_seen(taught, files, monkeypatch):
    seen = []
    real = Runtime.predict_batch
    monkeypatch.setattr(Runtime, "predict_batch", lambda self, batch: seen.extend(batch) or real(self, batch))
    answer("predict", files["sound"], files["picture"])
    answer("predict", files["sound"])
    assert [sample.frames is None for sample in seen] == [False, True]
    assert all(sample.audio is not None for sample in seen)


def test_windows_overlap_where_asked(taught, files):
    rows = answer("predict", files["long"], "--window-s", 2, "--hop-s", 1.5)["predictions"]
    assert [(row["start_s"], row["end_s"]) for row in rows] == [
        (0.0, 2.0),
        (1.5, 3.5),
        (3.0, 5.0),
        (4.5, 6.5),
        (6.0, 7.0),
    ]


def test_few_windows_are_in_memory_at_once(taught, tmp_path, monkeypatch):
    sizes = []
    real = Runtime.predict_batch
    monkeypatch.setattr(Runtime, "predict_batch", lambda self, batch: sizes.append(len(batch)) or real(self, batch))
    sound = write_sound(tmp_path / "long.wav", tone(10.0))
    rows = answer("predict", sound, "--window-s", 0.5)["predictions"]
    assert len(rows) == sum(sizes) == 20
    assert max(sizes) == predict.BATCH


def test_the_picture_of_a_pair_belongs_to_every_window(taught, tmp_path, monkeypatch):
    seen = []
    real = Runtime.predict_batch
    monkeypatch.setattr(Runtime, "predict_batch", lambda self, batch: seen.extend(batch) or real(self, batch))
    write_sound(tmp_path / "a.wav", tone(3.0))
    write_picture(tmp_path / "a.png")
    answer("predict", tmp_path / "a.wav", tmp_path / "a.png", "--window-s", 1)
    assert [sample.frames is not None for sample in seen] == [True, True, True]


@pytest.mark.parametrize("top", [1, 2, 9])
def test_top_classes_come_best_first(taught, files, top):
    best = answer("predict", files["sound"], "--top", top)["predictions"][0]["top"]
    assert len(best) == min(top, 2)
    assert [one["probability"] for one in best] == sorted((one["probability"] for one in best), reverse=True)


def test_the_result_as_text(taught, files):
    lines = run("predict", files["sound"], files["long"]).stdout.splitlines()
    assert lines[0].split() == ["file", "seconds", "classes"]
    assert lines[1].startswith("long.flac  0.0 - 5.0  ")
    assert lines[3].startswith("pair.wav ")
    assert lines[1].count("%") == 2


def test_a_pack_and_a_bundle_need_no_workspace(taught, files, monkeypatch, tmp_path):
    pack, bundle = Workspace(taught).current_pack(), Workspace(taught).bundle_path
    with_workspace = answer("predict", files["sound"], "--pack", pack.name[:8])
    monkeypatch.setenv("MMCL_EDGE_HOME", str(tmp_path / "none"))
    without = answer("predict", files["sound"], "--pack", pack, "--bundle", bundle)
    assert with_workspace == without
    assert not (tmp_path / "none").exists()


def test_predicting_changes_nothing(taught, files):
    before = snapshot(taught)
    answer("predict", *files.values())
    assert snapshot(taught) == before


def _zero_bytes(path):
    path.write_bytes(b"")


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _noise(path):
    path.write_bytes(bytes(range(256)) * 8)


def _nan(path):
    soundfile.write(path, np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")


def _too_short(path):
    write_sound(path, tone(0.01))


def _missing(path):
    path.unlink()


def _folder(path):
    path.unlink()
    path.mkdir()


BAD_FILES = {
    "missing": ("sound", _missing, "there is none; check the path"),
    "a folder": ("sound", _folder, "it is a folder"),
    "sound of no bytes": ("sound", _zero_bytes, "empty (0 bytes)"),
    "sound cut in half": ("sound", _cut, "truncated"),
    "sound of NaN": ("sound", _nan, "NaN or infinity"),
    "sound too short": ("sound", _too_short, "at least 0.05 s"),
    "not a sound": ("sound", _noise, "pair.wav"),
    "picture of no bytes": ("picture", _zero_bytes, "empty (0 bytes)"),
    "picture cut in half": ("picture", _cut, "pair.png"),
    "not a picture": ("picture", _noise, "pair.png"),
    "video of no bytes": ("video", _zero_bytes, "empty (0 bytes)"),
    "video cut in half": ("video", _cut, "clip.mp4"),
}


@pytest.mark.parametrize(("name", "spoil", "words"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files_are_refused(taught, files, name, spoil, words):
    spoil(files[name])
    before = snapshot(taught)
    result = run("predict", *files.values())
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    error = json.loads(run("predict", files[name], "--json").stdout)["error"]
    assert error["exit_code"] == 2
    assert snapshot(taught) == before


BAD_OPTIONS = {
    "no files": ([], "Missing argument"),
    "no classes": (["FILE", "--top", 0], "--top"),
    "no window": (["FILE", "--window-s", 0], "--window-s"),
    "endless window": (["FILE", "--window-s", "inf"], "--window-s"),
    "window that is not a number": (["FILE", "--window-s", "nan"], "not a finite number"),
    "no hop": (["FILE", "--hop-s", 0], "--hop-s"),
    "hop that is not a number": (["FILE", "--hop-s", "nan"], "not a finite number"),
    "unknown provider": (["FILE", "--provider", "abacus"], "should be one of auto"),
    "provider that is not here": (["FILE", "--provider", "tensorrt"], "'tensorrt' was asked for"),
    "unknown pack": (["FILE", "--pack", "0" * 8], "fits 0 of 1 packs"),
    "a folder that is no pack": (["FILE", "--pack", "FOLDER"], "pack.json"),
    "a folder that is no bundle": (["FILE", "--bundle", "FOLDER"], "bundle.json"),
}


@pytest.mark.parametrize(("arguments", "words"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options_are_refused(taught, files, tmp_path, arguments, words):
    places = {"FILE": files["sound"], "FOLDER": tmp_path}
    result = run("predict", *(places.get(argument, argument) for argument in arguments))
    refused(result, words)


def test_an_unknown_extension(taught, tmp_path):
    (tmp_path / "notes.md").write_text("no sound")
    refused(run("predict", tmp_path / "notes.md"), "expected one of .wav", "'.md'")


def test_a_text_for_a_bundle_that_reads_none(taught, tmp_path):
    (tmp_path / "notes.txt").write_text("no sound")
    refused(run("predict", tmp_path / "notes.txt"), "Expected a sample with audio or frames, but notes.txt has none")


def test_nothing_learned_yet(home, files):
    refused(run("predict", files["sound"]), "nothing has been learned yet", "mmcl-edge adapt'")


def test_without_a_workspace(tmp_path, files, monkeypatch):
    monkeypatch.setenv("MMCL_EDGE_HOME", str(tmp_path / "none"))
    refused(run("predict", files["sound"]), "Expected a workspace", "mmcl-edge init")
    assert not (tmp_path / "none").exists()


def test_a_pack_made_for_another_bundle(taught, files, tmp_path):
    digest = write_pack(tmp_path, pack_contents())
    refused(run("predict", files["sound"], "--pack", tmp_path / digest), "made for the bundle")
