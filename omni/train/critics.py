"""Critics: small convolutional networks that tell recorded from made sound or frames, and what both sides learn.

Least-squares adversaries (Mao et al. 2017, arXiv 1611.04076) with feature matching (Salimans et al. 2016, arXiv
1606.03498); spectral norms (Miyato et al. 2018, arXiv 1802.05957) keep a critic's slope, and so its push, small.
Shapes: B batch, F frequencies, T frames, W frames of a window, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils import parametrizations


class Critic(nn.Module):
    """Convolutions one after the other; returns every layer's output, the last one being the judgement."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(parametrizations.spectral_norm(layer) for layer in layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        for layer in self.layers:
            x = layer(functional.leaky_relu(x, 0.2) if found else x)
            found.append(x)
        return found


def frame_critic(inputs: int, width: int = 160) -> Critic:
    """Judges windows of frames [B, C, W]."""
    first, last = nn.Conv1d(inputs, width, 3, padding=1), nn.Conv1d(width, 1, 3, padding=1)
    return Critic([first, *(nn.Conv1d(width, width, 5, stride=2, padding=2) for _ in range(2)), last])


def spectrum_critic(channels: int = 24) -> Critic:
    """Judges log-magnitude spectrograms [B, 1, F, T]."""
    return Critic(
        [
            nn.Conv2d(1, channels, (7, 3), stride=(3, 1), padding=(3, 1)),
            nn.Conv2d(channels, channels, (5, 3), stride=(3, 1), padding=(2, 1)),
            nn.Conv2d(channels, channels, (5, 3), stride=(2, 2), padding=(2, 1)),
            nn.Conv2d(channels, 1, 3, padding=1),
        ]
    )


def adversary(critic: Critic, made: Tensor, recorded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(the critic's loss, the maker's loss, feature matching). Each side's loss moves only its own weights."""
    judged = (critic(recorded)[-1].float() - 1).square().mean() + critic(made.detach())[-1].float().square().mean()
    through = functional_call(critic, {name: weight.detach() for name, weight in critic.named_parameters()}, (made,))
    with torch.no_grad():
        wanted = critic(recorded)
    match = [functional.l1_loss(a.float(), b.float()) for a, b in zip(through[:-1], wanted[:-1], strict=True)]
    return judged, (through[-1].float() - 1).square().mean(), torch.stack(match).mean()
