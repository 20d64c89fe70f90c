"""Rules of ``Bundle.open``: every broken bundle is refused with a sentence."""

import json

import pytest
from pydantic import ValidationError

from mmcl_edge.bundle import Bundle, FileEntry, inside
from mmcl_edge.errors import BundleError
from mmcl_edge.fileio import canonical_json
from tests.builders import write_bundle


def _edit(folder, change):
    manifest = json.loads((folder / "bundle.json").read_bytes())
    change(manifest)
    (folder / "bundle.json").write_bytes(canonical_json(manifest))


def _replace_by_link(folder):
    target = folder / "frames" / "stem.onnx"
    target.rename(folder / "elsewhere")
    target.symlink_to(folder / "elsewhere")


def _flip_byte(folder):
    file = folder / "frames" / "segment_00.onnx"
    file.write_bytes(b"X" + file.read_bytes()[1:])


BROKEN = {
    "no manifest": (lambda folder: (folder / "bundle.json").unlink(), "there is none"),
    "not json": (lambda folder: (folder / "bundle.json").write_text("{"), "does not parse"),
    "nested too deep": (lambda folder: (folder / "bundle.json").write_text("[" * 100_000), "does not parse"),
    "too large": (lambda folder: (folder / "bundle.json").write_bytes(b" " * (5 << 20)), "at most"),
    "a list": (lambda folder: (folder / "bundle.json").write_text("[]"), "schema version"),
    "future schema": (lambda folder: _edit(folder, lambda m: m.update(schema_version=2)), "schema version 2"),
    "unknown field": (lambda folder: _edit(folder, lambda m: m.update(extra=1)), "Extra inputs"),
    "missing field": (lambda folder: _edit(folder, lambda m: m.pop("opset")), "opset"),
    "path outside": (
        lambda folder: _edit(folder, lambda m: m["backbones"][0]["stem"].update(path="../stem.onnx")),
        "stay inside",
    ),
    "missing file": (lambda folder: (folder / "frames" / "stem.onnx").unlink(), "should contain"),
    "truncated file": (lambda folder: (folder / "frames" / "output.onnx").write_bytes(b"x"), "truncated"),
    "changed byte": (_flip_byte, "changed"),
    "link in place of a file": (_replace_by_link, "should contain"),
}


@pytest.mark.parametrize(("harm", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_bundle_is_refused(tmp_path, harm, words):
    write_bundle(tmp_path / "bundle")
    harm(tmp_path / "bundle")
    with pytest.raises(BundleError, match=words):
        Bundle.open(tmp_path / "bundle")


def test_a_whole_bundle_opens_and_has_one_digest(tmp_path):
    first, second = write_bundle(tmp_path / "a"), write_bundle(tmp_path / "b")
    assert first.digest == second.digest
    assert first.digest != write_bundle(tmp_path / "c", seed=1).digest
    assert first.manifest.modalities == ("frames",)
    assert first.manifest.trained
    assert first.file(first.manifest.backbone("frames").stem).is_file()


def test_another_bundle_than_expected_is_named(tmp_path):
    bundle = write_bundle(tmp_path / "a")
    with pytest.raises(BundleError, match=bundle.digest[:16]):
        Bundle.open(bundle.path, expected_digest="0" * 64)


def test_a_missing_modality_is_named(tmp_path):
    with pytest.raises(BundleError, match="text"):
        write_bundle(tmp_path / "a").manifest.backbone("text")


OUTSIDE = ["", "/etc/passwd", "../x", "a/../../x", "a\\b"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_paths_stay_inside(path):
    with pytest.raises(ValueError, match="stay inside"):
        inside(path)
    with pytest.raises(ValidationError):
        FileEntry(path=path, sha256="0" * 64, size_bytes=0)
