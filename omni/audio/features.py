"""Log-mel front end of the listener and the perceiver.

Shapes: B batch, N samples, T frames, M mel bins.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torchaudio
from torch import Tensor

from omni.config import AudioConfig

FLOOR = 1e-6


@lru_cache(maxsize=4)
def _transform(config: AudioConfig) -> torchaudio.transforms.MelSpectrogram:
    return torchaudio.transforms.MelSpectrogram(
        sample_rate=config.sample_rate_hz,
        n_fft=config.fft_samples,
        win_length=config.window_samples,
        hop_length=config.hop_samples,
        f_min=20.0,
        n_mels=config.mels,
        power=2.0,
        mel_scale="slaney",
        norm="slaney",
    )


@torch.no_grad()
def log_mel(samples: Tensor, config: AudioConfig | None = None) -> Tensor:
    """Log-mel energies of sound [N] or [B, N] in [-1, 1]: [T, M] or [B, T, M], T = N // hop + 1, natural log."""
    mel = _transform(config or AudioConfig())(samples.float())
    return mel.clamp_min(FLOOR).log().transpose(-1, -2)


def normalise(mel: Tensor) -> Tensor:
    """Take out each bin's mean over time (channel and loudness), and scale by a fixed 4 nats. [..., T, M] -> same."""
    return (mel - mel.mean(dim=-2, keepdim=True)) / 4.0
