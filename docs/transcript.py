"""Runs the commands that README shows, and puts what they print into it.

python docs/transcript.py            run; if the output has the shape README shows, put it there, else fail with a diff
python docs/transcript.py --accept   put it there whatever its shape

The shape is everything but numbers, digests, and which class comes second. Takes minutes; needs every extra.
"""

import difflib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
import soundfile

README = Path(__file__).resolve().parents[1] / "README.md"
PICTURE = README.parent / "docs" / "quickstart-accuracy.png"
BEGIN, END = "<!-- transcript: made by docs/transcript.py -->", "<!-- end of transcript -->"
RATE_HZ = 16_000
COMMANDS = (
    "mmcl-edge quickstart",
    'export MMCL_EDGE_HOME="$PWD"/quickstart-home/workspace',
    "mmcl-edge predict quickstart-home/samples/test/digits_7_9/seven/seven_000.*",
    "mmcl-edge adapt --task alarms --data alarms",
    "mmcl-edge predict today.wav --window-s 1",
    "mmcl-edge pack list",
    "mmcl-edge pack rollback",
)


@click.command()
@click.option("--accept", is_flag=True, help="Write README even if the shape changed.")
def main(accept: bool) -> None:
    """Run the commands and put their output into README."""
    shown, picture = transcript()
    new = f"\n```console\n{shown}\n```\n"
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    old, after = rest.split(END)
    diff = list(difflib.unified_diff(shape(old), shape(new), "README.md", "now", lineterm=""))
    if diff and not accept:
        raise SystemExit("\n".join(["The output's shape changed; look at it, then run with --accept:", *diff]))
    README.write_text(f"{before}{BEGIN}{new}{END}{after}", encoding="utf-8")
    PICTURE.write_bytes(picture)


def transcript() -> tuple[str, bytes]:
    """Commands and their output, run in a fresh folder, and the picture they made."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        write_alarms(folder)
        text = "\n".join(output(command, folder) for command in COMMANDS)
        return text.rstrip(), (folder / "quickstart-home" / "accuracy.png").read_bytes()


def output(command: str, folder: Path) -> str:
    """One command with what it prints on stdout; progress, on stderr, is left out."""
    if command.startswith("export"):
        return f"$ {command}"
    home = {"MMCL_EDGE_HOME": str(folder / "quickstart-home" / "workspace")}
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command, shell=True, cwd=folder, env={**os.environ, **home, **path}, text=True, capture_output=True
    )
    if done.returncode:
        raise SystemExit(f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return f"$ {command}\n{done.stdout.rstrip()}\n"


def shape(text: str) -> list[str]:
    """The lines without what may differ from run to run and from machine to machine."""
    text = re.sub(r"\b[0-9a-f]{16,}\b", "DIGEST", text)
    text = re.sub(r"\b\w+ \d+\.\d %", "CLASS 0 %", text)
    text = re.sub(r"-?\d+(\.\d+)?", "0", text)
    return [re.sub(r"\s+", " ", line) for line in text.strip().splitlines()]


def write_alarms(folder: Path) -> None:
    """A task folder of two synthetic alarms (sound only), and a recording of one after the other."""
    generator = np.random.default_rng(0)
    for label in ("siren", "beeps"):
        (folder / "alarms" / label).mkdir(parents=True)
        for number in range(10):
            soundfile.write(folder / "alarms" / label / f"{number}.wav", alarm(label, generator), RATE_HZ)
    soundfile.write(
        folder / "today.wav", np.concatenate([alarm("siren", generator), alarm("beeps", generator)]), RATE_HZ
    )


def alarm(label: str, generator: np.random.Generator) -> np.ndarray:
    """One second: a siren glides up and down, beeps go on and off; pitch, speed and noise vary."""
    time_s = np.arange(RATE_HZ) / RATE_HZ
    pitch_hz, speed_hz = generator.uniform(500, 1200), generator.uniform(2, 5)
    if label == "siren":
        glide_hz = pitch_hz * (1 + 0.4 * np.sin(2 * np.pi * speed_hz * time_s))
        wave = np.sin(2 * np.pi * np.cumsum(glide_hz) / RATE_HZ)
    else:
        wave = np.sin(2 * np.pi * pitch_hz * time_s) * (np.sin(2 * np.pi * speed_hz * time_s) > 0)
    return (0.4 * wave + 0.02 * generator.standard_normal(RATE_HZ)).astype(np.float32)


if __name__ == "__main__":
    main()
