"""The listener as a whole: sound in, words and the encoder's layers out.

Shapes: N samples, S states (25 Hz), D width, P CTC units.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from omni.audio.features import log_mel
from omni.audio.vad import segments
from omni.config import AudioConfig
from omni.models.encoder import SpeechEncoder
from omni.nn.beam import LexiconDecoder
from omni.turns import Audio, Heard


@dataclass(frozen=True)
class Listening:
    """`heard`; `layers` of the encoder [1, S, D] each (of the first window), none from a listener that keeps its own."""

    heard: Heard
    layers: list[Tensor] = field(default_factory=list)


class Hearing(Protocol):
    """What every listener can do."""

    def listen(self, audio: Audio) -> Listening:
        """Hear a whole query."""
        ...


class Listener:
    """Encoder and decoder. Sound longer than the configured window is cut at its quietest points."""

    def __init__(self, encoder: SpeechEncoder, decoder: LexiconDecoder, audio: AudioConfig) -> None:
        self.encoder, self.decoder, self.audio = encoder.eval(), decoder, audio

    @torch.inference_mode()
    def encode(self, samples: np.ndarray) -> tuple[list[Tensor], np.ndarray]:
        """Layers and CTC log-probabilities [S, P] of samples [N]."""
        mel = log_mel(torch.from_numpy(np.ascontiguousarray(samples, np.float32)), self.audio)[None]
        out = self.encoder(mel, torch.tensor([mel.shape[1]]))
        log_probabilities = out.logits[0, : int(out.lengths[0])].float().log_softmax(-1)
        return out.layers, log_probabilities.numpy()

    def listen(self, audio: Audio) -> Listening:
        """Hear a whole query."""
        cuts = segments(audio.samples, self.encoder.config.window_s)
        if len(cuts) <= 1:
            layers, log_probabilities = self.encode(audio.samples)
            return Listening(self.decoder.decode(log_probabilities), layers)
        parts = [self.encode(audio.samples[a:b]) for a, b in cuts]
        heard = [self.decoder.decode(p) for _, p in parts]
        weights = np.array([max(1, len(h.text.split())) for h in heard], float)
        text = " ".join(h.text for h in heard if h.text)
        confidence = float(np.average([h.confidence for h in heard], weights=weights))
        return Listening(Heard(text, confidence), parts[0][0])
