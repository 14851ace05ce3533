"""Making clean recordings sound like the world: noise, rooms, speed, level, cheap channels; masks on mels.

speechbrain's augmentations are used where they exist (imported when first needed, so that the rest works without
it); they draw from torch's global generator, which is seeded from ours for the call and put back afterwards.
Shapes: B batch, N samples, T frames, M mel bins. All sound is float32 at 16 kHz.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torchaudio
from torch import Generator, Tensor

SAMPLE_RATE_HZ = 16_000


def uniform(low: float, high: float, generator: Generator) -> float:
    """One number between low and high."""
    return low + (high - low) * float(torch.rand((), generator=generator))


@contextmanager
def _global_seed(generator: Generator) -> Iterator[None]:
    """torch's global generator, seeded from `generator` inside the block and restored after it."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def coloured_noise(count: int, slope: float, generator: Generator) -> Tensor:
    """Noise [count] whose power falls as 1 / frequency ** slope: 0 white, 1 pink, 2 brown. RMS 1."""
    spectrum = torch.fft.rfft(torch.randn(count, generator=generator))
    spectrum = spectrum / torch.arange(1, len(spectrum) + 1) ** (slope / 2)
    noise = torch.fft.irfft(spectrum, n=count)
    return noise / noise.square().mean().sqrt().clamp_min(1e-9)


