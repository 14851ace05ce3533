"""Vocoders: acoustic frames in, sound out. WORLD needs no training; the neural one is source-filter with an ISTFT head.

The neural vocoder makes an excitation of harmonic sinusoids at F0 and of noise, and lets a convolutional network turn the
frames into two complex filters per spectral bin, one for each excitation: the head of Vocos (Siuzdak 2024) on the source
of the neural source-filter model (Wang, Takaki and Yamagishi 2019) with the spectral product of DDSP (Engel et al. 2020).
The filters start as the minimum-phase envelope that WORLD itself would use, so that training only mends it.

Streaming: convolutions look `look_ahead_frames` ahead in all and the rest back, noise and phase are functions of the
sample's number alone, so that sound made in chunks equals sound made at once.

Shapes: B batch, T frames of 5 ms, C envelope, A aperiodicity, F bins of the transform, N samples, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import pyworld
import torch
from torch import Tensor, nn
from torch.nn import functional

from omni.audio.world import FFT_SAMPLES, SAMPLE_RATE_HZ, Frames, resynthesise
from omni.config import VocoderConfig
from omni.errors import ModelError

_DRIFT_SEED = 20_160


class Vocoder(Protocol):
    """What every vocoder can do. Both give float32 samples in [-1, 1] at the frames' sample rate."""

    def synthesise(self, frames: Frames) -> np.ndarray:
        """The whole sound: [T * hop]."""
        ...

    def stream(self, frames: Frames) -> Iterator[np.ndarray]:
        """The same sound in pieces as they are ready; together as long as the whole."""
        ...


def limit(samples: np.ndarray, knee: float = 0.75) -> np.ndarray:
    """Sound [N] whose peaks above `knee` are bent softly below 1, sample by sample (so that pieces equal the whole)."""
    size = np.abs(samples)
    bent = knee + (1.0 - knee) * np.tanh((size - knee) / (1.0 - knee))
    return np.where(size > knee, np.sign(samples) * bent, samples).astype(np.float32)


class WorldVocoder:
    """WORLD synthesis a clause at a time; each clause ends in its pause, so that the seams lie in silence."""

    def synthesise(self, frames: Frames) -> np.ndarray:
        """See `Vocoder`; the pieces of `stream`, joined."""
        return np.concatenate([*self.stream(frames), np.zeros(0, np.float32)])

    def stream(self, frames: Frames) -> Iterator[np.ndarray]:
        """One piece a clause."""
        for start, end in frames.clauses():
            yield limit(resynthesise(frames.cut(start, end)))


