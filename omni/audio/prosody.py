"""Prosody: how a clip's pitch, loudness, voicing and rate move, frame by frame, on the log-mel clock (10 ms).

The pitch tracker is Boersma's (1993, "Accurate short-term analysis of the fundamental frequency and the
harmonics-to-noise ratio of a sampled sound", IFA Proceedings 17), batched over frames: the autocorrelation of the
windowed signal over that of the window, the best peaks of each frame, and a Viterbi path through them.

Shapes: N samples, T frames, L lags, C candidates of a frame, P prosody channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from omni.config import AudioConfig
from omni.errors import InputError

LOWEST_HZ, HIGHEST_HZ = 65.0, 700.0
#: Channels of `frames`, in order; README of each in its docstring.
CHANNELS = (
    "pitch", "pitch_about_median", "pitch_slope", "voiced", "periodicity", "energy", "energy_slope", "tilt", "onset",
)  # fmt: skip
_WINDOW_SAMPLES, _FFT_SAMPLES = 768, 2048  # 48 ms holds three periods of the lowest pitch
_CANDIDATES, _OCTAVE_COST, _VOICING_THRESHOLD, _SILENCE_THRESHOLD = 6, 0.02, 0.45, 0.03
_JUMP_COST, _SWITCH_COST = 0.35, 0.14  # a path's price an octave, and for a change of voicing
_REFERENCE_HZ = 180.0  # between common male and female pitch; the zero of the pitch channel
_FLOOR = 1e-10


@dataclass(frozen=True)
class Pitch:
    """`hz` float32 [T], 0 where unvoiced; `periodicity` float32 [T] in [0, 1], the height of the winning peak."""

    hz: np.ndarray
    periodicity: np.ndarray

    @property
    def voiced(self) -> np.ndarray:
        """Bool [T]."""
        return self.hz > 0


def _framed(samples: Tensor, window_samples: int, hop_samples: int) -> Tensor:
    """[N] -> [T, window], centred, T = N // hop + 1, zeros beyond the ends."""
    half = window_samples // 2
    padded = torch.nn.functional.pad(samples, (half, window_samples - half))
    return padded.unfold(0, window_samples, hop_samples)[: len(samples) // hop_samples + 1]


@lru_cache(maxsize=2)
def _window() -> tuple[Tensor, Tensor]:
    window = torch.hann_window(_WINDOW_SAMPLES, periodic=False)
    spectrum = torch.fft.rfft(window, _FFT_SAMPLES)
    own = torch.fft.irfft(spectrum.abs().square())
    return window, own / own[0]


def _candidates(samples: Tensor, config: AudioConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Lags [T, C] in samples (fractional), heights [T, C] (0: no candidate), and loudness [T] against the loudest."""
    window, own = _window()
    frames = _framed(samples, _WINDOW_SAMPLES, config.hop_samples)
    frames = frames - frames.mean(-1, keepdim=True)
    loudness = frames.abs().amax(-1)
    spectrum = torch.fft.rfft(frames * window, _FFT_SAMPLES)
    low, high = int(config.sample_rate_hz / HIGHEST_HZ), int(config.sample_rate_hz / LOWEST_HZ) + 2
    correlation = torch.fft.irfft(spectrum.real.square() + spectrum.imag.square())[:, : high + 1]
    correlation = correlation / correlation[:, :1].clamp_min(_FLOOR) / own[: high + 1]
    left, middle, right = (
        correlation[:, low - 1 : high - 1],
        correlation[:, low:high],
        correlation[:, low + 1 : high + 1],
    )
    peak = (middle > left) & (middle >= right)
    curvature = (2 * middle - left - right).clamp_min(1e-9)
    shift = ((right - left) / (2 * curvature)).clamp(-0.5, 0.5)
    height = (middle + 0.25 * (right - left) * shift).clamp(0.0, 1.0)
    lags = torch.arange(low, high, dtype=samples.dtype) + shift
    score = height - _OCTAVE_COST * torch.log2(lags * LOWEST_HZ / config.sample_rate_hz).clamp_min(-8)
    score = torch.where(peak, score, torch.full_like(score, -1.0))
    best = score.topk(_CANDIDATES, dim=-1).indices
    found = peak.gather(1, best)
    return lags.gather(1, best), height.gather(1, best) * found, loudness / loudness.max().clamp_min(1e-9)


def _best_path(scores: np.ndarray, log_pitch: np.ndarray) -> np.ndarray:
    """Viterbi [T] through candidates; column 0 is 'unvoiced'. scores, log_pitch [T, 1 + C] (log_pitch in octaves)."""
    steps, width = scores.shape
    unvoiced = np.zeros(width, dtype=bool)
    unvoiced[0] = True
    switch = (unvoiced[:, None] != unvoiced[None, :]) * _SWITCH_COST
    both = ~unvoiced[:, None] & ~unvoiced[None, :]
    jumps = np.abs(log_pitch[:-1, :, None] - log_pitch[1:, None, :]) * (_JUMP_COST * both) + switch
    total, back = scores[0].copy(), np.zeros((steps, width), dtype=np.int64)
    columns = np.arange(width)
    for t in range(1, steps):
        options = total[:, None] - jumps[t - 1]
        back[t] = options.argmax(0)
        total = options[back[t], columns] + scores[t]
    path = np.empty(steps, dtype=np.int64)
    path[-1] = total.argmax()
    for t in range(steps - 1, 0, -1):
        path[t - 1] = back[t, path[t]]
    return path


@torch.no_grad()
def pitch(samples: Tensor, config: AudioConfig | None = None) -> Pitch:
    """Fundamental frequency of sound [N], every hop, between LOWEST_HZ and HIGHEST_HZ. T = N // hop + 1."""
    config = config or AudioConfig()
    lags, heights, loudness = _candidates(samples.float(), config)
    hz = config.sample_rate_hz / lags
    voiced_score = heights - _OCTAVE_COST * torch.log2(LOWEST_HZ * lags / config.sample_rate_hz)
    voiced_score = torch.where(heights > 0, voiced_score, torch.full_like(heights, -9.0))
    quiet = (2.0 - loudness / (_SILENCE_THRESHOLD / (1 + _VOICING_THRESHOLD))).clamp_min(0.0)
    scores = torch.cat([(_VOICING_THRESHOLD + quiet)[:, None], voiced_score], 1).numpy()
    octaves = torch.cat([torch.zeros(len(hz), 1), torch.log2(hz)], 1).numpy()
    path = _best_path(scores, octaves)
    rows, column = np.arange(len(path)), np.maximum(path - 1, 0)
    chosen = np.where(path > 0, hz.numpy()[rows, column], 0.0)
    return Pitch(chosen.astype(np.float32), heights.numpy().max(1).astype(np.float32))


def bridged(hz: np.ndarray) -> np.ndarray:
    """Pitch [T] as octaves above 180 Hz, straight lines across unvoiced stretches; zeros if nothing is voiced."""
    voiced = np.flatnonzero(hz > 0)
    if len(voiced) == 0:
        return np.zeros(len(hz), dtype=np.float32)
    return np.interp(np.arange(len(hz)), voiced, np.log2(hz[voiced] / _REFERENCE_HZ)).astype(np.float32)


def _slope(track: np.ndarray, reach: int = 3) -> np.ndarray:
    """Regression slope of a track [T] over +-reach frames, per frame."""
    padded = np.pad(track, reach, mode="edge")
    weights = np.arange(-reach, reach + 1, dtype=np.float32)
    return np.convolve(padded, weights[::-1] / float((weights**2).sum()), mode="valid").astype(np.float32)


def active_level_db(samples: Tensor, config: AudioConfig | None = None) -> float:
    """Level of the louder part of sound [N] in dB full scale: the mean power of the frames within 30 dB of the peak."""
    config = config or AudioConfig()
    power = _framed(samples.float(), config.window_samples, config.hop_samples).square().mean(-1)
    loud = power[power >= power.max() * 1e-3]
    return float(10 * torch.log10(loud.mean().clamp_min(_FLOOR)))


def at_level(samples: Tensor, level_db: float = -25.0, config: AudioConfig | None = None) -> Tensor:
    """Sound [N] scaled so that `active_level_db` is `level_db`; digital silence is returned as it is."""
    found = active_level_db(samples, config)
    return samples if found <= 10 * np.log10(_FLOOR) + 1 else samples * 10 ** ((level_db - found) / 20)


@torch.no_grad()
def frames(samples: Tensor, config: AudioConfig | None = None) -> Tensor:
    """Prosody of sound [N] (any level: nothing here depends on gain): float32 [T, P], T = N // hop + 1, see CHANNELS.

    pitch: octaves above 180 Hz, bridged; pitch_about_median: octaves above the clip's voiced median; pitch_slope:
    octaves per 100 ms; voiced: 0 or 1; periodicity: 0 to 1; energy: 20 dB units about the active level;
    energy_slope: 20 dB units per 100 ms; tilt: 20 dB units of power above 1 kHz against below; onset: rise of the
    spectrum in 20 dB units. InputError for a clip shorter than one window.
    """
    config = config or AudioConfig()
    if samples.ndim != 1 or len(samples) < config.window_samples:
        raise InputError(
            f"prosody needs one clip of at least {config.window_samples} samples, got shape {tuple(samples.shape)}"
        )
    samples = samples.float()
    found = pitch(samples, config)
    octaves = bridged(found.hz)
    median = float(np.median(octaves[found.voiced])) if found.voiced.any() else 0.0
    window = torch.hann_window(config.window_samples)
    spectrum = torch.fft.rfft(_framed(samples, config.window_samples, config.hop_samples) * window, config.fft_samples)
    power = spectrum.abs().square()
    level = 10 ** (active_level_db(samples, config) / 10) * float(window.square().sum()) * config.fft_samples / 2
    energy = _decibels(power.sum(-1), level, -60.0)
    edge = round(1000 * config.fft_samples / config.sample_rate_hz)
    tilt = _decibels(power[:, edge:].sum(-1) + 1e-6 * level, power[:, :edge].sum(-1) + 1e-6 * level, -60.0)
    bands = power.reshape(len(power), -1)[:, : config.fft_samples // 2].reshape(len(power), 16, -1).sum(-1)
    rise = np.diff(_decibels(bands, level, -60.0), axis=0, prepend=0.0).clip(0.0, 2.0).mean(-1)
    rise[0] = 0.0
    tracks = (
        octaves, octaves - median, _slope(octaves) * 10, found.voiced, found.periodicity,
        energy, _slope(energy) * 10, tilt, rise,
    )  # fmt: skip
    return torch.from_numpy(np.stack([np.asarray(t, dtype=np.float32) for t in tracks], axis=-1))


def _decibels(power: Tensor, reference: Tensor | float, lowest: float) -> np.ndarray:
    """10 log10(power / reference), at least `lowest`, in units of 20 dB."""
    ratio = power / torch.as_tensor(reference, dtype=power.dtype).clamp_min(_FLOOR)
    return (10 * torch.log10(ratio.clamp_min(_FLOOR))).clamp_min(lowest).div(20.0).numpy()
