"""Pairs, packs and indexes that cannot be used: one sentence, the right exit code, and everything as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mmcl_edge.runtime.workspace import HOME_VARIABLE, Workspace
from tests.builders import snapshot
from tests.conftest import TinyBundle
from tests.integration.commands import answer, refused, run
from tests.integration.test_adapt_pairs import CAPTIONS, write_pairs

QUICK = ("--epochs", 1, "--threads", 1)
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, tiny: TinyBundle) -> Path:
    """A folder with pairs of each kind, and a workspace ``home`` that has learned ``image`` and indexed its files."""
    root = tmp_path_factory.mktemp("space")
    Workspace(root / "home").create().install_bundle(tiny("captioned").path)
    for modality in ("image", "speech"):
        write_pairs(root / modality, modality)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME_VARIABLE, str(root / "home"))
        answer("adapt", "--modality", "image", "--data", root / "image", *QUICK)
        answer("index", "build", root / "image", "--threads", 1)
    return root


@pytest.fixture
def place(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ``template`` of the test's own, its workspace in use."""
    shutil.copytree(template, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    return tmp_path


def unharmed(place: Path, arguments: tuple[object, ...], *words: str) -> str:
    """The command is refused with ``words``, in one sentence, and the workspace is as before; what it said."""
    before = snapshot(place / "home")
    result = run(*arguments)
    refused(result, *words)
    assert snapshot(place / "home") == before
    sentences = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(sentences) == 1, result.stderr
    assert sentences[0].endswith("."), sentences
    return result.stderr


def table(*lines: str, encoding: str = "utf-8") -> Change:
    """Captions come from a table with these lines instead."""

    def change(folder: Path) -> None:
        for note in folder.glob("*.txt"):
            note.unlink()
        (folder / "captions.csv").write_bytes("\n".join(lines).encode(encoding))

    return change


def every(pattern: str, do: Callable[[Path], object]) -> Change:
    """Something is done to every file of a pattern."""
    return lambda folder: [do(path) for path in sorted(folder.glob(pattern))]


def keep(*numbers: int) -> Change:
    """Pairs of these numbers alone are left."""
    kept = {f"image_{number}" for number in numbers}
    return every("*", lambda path: None if path.stem in kept else path.unlink())


HEAD = "file,caption"
FOLDERS: dict[str, tuple[Change, tuple[str, ...]]] = {
    "no folder": (shutil.rmtree, ("Expected a pair folder", "but there is none; make it or pass --data")),
    "an empty folder": (keep(), ("at least 2 pairs of image and text", "found 0, with 0 files in no pair")),
    "no texts": (every("*.txt", Path.unlink), ("found 0, with 8 files in no pair", "image_0.png: no caption", "DIR/")),
    "texts alone": (every("*.png", Path.unlink), ("found 0", "image_0.txt: a caption without its file")),
    "one pair": (keep(3), ("at least 2 pairs of image and text", "found 1")),
    "files of another modality": (
        every("*.png", lambda path: path.rename(path.with_suffix(".wav"))),
        ("image_0.wav: not a file of image",),
    ),
    "a table of files that are gone": (table(HEAD, "image_0.png,a", "gone.png,b"), ("line 3", "gone.png is not there")),
    "a table without lines": (table(HEAD), ("found 0, with 8 files in no pair", "image_0.png: no caption")),
    "an empty table": (table(), ("found 0, with 8 files in no pair",)),
    "a table of one line": (table(HEAD, "image_0.png,a"), ("found 1, with 7 files in no pair",)),
    "a table without columns": (table("name,text", "image_0.png,a"), ("line 2", "a column 'file'", "correct it")),
    "a line without a caption": (table(HEAD, "image_0.png"), ("line 2", "a column 'caption'", "correct it")),
    "a table that leads out": (table(HEAD, "../image_0.png,a"), ("line 2", "relative path", "'../image_0.png'")),
    "a table of paths": (table(HEAD, "/etc/hostname,a"), ("line 2", "relative path", "'/etc/hostname'")),
    "a quote that is not closed": (table(HEAD, 'image_0.png,"a', "image_1.png,b"), ("CSV table", "correct it")),
    "a blank cell": (table(HEAD, "image_0.png,a", "image_1.png,  "), ("line 3", "caption of image_1.png", "empty;")),
    "an invisible cell": (table(HEAD, "image_0.png,\u200b\u2060"), ("line 2", "it is empty ('\\u200b\\u2060')")),
    "a table in Latin-1": (table(HEAD, "image_0.png,caf\xe9", encoding="latin-1"), ("UTF-8", "save it as UTF-8")),
    "a table in UTF-16": (table(HEAD, "image_0.png,caf\xe9", encoding="utf-16"), ("UTF-8", "save it as UTF-8")),
    "an empty text": (lambda folder: _write(folder, b""), ("caption of image_3.png", "it is empty;", "remove both")),
    "a blank text": (lambda folder: _write(folder, b"\n \t\n"), ("caption of image_3.png", "it is empty;")),
    "an invisible text": (
        lambda folder: _write(folder, "\u200b\n".encode()),
        ("image_3.txt", "it is empty ('\\u200b')"),
    ),
    "one invisible line": (lambda folder: _write(folder, "a\n\u200b".encode()), ("image_3.txt, line 2", "it is empty")),
    "control characters": (lambda folder: _write(folder, b"\0\x01"), ("image_3.txt", "it is empty")),
    "a text in Latin-1": (lambda folder: _write(folder, b"caf\xe9"), ("image_3.txt", "save it as UTF-8")),
    "a picture as text": (lambda folder: _write(folder, b"\xff\xd8\xff\xe0"), ("image_3.txt", "UTF-8")),
    "a text too long": (lambda folder: _write(folder, b"a" * 10_001), ("at most 10,000 characters", "it has 10,001")),
    "a book": (lambda folder: _write(folder, b"a line\nanother\n" * 500), ("at most 100 captions", "on one line")),
    "one text for all": (
        every("*.txt", lambda path: path.write_text("the same")),
        ("show different things, but all 8 have the same text",),
    ),
    "corrupt files": (
        every("*.png", lambda path: path.write_bytes(b"junk")),
        ("at least 2 pairs of image and text that can be decoded", "found 0, and 8 that cannot; the first: "),
    ),
    "truncated files": (
        every("*.png", lambda path: path.write_bytes(path.read_bytes()[:60])),
        ("found 0, and 8 that cannot", "replace it with a whole one or remove it"),
    ),
    "a link that leads out": (
        lambda folder: (folder / "link.png").symlink_to("/etc/hostname"),
        ("link that leads out; copy it there",),
    ),
}


def _write(folder: Path, text: bytes) -> None:
    (folder / "image_3.txt").write_bytes(text)


@pytest.mark.parametrize("harm", FOLDERS)
def test_a_folder_that_cannot_be_learned_from_is_refused(place: Path, harm: str):
    change, words = FOLDERS[harm]
    change(place / "image")
    unharmed(place, ("adapt", "--modality", "image", "--data", place / "image", *QUICK), *words)


def test_what_is_in_no_pair_is_told_and_the_rest_is_learned(place: Path):
    folder = place / "image"
    (folder / "image_0.txt").unlink()
    (folder / "image_1.png").unlink()
    (folder / "image_2.png").write_bytes(b"junk")
    told = answer("adapt", "--modality", "image", "--data", folder, *QUICK)
    assert told["train_samples"] + told["holdout_samples"] == len(CAPTIONS) - 3
    assert any("image_0.png" in text and "2 files are in no pair" in text for text in told["warnings"])
    assert told["skipped"] == 1
    assert "image_2.png" in told["skipped_files"][0]


USAGE: dict[str, tuple[tuple[object, ...], tuple[str, ...]]] = {
    "an unknown modality": (("--modality", "smell"), ("'smell' is not one of 'text', 'image'",)),
    "an unknown mediator": (
        ("--modality", "speech", "--mediator", "smell"),
        ("'smell' is not one of 'text', 'image'",),
    ),
    "the mediator itself": (("--modality", "text"), ("'text' is the mediator itself; name another: image",)),
    "the modality as mediator": (("--modality", "image", "--mediator", "image"), ("'image' is the mediator itself",)),
    "one backbone for both": (("--modality", "speech", "--mediator", "sound"), ("same backbone (audio)",)),
    "text as what is taught": (("--modality", "text", "--mediator", "image"), ("teach image through text instead",)),
    "no backbone": (("--modality", "motion"), ("a backbone for motion", "has audio, frames, text; export one with it")),
    "a mediator that the space lacks": (
        ("--modality", "image", "--mediator", "sound"),
        ("knows (text, image), but sound is not one of them", "new workspace"),
    ),
    "a task too": (("--modality", "image", "--task", "birds"), ("either --task NAME or --modality M",)),
    "a learner": (("--modality", "image", "--learner", "analytic"), ("--learner belongs to --task; leave it out",)),
    "a placement": (("--modality", "image", "--placement", "ladder"), ("--placement belongs to --task",)),
    "exemplars": (("--modality", "image", "--memory-exemplars", 5), ("--memory-exemplars belongs to --task",)),
    "a time": (("--modality", "image", "--max-minutes", 5), ("--max-minutes belongs to --task",)),
    "no epochs": (("--modality", "image", "--epochs", 0), ("'--epochs': 0 is not in the range",)),
    "a mediator for a task": (("--task", "birds", "--mediator", "text"), ("--mediator goes with --modality",)),
}


@pytest.mark.parametrize("wrong", USAGE)
def test_a_command_that_cannot_be_is_refused(place: Path, wrong: str):
    arguments, words = USAGE[wrong]
    before = snapshot(place / "home")
    refused(run("adapt", "--data", place / "speech", *arguments), *words)
    assert snapshot(place / "home") == before


def test_a_modality_without_data_is_refused(place: Path):
    refused(run("adapt", "--modality", "image"), "Expected the folder of pairs", "name it with --data DIR")


def test_a_bundle_without_text_is_refused(place: Path, tiny: TinyBundle, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(HOME_VARIABLE, str(place / "bare"))
    Workspace(place / "bare").create().install_bundle(tiny().path)
    asked = ("adapt", "--modality", "image", "--data", place / "image", *QUICK)
    refused(run(*asked), "a backbone for text", "this one has audio, frames; export one with it")


def test_a_space_that_begins_without_text_says_so(place: Path, tiny: TinyBundle, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(HOME_VARIABLE, str(place / "other"))
    Workspace(place / "other").create().install_bundle(tiny("captioned").path)
    for path in (place / "image").glob("*.png"):
        shutil.copy(path, place / "speech" / path.name.replace("image", "speech"))
    answer("adapt", "--modality", "speech", "--mediator", "image", "--data", place / "speech", *QUICK)
    asked = ("adapt", "--modality", "image", "--data", place / "image", *QUICK)
    refused(run(*asked), "knows (image, speech), but text is not one of them")
    answer("index", "build", place / "speech", "--threads", 1)
    refused(run("index", "query", "a red dog"), "begun without it, through image, so use files of those")
    refused(run("index", "query", place / "speech" / "speech_0.wav"), "--modality sound --mediator image")


def test_a_pack_for_another_bundle_is_refused(place: Path, tiny: TinyBundle, monkeypatch: pytest.MonkeyPatch):
    pack = Workspace(place / "home").current_pack()
    other = place / "else"
    monkeypatch.setenv(HOME_VARIABLE, str(other / "home"))
    Workspace(other / "home").create().install_bundle(tiny().path)
    words = ("was made for the bundle", "use a pack made for this one")
    unharmed(other, ("pack", "use", pack), *words)
    unharmed(other, ("index", "build", place / "image", "--pack", pack), *words)
    unharmed(other, ("index", "query", "a red dog", "--pack", pack, "--index", place / "home" / "index"), *words)


def test_a_truncated_pack_is_refused(place: Path):
    cut = place / "cut"
    shutil.copytree(Workspace(place / "home").current_pack(), cut)
    (tensors,) = cut.glob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-200])
    for arguments in (("index", "query", "a red dog", "--pack", cut), ("pack", "use", cut)):
        unharmed(place, arguments, "should have", "fetch it again")


def test_a_pack_in_use_that_was_truncated_teaches_nothing_more(place: Path):
    (tensors,) = Workspace(place / "home").current_pack().glob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-200])
    asked = ("adapt", "--modality", "speech", "--data", place / "speech", *QUICK)
    unharmed(place, asked, "should have", "fetch it again")
    unharmed(place, ("index", "query", "a red dog"), "should have", "fetch it again")


