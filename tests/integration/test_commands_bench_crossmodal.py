"""``mmcl-edge bench crossmodal`` as a person runs it: a tiny bundle, a set of stamps and one of classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmcl_edge.benchmark.crossmodal.records import read_runs, read_timings
from mmcl_edge.benchmark.crossmodal.tasks import read_task
from mmcl_edge.types import TEXT
from tests.conftest import TinyBundle
from tests.integration.commands import answer, refused, run
from tests.predicting import picture, sound

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

TRAIN, TEST = 12, 6
COLUMNS = "id,category,caption,image,sound,speech_recorded,speech_synth,split,group,synth_voice,synth_wpm"
WORDS = ("red", "blue", "dog", "cat", "bird", "night", "loud", "cafe", "sings", "barks")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stamps whose pictures and sounds follow from their number, and av21 of three classes."""
    root = tmp_path_factory.mktemp("data")
    lines = [COLUMNS]
    for number in range(TRAIN + TEST):
        name, caption = f"s{number}", f"{WORDS[number % 10]} {WORDS[(3 * number + 1) % 10]} {WORDS[number // 2]}"
        files = [f"image/{name}.png", *(f"{kind}/{name}.wav" for kind in ("sound", "speech_recorded", "speech_synth"))]
        for kind, file in enumerate(files):
            media(root / "stamps" / file, number, kind)
        split = "train" if number < TRAIN else "test"
        lines.append(f"{name},{'ab'[number % 2]},{caption},{','.join(files)},{split},g{number},,")
    (root / "stamps" / "index.csv").write_text("\n".join(lines) + "\n")
    lines = ["id,class,split,group"]
    for number in range(12):
        label, split = ("sea_waves", "dog", "cat")[number % 3], "train" if number < 6 else "test"
        lines.append(f"c{number},{label},{split},g{number}")
        folder = root / "av21" / split / label
        for kind, suffix in enumerate((".jpg", ".flac")):
            media(folder / f"c{number}{suffix}", number % 3, kind)
    (root / "av21" / "index.csv").write_text("\n".join(lines) + "\n")
    return root


def media(path: Path, number: int, kind: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == 0:
        Image.fromarray(np.asarray(picture(1, seed=number))[0]).save(path)
    else:
        soundfile.write(path, sound(0.3, seed=10 * kind + number), 16_000)


def test_a_task_is_what_the_index_says(data: Path):
    stamps = read_task("stamps", data)
    assert {name: len(view) for name, view in stamps.train.items()} == {"image": 12, "sound": 12, "speech": 24}
    assert {name: len(view) for name, view in stamps.test.items()} == {TEXT: 6, "image": 6, "sound": 6, "speech": 12}
    sample = stamps.test["sound"].samples[0]
    assert (sample.frames, sample.text) == (None, stamps.test[TEXT].captions[0])
    av21 = read_task("av21", data)
    assert av21.names == {"sea_waves": "sea waves", "dog": "dog", "cat": "cat"}
    assert set(av21.train["image"].captions) == {"sea waves", "dog", "cat"}
    assert [sample.audio for sample in av21.train["image"].samples] == [None] * 6


def test_it_runs_writes_the_page_and_goes_on(tiny: TinyBundle, data: Path, tmp_path: Path):
    bundle, out = tiny("captioned").path, tmp_path / "out"
    asked = ("bench", "crossmodal", "--bundle", bundle, "--data", data, "--out", out, "--workers", 1, "--seeds", 1)
    first = answer(*asked, "--tasks", "stamps,av21", "--learners", "comet-ridge")
    assert (first["done"], first["skipped"], first["failed"]) == (5, 0, [])
    assert not (tmp_path / "docs").exists()
    taken = read_timings(out)
    assert taken is not None
    assert [stage.pairs for stage in taken.cold] == [12, 24]

    second = answer(*asked, "--tasks", "av21", "--learners", "comet-ridge,comet-joint", "--docs", tmp_path / "docs")
    assert (second["done"], second["skipped"]) == (2, 2)
    assert read_timings(out) == taken, "taken once"
    page = (tmp_path / "docs" / "crossmodal.md").read_text()
    assert "comet-joint" in page
    assert str(tmp_path) not in page + (out / "report.html").read_text()
    words = {one["asked"]: one["verdict"] for one in second["targets"]}
    assert words["a query among 10,000 items: at most 10 ms"] in ("met", "missed")
    assert words["stamps, unseen pairs: above chance"] == "not measured", "ours did not run"
    records = read_runs(out)
    assert len(records) == 7
    assert {len(one.stages) for one in records if one.learner == "comet-joint"} == {1}
    assert all(Path(str(part)).name == str(part) for one in records for part in one.made_by["command"].split())

    again = run("bench", "crossmodal", "--out", out, "--page-only")
    assert again.exit_code == 0, again.output
    assert again.stdout.splitlines()[0].startswith("0 runs made")
    assert f"report {out / 'report.html'}" in again.stdout


def test_a_run_comes_out_the_same_again(tiny: TinyBundle, data: Path, tmp_path: Path):
    def stages(folder: Path) -> list[object]:
        asked = ("--tasks", "av21", "--learners", "comet", "--seeds", 1, "--workers", 1, "--no-timings")
        answer("bench", "crossmodal", "--bundle", tiny("captioned").path, "--data", data, "--out", folder, *asked)
        found = [json.loads(one.model_dump_json()) for record in read_runs(folder) for one in record.stages]
        return [{name: value for name, value in one.items() if name != "train_s"} for one in found]

    assert stages(tmp_path / "one") == stages(tmp_path / "other")
    assert read_timings(tmp_path / "one") is None


def test_what_cannot_be_run_is_said(tiny: TinyBundle, data: Path, tmp_path: Path):
    asked = ("bench", "crossmodal", "--out", tmp_path / "out", "--data", data, "--no-timings", "--workers", 1)
    refused(run(*asked, "--bundle", tiny("captioned").path, "--tasks", "birds"), "stamps, av21, digits", "birds")
    refused(run(*asked, "--bundle", tiny("captioned").path, "--learners", "nobody"), "comet-joint", "nobody")
    refused(run(*asked, "--bundle", tiny("captioned").path, "--tasks", "digits"), "digits/index.csv")
    refused(run(*asked, "--page-only"), "there is none", "bench crossmodal")
    refused(run(*asked, "--bundle", tiny("cnn").path, "--tasks", "av21"), "backbone for text")
    assert not (tmp_path / "out" / "report.html").exists()
