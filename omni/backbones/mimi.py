"""Mimi's codes to sound as they come (Défossez et al. 2024, arXiv 2410.00037): the same samples as decoding all at once.

The decoder looks back only, so that each convolution needs no more than the end of what it saw, each transposed one the part of
its output that later frames add to, and the transformer its keys and values.
Shapes: B clips, C codebooks, T frames (12.5 a second), N samples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, MimiModel
from transformers.models.mimi.modeling_mimi import MimiConv1d, MimiConvTranspose1d, MimiDecoder, MimiResnetBlock

from omni.backbones.local import pretrained
from omni.errors import ModelError


class Mimi:
    """The codec: sound to codes and back, whole or as a stream."""

    def __init__(self, model: MimiModel) -> None:
        self.model = model.eval()

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Mimi:
        """From a local folder that `save_pretrained` wrote or the hub's cache holds; safetensors only, no code."""
        return cls(pretrained(MimiModel, folder, dtype, device))

    @property
    def sample_rate_hz(self) -> int:
        return int(self.model.config.sampling_rate)

    @property
    def frame_samples(self) -> int:
        """Samples that one frame of codes stands for."""
        return round(self.sample_rate_hz / self.model.config.frame_rate)

    @torch.inference_mode()
    def encode(self, samples: Tensor, codebooks: int) -> Tensor:
        """Sound [B, N] at `sample_rate_hz` to codes [B, C, T] of the first `codebooks`."""
        given = samples[:, None].to(self.model.device, self.model.dtype)
        return self.model.encode(given, num_quantizers=codebooks).audio_codes

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """All codes [B, C, T] at once to sound [B, N]."""
        return self.model.decode(codes).audio_values[:, 0]

    def stream(self) -> MimiStream:
        """A decoder of one utterance, frame after frame."""
        return MimiStream(self.model)


class MimiStream:
    """Decodes one batch of utterances as their codes come. Give it frames in order; it keeps what later ones need."""

    def __init__(self, model: MimiModel) -> None:
        inner: Any = model.decoder
        # transformers 5.17 has the three parts side by side, later ones within a decoder of their own
        split = hasattr(inner, "decoder_seanet")
        holder: Any = inner if split else model
        self._quantizer = model.quantizer
        self._upsample: nn.Module | None = holder.upsample
        self._transformer: Any = holder.decoder_transformer
        self._decoder: nn.Module = inner.decoder_seanet if split else inner
        self._cache = DynamicCache(config=self._transformer.config)
        self._kept: dict[int, Tensor] = {}

    @torch.inference_mode()
    def push(self, codes: Tensor) -> Tensor:
        """The next frames [B, C, T] to their sound [B, N]."""
        x = self._quantizer.decode(codes)
        if self._upsample is not None:
            x = self._run(self._upsample, x)
        out = self._transformer(x.transpose(1, 2), past_key_values=self._cache, use_cache=True)
        return self._run(self._decoder, out.last_hidden_state.transpose(1, 2))[:, 0]

    def _run(self, module: nn.Module, x: Tensor) -> Tensor:
        if isinstance(module, MimiDecoder):
            for layer in module.layers:
                x = self._run(layer, x)
            return x
        if isinstance(module, MimiResnetBlock):
            y = x
            for layer in module.block:
                y = self._run(layer, y)
            return self._run(module.shortcut, x) + y
        if isinstance(module, MimiConv1d):
            return self._convolve(module, x)
        if isinstance(module, MimiConvTranspose1d):
            return self._spread(module, x)
        return module(x)  # activations

    def _convolve(self, module: MimiConv1d, x: Tensor) -> Tensor:
        if not module.causal or module.conv.stride[0] != 1:
            raise ModelError("this codec's decoder looks ahead or skips; it cannot be streamed")
        behind = int(module.padding_total)
        kept = self._kept.get(id(module))
        if kept is None:
            value = x[..., :1] if module.pad_mode == "replicate" else torch.zeros_like(x[..., :1])
            kept = value.expand(-1, -1, behind)
        x = torch.cat([kept, x], dim=-1)
        self._kept[id(module)] = x[..., x.shape[-1] - behind :]
        return module.conv(x)

    def _spread(self, module: MimiConvTranspose1d, x: Tensor) -> Tensor:
        if module.padding_left:
            raise ModelError("this codec's decoder looks ahead; it cannot be streamed")
        y = module.conv(x)
        kept, done = self._kept.get(id(module)), x.shape[-1] * module.conv.stride[0]
        if kept is not None:
            y[..., : kept.shape[-1]] += kept
        rest = y[..., done:].clone()
        if module.conv.bias is not None:
            rest -= module.conv.bias[:, None]  # it is added again with the frames to come
        self._kept[id(module)] = rest
        return y[..., :done]