class NeuralVocoder(nn.Module):
    """The trained vocoder. `forward` is for training; `synthesise` and `stream` for use."""

    mean: Tensor
    scale: Tensor
    window: Tensor
    decode_power: Tensor
    decode_phase: Tensor

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        width, bins = config.width, config.fft_samples // 2 + 1
        self.enter = nn.Conv1d(config.cepstrum + config.aperiodicity + 2, width, 1)
        ahead = [int(index < config.look_ahead_frames) for index in range(config.layers)]
        self.blocks = nn.ModuleList(_Block(width, config.feedforward, config.kernel_frames, a) for a in ahead)
        #: frames before and after a piece that its sound depends on: the convolutions' and the window's
        overlap = -(-config.fft_samples // round(SAMPLE_RATE_HZ * 0.005))
        self.look_back_frames = sum(config.kernel_frames - 1 - a for a in ahead) + overlap
        self.look_ahead_frames = sum(ahead) + overlap
        self.leave = nn.LayerNorm(width)
        self.output_head = nn.Linear(width, 4 * bins)
        nn.init.normal_(self.output_head.weight, std=0.002)
        nn.init.zeros_(self.output_head.bias)
        self.register_buffer("mean", torch.zeros(config.cepstrum + config.aperiodicity))
        self.register_buffer("scale", torch.ones(config.cepstrum + config.aperiodicity))
        self.register_buffer("window", torch.hann_window(config.fft_samples), persistent=False)
        power, phase = envelope_bases(config.cepstrum, bins)
        self.register_buffer("decode_power", power, persistent=False)
        self.register_buffer("decode_phase", phase, persistent=False)

    @property
    def hop_samples(self) -> int:
        """Samples between two frames (80)."""
        return round(SAMPLE_RATE_HZ * 0.005)

    def filters(self, envelope: Tensor, noise: Tensor, pitch_hz: Tensor, voiced: Tensor) -> tuple[Tensor, Tensor]:
        """Complex filters [B, T, F] of the harmonic and of the noise excitation."""
        coded = (torch.cat((envelope, noise), dim=-1) - self.mean) / self.scale
        tune = torch.stack(((pitch_hz.log() - 5.2) / 0.4, voiced), dim=-1)
        x = self.enter(torch.cat((coded, tune), dim=-1).transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        out = self.output_head(self.leave(x.transpose(1, 2))).float()
        gain_h, turn_h, gain_n, turn_n = out.chunk(4, dim=-1)
        power = envelope.float() @ self.decode_power  # log power, [B, T, F]
        phase = envelope.float() @ self.decode_phase
        rough = mix_of(noise.float(), power.shape[-1])
        lift = 0.5 * power
        harmonic = lift + 0.5 * torch.log1p(-rough * 0.999) + gain_h.clamp(-4, 4)
        breath = lift + 0.5 * torch.log(torch.where(voiced[..., None] > 0, rough, 1.0) + 1e-4) + gain_n.clamp(-4, 4)
        tuned = torch.polar(harmonic.clamp(-12, 8).exp(), phase + turn_h)
        return tuned, torch.polar(breath.clamp(-12, 8).exp(), phase + turn_n)

    def forward(
        self, envelope: Tensor, noise: Tensor, pitch_hz: Tensor, voiced: Tensor, pulses: Tensor, hiss: Tensor
    ) -> Tensor:
        """envelope [B, T, C], noise [B, T, A], pitch_hz, voiced [B, T]; excitations `pulses`, `hiss` [B, N], N = T * hop
        -> sound [B, N]."""
        harmonic, breath = self.filters(envelope, noise, pitch_hz, voiced)
        spectrum = harmonic * self._transform(pulses) + breath * self._transform(hiss)
        return self._back(spectrum, pulses.shape[-1])

    def _transform(self, sound: Tensor) -> Tensor:
        """Frames centred on t * hop + hop / 2: [B, N] -> complex [B, T, F]."""
        size, hop = self.config.fft_samples, self.hop_samples
        side = (size - hop) // 2
        cut = functional.pad(sound, (side, side)).unfold(-1, size, hop)
        return torch.fft.rfft(cut * self.window)

    def _back(self, spectrum: Tensor, samples: int) -> Tensor:
        """Overlap-add with the same window and exact normalisation: complex [B, T, F] -> [B, N]."""
        size, hop = self.config.fft_samples, self.hop_samples
        side = (size - hop) // 2
        pieces = (torch.fft.irfft(spectrum, n=size) * self.window).transpose(1, 2)
        total = (1, samples + 2 * side)
        summed = functional.fold(pieces, total, (1, size), stride=(1, hop))[:, 0, 0]
        return summed[:, side : side + samples] / (self.window.square().sum() / hop)

    def synthesise(self, frames: Frames) -> np.ndarray:
        """See `Vocoder`."""
        return self._piece(frames, *excitation(frames), 0, len(frames))

    def stream(self, frames: Frames) -> Iterator[np.ndarray]:
        """One piece for every `chunk_frames` frames; each waits for `look_ahead_frames` more."""
        pulses, hiss = excitation(frames)
        for start in range(0, len(frames), self.config.chunk_frames):
            yield self._piece(frames, pulses, hiss, start, min(len(frames), start + self.config.chunk_frames))

    @torch.inference_mode()
    def _piece(self, frames: Frames, pulses: np.ndarray, hiss: np.ndarray, start: int, end: int) -> np.ndarray:
        hop = self.hop_samples
        low, high = max(0, start - self.look_back_frames), min(len(frames), end + self.look_ahead_frames)
        part = frames.cut(low, high)
        tensors = (part.envelope, part.aperiodicity, part.pitch_hz, part.voiced.astype(np.float32))
        sources = (pulses[low * hop : high * hop], hiss[low * hop : high * hop])
        sound = self(*(torch.from_numpy(np.ascontiguousarray(t))[None].float() for t in (*tensors, *sources)))
        return limit(sound[0, (start - low) * hop : (end - low) * hop].numpy())


class _Block(nn.Module):
    """ConvNeXt block whose convolution sees `ahead` frames ahead and the rest of its kernel back."""

    def __init__(self, width: int, feedforward: int, kernel: int, ahead: int) -> None:
        super().__init__()
        self.ahead, self.back = ahead, kernel - 1 - ahead
        self.mix = nn.Conv1d(width, width, kernel, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, feedforward), nn.Linear(feedforward, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, D, T] -> [B, D, T]."""
        mixed = self.mix(functional.pad(x, (self.back, self.ahead))).transpose(1, 2)
        return x + self.down(functional.gelu(self.up(self.norm(mixed)))).transpose(1, 2)


def envelope_bases(cepstrum: int, bins: int) -> tuple[Tensor, Tensor]:
    """Matrices [C, F] from coded envelope to log power (nats) and to minimum phase (radians) at the bins.

    WORLD's decoding is linear in the log, and the minimum phase is the Hilbert transform of the log magnitude
    (Oppenheim and Schafer 2010, section 13.4), so both are products with a fixed matrix.
    """
    unit = np.zeros((cepstrum + 1, cepstrum))
    unit[1:] = np.eye(cepstrum)
    decoded = np.log(pyworld.decode_spectral_envelope(unit, SAMPLE_RATE_HZ, FFT_SAMPLES))
    power = decoded[1:] - decoded[:1]
    cepstra = np.fft.irfft(power / 2, axis=1)
    half = cepstra.shape[1] // 2
    cepstra[:, 1:half] *= 2
    cepstra[:, half + 1 :] = 0
    phase = np.fft.rfft(cepstra, axis=1).imag
    step = (power.shape[1] - 1) // (bins - 1)
    return tuple(torch.from_numpy(np.ascontiguousarray(m[:, ::step])).float() for m in (power, phase))  # type: ignore


def mix_of(noise_db: Tensor, bins: int) -> Tensor:
    """Share of noise in the power [..., F] from coded aperiodicity in dB [..., A] (first band; at 16 kHz the only one).

    WORLD's shape: -60 dB at 0 Hz rising in a straight line to the coded value at 3 kHz, then to 0 dB at 8 kHz.
    """
    places = torch.linspace(0, SAMPLE_RATE_HZ / 2000, bins, device=noise_db.device)
    coded = noise_db[..., :1].clamp(-60.0, 0.0)
    low = -60.0 + (coded + 60.0) * (places / 3.0).clamp(max=1.0)
    high = coded + (0.0 - coded) * ((places - 3.0) / 5.0).clamp(min=0.0)
    return (10.0 ** (torch.where(places < 3.0, low, high) / 10.0)).clamp(1e-6, 1.0)


def excitation(frames: Frames) -> tuple[np.ndarray, np.ndarray]:
    """(pulses, hiss) float32 [T * hop]: a band-limited pulse train at F0, silent where unvoiced, and white noise.

    Both have unit power density per pulse, as WORLD's do: a pulse's height is the square root of its period. The phase
    is the running sum of F0 from the utterance's first sample on.
    """
    hop, total = frames.hop_samples, len(frames) * frames.hop_samples
    times = np.arange(total) / hop
    places = np.arange(len(frames)) + 0.5
    pitch = np.interp(times, places, frames.pitch_hz.astype(np.float64))
    phase = np.cumsum(pitch / frames.sample_rate_hz)
    wraps = np.flatnonzero(np.diff(np.floor(phase)) > 0)
    pulses = np.zeros(total + 2)
    sounding = frames.voiced[np.minimum(wraps // hop, len(frames) - 1)]
    wraps = wraps[sounding]
    late = (phase[wraps + 1] - np.floor(phase[wraps + 1])) * frames.sample_rate_hz / pitch[wraps + 1]
    height = np.sqrt(frames.sample_rate_hz / pitch[wraps + 1])
    # a pulse between two samples is shared by them (straight line), which keeps its place to a fraction of a sample
    np.add.at(pulses, wraps + 1, height * (1 - late))
    np.add.at(pulses, wraps, height * late)
    hiss = np.random.default_rng(_DRIFT_SEED).standard_normal(total)
    return pulses[:total].astype(np.float32), hiss.astype(np.float32)


def make_vocoder(config: VocoderConfig, weights: dict[str, Tensor] | None = None) -> Vocoder:
    """The vocoder that the configuration names. ModelError for an unknown kind or a neural one without weights."""
    if config.kind == "world":
        return WorldVocoder()
    if config.kind != "neural":
        raise ModelError(f"vocoder kind {config.kind!r} is unknown; choose 'world' or 'neural'")
    if weights is None:
        raise ModelError("the neural vocoder needs weights; set vocoder.kind to 'world' or give vocoder.safetensors")
    model = NeuralVocoder(config)
    try:
        model.load_state_dict({name: weight.float() for name, weight in weights.items()})
    except RuntimeError as error:
        raise ModelError(f"vocoder weights do not fit the configuration: {error}") from error
    return model.eval()
