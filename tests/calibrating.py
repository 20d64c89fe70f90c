"""Data and checks for tests of range calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmcl_edge.types import Sample
from tests.integration.commands import HZ
from tests.integration.test_data_makers import tone, write_picture, write_sound


def live_samples(count: int = 24, *, classes: tuple[str, ...] = ("low", "high")) -> list[Sample]:
    """Labelled pairs of a tone and a picture with more than one colour."""
    return [_sample(number, classes[number % len(classes)]) for number in range(count)]


def write_data(folder: Path, *, count: int = 24, classes: tuple[str, ...] = ("low", "high")) -> Path:
    """``live_samples`` as a folder of class folders."""
    for number, sample in enumerate(live_samples(count, classes=classes)):
        place = folder / str(sample.label)
        place.mkdir(parents=True, exist_ok=True)
        write_sound(place / f"{number:03}.wav", sample.audio)
        write_picture(place / f"{number:03}.png", sample.frames[0])
    return folder


def _sample(number: int, label: str) -> Sample:
    sound = tone(0.4 + 0.05 * (number % 5), hz=HZ.get(label, 600.0) * (1 + 0.01 * number))
    noise = np.random.default_rng(number).integers(0, 80, (1, 40, 40, 3))
    frames = (noise + int(HZ.get(label, 600.0)) % 170).astype(np.uint8)
    return Sample(sound, frames, label, f"{label}/{number:03}")