def test_an_index_older_than_the_space_is_refused_until_it_is_built_again(place: Path):
    answer("adapt", "--modality", "speech", "--data", place / "speech", *QUICK)
    unharmed(place, ("index", "query", "a red dog"), "index build")
    built = answer("index", "build", place / "image", "--threads", 1)
    assert (built["made_anew"], built["items"]) == (True, 16)
    assert len(answer("index", "query", "a red dog", "--modality", "image")["hits"]) == 5


def test_an_index_of_another_bundle_is_refused(place: Path):
    index = place / "home" / "index" / "index.json"
    bundle = answer("index", "info")["bundle"]
    index.write_text(index.read_text().replace(bundle, "f" * 64))
    unharmed(place, ("index", "query", "a red dog"), "made with the bundle ffff", "run 'mmcl-edge index build'")


QUERIES: dict[str, tuple[tuple[object, ...], tuple[str, ...]]] = {
    "as what was not taught": (
        ("speech/speech_0.wav", "--as", "speech"),
        ("(text, image), but speech was not taught",),
    ),
    "a sound that was not taught": (("speech/speech_0.wav",), ("sound was not taught", "adapt --modality sound")),
    "for what was not taught": (("a dog", "--modality", "speech"), ()),
    "nothing": (("",), ("the query is empty; say what to look for",)),
    "nothing to be seen": (("\u200b",), ("the query is empty; say what to look for",)),
    "a file that is gone": (("gone.png",), ("Expected a file at gone.png", "check the path")),
    "words as speech": (("a dog", "--as", "speech"), ("Expected a file at a dog",)),
    "a picture as speech": (("image/image_0.png", "--as", "speech"), ("Expected a file of speech", "is not one")),
    "a corrupt file": (("junk.png",), ("junk.png", "replace it with a whole one or remove it")),
    "an index that is not there": (("a dog", "--index", "gone"), ("gone, but there is none; run 'mmcl-edge index",)),
}


