"""Training of the neural vocoder (`vocoder`): multi-resolution spectra first, then a small adversary on spectra.

Losses: spectral convergence and log-magnitude L1 at three resolutions (Parallel WaveGAN; Yamamoto, Song and Kim 2020,
equations 4-6), and a least-squares adversary on log-magnitude spectrograms (UnivNet's view; Jang et al. 2021) with
feature matching. Only magnitudes are compared: the phase of the excitation is the vocoder's own.

Shapes: B batch, T frames of 5 ms, N samples (T * hop), C envelope, A aperiodicity.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from omni.audio import world
from omni.config import DecoderConfig, VocoderConfig, build, dump
from omni.data.manifest import Clip, read
from omni.errors import DataError
from omni.models.vocoder import NeuralVocoder, excitation
from omni.train.critics import adversary, spectrum_critic
from omni.train.recipe import Recipe
from omni.train.voice_data import Recording, analyse_clip, read_samples

#: (transform, hop, window) in samples
RESOLUTIONS = ((512, 128, 480), (1024, 256, 960), (256, 64, 200))


@dataclass(frozen=True)
class VocoderData:
    """The `data` block of a vocoder recipe; analyses are shared with the voice's cache."""

    manifest: str = "librispeech/train.jsonl"
    speakers: tuple[str, ...] = ("2416",)
    held_out_clips: int = 3
    aligner: str = "pocketsphinx"
    cache: str = "voice"
    batch_pieces: int = 8
    piece_frames: int = 120
    adversary_from_step: int = 600
    adversary_weight: float = 0.1


@dataclass
class VocoderBatch:
    """Pieces of recordings: frames, excitations and the sound itself."""

    envelope: Tensor
    aperiodicity: Tensor
    pitch_hz: Tensor
    voiced: Tensor
    pulses: Tensor
    hiss: Tensor
    sound: Tensor


