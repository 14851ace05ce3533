"""The emotion perceiver: how something was said, from the sound alone.

Three views of a clip, each optional: a convolutional trunk over log-mels and prosody; a softmax-weighted sum of the
listener's layers (the multi-scale adapter of "Listen, Perceive and Express", arXiv 2501.10937); and functionals of
prosody and spectrum. The first two are pooled by attentive statistics (Okabe et al. 2018, arXiv 1803.10963). A few
small members, each with all views, are averaged in the space of the emotion vector, since they share the heads.

Shapes: B batch, N samples, T log-mel frames (100 Hz), S trunk frames (25 Hz), M mel bins, P prosody channels,
D width, K functionals, V emotion vector, E emotions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni.audio import prosody as prosodies
from omni.audio.features import log_mel
from omni.config import AudioConfig, PerceiverConfig
from omni.errors import ConfigError
from omni.models.functionals import count, frames_that_sound, functionals
from omni.turns import COORDINATES, EMOTIONS, Perception

_LEVEL_DB = -25.0
_MARGIN_FRAMES = 8  # silence kept around what is spoken
_STEM_STRIDE = 4
_LONGEST_S = 30.0  # of what sounds; the rest of a longer clip is not judged


@dataclass
class PerceiverOutput:
    """`logits` [B, E] over EMOTIONS before temperature; `intensity` [B] in [0, 1]; `vector` [B, V]; `members` [B, G, E]."""

    logits: Tensor
    intensity: Tensor
    vector: Tensor
    members: Tensor


@torch.no_grad()
def front_end(samples: Tensor, config: AudioConfig | None = None) -> tuple[Tensor, Tensor]:
    """Log-mel [T, M] and prosody [T, P] of a clip [N], brought to one level and cut to what sounds.

    Gain is taken out because it tells the microphone more than the speaker. InputError for less than 25 ms.
    """
    config = config or AudioConfig()
    levelled = prosodies.at_level(samples.float(), _LEVEL_DB, config)
    prosody = prosodies.frames(levelled, config)
    mel = log_mel(levelled, config)
    active, _ = frames_that_sound(prosody[None], torch.ones(1, len(prosody), dtype=torch.bool))
    places = active[0].nonzero()[:, 0]
    span = slice(max(0, int(places[0]) - _MARGIN_FRAMES), int(places[-1]) + 1 + _MARGIN_FRAMES)
    return mel[span], prosody[span]


def _masked(lengths: Tensor, frames: int) -> Tensor:
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
        x = x * _masked(lengths, x.shape[1])[..., None]
        short = (-x.shape[1]) % _STEM_STRIDE
        x = F.gelu(self.stem(F.pad(x, (0, 0, 0, short)).transpose(1, 2)).transpose(1, 2))
        keep = _masked(torch.div(lengths + _STEM_STRIDE - 1, _STEM_STRIDE, rounding_mode="floor"), x.shape[1])
        for block in self.blocks:
            x = block(x, keep)
        return self.pool(self.norm(x), keep)


class LayerMix(nn.Module):
    """LPE's multi-scale adapter: softmax-weighted sum over the listener's layers, linear, attentive statistics."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(config.listener_layers))
        self.norm = nn.LayerNorm(config.listener_width, elementwise_affine=False)
        self.project = nn.Linear(config.listener_width, config.width)
        self.pool = AttentiveStatistics(config.width)

    def forward(self, layers: list[Tensor], shares: Tensor) -> Tensor:
        """layers [B, S_l, D_l], of two frame rates; shares [B]: how much of the longest clip each clip fills -> [B, 2 D]."""
        slowest = min(layer.shape[1] for layer in layers)
        weights = self.weights.softmax(0)
        mixed = torch.zeros((), device=layers[0].device)
        for weight, layer in zip(weights, layers, strict=True):
            if layer.shape[1] != slowest:
                layer = layer[:, : 2 * slowest].unflatten(1, (slowest, 2)).mean(2)
            mixed = mixed + weight * self.norm(layer.float())
        keep = _masked((shares * slowest).ceil().long().clamp(1, slowest), slowest)
        return self.pool(F.gelu(self.project(mixed)), keep)


