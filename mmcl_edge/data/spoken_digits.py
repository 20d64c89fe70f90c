"""The built-in sample: real handwritten digits paired with synthesised spoken digits, as task folders.

Handwriting is scikit-learn's ``load_digits`` (8 x 8 pixels, by 43 writers), speech is espeak-ng in several accents,
speakers, rates and pitches. Nothing is fetched. Training and test parts share no picture and no speaker::

    FOLDER/digits_0_3/<zero ... three>/<stem>.wav, .png
    FOLDER/digits_4_6/..., FOLDER/digits_7_9/...
    FOLDER/test/digits_0_3/...                          the same layout
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from mmcl_edge.data.speech import INSTALL_HINT, Voice, speak
from mmcl_edge.errors import InputError, MissingExtraError
from mmcl_edge.fileio import atomic_folder
from mmcl_edge.types import SAMPLE_RATE_HZ

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
EXPERIENCES: dict[str, tuple[int, ...]] = {"digits_0_3": (0, 1, 2, 3), "digits_4_6": (4, 5, 6), "digits_7_9": (7, 8, 9)}
"""Task name to its digits, in the order they are learned."""
TEST_FOLDER = "test"
SIDE_PX, DRAWN_PX = 64, 48

ACCENTS = ("en", "en-us", "en-gb-scotland", "en-029", "en-gb-x-rp", "en-us-nyc")
SPEAKERS = {"train": ("f1", "f2", "f5", "m1", "m2", "m3", "m7"), TEST_FOLDER: ("f3", "f4", "m4", "m8")}
"""espeak-ng's voice variants; no speaker is in both parts."""
PICTURES_PER_CLASS = 174
"""Handwritten pictures of the rarest digit."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """One sample to be written."""

    folder: str
    stem: str
    digit: int
    picture: NDArray[np.uint8]
    voice: Voice
    gain: float


def write_spoken_digits(
    folder: Path,
    *,
    samples_per_class: int,
    seed: int,
    test_samples_per_class: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the sample; the folder appears whole or not at all.

    Args:
        folder: where; it must not exist yet.
        samples_per_class: training pairs of each digit; with the test pairs, 174 at most.
        seed: of the choice of pictures and voices; the same seed writes the same bytes.
        test_samples_per_class: test pairs of each digit; ``None`` takes half as many, at least 4.
        progress: called with (pairs written, pairs in all).

    Returns:
        ``folder``.

    Raises:
        MissingExtraError: the extra ``quickstart`` is not installed.
        InputError: a count out of range, or the speech library does not work.
        StorageError: the folder exists or cannot be written.
    """
    test_count = max(samples_per_class // 2, 4) if test_samples_per_class is None else test_samples_per_class
    _check_counts(samples_per_class, test_count)
    plans = list(_plans(samples_per_class, test_count, seed))
    with atomic_folder(folder) as staging:
        for number, plan in enumerate(plans, start=1):
            _write(staging, plan)
            if progress is not None:
                progress(number, len(plans))
    return folder


def _check_counts(train_count: int, test_count: int) -> None:
    if min(train_count, test_count) < 1 or train_count + test_count > PICTURES_PER_CLASS:
        raise InputError(
            f"Expected at least 1 training and 1 test sample of each class, {PICTURES_PER_CLASS} together at most "
            f"(there are no more pictures), but {train_count} and {test_count} were asked for."
        )


def _plans(train_count: int, test_count: int, seed: int) -> Iterator[_Plan]:
    pictures = _handwriting()
    for task, digits in EXPERIENCES.items():
        for digit in digits:
            order = np.random.default_rng([seed, digit]).permutation(len(pictures[digit]))
            train, test = order[:train_count], order[train_count : train_count + test_count]
            yield from _part(task, digit, pictures[digit][train], SPEAKERS["train"], [seed, digit, 0])
            yield from _part(
                f"{TEST_FOLDER}/{task}", digit, pictures[digit][test], SPEAKERS[TEST_FOLDER], [seed, digit, 1]
            )


def _part(
    place: str, digit: int, pictures: NDArray[np.uint8], speakers: tuple[str, ...], seeds: list[int]
) -> Iterator[_Plan]:
    generator = np.random.default_rng(seeds)
    for number, picture in enumerate(pictures):
        voice = _draw_voice(generator, speakers)
        stem = f"{WORDS[digit]}_{number:03d}"
        yield _Plan(f"{place}/{WORDS[digit]}", stem, digit, picture, voice, gain=float(generator.uniform(0.4, 0.9)))


def _draw_voice(generator: np.random.Generator, speakers: tuple[str, ...]) -> Voice:
    name = f"{generator.choice(ACCENTS)}+{generator.choice(speakers)}"
    rate, pitch, width = generator.integers((120, 30, 30), (220, 75, 80))
    return Voice(name, rate_wpm=int(rate), pitch=int(pitch), pitch_range=int(width))


def _handwriting() -> list[NDArray[np.uint8]]:
    """For each digit its pictures ``(count, 64, 64, 3)`` uint8: bright strokes on black, enlarged bicubically.

    A black margin of 8 px keeps the strokes inside the centre that frame stems crop to.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError(f"Handwritten samples need scikit-learn, but it is missing; {INSTALL_HINT}.") from error
    data = load_digits()
    small = torch.from_numpy(data.images).float()[:, None] * (255 / 16)  # (1797, 1, 8, 8)
    large = torch.nn.functional.interpolate(small, size=(DRAWN_PX, DRAWN_PX), mode="bicubic", align_corners=False)
    framed = torch.nn.functional.pad(large.clamp(0, 255), [(SIDE_PX - DRAWN_PX) // 2] * 4)
    pixels = framed.round().to(torch.uint8)[:, 0, :, :, None].expand(-1, -1, -1, 3).numpy()
    return [np.ascontiguousarray(pixels[data.target == digit]) for digit in range(len(WORDS))]


def _write(root: Path, plan: _Plan) -> None:
    folder = root / plan.folder
    folder.mkdir(parents=True, exist_ok=True)
    waveform = speak(WORDS[plan.digit], plan.voice)
    waveform = waveform * np.float32(plan.gain / np.max(np.abs(waveform)))
    soundfile.write(folder / f"{plan.stem}.wav", waveform, SAMPLE_RATE_HZ, subtype="PCM_16")
    (folder / f"{plan.stem}.png").write_bytes(encode_png(plan.picture))


def encode_png(picture: NDArray[np.uint8]) -> bytes:
    """``(H, W, 3)`` uint8 RGB as the bytes of a PNG file."""
    context = av.VideoCodecContext.create("png", "w")
    context.height, context.width = picture.shape[:2]
    context.pix_fmt = "rgb24"
    context.time_base = Fraction(1, 1)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    return b"".join(bytes(packet) for packet in (*context.encode(frame), *context.encode(None)))
