"""Runs commands as a person does, on small task folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result

from mmcl_edge.commands.main import cli
from tests.integration.test_data_makers import tone, write_picture, write_sound

HZ = {"low": 200.0, "high": 3000.0, "middle": 900.0, "hum": 120.0}


def run(*arguments: object) -> Result:
    """The result of ``mmcl-edge`` with these arguments."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def answer(*arguments: object) -> Any:
    """The JSON answer of a command that succeeds."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(result: Result, *words: str) -> None:
    """The command ended with a sentence that holds ``words``, exit code 2 and no traceback."""
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    missing = [word for word in words if word not in result.stderr.replace("\n", " ")]
    assert not missing, result.stderr


def write_task(folder: Path, *classes: str, count: int = 3) -> Path:
    """A task folder: in each class ``count`` pairs of a short tone and a plain picture."""
    for label in classes:
        (folder / label).mkdir(parents=True)
        for number in range(count):
            write_pair(folder / label / f"{label}_{number}", label, number)
    return folder


def write_pair(stem: Path, label: str, number: int = 0) -> tuple[Path, Path]:
    """``stem.wav`` and ``stem.png`` of a class."""
    sound = write_sound(stem.with_suffix(".wav"), tone(0.4 + 0.05 * number, hz=HZ.get(label, 600.0)))
    shade = np.full((32, 32, 3), int(HZ.get(label, 600.0)) % 256, np.uint8)
    return sound, write_picture(stem.with_suffix(".png"), shade + np.uint8(number))
