"""Calibration data that cannot be used is refused with a sentence; the rest is divided, and nothing is used twice."""

from dataclasses import replace

import numpy as np
import pytest

from mmcl_edge.calibration.samples import MIN_SAMPLES, divide, lively, read_data
from mmcl_edge.calibration.settings import RangesConfig
from mmcl_edge.errors import CalibrationError
from tests.calibrating import live_samples, write_data

CONFIG = RangesConfig()


def _silent(sample):
    return replace(sample, audio=np.zeros_like(sample.audio))


def _plain(sample):
    return replace(sample, frames=np.full_like(sample.frames, 7))


REFUSED = {
    "too few": (lambda s: s[:10], ["at least 16", "it has 10"]),
    "no sound": (lambda s: [replace(one, audio=None) for one in s], ["with audio", "none of its 24"]),
    "no frames": (lambda s: [replace(one, frames=None) for one in s], ["with frames", "none of its 24"]),
    "all silent": (lambda s: [_silent(one) for one in s], ["with audio", "24 of 24 are silent"]),
    "one colour": (lambda s: [_plain(one) for one in s], ["with frames", "24 of 24 are of one colour"]),
    "mostly silent": (lambda s: [*map(_silent, s[:12]), *s[12:]], ["12 of 24 are silent"]),
    "nothing": (lambda s: [], ["with audio", "none of its 0"]),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED)
def test_what_teaches_no_range_is_refused(tiny, change, words):
    with pytest.raises(CalibrationError) as refused:
        divide(change(live_samples()), tiny().manifest, CONFIG, labelled=True)
    assert all(word in str(refused.value) for word in words), refused.value


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(("count", "samples"), [(24, 64), (40, 8), (17, 64)])
def test_samples_give_ranges_or_measure_never_both(tiny, labelled, count, samples):
    given = live_samples(count)
    config = RangesConfig(samples=samples, measured=20)
    data = divide(given, tiny().manifest, config, labelled=labelled)
    ranges, measure = ({one.source for one in part} for part in (data.calibrate, data.measure))
    assert not ranges & measure
    assert 4 <= len(ranges) <= samples
    assert MIN_SAMPLES <= len(measure) <= 20
    again = divide(given, tiny().manifest, config, labelled=labelled)
    assert [one.source for one in again.calibrate] == [one.source for one in data.calibrate]


@pytest.mark.parametrize("labelled", [True, False])
def test_a_few_sounds_among_many_pictures_land_on_both_sides(tiny, labelled):
    few = [replace(one, frames=None) for one in live_samples(16)]
    many = [replace(one, audio=None) for one in live_samples(300)]
    data = divide([*few, *many], tiny().manifest, CONFIG, labelled=labelled)
    for part in (data.calibrate, data.measure):
        assert sum(one.audio is not None for one in part) == 8
    assert len(data.calibrate) == CONFIG.samples


def test_classes_of_one_sample_leave_nothing_to_measure(tiny):
    given = [replace(one, label=f"class {number}") for number, one in enumerate(live_samples(20))]
    with pytest.raises(CalibrationError, match="with audio to measure accuracy, but leaves 0"):
        divide(given, tiny().manifest, CONFIG, labelled=True)


def test_silent_sounds_and_plain_pictures_are_set_aside(tiny):
    given = live_samples(30)
    given[0] = replace(_plain(given[0]), audio=np.zeros(8000, np.float32))
    data = divide(given, tiny().manifest, CONFIG, labelled=True)
    assert data.set_aside == 1
    assert given[0].source not in {one.source for one in (*data.calibrate, *data.measure)}
    half = lively(_silent(given[1]), ("audio", "frames"))
    assert half.audio is None
    assert half.frames is given[1].frames
    assert lively(given[1], ("audio",)).frames is None


def test_folders_of_classes_and_of_files_are_read(tiny, tmp_path):
    labelled = read_data(write_data(tmp_path / "classes"), tiny().manifest, CONFIG)
    assert labelled.labelled
    assert {one.label for one in labelled.measure} == {"low", "high"}
    flat = read_data(write_data(tmp_path / "flat", classes=("low",)) / "low", tiny().manifest, CONFIG)
    assert not flat.labelled
    assert len(flat.calibrate) + len(flat.measure) == 24
    (tmp_path / "flat" / "low" / "broken.wav").write_bytes(b"RIFF")
    assert read_data(tmp_path / "flat" / "low", tiny().manifest, CONFIG).set_aside == 1


def test_a_missing_folder_is_refused(tiny, tmp_path):
    with pytest.raises(CalibrationError, match="no such folder"):
        read_data(tmp_path / "none", tiny().manifest, CONFIG)
