"""Frozen speech encoders: Whisper's for what was said, WavLM's layers for how.

Shapes: N samples at 16 kHz, T frames (50 a second), D width, L layers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoFeatureExtractor, WavLMModel, WhisperModel

from omni.backbones.local import pretrained
from omni.errors import InputError

SAMPLE_RATE_HZ = 16_000
FRAME_SAMPLES = 320
#: Whisper hears windows of this length and no other.
WINDOW_S = 30.0


class WhisperStates(nn.Module):
    """The encoder of Whisper (Radford et al. 2022, arXiv 2212.04356), frozen, in its fixed window; the rest is not kept."""

    def __init__(self, encoder: nn.Module, extractor: Any) -> None:
        super().__init__()
        self.encoder, self.extractor = encoder.eval().requires_grad_(False), extractor

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> WhisperStates:
        """From a local folder that `save_pretrained` wrote or the hub's cache holds; safetensors only, no code."""
        model = pretrained(WhisperModel, folder, dtype, device)
        return cls(model.encoder, AutoFeatureExtractor.from_pretrained(folder, local_files_only=True))

    @property
    def width(self) -> int:
        return int(self.encoder.config.d_model)  # type: ignore[union-attr, arg-type]

    @torch.no_grad()
    def forward(self, samples: np.ndarray) -> Tensor:
        """[N] -> [1, T, D], T = N / 320 rounded up. InputError for a clip longer than 30 s."""
        if len(samples) > WINDOW_S * SAMPLE_RATE_HZ:
            raise InputError(
                f"a clip of {len(samples) / SAMPLE_RATE_HZ:.1f} s is longer than Whisper's {WINDOW_S:.0f} s"
            )
        features = self.extractor(samples, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt").input_features
        weight = next(self.encoder.parameters())
        states = self.encoder(features.to(weight.device, weight.dtype)).last_hidden_state
        return states[:, : -(-len(samples) // FRAME_SAMPLES)]


class WavlmStates(nn.Module):
    """All layers of WavLM (Chen et al. 2022, arXiv 2110.13900), frozen. Clips go through it one by one: it normalises over
    the clip, so that padding would change what is heard.
    """

    def __init__(self, model: nn.Module, extractor: Any) -> None:
        super().__init__()
        self.model, self.extractor = model.eval().requires_grad_(False), extractor

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> WavlmStates:
        """From a local folder that `save_pretrained` wrote or the hub's cache holds; safetensors only, no code."""
        model = pretrained(WavLMModel, folder, dtype, device)
        return cls(model, AutoFeatureExtractor.from_pretrained(folder, local_files_only=True))

    @property
    def width(self) -> int:
        return int(self.model.config.hidden_size)  # type: ignore[union-attr, arg-type]

    @property
    def layers(self) -> int:
        """Layers that `forward` gives: the transformer's and what enters it."""
        return int(self.model.config.num_hidden_layers) + 1  # type: ignore[union-attr, arg-type]

    @torch.no_grad()
    def forward(self, samples: np.ndarray) -> Tensor:
        """[N] -> [L, 1, T, D]. InputError for a clip shorter than 25 ms."""
        if len(samples) < 0.025 * SAMPLE_RATE_HZ:
            raise InputError(f"a clip of {len(samples)} samples is too short; give 25 ms or more")
        values = self.extractor(samples, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt").input_values
        weight = next(self.model.parameters())
        out = self.model(values.to(weight.device, weight.dtype), output_hidden_states=True)
        return torch.stack(out.hidden_states)
