"""The guide to the shared space does what it says: its lines in order, as they stand, and its program."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from mmcl_edge.runtime.workspace import HOME_VARIABLE
from tests.conftest import TinyBundle
from tests.integration.commands import run
from tests.integration.test_adapt_pairs import CAPTIONS, write_pairs
from tests.integration.test_data_makers import write_picture, write_video

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "shared-space.md"
ON_A_WORKSTATION = ("pip install", "mmcl-edge export")


def lines() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    every = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [line for line in every if not line.startswith(ON_A_WORKSTATION)]


@pytest.fixture
def here(tiny: TinyBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the guide is read in, with all the files that it speaks of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    Path("bundle").symlink_to(tiny("captioned").path)
    for folder, modality in (("photos", "image"), ("voices", "speech"), ("sounds", "sound")):
        write_pairs(Path(folder), modality)
    table = ["file,caption", *(f"speech_{number}.wav,{caption}" for number, caption in enumerate(CAPTIONS))]
    for note in Path("voices").glob("*.txt"):
        note.unlink()
    Path("voices/captions.csv").write_text("\n".join(table))
    for folder in ("clips", "things", "album", "memos"):
        Path(folder).mkdir()
    for number, caption in enumerate(CAPTIONS):
        write_video(Path(f"clips/{number}.mp4"), duration_s=0.5 + 0.2 * number)
        Path(f"clips/{number}.txt").write_text(caption)
        shutil.copy(f"photos/image_{number}.png", f"things/{number}.png")
        shutil.copy(f"sounds/sound_{number}.wav", f"things/{number}.wav")
        shutil.copy(f"photos/image_{number}.png", "album")
        shutil.copy(f"voices/speech_{number}.wav", "memos")
    shutil.copy("voices/speech_3.wav", "question.wav")
    write_picture(Path("photo.jpg"))
    return tmp_path


def test_every_line_of_the_guide_runs(here: Path, capsys: pytest.CaptureFixture[str]):
    said = []
    for line in lines():
        words = shlex.split(line)
        assert words[0] == "mmcl-edge", line
        result = run(*words[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"
        said.append(result.stdout)
    assert len(said) == 12
    text = "\n".join(said)
    for word in ("Learned video through text", "Learned sound through image", "8 items (8 speech)", "photos"):
        assert word in text
    (program,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    capsys.readouterr()
    exec(compile(program, GUIDE.name, "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert [line.endswith(".png") for line in printed] == [True, True, True, False]
    assert printed[-1] == "('text', 'image', 'speech', 'sound', 'video')"
