"""Bringing an index up to date with files: nothing is embedded twice, nothing that is gone stays, a cut goes on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mmcl_edge.errors import InputError
from mmcl_edge.runtime.index import VectorIndex
from mmcl_edge.runtime.index_build import Report, update_index
from mmcl_edge.runtime.index_items import Origin
from mmcl_edge.runtime.index_sources import common_root, find_files
from mmcl_edge.types import Sample
from tests.integration.test_data_makers import gradient, tone, write_picture, write_sound

ORIGIN = Origin("a" * 64, 1, "b" * 64)


class Histograms:
    """Embeds by what is in a sample: equal content, equal direction. Counts what it was asked."""

    def __init__(self, *, refuses: str = "") -> None:
        self.asked: list[str] = []
        self.refuses = refuses

    def embed(self, samples: Sequence[Sample], modality: str) -> np.ndarray:
        if any(self.refuses and self.refuses in sample.source for sample in samples):
            raise InputError(f"{samples[0].source}: expected something else.")
        self.asked += [f"{modality}:{sample.source}" for sample in samples]
        return np.stack([self._one(sample) for sample in samples])

    def _one(self, sample: Sample) -> np.ndarray:
        content = next(part for part in (sample.audio, sample.frames, sample.text) if part is not None)
        data = content.encode() if isinstance(content, str) else np.ascontiguousarray(content).tobytes()
        return np.bincount(np.frombuffer(data, np.uint8), minlength=256).astype(np.float32)


def make(root: Path) -> Path:
    (root / "more").mkdir(parents=True)
    write_picture(root / "a.png")
    write_picture(root / "more/b.png", gradient(40, 40))
    write_sound(root / "more/c.wav", tone(0.2))
    (root / "d.txt").write_text("A dog.")
    (root / "table.csv").write_text("no motion")
    (root / ".hidden.png").write_bytes(b"")
    return root


def update(index: VectorIndex, root: Path, embedder: Histograms, *paths: Path, **more) -> Report:
    found = find_files(paths or [root], root, more.get("modality"))
    return update_index(index, found, embedder, **more)


def keys(index: VectorIndex) -> list[tuple[str, str]]:
    return [entry.key for entry in index.entries]


EVERYTHING = [("image", "a.png"), ("image", "more/b.png"), ("sound", "more/c.wav"), ("text", "d.txt")]


def test_files_are_embedded_once_and_found(tmp_path: Path):
    root, index, embedder = make(tmp_path), VectorIndex(ORIGIN), Histograms()
    first = update(index, root, embedder)
    assert (first.embedded, first.unchanged, first.removed, first.skipped) == (4, 0, 0, [])
    assert keys(index) == EVERYTHING
    assert sorted(embedder.asked) == sorted(f"{modality}:{source}" for modality, source in EVERYTHING)
    second = update(index, root, embedder)
    assert (second.embedded, second.unchanged) == (0, 4)
    assert len(embedder.asked) == 4
    query = embedder.embed([Sample(None, None, text="A dog.", source="q")], "text")[0]
    assert index.search(query, 1)[0].source == "d.txt"


def test_a_touched_file_is_read_and_not_embedded_a_changed_one_is(tmp_path: Path):
    root, index, embedder = make(tmp_path), VectorIndex(ORIGIN), Histograms()
    update(index, root, embedder)
    before = index.vector("text", "d.txt")
    os.utime(root / "d.txt", (1, 1))
    assert update(index, root, embedder).unchanged == 4
    assert index.get("text", "d.txt").mtime_ns == 10**9
    (root / "d.txt").write_text("A cat.")
    report = update(index, root, embedder)
    assert (report.embedded, report.unchanged, report.removed) == (1, 3, 0)
    assert not np.array_equal(index.vector("text", "d.txt"), before)


def test_what_is_gone_below_a_folder_named_is_taken_out_and_the_rest_stays(tmp_path: Path):
    root, index, embedder = make(tmp_path), VectorIndex(ORIGIN), Histograms()
    update(index, root, embedder)
    (root / "more/b.png").unlink()
    (root / "d.txt").unlink()
    assert update(index, root, embedder, root / "more").removed == 1
    assert keys(index) == [("image", "a.png"), ("sound", "more/c.wav"), ("text", "d.txt")]
    assert update(index, root, embedder, root / "a.png").removed == 0
    assert update(index, root, embedder).removed == 1


def test_one_file_may_be_there_as_two_modalities(tmp_path: Path):
    root, index, embedder = make(tmp_path), VectorIndex(ORIGIN), Histograms()
    update(index, root, embedder)
    update(index, root, embedder, modality="speech")
    assert [modality for modality, _ in keys(index)] == ["image", "image", "sound", "speech", "text"]
    assert update(index, root, embedder).removed == 0
    (root / "more/c.wav").unlink()
    assert update(index, root, embedder).removed == 2


def test_corrupt_and_refused_files_are_skipped_and_named(tmp_path: Path):
    root, index, embedder = make(tmp_path), VectorIndex(ORIGIN), Histograms(refuses="b.png")
    (root / "bad.png").write_bytes(b"\x89PNG")
    report = update(index, root, embedder)
    assert (report.embedded, sorted(source for source, _ in report.skipped)) == (3, ["bad.png", "more/b.png"])
    (root / "a.png").write_bytes(b"")
    again = update(index, root, embedder)
    assert (again.removed, ("image", "a.png") in keys(index)) == (1, False)


def test_a_modality_that_is_refused_as_a_whole_stops_and_keeps_what_was_done(tmp_path: Path):
    root, index = make(tmp_path), VectorIndex(ORIGIN)
    write_sound(root / "more/e.wav", tone(0.3))
    with pytest.raises(InputError, match=r"c\.wav: expected something else"):
        update(index, root, Histograms(refuses=".wav"))
    assert keys(index) == [("image", "a.png"), ("image", "more/b.png"), ("text", "d.txt")]


def test_a_run_that_was_cut_goes_on(tmp_path: Path):
    root, index = make(tmp_path), VectorIndex(ORIGIN)
    saved: list[list[tuple[str, str]]] = []

    class Cut(Histograms):
        def embed(self, samples, modality):
            if len(self.asked) == 2:
                raise KeyboardInterrupt
            return super().embed(samples, modality)

    with pytest.raises(KeyboardInterrupt):
        update(index, root, Cut(), batch=1, save=lambda part: saved.append(keys(part)), save_every_s=0)
    assert [len(one) for one in saved] == [1, 2]
    embedder = Histograms()
    report = update(index, root, embedder)
    assert (report.embedded, report.unchanged, len(embedder.asked)) == (2, 2, 2)
    assert keys(index) == EVERYTHING


def test_progress_counts_what_is_to_do(tmp_path: Path):
    seen: list[tuple[str, int, int]] = []
    update(VectorIndex(ORIGIN), make(tmp_path), Histograms(), batch=1, on_progress=lambda *one: seen.append(one))
    assert [(done, total) for _, done, total in seen] == [(0, 4), (1, 4), (2, 4), (3, 4)]


def test_files_are_found_below_a_root_alone(tmp_path: Path):
    root = make(tmp_path / "in")
    (tmp_path / "out.png").write_bytes(b"")
    (root / "link.png").symlink_to(tmp_path / "out.png")
    found = find_files([root, root / "a.png"], root)
    assert [file.source for file in found.files] == ["a.png", "d.txt", "more/b.png", "more/c.wav"]
    assert (found.folders, found.ignored) == (("",), 1)
    for path, words in (
        (tmp_path / "out.png", "lies elsewhere"),
        (root / "none.png", "there is none"),
        (root / "table.csv", "not one; leave"),
    ):
        with pytest.raises(InputError, match=words):
            find_files([path], root)
    with pytest.raises(InputError, match="'smell'"):
        find_files([root], root, "smell")
    assert common_root([root / "more", root / "a.png"]) == root
    assert common_root([root / "more/b.png"]) == root / "more"


def test_a_file_put_in_as_speech_stays_where_sounds_are_not_taught(tmp_path: Path):
    root, index, embedder = make(tmp_path), VectorIndex(ORIGIN), Histograms()
    update(index, root, embedder, modality="speech")
    found, others = find_files([root], root).known(("text", "image", "speech"))
    report = update_index(index, found, embedder)
    assert (others, report.removed) == ({"sound": 1}, 0)
    assert ("speech", "more/c.wav") in keys(index)
    (root / "more/c.wav").unlink()
    found, _ = find_files([root], root).known(("text", "image", "speech"))
    assert update_index(index, found, embedder).removed == 1
    assert "speech" not in index.modalities


def test_a_file_that_goes_between_listing_and_reading_is_skipped(tmp_path: Path):
    root, index, embedder = make(tmp_path), VectorIndex(ORIGIN), Histograms()
    update(index, root, embedder)
    found = find_files([root], root)
    (root / "a.png").unlink()
    report = update_index(index, found, embedder)
    assert (report.removed, report.unchanged, [source for source, _ in report.skipped]) == (1, 3, ["a.png"])
    assert keys(index) == EVERYTHING[1:]
