"""Conformer layers (Gulati et al. 2020, arXiv 2005.08100) with rotary positions (Su et al. 2021, arXiv 2104.09864).

Shapes: B batch, T frames, D width, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def rotary(frames: int, head_width: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, head_width / 2] of the rotary position code."""
    rates = 10_000.0 ** (-torch.arange(0, head_width, 2, device=device) / head_width)
    angles = torch.arange(frames, device=device)[:, None] * rates
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate the halves of each head's vector: [B, H, T, E] -> same."""
    a, b = x.chunk(2, dim=-1)
    cosines, sines = cosines.to(x.dtype), sines.to(x.dtype)
    return torch.cat([a * cosines - b * sines, a * sines + b * cosines], dim=-1)


class FeedForward(nn.Module):
    """Layer norm, expansion, SiLU, projection."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, inner)
        self.project = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(F.silu(self.expand(self.norm(x))))


class SelfAttention(nn.Module):
    """Multi-head attention over the frames that are not padding."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """x [B, T, D], keep bool [B, T] (True where there is sound) -> [B, T, D]."""
        batch, frames, width = x.shape
        split = self.mix(self.norm(x)).view(batch, frames, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        code = rotary(frames, width // self.heads, x.device)
        mask = keep[:, None, None, :]
        mixed = F.scaled_dot_product_attention(rotate(query, *code), rotate(key, *code), value, attn_mask=mask)
        return self.project(mixed.transpose(1, 2).reshape(batch, frames, width))


class Convolution(nn.Module):
    """Gated depthwise convolution over time; padding is silent."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.after = nn.LayerNorm(width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        x = F.glu(self.gate(self.norm(x)), dim=-1) * keep[..., None]
        x = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return self.project(F.silu(self.after(x)))


class ConformerLayer(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, norm; one dropout, on what the layer adds.

    Dropout after every sub-layer, as in the paper, costs a tenth of the training time on a CPU.
    """

    def __init__(self, width: int, inner: int, heads: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.first = FeedForward(width, inner)
        self.attention = SelfAttention(width, heads)
        self.convolution = Convolution(width, kernel)
        self.second = FeedForward(width, inner)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        y = x + 0.5 * self.first(x)
        y = y + self.attention(y, keep)
        y = y + self.convolution(y, keep)
        y = y + 0.5 * self.second(y)
        return self.norm(x + self.dropout(y - x))
