"""The listener: log-mels to phone posteriors, and the layers that the perceiver and the adapter read.

Shapes: B batch, T log-mel frames (100 Hz), S states (25 Hz: T / 4), D width, M mel bins, P CTC units.

The frame rate is U-shaped (25, 12.5, 25 Hz), as in Squeezeformer (Kim et al. 2022, arXiv 2206.00888): the inner layers,
which are most of them, cost half. Two CTC heads: one after the inner layers (intermediate CTC, Lee and Watanabe 2021,
arXiv 2102.03216), one at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni.audio.features import normalise
from omni.config import AudioConfig, ListenerConfig
from omni.nn.conformer import ConformerLayer
from omni.phones import UNITS


@dataclass
class EncoderOutput:
    """`layers`: every layer's states, [B, S, D] outside and [B, S / 2, D] inside; `lengths` [B] of the final states."""

    states: Tensor  # [B, S, D]
    logits: Tensor  # [B, S, P]
    early_logits: Tensor  # [B, S, P]
    lengths: Tensor  # [B]
    layers: list[Tensor]


class SpeechEncoder(nn.Module):
    """Conformer with a U-shaped frame rate and CTC over phones."""

    def __init__(self, config: ListenerConfig | None = None, audio: AudioConfig | None = None) -> None:
        super().__init__()
        config, audio = config or ListenerConfig(), audio or AudioConfig()
        self.config, width = config, config.width
        self.halve = nn.Conv1d(audio.mels, width, 5, stride=2, padding=2)
        self.quarter = nn.Conv1d(width, width, 5, stride=2, padding=2)

        def layers(count: int) -> nn.ModuleList:
            sizes = (width, config.feedforward, config.heads, config.kernel_frames, config.dropout)
            return nn.ModuleList(ConformerLayer(*sizes) for _ in range(count))

        self.outer, self.inner, self.last = (
            layers(n) for n in (config.outer_layers, config.inner_layers, config.last_layers)
        )
        self.down, self.up = nn.Linear(2 * width, width), nn.Linear(width, 2 * width)
        self.early_head, self.head = nn.Linear(width, len(UNITS)), nn.Linear(width, len(UNITS))
        self.dropout = nn.Dropout(config.dropout)

    def state_lengths(self, lengths: Tensor) -> Tensor:
        """How many 25 Hz states `lengths` log-mel frames give."""
        return torch.div(lengths + 3, 4, rounding_mode="floor")

    def forward(self, mel: Tensor, lengths: Tensor) -> EncoderOutput:
        """Raw log-mels [B, T, M] and their frames [B] -> states, logits and layers. Padding does not change the rest."""
        x = self._subsample(mel, lengths)
        ends = self.state_lengths(lengths)
        keep = torch.arange(x.shape[1], device=x.device) < ends[:, None]
        layers: list[Tensor] = []
        for layer in self.outer:
            x = layer(x, keep)
            layers.append(x)
        batch, states, width = x.shape
        y = self.down((x * keep[..., None]).reshape(batch, states // 2, 2 * width))
        keep_inner = keep[:, ::2]
        for layer in self.inner:
            y = layer(y, keep_inner)
            layers.append(y)
        x = x + self.up(y).reshape(batch, states, width)
        early = self.early_head(x)
        for layer in self.last:
            x = layer(x, keep)
            layers.append(x)
        return EncoderOutput(x, self.head(x), early, ends, layers)

    def _subsample(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """Normalise each utterance over its own frames and bring it to 25 Hz; the count of states is made even."""
        frames = torch.arange(mel.shape[1], device=mel.device) < lengths[:, None]
        if bool(frames.all()):
            x = normalise(mel)
        else:
            mean = (mel * frames[..., None]).sum(1) / lengths[:, None].clamp_min(1)
            x = (mel - mean[:, None]) / 4.0 * frames[..., None]
        x = F.pad(x, (0, 0, 0, -mel.shape[1] % 8))
        x = F.gelu(self.halve(x.transpose(1, 2)))
        halved = torch.arange(x.shape[2], device=x.device) < ((lengths + 1) // 2)[:, None]
        x = F.gelu(self.quarter(x * halved[:, None]))
        return self.dropout(x.transpose(1, 2))
