"""``mmcl-edge index`` with a runtime that embeds by content: what a person sees, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mmcl_edge.commands import main as table
from mmcl_edge.commands import predict
from mmcl_edge.commands.main import Entry, cli
from mmcl_edge.data.crossmodal import MODALITIES
from mmcl_edge.runtime.index_items import Origin
from mmcl_edge.runtime.retrieving import OpenIndex, retrieve
from mmcl_edge.runtime.workspace import HOME_VARIABLE, Workspace
from mmcl_edge.types import Sample
from tests.builders import snapshot
from tests.unit.test_index_build import Histograms, make


class FakeRuntime(Histograms):
    """Stands for a runtime whose pack has a shared space."""

    modalities = MODALITIES

    def __init__(self, *, space: str = "a", stages: int = 1, bundle: str = "b", refuses: str = "") -> None:
        super().__init__(refuses=refuses)
        self.origin = Origin(space * 64, stages, bundle * 64)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def modality_of(self, sample: Sample) -> str:
        raise AssertionError("nobody asks with samples here")

    def retrieve(self, query, k, *, modality, read_as, index):
        found = OpenIndex.read(index, self.origin, None)
        return retrieve(self, found, query, k, modality=modality, read_as=read_as)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRuntime:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setitem(table.COMMANDS, "index", Entry("mmcl_edge.commands.index", "Make files findable."))
    Workspace(tmp_path / "home").create()
    return use(monkeypatch, FakeRuntime())


def use(monkeypatch: pytest.MonkeyPatch, runtime: object) -> FakeRuntime:
    monkeypatch.setattr(predict, "open_runtime", lambda *arguments: runtime)
    return runtime


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["index", *map(str, arguments)])


def answer(*arguments: object) -> dict:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_build_then_query_then_info(runtime: FakeRuntime, tmp_path: Path):
    root = make(tmp_path / "files")
    built = answer("build", root)
    assert (built["items"], built["embedded"], built["ignored"], built["made_anew"]) == (4, 4, 1, True)
    assert built["modalities"] == {"image": 2, "sound": 1, "text": 1}
    assert built["index"] == str(tmp_path / "home/index")
    found = answer("query", "A dog.", "-k", 2)
    assert (found["as"], found["hits"][0]["path"], len(found["hits"])) == ("text", str(root / "d.txt"), 2)
    assert found["hits"][0]["score"] == pytest.approx(1.0)
    by_file = answer("query", root / "a.png", "--modality", "image")
    assert [hit["source"] for hit in by_file["hits"]] == ["a.png", "more/b.png"]
    told = answer("info")
    assert (told["modalities"], told["width"], told["graphs"], told["usable"]) == (built["modalities"], 256, [], None)
    assert told["root"] == str(root)


def test_it_reads_well(runtime: FakeRuntime, tmp_path: Path):
    root = make(tmp_path / "files")
    (root / "bad.png").write_bytes(b"\x89PNG")
    built = run("build", root)
    assert "4 items (2 image, 1 sound, 1 text)" in built.stdout
    assert "skipped 1, of other kinds 1" in built.stdout
    assert "bad.png" in built.stdout
    assert "Indexing" in built.stderr
    shown = run("query", root / "more/c.wav", "--as", "speech").stdout
    assert shown.splitlines()[0].split() == ["score", "modality", "file"]
    assert "Nothing found: the index has no video." in run("query", "A dog.", "--modality", "video").stdout
    assert "every search is exact" in run("info").stdout


def test_a_second_build_embeds_what_is_new_alone(runtime: FakeRuntime, tmp_path: Path):
    root, out = make(tmp_path / "files"), tmp_path / "out"
    answer("build", root, "--out", out)
    before = snapshot(out)
    again = answer("build", root, "--out", out)
    assert (again["embedded"], again["unchanged"], again["made_anew"]) == (0, 4, False)
    assert snapshot(out) == before
    (root / "e.txt").write_text("A cow.")
    (root / "a.png").unlink()
    third = answer("build", root, "--out", out)
    assert (third["embedded"], third["unchanged"], third["removed"]) == (1, 3, 1)


def test_speech_is_asked_as_speech(runtime: FakeRuntime, tmp_path: Path):
    root = make(tmp_path / "files")
    assert answer("build", root, "--modality", "speech")["modalities"] == {"speech": 1}
    assert answer("query", root / "more/c.wav", "--as", "speech")["hits"][0]["modality"] == "speech"
    assert runtime.asked == ["speech:more/c.wav", "speech:c.wav"]


def test_after_the_pack_changed_queries_are_refused_and_a_build_embeds_anew(
    runtime: FakeRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = make(tmp_path / "files")
    answer("build", root)
    use(monkeypatch, FakeRuntime(space="c", stages=2))
    before = snapshot(tmp_path / "home/index")
    result = run("query", "A dog.")
    assert (result.exit_code, snapshot(tmp_path / "home/index")) == (2, before)
    assert "is older than the pack in use" in result.stderr
    again = run("build", root / "more")
    assert "made anew" in again.stderr
    assert "dropped: 2 that the index held before" in again.stdout, "a.png and d.txt were not named again"
    assert answer("build", root / "more")["dropped"] == 0
    built = answer("info")
    assert (built["space"], built["root"], built["modalities"]) == ("c" * 64, str(root), {"image": 1, "sound": 1})


def test_a_broken_index_is_made_anew_by_a_build(runtime: FakeRuntime, tmp_path: Path):
    root = make(tmp_path / "files")
    answer("build", root)
    (tmp_path / "home/index/index.json").write_text("{")
    assert run("query", "A dog.").exit_code == 2
    assert answer("build", root)["made_anew"] is True
    assert answer("query", "A dog.")["items"] == 4


def test_an_interrupted_build_keeps_what_it_has(runtime: FakeRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = make(tmp_path / "files")
    embed = runtime.embed

    def cut(samples, modality):
        if modality == "text":
            raise KeyboardInterrupt
        return embed(samples, modality)

    monkeypatch.setattr(runtime, "embed", cut)
    result = run("build", root)
    assert result.exit_code == 130
    assert answer("info")["modalities"] == {"image": 2}
    monkeypatch.setattr(runtime, "embed", embed)
    assert (answer("build", root)["unchanged"], answer("info")["modalities"]["text"]) == (2, 1)


def test_a_build_that_embeds_nothing_leaves_no_index(runtime: FakeRuntime, tmp_path: Path):
    root = make(tmp_path / "files")
    runtime.refuses = "."
    assert run("build", root).exit_code == 2
    assert not (tmp_path / "home/index/index.json").exists()


REFUSED = {
    "nothing there": (["build", "none"], "none, but there is none"),
    "an unknown modality": (["build", ".", "--modality", "smell"], "smell"),
    "no index": (["query", "A dog."], "run 'mmcl-edge index build' first"),
    "a lost file": (["query", "lost.png"], "Expected a file at lost.png"),
    "words as speech": (["query", "A dog.", "--as", "speech"], "Expected a file at A dog."),
    "no words": (["query", "  "], "the query is empty"),
    "a picture as speech": (["query", "files/a.png", "--as", "speech"], "a file of speech to search with"),
    "a table": (["query", "files/table.csv"], "say what it is (read_as, --as)"),
    "no index to tell of": (["info"], "there is none"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(runtime: FakeRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str):
    arguments, words = REFUSED[case]
    make(tmp_path / "files")
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_another_root_is_refused(runtime: FakeRuntime, tmp_path: Path):
    one = make(tmp_path / "one")
    answer("build", one)
    assert "leave it out" in run("build", one, "--root", tmp_path).stderr


def test_a_folder_elsewhere_joins_the_index(runtime: FakeRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one, other = make(tmp_path / "files/one"), make(tmp_path / "other/more")
    assert answer("build", one)["root"] == str(one)
    both = answer("build", other)
    assert (both["items"], both["embedded"], both["removed"], both["root"]) == (8, 4, 0, str(tmp_path))
    again = answer("build", one, other)
    assert (again["items"], again["embedded"], again["unchanged"], again["root"]) == (8, 0, 8, str(tmp_path))
    paths = {hit["path"] for hit in answer("query", "A dog.", "-k", 2)["hits"]}
    assert paths == {str(one / "d.txt"), str(other / "d.txt")}
    (one / "d.txt").unlink()
    assert answer("build", one)["removed"] == 1
    use(monkeypatch, FakeRuntime(space="c", stages=2))
    third = make(tmp_path.parent / f"{tmp_path.name}_third")
    anew = answer("build", third)
    assert (anew["items"], anew["dropped"], anew["root"]) == (4, 7, str(tmp_path.parent))
    both = answer("build", third, one, other, "--root", tmp_path.parent, "--out", tmp_path / "index")
    assert (both["items"], both["root"]) == (11, str(tmp_path.parent))


def test_another_process_at_work_is_told(runtime: FakeRuntime, tmp_path: Path):
    root, out = make(tmp_path / "files"), tmp_path / "out"
    out.mkdir()
    lines = (
        "import pathlib, sys",
        "from mmcl_edge.runtime.lock import workspace_lock",
        f"with workspace_lock(pathlib.Path({str(out)!r})):",
        "    print('held', flush=True)",
        "    sys.stdin.read()",
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", "\n".join(lines)], stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout.readline() == "held\n"
        result = run("build", root, "--out", out, "--json")
        other.stdin.close()
    assert json.loads(result.stdout)["error"]["type"] == "LockedError"


@pytest.mark.parametrize("name", ["build", "query", "info"])
def test_every_command_shows_examples(runtime: FakeRuntime, name: str):
    text = run(name, "--help").stdout
    assert "Examples:" in text
    assert "--json" in text


def test_neither_the_command_nor_an_index_needs_torch():
    lines = (
        "import sys",
        "import mmcl_edge.commands.index, mmcl_edge.runtime.index_files, mmcl_edge.runtime.index_build",
        "print(sorted({'torch', 'onnxruntime', 'usearch'} & sys.modules.keys()))",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