class VocoderModel(nn.Module):
    """What the loop trains: the vocoder and its critic. Only the vocoder is exported."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.vocoder = NeuralVocoder(config)
        self.critic = spectrum_critic()


class VocoderTask:
    """Recipe part `vocoder`."""

    def __init__(self, recipe: Recipe, data: Path, cache: Path) -> None:
        self.recipe, self.data = recipe, build(VocoderData, recipe.data, "data")
        self.config = build(VocoderConfig, recipe.model, "model")
        clips = [c for c in read(data / self.data.manifest) if c.speaker in self.data.speakers]
        if not clips:
            raise DataError(f"{data / self.data.manifest} has no clip of {self.data.speakers}; check data.speakers")
        made = [pair for c in clips if (pair := self._pair(c, cache / self.data.cache)) is not None]
        held = max(1, min(self.data.held_out_clips, len(made) - 1))
        self._train, self._held = made[:-held] or made, made[-held:]
        torch.manual_seed(recipe.seed)
        self.model = VocoderModel(self.config)
        vocoder = self.model.vocoder
        coded = np.concatenate([np.concatenate((f.envelope, f.aperiodicity), axis=1) for f, _ in self._train])
        vocoder.mean.copy_(torch.from_numpy(coded.mean(axis=0)))
        vocoder.scale.copy_(torch.from_numpy(coded.std(axis=0) + 1e-2))

    def _pair(self, clip: Clip, cache: Path) -> tuple[world.Frames, np.ndarray] | None:
        cepstrum = (
            DecoderConfig().cepstrum if self.config.cepstrum == DecoderConfig().cepstrum else self.config.cepstrum
        )
        try:
            recording = analyse_clip(clip, cache, cepstrum, self.data.aligner, quick_pitch=False)
        except DataError:
            return None
        frames = frames_of(recording)
        wanted = len(frames) * frames.hop_samples
        samples = read_samples(clip.audio)[:wanted]
        return frames, np.pad(samples, (0, wanted - len(samples)))

    def batch(self, step: int) -> VocoderBatch:
        """Pieces drawn by the step and the recipe's seed."""
        draw = random.Random(self.recipe.seed * 1_000_003 + step)
        pieces: list[tuple[Tensor, ...]] = []
        while len(pieces) < self.data.batch_pieces:
            frames, sound = draw.choice(self._train)
            low = draw.randrange(max(1, len(frames) - self.data.piece_frames))
            pieces.append(self._piece(frames, sound, low))
        return VocoderBatch(*(torch.stack(column) for column in zip(*pieces)))

    def _piece(self, frames: world.Frames, sound: np.ndarray, low: int) -> tuple[Tensor, ...]:
        size, hop = self.data.piece_frames, frames.hop_samples
        low = max(0, min(low, len(frames) - size))
        part = frames.cut(low, low + size)
        pulses, hiss = excitation(part)
        values = (part.envelope, part.aperiodicity, part.pitch_hz, part.voiced.astype(np.float32), pulses, hiss)
        return tuple(
            torch.from_numpy(np.ascontiguousarray(v)) for v in (*values, sound[low * hop : (low + size) * hop])
        )

    def loss(self, batch: VocoderBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        made = self._run(batch)
        spectral = spectral_loss(made, batch.sound)
        parts = {"spectral": spectral}
        total = spectral
        if step >= self.data.adversary_from_step and self.data.adversary_weight > 0:
            critic, fool, match = self._adversary(made, batch.sound)
            warm = min(1.0, (step - self.data.adversary_from_step) / 100)  # the critic learns before it is listened to
            total = total + critic + warm * self.data.adversary_weight * (fool + 2.0 * match)
            parts |= {"critic": critic, "fool": fool}
        return total, {name: float(value.detach()) for name, value in parts.items()}

    def _run(self, batch: VocoderBatch) -> Tensor:
        return self.model.vocoder(
            batch.envelope, batch.aperiodicity, batch.pitch_hz, batch.voiced, batch.pulses, batch.hiss
        )

    def _adversary(self, made: Tensor, sound: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        spectra = [log_spectrum(x, *RESOLUTIONS[0]).unsqueeze(1) for x in (made, sound)]
        return adversary(self.model.critic, *spectra)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Spectral loss on clips that were not trained on."""
        pieces = [self._piece(f, s, low) for f, s in self._held for low in range(200, 1000, 200) if low < len(f)]
        pieces = pieces or [self._piece(f, s, 0) for f, s in self._held]
        batch = VocoderBatch(*(torch.stack(column) for column in zip(*pieces)))
        return {"spectral": float(spectral_loss(self._run(batch), batch.sound))}

    def export(self, folder: Path) -> None:
        """`vocoder.safetensors` (half precision) and `vocoder.yaml` (its VocoderConfig)."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {k: v.half().contiguous() for k, v in self.model.vocoder.state_dict().items()}
        save_file(weights, folder / "vocoder.safetensors")
        (folder / "vocoder.yaml").write_text(dump(self.config), encoding="utf-8")


def frames_of(recording: Recording) -> world.Frames:
    """The frames of an analysed clip."""
    return world.Frames(
        envelope=recording.envelope,
        aperiodicity=recording.aperiodicity,
        pitch_hz=world.fill_pitch(recording.pitch_hz).astype(np.float32),
        voiced=recording.pitch_hz > 0,
        clause_ends=(len(recording.pitch_hz),),
    )


def log_spectrum(sound: Tensor, transform: int, hop: int, window: int) -> Tensor:
    """Natural log of the magnitude: [B, N] -> [B, F, T']."""
    shape = torch.hann_window(window, device=sound.device)
    spectrum = torch.stft(sound.float(), transform, hop, window, shape, return_complex=True)
    return (spectrum.abs().square() + 1e-7).sqrt().log()


def spectral_loss(made: Tensor, sound: Tensor) -> Tensor:
    """Mean over RESOLUTIONS of spectral convergence and log-magnitude L1, of sounds [B, N]."""
    total = made.new_zeros(())
    for resolution in RESOLUTIONS:
        a, b = log_spectrum(made, *resolution), log_spectrum(sound, *resolution)
        gap = (a.exp() - b.exp()).norm(dim=(1, 2)) / b.exp().norm(dim=(1, 2)).clamp_min(1e-3)
        total = total + gap.mean() + (a - b).abs().mean()
    return total / len(RESOLUTIONS)
