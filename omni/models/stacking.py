"""Adapters that bring a frozen encoder's states to a language model's width and a tenth of a second a slot.

Shapes: B batch, T frames (50 a second), D their width, L layers, K slots (T / k, rounded up), H language-model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: k of Empathy Omni (arXiv 2508.18655): five frames of 20 ms make a slot of 100 ms.
STACK = 5


class StackingAdapter(nn.Module):
    """Stacks k frames and maps them by a two-layer network, as the release of Empathy Omni does (inner width 2048)."""

    def __init__(self, width: int, llm_width: int, k: int = STACK, inner: int = 2048) -> None:
        super().__init__()
        self.k = k
        self.expand = nn.Linear(k * width, inner)
        self.project = nn.Linear(inner, llm_width)

    def slots(self, frames: int) -> int:
        """Slots that `frames` frames give."""
        return -(-frames // self.k)

    def forward(self, frames: Tensor) -> Tensor:
        """[B, T, D] -> [B, K, H]; the last slot is filled up with zeros."""
        frames = F.pad(frames, (0, 0, 0, -frames.shape[1] % self.k))
        return self.project(F.relu(self.expand(frames.flatten(1).unflatten(1, (-1, self.k * frames.shape[-1])))))


class LayerSum(nn.Module):
    """A learned weighted sum over an encoder's layers, e = sum_l softmax(a)_l h_l (LPE, arXiv 2501.10937)."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))

    def forward(self, states: Tensor) -> Tensor:
        """[L, B, T, D] -> [B, T, D]."""
        return torch.einsum("l,lbtd->btd", self.weights.softmax(0).to(states.dtype), states)


class DualAdapter(nn.Module):
    """Content and tone as one row of slots: each stacked and mapped, joined on the feature axis, mapped to the LLM's width.

    The joining is that of the paper (Empathy Omni, section on the model); its release interleaves the two instead, which needs
    twice the slots.
    """

    def __init__(
        self, content_width: int, tone_width: int, tone_layers: int, llm_width: int, inner: int = 2048
    ) -> None:
        super().__init__()
        self.content = StackingAdapter(content_width, llm_width, inner=inner)
        self.tone = StackingAdapter(tone_width, llm_width, inner=inner)
        self.layers = LayerSum(tone_layers)
        self.join = nn.Linear(2 * llm_width, llm_width)

    def forward(self, content: Tensor, tone: Tensor) -> Tensor:
        """content [B, T, D], tone [L, B, T', D'] -> [B, K, H]; the tone is cut or filled to as many slots as the content."""
        heard, felt = self.content(content), self.tone(self.layers(tone))
        felt = F.pad(felt, (0, 0, 0, max(0, heard.shape[1] - felt.shape[1])))[:, : heard.shape[1]]
        return self.join(torch.cat([heard, felt], dim=-1))


class MultiScaleAdapter(nn.Module):
    """The tone of a whole query as one slot, and which emotion it is: weighted layers, linear, mean over time (LPE)."""

    def __init__(self, width: int, layers: int, llm_width: int, emotions: int) -> None:
        super().__init__()
        self.layers = LayerSum(layers)
        self.project = nn.Linear(width, llm_width)
        self.classify = nn.Linear(llm_width, emotions)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """[L, B, T, D] -> the slot [B, 1, H] and logits of the emotions [B, E]."""
        vector = self.project(self.layers(states)).mean(1)
        return vector[:, None], self.classify(vector)


class SubSampler(nn.Module):
    """The content adapter of LPE: strided convolutions, a bottleneck, LayerNorm. 50 frames a second become 6.25.

    The sizes are those of BLSP (arXiv 2309.00916), the nearest published construction: three convolutions of kernel 5 and
    stride 2 with GLU, an inner width of 512.
    """

    def __init__(self, width: int, llm_width: int, inner: int = 512) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(width, 2 * width, 5, stride=2, padding=2) for _ in range(3))
        self.project = nn.Linear(width, llm_width)
        self.down = nn.Linear(llm_width, inner, bias=False)
        self.up = nn.Linear(inner, llm_width, bias=False)
        self.norm = nn.LayerNorm(llm_width)

    def slots(self, frames: int) -> int:
        """Slots that `frames` frames give."""
        for _ in self.convolutions:
            frames = (frames - 1) // 2 + 1
        return frames

    def forward(self, frames: Tensor) -> Tensor:
        """[B, T, D] -> [B, K, H]."""
        x = frames.transpose(1, 2)
        for convolve in self.convolutions:
            x = F.glu(convolve(x), dim=1)
        x = self.project(x.transpose(1, 2))
        return self.norm(x + self.up(F.gelu(self.down(x))))
