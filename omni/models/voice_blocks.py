"""Blocks of the expressive decoder: adaptive layer norm, the gate, and residual blocks.

Shapes: B batch, L units or T frames, D width, S style vector.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class AdaptiveNorm(nn.Module):
    """Layer norm whose scale and shift follow the style vector (AdaLN; Peebles and Xie 2023).

    y = norm(x) * (1 + scale(s)) + shift(s), with scale and shift linear in s and zero at initialisation, so that the
    block starts as a plain layer norm, whatever the style.
    """

    def __init__(self, width: int, style: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.modulation = nn.Linear(style, 2 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x [B, L, D], style [B, S] -> [B, L, D]."""
        scale, shift = self.modulation(style).unsqueeze(1).chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift


class Gate(nn.Module):
    """Mix of an outer state h into the unit encoding e: g = sigmoid(W [h; e]), g * h + (1 - g) * e.

    Source: Empathy Omni (arXiv 2508.18655), the gate of its speech decoder. The bias starts at -4, so that an untrained
    gate lets e through almost unchanged.
    """

    def __init__(self, width: int, outer_width: int) -> None:
        super().__init__()
        self.project = nn.Linear(outer_width, width)
        self.weigh = nn.Linear(2 * width, width)
        nn.init.normal_(self.project.weight, std=0.5 / math.sqrt(outer_width))
        nn.init.zeros_(self.weigh.weight)
        nn.init.constant_(self.weigh.bias, -4.0)

    def forward(self, encoded: Tensor, outer: Tensor | None, known: Tensor | None = None) -> Tensor:
        """encoded [B, L, D], outer [B, L, H] or None (gate closed); `known` bool [B, L] closes it unit by unit."""
        if outer is None:
            return encoded
        h = self.project(functional.layer_norm(outer, outer.shape[-1:]))
        g = torch.sigmoid(self.weigh(torch.cat((h, encoded), dim=-1)))
        if known is not None:
            g = g * known.unsqueeze(-1)
        return g * h + (1 - g) * encoded


class ConvBlock(nn.Module):
    """Depthwise convolution, then a two-layer perceptron, residual (ConvNeXt; Liu et al. 2022) with AdaLN."""

    def __init__(self, width: int, feedforward: int, kernel: int, style: int, dropout: float) -> None:
        super().__init__()
        self.mix = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = AdaptiveNorm(width, style)
        self.up, self.down = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, style: Tensor, mask: Tensor) -> Tensor:
        """x [B, T, D], style [B, S], mask [B, T, 1] (1 where real) -> [B, T, D]."""
        mixed = self.mix((x * mask).transpose(1, 2)).transpose(1, 2)
        return x + self.drop(self.down(functional.relu(self.up(self.norm(mixed, style)))))


class AttentionBlock(nn.Module):
    """Self-attention over the units, residual, with AdaLN before it."""

    def __init__(self, width: int, heads: int, style: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = AdaptiveNorm(width, style)
        self.inward, self.outward = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, style: Tensor, mask: Tensor) -> Tensor:
        """x [B, L, D], style [B, S], mask [B, L, 1] -> [B, L, D]."""
        batch, length, width = x.shape
        parts = self.inward(self.norm(x, style)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = mask.transpose(1, 2).bool().unsqueeze(1)  # [B, 1, 1, L]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return x + self.drop(self.outward(mixed.transpose(1, 2).reshape(batch, length, width)))


def sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """Sinusoidal positions (Vaswani et al. 2017): [length, width]."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=device) * (-math.log(1000.0) / half))
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=-1)