class Summary(nn.Module):
    """One hidden layer over standardised functionals: [B, K] -> [B, 2 D]."""

    def __init__(self, config: PerceiverConfig, audio: AudioConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.Linear(count(audio.mels), 2 * config.width)

    def forward(self, summed: Tensor) -> Tensor:
        return F.gelu(self.hidden(self.dropout(summed)))


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
        self, mel: Tensor, lengths: Tensor, layers: tuple[list[Tensor], Tensor] | None,
        prosody: Tensor, summed: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """The vectors of the views whose input is there: [B, W, V]."""
        views: list[Tensor] = []
        if self.trunk is not None:
            views.append(self.join["trunk"](self.trunk(mel, lengths, prosody)))
        if self.layers is not None and layers is not None:
            views.append(self.join["layers"](self.layers(*layers)))
        if self.summary is not None and summed is not None:
            views.append(self.join["summary"](self.summary(summed)))
        return torch.stack(views, dim=1)


class EmotionPerceiver(nn.Module):
    """Log-mels, prosody and the listener's layers to emotion, intensity and an emotion vector."""

    temperature: Tensor
    usual: Tensor  # [K], mean of the functionals over the training clips
    spread: Tensor  # [K], their deviation

    def __init__(self, config: PerceiverConfig | None = None, audio: AudioConfig | None = None) -> None:
        super().__init__()
        self.config, self.audio = config or PerceiverConfig(), audio or AudioConfig()
        if not (self.config.use_trunk or self.config.use_prosody):
            raise ConfigError(
                "perceiver: use_trunk and use_prosody are both off; at least one view must always be there"
            )
        self.register_buffer("usual", torch.zeros(count(self.audio.mels)))
        self.register_buffer("spread", torch.ones(count(self.audio.mels)))
        self.members = nn.ModuleList(Member(self.config, self.audio) for _ in range(self.config.members))
        self.emotion_head = nn.Linear(self.config.vector, len(EMOTIONS))
        self.intensity_head = nn.Linear(self.config.vector, 1)
        self.register_buffer("temperature", torch.ones(()))

    def centred(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """Log-mels [B, T, M] without their overall level, in units of 4 nats; zero beyond each clip."""
        inside = _masked(lengths, mel.shape[1])[..., None]
        mean = (mel.float() * inside).sum((1, 2)) / (lengths * mel.shape[2]).clamp_min(1)
        return (mel.float() - mean[:, None, None]) / 4.0 * inside

    def views(
        self, mel: Tensor, lengths: Tensor, layers: list[Tensor] | None = None, prosody: Tensor | None = None,
        layer_lengths: Tensor | None = None, summed: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Vectors [B, G, W, V] of every member and view. Arguments as in `forward`.

        `summed` [B, K]: the functionals of the centred mel and prosody, where they are known already.
        """
        mel = self.centred(mel, lengths)
        if prosody is None or not self.config.use_prosody:
            prosody, summed = mel.new_zeros(*mel.shape[:2], len(prosodies.CHANNELS)), None
        else:
            prosody = prosody.float() * _masked(lengths, mel.shape[1])[..., None]
            summed = functionals(mel, prosody, lengths) if summed is None else summed
            summed = ((summed - self.usual) / self.spread).clamp(-5.0, 5.0)
        given = None
        if layers is not None:
            ends = layer_lengths if layer_lengths is not None else lengths
            given = (layers, ends / ends.max().clamp_min(1))
        return torch.stack([member(mel, lengths, given, prosody, summed) for member in self.members], dim=1)

    def heads(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Emotion logits [..., E] and intensity logits [...] of emotion vectors [..., V]."""
        return self.emotion_head(vectors), self.intensity_head(vectors)[..., 0]

    def forward(
        self, mel: Tensor, lengths: Tensor, layers: list[Tensor] | None = None, prosody: Tensor | None = None,
        layer_lengths: Tensor | None = None,
    ) -> PerceiverOutput:  # fmt: skip
        """Log-mels [B, T, M] and their frames [B]; the listener's layers; prosody [B, T, P] as from `front_end`.

        `layer_lengths` [B]: frames behind each clip of `layers`, when they are not `lengths` (a clip heard uncut).
        """
        views = self.views(mel, lengths, layers, prosody, layer_lengths)
        vector = views.mean((1, 2))
        logits, strength = self.heads(vector)
        return PerceiverOutput(logits, strength.sigmoid(), vector, self.heads(views.mean(2))[0])

    @torch.no_grad()
    def perceive(self, samples: Tensor | np.ndarray, layers: list[Tensor] | None = None) -> Perception:
        """How the clip `samples` [N] at 16 kHz sounds; `layers` as the listener gave them for it, [1, S, D] each.

        InputError for a clip shorter than 25 ms.
        """
        mel, prosody = front_end(torch.as_tensor(samples), self.audio)
        limit = round(_LONGEST_S * self.audio.frame_rate_hz)
        mel, prosody = mel[:limit], prosody[:limit]
        frames = torch.tensor([len(mel)])
        out = self(mel[None], frames, layers if self.config.use_layers else None, prosody[None])
        return self.perception(out)[0]

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
