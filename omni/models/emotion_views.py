"""What the perceiver looks at: a trunk of its own, the listener's layers, and functionals.

Shapes: B batch, T log-mel frames (100 Hz), S states (25 Hz, or as the layer has them), M mel bins, P prosody channels,
D width, L layers, H mixes, K functionals.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni.audio import prosody as prosodies
from omni.config import AudioConfig, ListenerConfig, PerceiverConfig
from omni.models.functionals import count, moments

_STEM_STRIDE = 4


def inside(lengths: Tensor, frames: int) -> Tensor:
    """Bool [B, frames], True inside each clip."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def hide(mel: Tensor, bands: int = 2, band_bins: int = 14, spans: int = 2, span_frames: int = 20) -> Tensor:
    """Zero random bands of bins and spans of frames of centred log-mels [B, T, M] (SpecAugment, arXiv 1904.08779).

    Draws from torch's global generator, which the training loop seeds at every step.
    """
    batch, frames, mels = mel.shape
    keep = mel.new_ones(batch, frames, mels)
    for count_of, size, widest, axis in ((bands, mels, band_bins, 2), (spans, frames, span_frames, 1)):
        for _ in range(count_of):
            width = (torch.rand(batch, 1) * (min(widest, size // 2) + 1)).floor()
            start = (torch.rand(batch, 1) * (size - width)).floor()
            place = torch.arange(size)
            visible = ~((place >= start) & (place < start + width)).to(mel.device)
            keep = keep * visible.unsqueeze(3 - axis).to(mel.dtype)
    return mel * keep


class AttentiveStatistics(nn.Module):
    """Mean and deviation weighted by attention over kept frames (Okabe et al. 2018, eqs. 3 to 6)."""

    def __init__(self, width: int, hidden: int = 32) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """x [B, S, D], keep bool [B, S] -> [B, 2 D]."""
        weight = self.score(x).float().masked_fill(~keep[..., None], -1e4).softmax(1)
        x = x.float()
        mean = (weight * x).sum(1)
        variance = (weight * (x - mean[:, None]).square()).sum(1)
        return torch.cat([mean, variance.clamp_min(1e-6).sqrt()], dim=-1)


class Block(nn.Module):
    """Depthwise convolution over time, then a gated expansion, on a residual (ConvNeXt, arXiv 2201.03545, in 1-D)."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand, self.project = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """x [B, S, D], keep bool [B, S] -> [B, S, D]."""
        y = self.depthwise((x * keep[..., None]).transpose(1, 2)).transpose(1, 2)
        return x + self.dropout(self.project(F.gelu(self.expand(self.norm(y)))))


class Trunk(nn.Module):
    """Log-mels and prosody at 100 Hz -> states at 25 Hz -> attentive statistics."""

    def __init__(self, config: PerceiverConfig, audio: AudioConfig) -> None:
        super().__init__()
        channels = audio.mels + len(prosodies.CHANNELS)
        self.stem = nn.Conv1d(channels, config.width, 2 * _STEM_STRIDE, stride=_STEM_STRIDE, padding=_STEM_STRIDE // 2)
        sizes = (config.width, config.kernel_frames, config.dropout / 2)
        self.blocks = nn.ModuleList(Block(*sizes) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.pool = AttentiveStatistics(config.width)

    def forward(self, mel: Tensor, lengths: Tensor, prosody: Tensor) -> Tensor:
        """mel [B, T, M] centred, frames [B], prosody [B, T, P] -> [B, 2 D]."""
        if self.training:
            mel = hide(mel)
        x = torch.cat([mel, prosody], dim=-1)
        x = x * inside(lengths, x.shape[1])[..., None]
        short = (-x.shape[1]) % _STEM_STRIDE
        x = F.gelu(self.stem(F.pad(x, (0, 0, 0, short)).transpose(1, 2)).transpose(1, 2))
        keep = inside(torch.div(lengths + _STEM_STRIDE - 1, _STEM_STRIDE, rounding_mode="floor"), x.shape[1])
        for block in self.blocks:
            x = block(x, keep)
        return self.pool(self.norm(x), keep)


def layer_statistics(layers: list[Tensor], spans: Tensor) -> Tensor:
    """Mean and deviation over time of every layer within spans (first, last) of log-mel frames.

    layers [B, S_l, D], at 25 Hz and, those with half the states, 12.5 Hz; spans [B, 2] -> [B, L, 2 D].
    """
    longest = max(layer.shape[1] for layer in layers)
    found = []
    for layer in layers:
        stride = ListenerConfig.subsampling * max(1, round(longest / layer.shape[1]))
        first = torch.div(spans[:, :1], stride, rounding_mode="floor").clamp(max=layer.shape[1] - 1)
        last = torch.div(spans[:, 1:] + stride - 1, stride, rounding_mode="floor")
        states = torch.arange(layer.shape[1], device=layer.device)
        keep = (states >= first) & (states < torch.maximum(last, first + 1))
        found.append(torch.cat(moments(layer.float(), keep), dim=-1))
    return torch.stack(found, dim=1)


class LayerMix(nn.Module):
    """LPE's multi-scale adapter (arXiv 2501.10937): e = sum_l softmax(a)_l h_l, a linear map, the mean over time.

    Mean and sum change places freely, so it works on each layer's mean, and on its deviation likewise. Several mixes
    run side by side; each starts with its weight on another part of the stack.
    """

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        layers, mixes = config.listener_layers, config.mixes
        start = torch.zeros(mixes, layers)
        start[torch.arange(mixes), torch.arange(mixes) * layers // mixes] = 2.0
        self.weights = nn.Parameter(start)
        self.dropout = nn.Dropout(config.dropout)
        self.project = nn.Linear(mixes * 2 * config.listener_width, 2 * config.width)

    def forward(self, statistics: Tensor) -> Tensor:
        """Standardised statistics [B, L, 2 D_l] -> [B, 2 D]."""
        mixed = torch.einsum("hl,bld->bhd", self.weights.softmax(-1), statistics.float())
        return F.gelu(self.project(self.dropout(mixed.flatten(1))))


class Summary(nn.Module):
    """One hidden layer over standardised functionals: [B, K] -> [B, 2 D]."""

    def __init__(self, config: PerceiverConfig, audio: AudioConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.Linear(count(audio.mels), 2 * config.width)

    def forward(self, summed: Tensor) -> Tensor:
        return F.gelu(self.hidden(self.dropout(summed)))
