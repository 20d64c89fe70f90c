"""Front ends against torchaudio, which computes them by complex Fourier transforms."""

from __future__ import annotations

import math

import pytest
import torch

from mmcl_edge.export.examples import sounds
from mmcl_edge.export.frontend import FRAME_SAMPLES, HOP_SAMPLES, KaldiFbank, WhisperLogMel
from mmcl_edge.export.images import SpectrogramImage, samples_for
from mmcl_edge.export.parity import relative_error


def sine(samples: int) -> torch.Tensor:
    return torch.sin(2 * math.pi * 440 * torch.arange(samples) / 16_000).unsqueeze(0)


def noise(samples: int) -> torch.Tensor:
    return torch.randn(2, samples, generator=torch.Generator().manual_seed(1)) * 0.1


WAVES = {
    "chirps": lambda samples: sounds(3, samples, torch.Generator().manual_seed(0)),
    "noise": noise,
    "sine": sine,
    "loud square": lambda samples: sine(samples).sign(),
    "nearly silent": lambda samples: noise(samples) * 1e-4,
    "offset": lambda samples: noise(samples) + 0.5,
}
LENGTHS = (640, 16_000, 48_320)


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("wave", WAVES.values(), ids=WAVES)
@pytest.mark.parametrize(
    "front_end", [WhisperLogMel(), KaldiFbank(128), KaldiFbank(64)], ids=["whisper", "k128", "k64"]
)
def test_front_end_agrees_with_torchaudio(front_end, wave, samples) -> None:  # type: ignore[no-untyped-def]
    x = wave(samples)
    assert relative_error(front_end(x), front_end.reference(x)) < 1e-4


def test_whisper_has_one_frame_per_ten_milliseconds() -> None:
    assert WhisperLogMel()(torch.randn(2, 16_000)).shape == (2, 80, 100)


def test_silence_is_finite() -> None:
    for front_end in (WhisperLogMel(), KaldiFbank()):
        assert torch.isfinite(front_end(torch.zeros(1, 16_000))).all()


def test_samples_for_gives_exactly_so_many_frames() -> None:
    for frames in (1, 2, 100, 1024):
        assert KaldiFbank()(torch.zeros(1, samples_for(frames))).shape[1] == frames
        if frames > 1:
            assert KaldiFbank()(torch.zeros(1, samples_for(frames) - 1)).shape[1] == frames - 1
    assert (FRAME_SAMPLES, HOP_SAMPLES) == (400, 160)  # 25 ms and 10 ms at 16 kHz


def test_spectrogram_image_keeps_native_sizes_and_resizes_others() -> None:
    x = sounds(1, samples_for(96), torch.Generator().manual_seed(0))
    native = SpectrogramImage(KaldiFbank(128), (96, 128))(x)
    expected = (KaldiFbank(128).reference(x) + 4.2677393) / (2 * 4.5689974)  # AudioMAE's published statistics
    torch.testing.assert_close(native[:, 0], expected, rtol=1e-3, atol=1e-3)
    assert SpectrogramImage(KaldiFbank(128), (64, 64))(x).shape == (1, 1, 64, 64)
