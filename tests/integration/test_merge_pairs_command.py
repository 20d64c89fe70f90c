"""``mmcl-edge merge`` on shared spaces that devices learned from pairs: one pack knows what each of them learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mmcl_edge.commands.main import Entry, MainGroup
from mmcl_edge.packs import read_pack
from mmcl_edge.runtime.adapt_pairs import adapt_pairs
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.workspace import HOME_VARIABLE, Workspace
from mmcl_edge.types import Sample
from tests.conftest import TinyBundle
from tests.integration.test_adapt_pairs import ask, write_pairs
from tests.predicting import sound


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, tiny: TinyBundle) -> dict[str, Any]:
    """A release that knows pictures, and two devices: one learned speech, the other sounds."""
    root = tmp_path_factory.mktemp("story")
    data = {name: write_pairs(root / name, name) for name in ("image", "speech", "sound")}
    bundle = tiny("captioned").path
    release = device(root / "release", bundle, None, "image", data)
    packs = [device(root / f"device-{name}", bundle, release, name, data) for name in ("speech", "sound")]
    return {"bundle": bundle, "base": release, "packs": packs, "data": data}


def device(home: Path, bundle: Path, start: Path | None, modality: str, data: dict[str, Path]) -> Path:
    """The pack of a device after it learned a modality."""
    made = Workspace(home).create()
    made.install_bundle(bundle)
    if start is not None:
        made.use_pack(made.install_pack(start))
    adapt_pairs(made, ask(modality, data[modality]))
    found = made.current_pack()
    assert found is not None
    return found


def merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *words: object) -> Result:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    group = MainGroup("mmcl-edge", entries={"merge": Entry("mmcl_edge.commands.merge", "Merge packs.")})
    return CliRunner().invoke(group, ["merge", *map(str, words)])


def test_the_merged_pack_embeds_and_is_judged_on_pairs(story, tmp_path, monkeypatch):
    out, data = tmp_path / "out", story["data"]
    asked = [f"--eval-pairs={name}={folder}" for name, folder in data.items()]
    words = (*story["packs"], "--base", story["base"], "--bundle", story["bundle"], "--tolerance", 1, "--out", out)
    result = merge(tmp_path, monkeypatch, *words, *asked, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {one["modality"] for one in found["space"]["modalities"]} == {"text", "image", "speech", "sound"}
    assert {(one["modality"]) for one in found["pairs"]["figures"]} == {"image", "speech", "sound"}
    assert len(found["pairs"]["figures"]) == 4, "pictures of two, speech and sounds of one each"
    pack = read_pack(Path(found["path"]))
    assert set(found["pairs"]["after"]) == {"image", "speech", "sound"}
    for name, value in found["pairs"]["after"].items():
        assert pack.evaluation[f"retrieval_{name}"] == pytest.approx(value, abs=1e-4)
    with Runtime.open(story["bundle"], provider="cpu", threads=1) as runtime:
        runtime.load_pack(pack.path)
        assert set(runtime.modalities) == {"text", "image", "speech", "sound"}
        voice = Sample(sound(0.5, seed=1), None)
        merged = runtime.embed([voice], "speech")
        runtime.load_pack(story["packs"][0])
        alone = runtime.embed([voice], "speech")
    assert float((merged * alone).sum()) > 0.9
    shown = merge(tmp_path, monkeypatch, *words[:-2], "--out", tmp_path / "again", *asked)
    assert shown.exit_code == 0, shown.output
    for text in ("Shared space of 2 packs", "Mean reciprocal rank on pairs", "as it was"):
        assert text in shown.output


def test_questions_that_cannot_be_asked_are_refused(story, tmp_path, monkeypatch):
    words = (*story["packs"], "--bundle", story["bundle"], "--out", tmp_path / "out")
    few = tmp_path / "few"
    few.mkdir()
    for name in sorted(story["data"]["image"].iterdir())[:4]:
        (few / name.name).write_bytes(name.read_bytes())
    cases = {
        "speech": "MODALITY=DIR",
        f"taste={story['data']['speech']}": "one of the modalities",
        f"image={tmp_path / 'nowhere'}": "there is none",
        f"image={few}": "different things or more",
    }
    for value, sentence in cases.items():
        result = merge(tmp_path, monkeypatch, *words, "--eval-pairs", value)
        assert result.exit_code != 0, value
        assert sentence in " ".join(result.output.split()), result.output
    assert not (tmp_path / "out").exists()
