"""Calibration data: read, checked, and divided into samples that give ranges and samples that measure accuracy.

Rules, in this order, each refusing before anything is quantized:
1. The folder holds class folders (a task folder), or sounds, pictures and videos themselves.
2. Silent sounds, pictures of one colour and sensors that stand still teach no range: they are set aside and counted.
3. For every backbone of the bundle there are at least ``MIN_SAMPLES`` samples to take ranges from, and as many
   samples again to measure. Samples that have the same modalities are divided on their own, so that a few sounds
   among many pictures do not all land on one side; classes that cannot be divided may cost half of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mmcl_edge.bundle import BundleManifest
from mmcl_edge.calibration.settings import RangesConfig
from mmcl_edge.config import AdaptConfig
from mmcl_edge.data.clips import clipped
from mmcl_edge.data.items import MediaItem, pair_files, told_by
from mmcl_edge.data.media import load_sample
from mmcl_edge.data.split import split_holdout
from mmcl_edge.data.task_folder import decode_task, read_task
from mmcl_edge.errors import CalibrationError, MediaError
from mmcl_edge.types import AUDIO, FRAMES, MOTION, TEXT, Sample

MIN_SAMPLES = 8
SILENCE = 1e-3
"""Peak of a sound below which it counts as silent (-60 dB of full scale)."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CalibrationData:
    """Samples by what they are for.

    Attributes:
        calibrate: give the ranges.
        measure: measure accuracy, and give no range.
        labelled: whether the samples carry classes.
        set_aside: how many were silent, of one colour, or could not be decoded.
    """

    calibrate: tuple[Sample, ...]
    measure: tuple[Sample, ...]
    labelled: bool
    set_aside: int = 0


def read_data(folder: Path, manifest: BundleManifest, config: RangesConfig) -> CalibrationData:
    """The calibration data in ``folder`` (the rules stand in the module docstring).

    Raises:
        CalibrationError: a rule fails.
        TaskDataError: the class folders clash.
    """
    samples, skipped, labelled = _read(folder)
    return divide(samples, manifest, config, labelled=labelled, skipped=skipped, where=str(folder))


def divide(
    samples: Sequence[Sample],
    manifest: BundleManifest,
    config: RangesConfig,
    *,
    labelled: bool,
    skipped: int = 0,
    where: str = "The calibration data",
) -> CalibrationData:
    """Check samples that are decoded already, and divide them (rules 2 and 3).

    Raises:
        CalibrationError: a rule fails.
    """
    useful = [one for one in (lively(sample, manifest.modalities) for sample in samples) if one is not None]
    for modality in manifest.modalities:
        _check_count(modality, samples, useful, where=where)
    halves = [_halves(kind, config.samples, labelled=labelled) for kind in _kinds(useful)]
    calibrate = _shared([one for one, _ in halves], config.samples)
    measure = _shared([other for _, other in halves], config.measured)
    for modality in manifest.modalities:
        _check_halves(modality, calibrate, measure, where=where)
    return CalibrationData(calibrate, measure, labelled, skipped + len(samples) - len(useful))


def _kinds(samples: Sequence[Sample]) -> list[list[Sample]]:
    """The samples by the modalities that they have, each in the given order."""
    found: dict[tuple[bool, ...], list[Sample]] = {}
    for one in samples:
        found.setdefault(tuple(_has(one, modality) for modality in (AUDIO, FRAMES, MOTION, TEXT)), []).append(one)
    return list(found.values())


def _halves(samples: list[Sample], wanted: int, *, labelled: bool) -> tuple[list[Sample], list[Sample]]:
    """Samples for the ranges, about ``wanted`` of them but at most half, and the others."""
    fraction = min(0.9, max(0.5, 1 - wanted / len(samples)))
    if labelled:
        return split_holdout(samples, fraction=fraction, seed=0)
    step = max(2, round(1 / (1 - fraction)))
    return samples[::step], [one for i, one in enumerate(samples) if i % step]


