"""Sound front ends as real matrix products: framing, window and Fourier transform are one strided convolution.

ONNX has no complex numbers worth trusting, so the transform's cosine and sine rows stand in a convolution
kernel of shape ``(2F, 1, taps)``, computed in double precision. Filter banks come from torchaudio.
"""

from __future__ import annotations

import math

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional as F

from mmcl_edge.types import SAMPLE_RATE_HZ

FRAME_SAMPLES = 400
HOP_SAMPLES = 160


def dft_rows(taps: int, points: int) -> Tensor:
    """Cosine rows, then sine rows, of a real DFT: ``(2 (points/2 + 1), taps)`` in double precision."""
    bins = torch.arange(points // 2 + 1, dtype=torch.float64)
    angle = torch.outer(bins, torch.arange(taps, dtype=torch.float64)) * (2 * math.pi / points)
    return torch.cat([torch.cos(angle), -torch.sin(angle)])


def power(waveform: Tensor, kernel: Tensor) -> Tensor:
    """Power spectrum ``(B, F, frames)`` of ``(B, samples)`` under a kernel ``(2F, 1, taps)``."""
    spectrum = F.conv1d(waveform.unsqueeze(1), kernel, stride=HOP_SAMPLES)  # (B, 2F, frames)
    real, imaginary = spectrum.chunk(2, dim=1)
    return real * real + imaginary * imaginary


class WhisperLogMel(nn.Module):
    """Whisper's log-mel spectrogram: waveform ``(B, samples)`` at 16 kHz to ``(B, mels, samples/160)``."""

    kernel: Tensor
    filters: Tensor

    def __init__(self, mels: int = 80) -> None:
        super().__init__()
        self.mels = mels
        rows = dft_rows(FRAME_SAMPLES, FRAME_SAMPLES) * torch.hann_window(FRAME_SAMPLES, dtype=torch.float64)
        self.register_buffer("kernel", rows.float().unsqueeze(1))  # (402, 1, 400)
        bank = torchaudio.functional.melscale_fbanks(
            FRAME_SAMPLES // 2 + 1, 0.0, SAMPLE_RATE_HZ / 2, mels, SAMPLE_RATE_HZ, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("filters", bank.T.contiguous())  # (mels, 201)

    def forward(self, waveform: Tensor) -> Tensor:
        """Log-mel ``(B, mels, samples/160)``; the last, half-empty frame is never computed."""
        half = FRAME_SAMPLES // 2
        head = waveform[:, 1 : half + 1].flip(1)  # reflection at the start
        tail = waveform[:, -half - 1 : -1].flip(1)[:, : half - HOP_SAMPLES]  # and as much of the end as is used
        padded = torch.cat([head, waveform, tail], dim=1)
        return self.compress(self.filters @ power(padded, self.kernel))

    @staticmethod
    def compress(mel: Tensor) -> Tensor:
        """Log10, at most 80 dB below the clip's maximum, scaled: ``(B, mels, frames)`` to the same shape."""
        logs = mel.clamp(min=1e-10).log10()
        return (torch.maximum(logs, logs.amax(dim=(1, 2), keepdim=True) - 8.0) + 4.0) / 4.0

    def reference(self, waveform: Tensor) -> Tensor:
        """The same from torchaudio's MelSpectrogram, which drops the last frame only after computing it."""
        transform = torchaudio.transforms.MelSpectrogram(
            SAMPLE_RATE_HZ,
            n_fft=FRAME_SAMPLES,
            hop_length=HOP_SAMPLES,
            n_mels=self.mels,
            norm="slaney",
            mel_scale="slaney",
        )
        return self.compress(transform(waveform)[..., :-1])


class KaldiFbank(nn.Module):
    """Kaldi's log filter bank (Hann window, pre-emphasis, no dither): ``(B, samples)`` to ``(B, frames, mels)``.

    Per frame, DC removal, pre-emphasis, window and transform are all linear, so they are one matrix.
    """

    kernel: Tensor
    filters: Tensor

    def __init__(self, mels: int = 128) -> None:
        super().__init__()
        self.mels = mels
        points = 1 << (FRAME_SAMPLES - 1).bit_length()  # 512
        rows = dft_rows(FRAME_SAMPLES, points) @ frame_matrix()
        self.register_buffer("kernel", rows.float().unsqueeze(1))  # (514, 1, 400)
        bank, _ = torchaudio.compliance.kaldi.get_mel_banks(
            mels, points, float(SAMPLE_RATE_HZ), 20.0, 0.0, 100.0, -500.0, 1.0
        )
        self.register_buffer("filters", F.pad(bank, (0, 1)))  # (mels, 257)

    def forward(self, waveform: Tensor) -> Tensor:
        """Log mel energies ``(B, 1 + (samples - 400) // 160, mels)``."""
        energies = self.filters @ power(waveform, self.kernel)  # (B, mels, frames)
        return energies.clamp(min=torch.finfo(torch.float32).eps).log().transpose(1, 2)

    def reference(self, waveform: Tensor) -> Tensor:
        """The same from torchaudio.compliance.kaldi.fbank, clip by clip."""
        clips = [
            torchaudio.compliance.kaldi.fbank(
                clip.unsqueeze(0), num_mel_bins=self.mels, window_type="hanning", sample_frequency=SAMPLE_RATE_HZ
            )
            for clip in waveform
        ]
        return torch.stack(clips)


def frame_matrix() -> Tensor:
    """Kaldi's preparation of one frame, ``(400, 400)``: remove the mean, pre-emphasise, apply the window."""
    n = FRAME_SAMPLES
    centre = torch.eye(n, dtype=torch.float64) - 1.0 / n
    emphasis = torch.eye(n, dtype=torch.float64) - 0.97 * torch.eye(n, dtype=torch.float64).roll(1, dims=0)
    emphasis[0] = 0.0
    emphasis[0, 0] = 1.0 - 0.97  # the first sample is its own predecessor
    window = torch.hann_window(n, periodic=False, dtype=torch.float64)
    return window.unsqueeze(1) * (emphasis @ centre)