def stretch_to(noise: Tensor, count: int, generator: Generator) -> Tensor:
    """`count` samples of a noise recording from a drawn position, repeated where it is shorter."""
    start = int(torch.randint(len(noise), (), generator=generator))
    return noise.roll(-start).repeat(count // len(noise) + 1)[:count]


def add_noise(samples: Tensor, noise: Tensor, snr_db: float, generator: Generator) -> Tensor:
    """Samples [N] and a stretch of `noise` [any length] at `snr_db` (root mean square against root mean square).

    As speechbrain's AddNoise, the mixture keeps the sum of both amplitudes at that of the clean sound.
    """
    from speechbrain.augment.time_domain import AddNoise

    stretch = stretch_to(noise, len(samples), generator)[None]
    mix = AddNoise(snr_low=snr_db, snr_high=snr_db, noise_funct=lambda _: stretch.clone())
    with _global_seed(generator):
        return mix(samples[None], torch.ones(1))[0]


def room_response(reverberation_s: float, generator: Generator) -> Tensor:
    """An artificial room: a direct sound, then noise that has fallen by 60 dB after `reverberation_s`. [N]

    The tail holds as much energy as the direct sound at 0.6 s, and grows with the reverberation time.
    """
    count = max(int(reverberation_s * SAMPLE_RATE_HZ), 1)
    tail = torch.randn(count, generator=generator) * 10 ** (-3 * torch.arange(count) / count)
    tail[: SAMPLE_RATE_HZ // 400] = 0.0  # nothing returns within 2.5 ms
    tail = tail / tail.square().sum().sqrt().clamp_min(1e-9) * (reverberation_s / 0.6) ** 0.5
    tail[0] = 1.0
    return tail


def reverberate(samples: Tensor, response: Tensor) -> Tensor:
    """Samples [N] heard in a room with this impulse response; direct sound stays in place, mean amplitude as before."""
    from speechbrain.processing.signal_processing import reverberate as convolve

    return convolve(samples[None], response.clone(), rescale_amp="avg")[0]


def change_speed(samples: Tensor, factor: float) -> Tensor:
    """Samples [N] played `factor` times as fast, pitch included, by resampling: about N / factor samples."""
    from speechbrain.augment.time_domain import SpeedPerturb

    percent = round(factor * 100)
    if percent == 100:
        return samples
    if not 50 <= percent <= 200:
        raise ValueError(f"speed factor {factor} is outside 0.5 to 2.0")
    with torch.random.fork_rng(devices=[]):  # it draws among its one speed
        return SpeedPerturb(SAMPLE_RATE_HZ, speeds=[percent])(samples[None])[0]


def drop_frequencies(samples: Tensor, generator: Generator) -> Tensor:
    """Samples [N] with one to three narrow bands taken out."""
    from speechbrain.augment.time_domain import DropFreq

    with _global_seed(generator):
        return DropFreq()(samples[None])[0]


def drop_chunks(samples: Tensor, generator: Generator) -> Tensor:
    """Samples [N] with one to three pieces of up to 60 ms silenced, like lost packets."""
    from speechbrain.augment.time_domain import DropChunk

    longest = min(960, len(samples) // 4)
    if longest < 160:
        return samples
    with _global_seed(generator):
        return DropChunk(drop_length_low=160, drop_length_high=longest)(samples[None], torch.ones(1))[0]


def limit_band(samples: Tensor, low_hz: float, high_hz: float) -> Tensor:
    """Samples [N] of which only `low_hz` to `high_hz` is left, as by a telephone or a cheap codec."""
    if low_hz > 0:
        samples = torchaudio.functional.highpass_biquad(samples, SAMPLE_RATE_HZ, low_hz)
    if high_hz < SAMPLE_RATE_HZ / 2:
        for _ in range(2):
            samples = torchaudio.functional.lowpass_biquad(samples, SAMPLE_RATE_HZ, high_hz)
    return samples


def compand(samples: Tensor, levels: int = 256) -> Tensor:
    """Samples [N] coded in mu-law steps as on a digital telephone line (ITU-T G.711)."""
    coded = torchaudio.functional.mu_law_encoding(samples.clamp(-1, 1), levels)
    return torchaudio.functional.mu_law_decoding(coded, levels)


def gain(samples: Tensor, decibels: float) -> Tensor:
    """Samples [N] louder or quieter; what passes full scale is clipped, as a recorder does."""
    return (samples * 10 ** (decibels / 20)).clamp(-1.0, 1.0)


@dataclass(frozen=True)
class AugmentConfig:
    """How often and how strongly `Augmenter` changes a recording. Chances are in [0, 1]."""

    speed_chance: float = 0.5
    speeds: tuple[float, ...] = (0.9, 0.95, 1.05, 1.1)
    reverberation_chance: float = 0.2
    longest_reverberation_s: float = 0.7
    noise_chance: float = 0.5
    lowest_snr_db: float = 5.0
    highest_snr_db: float = 30.0
    band_chance: float = 0.15
    drop_chance: float = 0.1
    lowest_gain_db: float = -18.0
    highest_gain_db: float = 3.0


class Augmenter:
    """Draws a chain of changes for one recording: speed, room, noise, channel, level, in the order of the world.

    `noises` and `rooms` are recordings [N] to use beside the artificial ones; half of the draws are artificial.
    """

    def __init__(
        self,
        config: AugmentConfig | None = None,
        noises: Sequence[Tensor] = (),
        rooms: Sequence[Tensor] = (),
    ) -> None:
        self.config = config or AugmentConfig()
        self.noises, self.rooms = tuple(noises), tuple(rooms)

    def __call__(self, samples: Tensor, generator: Generator) -> Tensor:
        """Samples [N] -> changed samples [about N], finite and in [-1, 1]."""
        c = self.config
        if self._happens(c.speed_chance, generator):
            samples = change_speed(samples, c.speeds[int(torch.randint(len(c.speeds), (), generator=generator))])
        if self._happens(c.reverberation_chance, generator):
            samples = reverberate(samples, self._room(generator))
        if self._happens(c.noise_chance, generator):
            snr_db = uniform(c.lowest_snr_db, c.highest_snr_db, generator)
            samples = add_noise(samples, self._noise(len(samples), generator), snr_db, generator)
        if self._happens(c.band_chance, generator):
            samples = limit_band(samples, uniform(50, 350, generator), uniform(3000, 6000, generator))
            samples = compand(samples) if self._happens(0.5, generator) else samples
        if self._happens(c.drop_chance, generator):
            samples = drop_frequencies(samples, generator)
            samples = drop_chunks(samples, generator)
        return gain(samples, uniform(c.lowest_gain_db, c.highest_gain_db, generator))

    def _happens(self, chance: float, generator: Generator) -> bool:
        return float(torch.rand((), generator=generator)) < chance

    def _room(self, generator: Generator) -> Tensor:
        if self.rooms and self._happens(0.5, generator):
            return self.rooms[int(torch.randint(len(self.rooms), (), generator=generator))]
        return room_response(uniform(0.1, self.config.longest_reverberation_s, generator), generator)

    def _noise(self, count: int, generator: Generator) -> Tensor:
        if self.noises and self._happens(0.5, generator):
            return self.noises[int(torch.randint(len(self.noises), (), generator=generator))]
        return coloured_noise(count, uniform(0.0, 2.0, generator), generator)


@dataclass(frozen=True)
class MaskConfig:
    """SpecAugment (Park et al. 2019): how many masks and how wide; time masks also as a share of the clip."""

    time_masks: int = 5
    widest_time_share: float = 0.05
    bin_masks: int = 2
    widest_bins: int = 27


def mask_mels(mels: Tensor, lengths: Tensor, generator: Generator, config: MaskConfig | None = None) -> Tensor:
    """Mels [B, T, M] with random spans of time and bands set to each bin's mean over the clip; padding is kept.

    `lengths` [B] are the frames of each clip. The mean of a bin is nought once the features are normalised.

    Widths are drawn between 0 and the widest (SpecAugment, Park et al. 2019, section 2; the adaptive time masks of
    Park et al. 2020), each mask inside its clip. The masks are drawn on the CPU, whichever device the mels are on.
    """
    config = config or MaskConfig()
    batch, frames, bins = mels.shape
    inside_lengths = lengths.to("cpu").clamp(max=frames)
    widest = (inside_lengths * config.widest_time_share).floor()
    time = _spans(inside_lengths, widest, config.time_masks, frames, generator)
    all_bins = torch.full((batch,), bins)
    widest_bins = torch.full((batch,), float(min(config.widest_bins, bins)))
    band = _spans(all_bins, widest_bins, config.bin_masks, bins, generator)
    valid = torch.arange(frames)[None, :] < inside_lengths[:, None]
    mask = ((time[:, :, None] | band[:, None, :]) & valid[:, :, None]).to(mels.device)
    valid = valid[:, :, None].to(mels.device)
    mean = (mels * valid).sum(dim=1) / inside_lengths.clamp(min=1)[:, None].to(mels.device)
    return torch.where(mask, mean[:, None].to(mels.dtype), mels)


def _spans(lengths: Tensor, widest: Tensor, masks: int, size: int, generator: Generator) -> Tensor:
    """Union of `masks` random spans in each row: bool [B, size]; starts are such that spans end within `lengths`."""
    width = (torch.rand(len(lengths), masks, generator=generator) * (widest[:, None] + 1)).floor()
    room = (lengths[:, None] - width).clamp(min=0) + 1
    start = (torch.rand(len(lengths), masks, generator=generator) * room).floor()
    at = torch.arange(size)[None, None, :]
    return ((at >= start[..., None]) & (at < (start + width)[..., None])).any(dim=1)
