"""Functionals: a clip's tracks summed up in one vector of fixed length, as in the classical study of vocal emotion.

The choice follows eGeMAPS (Eyben et al. 2016, IEEE Trans. Affective Computing 7): pitch, loudness, voice quality,
spectral balance and rhythm, by moments and percentiles, over the frames that sound and over those that are voiced.

Shapes: B batch, T frames, C channels, Q quantiles, M mel bins, P prosody channels, K functionals.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from omni.audio.prosody import CHANNELS

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_CEPSTRA = 20
_ACTIVE = -1.5  # in the energy channel's units of 20 dB: frames within 30 dB of the speaking level
_PITCH, _VOICED, _ENERGY, _TILT = (CHANNELS.index(c) for c in ("pitch", "voiced", "energy", "tilt"))
_OF_VOICED = [CHANNELS.index(c) for c in CHANNELS if c not in ("voiced", "onset")]
_OF_ACTIVE = [CHANNELS.index(c) for c in ("periodicity", "energy", "energy_slope", "tilt", "onset")]
_SLOPES = [CHANNELS.index(c) for c in ("pitch_slope", "energy_slope")]
MEL_COUNT_PER_BIN = 4


def count(mels: int) -> int:
    """How many functionals `functionals` gives for log-mels of `mels` bins."""
    per_track = 2 + len(_QUANTILES)
    tracks = per_track * (len(_OF_VOICED) + len(_OF_ACTIVE)) + len(_SLOPES)
    return MEL_COUNT_PER_BIN * mels + 3 * _CEPSTRA + tracks + 9 + 7


def moments(x: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over kept frames. x [B, T, C], keep bool [B, T] -> [B, C] each."""
    weight = keep[..., None].to(x.dtype)
    total = weight.sum(1).clamp_min(1.0)
    mean = (x * weight).sum(1) / total
    variance = ((x - mean[:, None]).square() * weight).sum(1) / total
    return mean, variance.clamp_min(1e-8).sqrt()


def quantiles(x: Tensor, keep: Tensor, shares: tuple[float, ...] = _QUANTILES) -> Tensor:
    """Quantiles over kept frames, between neighbours by straight lines. x [B, T, C] -> [B, Q, C]; zeros if none is kept."""
    ordered = x.masked_fill(~keep[..., None], math.inf).sort(dim=1).values
    last = (keep.sum(1) - 1).clamp_min(0).to(x.dtype)  # [B]
    place = torch.tensor(shares, dtype=x.dtype, device=x.device)[None] * last[:, None]  # [B, Q]
    below = place.floor().long()
    above = torch.minimum(below + 1, last.long()[:, None])
    low, high = (ordered.gather(1, i[..., None].expand(-1, -1, x.shape[2])) for i in (below, above))
    found = low + (high - low) * (place - below)[..., None]
    return torch.where(keep.any(1)[:, None, None], found, torch.zeros_like(found))


def _statistics(x: Tensor, keep: Tensor) -> Tensor:
    """Mean, deviation, quantiles of kept frames: [B, T, C] -> [B, (2 + Q) C]."""
    return torch.cat([*moments(x, keep), quantiles(x, keep).flatten(1)], dim=1)


def frames_that_sound(prosody: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """(active, voiced) bool [B, T] within `inside` bool [B, T]; each falls back on a wider set when nearly empty."""
    active = inside & (prosody[..., _ENERGY] > _ACTIVE)
    active = torch.where((active.sum(1) >= 5)[:, None], active, inside)
    voiced = active & (prosody[..., _VOICED] > 0.5)
    return active, torch.where((voiced.sum(1) >= 5)[:, None], voiced, active)


def cosines(mels: int, cepstra: int = _CEPSTRA) -> Tensor:
    """Orthonormal DCT-II matrix [M, C] from log-mels to cepstra."""
    bins = torch.arange(mels, dtype=torch.float64)[:, None] + 0.5
    basis = torch.cos(math.pi / mels * bins * torch.arange(cepstra, dtype=torch.float64)) * math.sqrt(2 / mels)
    basis[:, 0] /= math.sqrt(2)
    return basis.float()


def _thirds(x: Tensor, keep: Tensor) -> Tensor:
    """Mean of x in the first, middle and last third of the kept frames: [B, T, C] -> [B, 3 C]."""
    part = 3 * (keep.cumsum(1) - 1) // keep.sum(1, keepdim=True).clamp_min(1)
    return torch.cat([moments(x, keep & (part == third))[0] for third in range(3)], dim=1)


def functionals(mel: Tensor, prosody: Tensor, lengths: Tensor) -> Tensor:
    """mel [B, T, M], prosody [B, T, P], frames [B] -> [B, K]. Frames beyond a clip's length change nothing."""
    prosody, mel = prosody.float(), mel.float()
    inside = torch.arange(mel.shape[1], device=mel.device) < lengths[:, None]
    active, voiced = frames_that_sound(prosody, inside)
    both = active[:, 1:] & active[:, :-1]
    cepstra = mel @ cosines(mel.shape[2]).to(mel.device)
    spectral = [
        *moments(mel, active), moments(mel, voiced)[0], moments((mel[:, 1:] - mel[:, :-1]).abs(), both)[0],
        quantiles(cepstra, active, (0.1, 0.9)).flatten(1), moments(cepstra, voiced)[1],
    ]  # fmt: skip
    melodic = [
        _statistics(prosody[..., _OF_VOICED], voiced), _statistics(prosody[..., _OF_ACTIVE], active),
        moments(prosody[..., _SLOPES].abs(), voiced)[0], _thirds(prosody[..., [_PITCH, _ENERGY, _TILT]], voiced),
    ]  # fmt: skip
    return torch.cat([*spectral, *melodic, _rhythm(prosody, active, voiced, inside)], dim=1)


def _rhythm(prosody: Tensor, active: Tensor, voiced: Tensor, inside: Tensor) -> Tensor:
    """Voiced share, voiced stretches a second, pauses, seconds of speech, pitch trend and pitch-energy ties: [B, 7]."""
    frames = inside.sum(1).float().clamp_min(1.0)
    sounding = active.sum(1).float().clamp_min(1.0)
    starts = (voiced[:, 1:] & ~voiced[:, :-1]).sum(1).float()
    time = torch.arange(prosody.shape[1], device=prosody.device, dtype=torch.float32)[None].expand_as(active) / 100
    tracks = torch.stack([prosody[..., _PITCH], prosody[..., _ENERGY], time], dim=-1)
    mean, deviation = moments(tracks, voiced)
    away = (tracks - mean[:, None]) * voiced[..., None]
    total = voiced.sum(1).float().clamp_min(1.0)
    trend = (away[..., 0] * away[..., 2]).sum(1) / total / deviation[:, 2].square().clamp_min(1e-3)
    tie = (away[..., 0] * away[..., 1]).sum(1) / total / (deviation[:, 0] * deviation[:, 1]).clamp_min(1e-3)
    return torch.stack(
        [
            voiced.sum(1) / sounding, 100 * starts / frames, 1 - sounding / frames, sounding / 100,
            (sounding / 100).log(), trend, tie,
        ],
        dim=1,
    )  # fmt: skip