def _shared(groups: Sequence[Sequence[Sample]], count: int) -> tuple[Sample, ...]:
    """At most ``count`` samples, equally many of every group as far as they go."""
    chosen: list[Sample] = []
    for number, group in enumerate(sorted(groups, key=len)):
        chosen += spread(group, (count - len(chosen)) // (len(groups) - number))
    return tuple(chosen)


def lively(sample: Sample, modalities: Sequence[str]) -> Sample | None:
    """The sample without what teaches nothing (silence, one colour, no movement), or ``None`` if nothing is left."""
    audio, frames, motion = sample.audio, sample.frames, sample.motion
    text = sample.text if TEXT in modalities else None
    if audio is not None and (AUDIO not in modalities or float(np.abs(audio).max()) < SILENCE):
        audio = None
    if frames is not None and (FRAMES not in modalities or int(np.ptp(frames)) == 0):
        frames = None
    if motion is not None and (MOTION not in modalities or float(np.ptp(motion, axis=0).max()) == 0):
        motion = None
    if audio is None and frames is None and motion is None and text is None:
        return None
    return replace(sample, audio=audio, frames=frames, motion=motion, text=text)


def spread(samples: Sequence[Sample], count: int) -> tuple[Sample, ...]:
    """At most ``count`` of ``samples``, evenly over their order."""
    kept = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return tuple(samples[i] for i in kept)


def _check_count(modality: str, samples: Sequence[Sample], useful: Sequence[Sample], *, where: str) -> None:
    given, found = (sum(_has(one, modality) for one in group) for group in (samples, useful))
    if found >= 2 * MIN_SAMPLES:
        return
    dull = {AUDIO: "silent", FRAMES: "of one colour", MOTION: "without any movement"}.get(modality, "empty")
    if not given:
        problem = f"none of its {len(samples)} samples has any; add some, or name a bundle without that backbone"
    elif given >= 2 * MIN_SAMPLES:
        problem = f"{given - found} of {given} are {dull}, which teaches no range; use recordings of the real thing"
    else:
        problem = f"it has {found}; add more"
    raise CalibrationError(f"{where} should hold at least {2 * MIN_SAMPLES} samples with {modality}, but {problem}.")


def _check_halves(modality: str, calibrate: Sequence[Sample], measure: Sequence[Sample], *, where: str) -> None:
    for samples, use in ((calibrate, "give ranges"), (measure, "measure accuracy")):
        found = sum(_has(one, modality) for one in samples)
        if found < MIN_SAMPLES // 2:
            raise CalibrationError(
                f"{where} should leave at least {MIN_SAMPLES // 2} samples with {modality} to {use}, but leaves "
                f"{found}; give more samples a class (those of a class with only one are not divided)."
            )


def _has(sample: Sample, modality: str) -> bool:
    given = {AUDIO: sample.audio, FRAMES: sample.frames, MOTION: sample.motion, TEXT: sample.text}
    return given.get(modality) is not None


def _read(folder: Path) -> tuple[list[Sample], int, bool]:
    """Samples, how many could not be decoded, and whether they carry classes."""
    if not folder.is_dir():
        raise CalibrationError(
            f"Expected calibration data (class folders, or media files) at {folder}, but there is no such folder; "
            "check the path."
        )
    clip_s = AdaptConfig().clip_s
    files = told_by(path for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != ".")
    if files and not any(path.is_dir() and path.name[0] != "." for path in folder.iterdir()):
        samples, skipped = _decode(pair_files(files))
        return [clipped(sample, clip_s) for sample in samples], skipped, False
    task = read_task(folder, min_samples=1)
    decoded, missed = decode_task(task, transform=lambda sample: clipped(sample, clip_s))
    return decoded, len(missed), True


def _decode(items: Iterable[MediaItem]) -> tuple[list[Sample], int]:
    samples, skipped = [], 0
    for item in items:
        try:
            samples.append(load_sample(item))
        except MediaError as error:
            skipped += 1
            _log.warning("Skipped: %s", error)
    return samples, skipped