@pytest.mark.parametrize("wrong", QUERIES)
def test_a_query_that_cannot_be_answered(place: Path, wrong: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(place)
    Path("junk.png").write_bytes(b"junk")
    arguments, words = QUERIES[wrong]
    if words:
        unharmed(place, ("index", "query", *arguments), *words)
    else:
        assert answer("index", "query", *arguments)["hits"] == []


def test_files_that_the_space_was_not_taught_are_left_out_and_named(place: Path):
    for path in (place / "speech").glob("*.wav"):
        shutil.copy(path, place / "image")
    told = run("index", "build", place / "image", "--threads", 1)
    assert told.exit_code == 0
    assert "left out, for the space was not taught them (mmcl-edge adapt --modality): 8 sound" in told.stdout
    alone = place / "sounds"
    alone.mkdir()
    shutil.copy(place / "speech" / "speech_0.wav", alone)
    asked = ("index", "build", alone, "--out", place / "out")
    unharmed(place, asked, "(text, image), but found 1 of sound", "say what the files are with --modality")
    unharmed(place, (*asked, "--modality", "speech"), "(text, image), but found 1 of speech")


def test_without_a_pack_the_sentence_says_how_to_begin(place: Path, tiny: TinyBundle, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(HOME_VARIABLE, str(place / "new"))
    Workspace(place / "new").create().install_bundle(tiny("captioned").path)
    refused(run("index", "build", place / "image"), "nothing has been learned yet", "mmcl-edge adapt")
    refused(run("index", "query", "a dog"), "Expected an index at", "mmcl-edge index build")
