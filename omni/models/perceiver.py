"""The emotion perceiver: how something was said, from the sound alone.

Three views of a clip, each optional: a convolutional trunk over log-mels and prosody; a softmax-weighted sum of the
listener's layers (the multi-scale adapter of "Listen, Perceive and Express", arXiv 2501.10937); and functionals of
prosody and spectrum. The trunk is pooled by attentive statistics. A few small members, each with all views, are averaged
in the space of the emotion vector, since they share the heads.

Shapes: B batch, N samples, T log-mel frames (100 Hz), S states, M mel bins, P prosody channels, D width, L layers,
K functionals, G members, W views, V emotion vector, E emotions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from omni.audio import prosody as prosodies
from omni.audio.features import log_mel
from omni.config import AudioConfig, PerceiverConfig
from omni.errors import ConfigError
from omni.models.emotion_views import LayerMix, Summary, Trunk, inside, layer_statistics
from omni.models.functionals import count, frames_that_sound, functionals
from omni.turns import COORDINATES, EMOTIONS, Perception

_LEVEL_DB = -25.0
_MARGIN_FRAMES = 8  # silence kept around what is spoken
_LONGEST_S = 30.0  # of what sounds; the rest of a longer clip is not judged


@dataclass
class PerceiverOutput:
    """`logits` [B, E] over EMOTIONS before temperature; `intensity` [B] in [0, 1]; `vector` [B, V]; `members` [B, G, E]."""

    logits: Tensor
    intensity: Tensor
    vector: Tensor
    members: Tensor


@torch.no_grad()
def tracks(samples: Tensor, config: AudioConfig | None = None) -> tuple[Tensor, Tensor, slice]:
    """Log-mel [T, M] and prosody [T, P] of a clip [N] brought to one level, and the span of frames that sounds.

    Gain is taken out because it tells the microphone more than the speaker. InputError for less than 25 ms.
    """
    config = config or AudioConfig()
    levelled = prosodies.at_level(samples.float(), _LEVEL_DB, config)
    prosody = prosodies.frames(levelled, config)
    active, _ = frames_that_sound(prosody[None], torch.ones(1, len(prosody), dtype=torch.bool))
    places = active[0].nonzero()[:, 0]
    first, last = int(places[0]) - _MARGIN_FRAMES, int(places[-1]) + 1 + _MARGIN_FRAMES
    longest = round(_LONGEST_S * config.frame_rate_hz)
    span = slice(max(0, first), min(len(prosody), last, max(0, first) + longest))
    return log_mel(levelled, config), prosody, span


def front_end(samples: Tensor, config: AudioConfig | None = None) -> tuple[Tensor, Tensor]:
    """Log-mel [T, M] and prosody [T, P] of what sounds in a clip [N]; see `tracks`."""
    mel, prosody, span = tracks(samples, config)
    return mel[span], prosody[span]


class Member(nn.Module):
    """One network: every view of the clip becomes an emotion vector of its own, so that views can be left out."""

    def __init__(self, config: PerceiverConfig, audio: AudioConfig) -> None:
        super().__init__()
        self.trunk = Trunk(config, audio) if config.use_trunk else None
        self.layers = LayerMix(config) if config.use_layers else None
        self.summary = Summary(config, audio) if config.use_prosody else None
        names = [n for n, m in (("trunk", self.trunk), ("layers", self.layers), ("summary", self.summary)) if m]
        self.join = nn.ModuleDict(
            {n: nn.Sequential(nn.Dropout(config.dropout), nn.Linear(2 * config.width, config.vector)) for n in names}
        )

    def forward(
        self, mel: Tensor, lengths: Tensor, prosody: Tensor, layered: Tensor | None, summed: Tensor | None
    ) -> Tensor:  # fmt: skip
        """The vectors of the views whose input is there: [B, W, V]."""
        views: list[Tensor] = []
        if self.trunk is not None:
            views.append(self.join["trunk"](self.trunk(mel, lengths, prosody)))
        if self.layers is not None and layered is not None:
            views.append(self.join["layers"](self.layers(layered)))
        if self.summary is not None and summed is not None:
            views.append(self.join["summary"](self.summary(summed)))
        return torch.stack(views, dim=1)


class Perceiving(Protocol):
    """What every perceiver can do."""

    def perceive(self, samples: np.ndarray, layers: list[Tensor] | None = None) -> Perception:
        """How the clip `samples` [N] at 16 kHz sounds; `layers` as the listener gave them for it."""
        ...


class EmotionPerceiver(nn.Module):
    """Log-mels, prosody and the listener's layers to emotion, intensity and an emotion vector."""

    temperature: Tensor
    usual: Tensor  # [K], mean of the functionals over the training clips
    spread: Tensor  # [K], their deviation
    layer_usual: Tensor  # [L, 2 D], the same of the layers' statistics
    layer_spread: Tensor

    def __init__(self, config: PerceiverConfig | None = None, audio: AudioConfig | None = None) -> None:
        super().__init__()
        self.config, self.audio = config or PerceiverConfig(), audio or AudioConfig()
        if not (self.config.use_trunk or self.config.use_prosody):
            raise ConfigError(
                "perceiver: use_trunk and use_prosody are both off; at least one view must always be there"
            )
        self.register_buffer("usual", torch.zeros(count(self.audio.mels)))
        self.register_buffer("spread", torch.ones(count(self.audio.mels)))
        if self.config.use_layers:
            shape = (self.config.listener_layers, 2 * self.config.listener_width)
            self.register_buffer("layer_usual", torch.zeros(shape))
            self.register_buffer("layer_spread", torch.ones(shape))
        self.members = nn.ModuleList(Member(self.config, self.audio) for _ in range(self.config.members))
        self.emotion_head = nn.Linear(self.config.vector, len(EMOTIONS))
        self.intensity_head = nn.Linear(self.config.vector, 1)
        self.register_buffer("temperature", torch.ones(()))

    def centred(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """Log-mels [B, T, M] without their overall level, in units of 4 nats; zero beyond each clip."""
        keep = inside(lengths, mel.shape[1])[..., None]
        mean = (mel.float() * keep).sum((1, 2)) / (lengths * mel.shape[2]).clamp_min(1)
        return (mel.float() - mean[:, None, None]) / 4.0 * keep

    def views(
        self, mel: Tensor, lengths: Tensor, layered: Tensor | None, prosody: Tensor | None, summed: Tensor | None = None
    ) -> Tensor:  # fmt: skip
        """Vectors [B, G, W, V] of every member and view.

        mel [B, T, M], frames [B], prosody [B, T, P]; `layered` [B, L, 2 D]: `layer_statistics` of the listener's layers;
        `summed` [B, K]: the functionals of the centred mel and prosody, where they are known already.
        """
        mel = self.centred(mel, lengths)
        if prosody is None or not self.config.use_prosody:
            prosody, summed = mel.new_zeros(*mel.shape[:2], len(prosodies.CHANNELS)), None
        else:
            prosody = prosody.float() * inside(lengths, mel.shape[1])[..., None]
            summed = functionals(mel, prosody, lengths) if summed is None else summed
            summed = ((summed - self.usual) / self.spread).clamp(-5.0, 5.0)
        if layered is not None:
            layered = ((layered - self.layer_usual) / self.layer_spread).clamp(-5.0, 5.0)
        return torch.stack([member(mel, lengths, prosody, layered, summed) for member in self.members], dim=1)

    def heads(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Emotion logits [..., E] and intensity logits [...] of emotion vectors [..., V]."""
        return self.emotion_head(vectors), self.intensity_head(vectors)[..., 0]

    def forward(
        self, mel: Tensor, lengths: Tensor, layers: list[Tensor] | None = None, prosody: Tensor | None = None,
        spans: Tensor | None = None,
    ) -> PerceiverOutput:  # fmt: skip
        """Log-mels [B, T, M] and their frames [B]; the listener's layers; prosody [B, T, P] as from `front_end`.

        `spans` [B, 2]: which log-mel frames of `layers` to look at, when the listener heard more than `mel` holds.
        """
        layered = None
        if layers is not None and self.config.use_layers:
            around = torch.stack([torch.zeros_like(lengths), lengths], dim=1) if spans is None else spans
            layered = layer_statistics(layers, around)
        return self.output(self.views(mel, lengths, layered, prosody))

    def output(self, views: Tensor) -> PerceiverOutput:
        """Members and views averaged, and the heads: [B, G, W, V]."""
        vector = views.mean((1, 2))
        logits, strength = self.heads(vector)
        return PerceiverOutput(logits, strength.sigmoid(), vector, self.heads(views.mean(2))[0])

    @torch.no_grad()
    def perceive(self, samples: Tensor | np.ndarray, layers: list[Tensor] | None = None) -> Perception:
        """How the clip `samples` [N] at 16 kHz sounds; `layers` as the listener gave them for it, [1, S, D] each,
        or none.

        InputError for a clip shorter than 25 ms.
        """
        mel, prosody, span = tracks(torch.as_tensor(samples), self.audio)
        frames = torch.tensor([span.stop - span.start])
        spans = torch.tensor([[span.start, span.stop]])
        return self.perception(self(mel[None, span], frames, layers or None, prosody[None, span], spans))[0]

    def perception(self, out: PerceiverOutput) -> list[Perception]:
        """The records of a batch, with calibrated probabilities (temperature scaling, Guo et al. 2017, arXiv 1706.04599)."""
        shares = (out.logits / self.temperature).softmax(-1)
        return [
            to_perception(p, float(i), v) for p, i, v in zip(shares, out.intensity.tolist(), out.vector, strict=True)
        ]


def to_perception(probabilities: Tensor, intensity: float, vector: Tensor | None = None) -> Perception:
    """Record of a posterior [E]; valence and arousal are its expectation over `turns.COORDINATES`."""
    shares = {name: float(p) for name, p in zip(EMOTIONS, probabilities, strict=True)}
    emotion = max(shares, key=lambda name: shares[name])
    valence = sum(p * COORDINATES[name][0] for name, p in shares.items())
    arousal = sum(p * COORDINATES[name][1] for name, p in shares.items())
    kept = None if vector is None else vector.detach().float().numpy()
    return Perception(emotion, shares, intensity, valence, arousal, shares[emotion], vector=kept)
