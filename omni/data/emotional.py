"""Emotional clips of several sets as one training set: labels that say what they do not know, and cached features.

Shapes: T frames, M mel bins, P prosody channels, E emotions.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchaudio
from torch import Tensor
from tqdm import tqdm

from omni.audio.features import log_mel
from omni.audio.io import load_clip
from omni.audio.prosody import CHANNELS
from omni.config import AudioConfig
from omni.data.corpora import indian_emospeech, ravdess
from omni.data.manifest import Clip
from omni.data.manifest import read as read_manifest
from omni.errors import DataError
from omni.models.emotion_views import layer_statistics
from omni.models.encoder import SpeechEncoder
from omni.models.perceiver import tracks
from omni.turns import EMOTIONS

#: Read speech is not acted: it is taken to be one of these two, either will do.
PLAIN = ("neutral", "calm")


@dataclass(frozen=True)
class Labelled:
    """A clip, the set it is from, what it may be (`target`), out of what (`support`), and intensity in [0, 1] or None."""

    clip: Clip
    source: str
    target: frozenset[str]
    support: frozenset[str]
    intensity: float | None


def label(clip: Clip, source: str) -> Labelled:
    """The label of a clip from `ravdess`, `indian_emospeech`, `plain` (read speech) or `own`. DataError for others."""
    if source == "plain":
        return Labelled(clip, source, frozenset(PLAIN), frozenset(EMOTIONS), None)
    if clip.emotion not in EMOTIONS:
        raise DataError(f"{clip.id}: emotion {clip.emotion!r} is unknown; allowed: {', '.join(EMOTIONS)}")
    support = indian_emospeech.EMOTIONS if source == "indian_emospeech" else EMOTIONS
    strength = {"normal": 0.0, "strong": 1.0}.get(clip.intensity or "")
    return Labelled(clip, source, frozenset((clip.emotion,)), frozenset(support), strength)


def gather(data: Path, sources: dict[str, str]) -> list[Labelled]:
    """Clips of every source: {kind: folder or manifest below `data`}."""
    readers: dict[str, Callable[[Path], list[Clip]]] = {
        "ravdess": ravdess.read, "indian_emospeech": indian_emospeech.read, "plain": read_manifest, "own": read_manifest,
    }  # fmt: skip
    unknown = sorted(set(sources) - set(readers))
    if unknown:
        raise DataError(f"data.sources: unknown kind {unknown[0]!r}; allowed: {', '.join(readers)}")
    return [label(clip, kind) for kind, place in sources.items() for clip in readers[kind](data / place)]


def sets_of(items: list[Labelled]) -> tuple[Tensor, Tensor, Tensor]:
    """(targets bool [B, E], supports bool [B, E], intensities [B], NaN where unknown)."""
    targets = torch.tensor([[e in i.target for e in EMOTIONS] for i in items])
    supports = torch.tensor([[e in i.support for e in EMOTIONS] for i in items])
    strengths = torch.tensor([float("nan") if i.intensity is None else i.intensity for i in items])
    return targets, supports, strengths


def disguise(samples: np.ndarray, seed: int, noise: Path | None) -> np.ndarray:
    """The clip as another speaker might have said it somewhere else; a function of the seed. [N] -> [N'].

    Tape speed 0.85 to 1.18 (pitch, tract and tempo together, about three semitones), then for six clips of ten a room
    and noise at 3 to 30 dB. Wider changes of speed would begin to change the emotion.
    """
    draw = random.Random(seed)
    sound = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))
    speed = draw.choice((85, 89, 92, 96, 100, 104, 108, 113, 118))
    if speed != 100:
        sound = torchaudio.functional.resample(sound, speed, 100)
    if noise is None or draw.random() < 0.4:
        return sound.numpy()
    level = float(sound.square().mean().sqrt()) + 1e-9
    if draw.random() < 0.4:
        room = torch.from_numpy(load_clip(draw.choice(sorted((noise / "rir").glob("*.*")))))
        room = room / room.square().sum().sqrt()
        sound = torchaudio.functional.fftconvolve(sound, room)[: len(sound)]
    if draw.random() < 0.3:
        hum = np.random.default_rng(seed).standard_normal(len(sound)).astype(np.float32)
    else:
        hum = load_clip(draw.choice(sorted((noise / "noise").glob("*.*"))))
        hum = np.resize(np.roll(hum, -draw.randrange(len(hum))), len(sound))
    gain = level / (float(np.sqrt(np.mean(hum**2))) + 1e-9) * 10 ** (-draw.uniform(3, 30) / 20)
    return (sound.numpy() + gain * hum).astype(np.float32)


class EmotionFeatures:
    """`front_end` of every clip in one half-precision file. `features[i]` is (mel [T, M], prosody [T, P]).

    With a listener also `layered` [clips, L, 2 D], the statistics of its layers over the same span of the clip, heard
    whole and at its own level, as it will be in use.
    """

    def __init__(
        self, clips: list[Clip], folder: Path, variant: int, noise: Path | None, longest_s: float,
        listener: SpeechEncoder | None = None,
    ) -> None:  # fmt: skip
        names = "\n".join(f"{c.id} {c.audio.name}" for c in clips)
        digest = hashlib.sha256(f"{names} {longest_s} {noise is None}".encode()).hexdigest()[:12]
        self.path = folder / f"voice-{variant}-{digest}.f16"
        self.width = AudioConfig().mels + len(CHANNELS)
        self.layered: Tensor | None = None

        def sound(index: int) -> np.ndarray:
            samples = load(clips[index], longest_s, index)
            return disguise(samples, 7919 * variant + 104_729 * index, noise) if variant else samples

        if not self.path.exists():
            self._build(len(clips), sound)
        self.offsets: list[int] = json.loads(self.path.with_suffix(".json").read_text())
        self.data = np.memmap(self.path, np.float16, "r").reshape(-1, self.width)
        if listener is not None:
            layered = self.path.with_name(f"{self.path.stem}-{_mark(listener)}.npy")
            if not layered.exists():
                self._build_layered(len(clips), sound, listener, layered)
            self.layered = torch.from_numpy(np.load(layered).astype(np.float32))

    def _build(self, count: int, sound: Callable[[int], np.ndarray]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        offsets, partial = [0], self.path.with_suffix(".partial")
        spans: list[tuple[int, int]] = []
        with partial.open("wb") as file:
            for index in tqdm(range(count), desc=self.path.stem, unit="clip", mininterval=5):
                mel, prosody, span = tracks(torch.from_numpy(sound(index)))
                joined = torch.cat([mel, prosody], dim=-1)[span].half().numpy()
                file.write(joined.tobytes())
                offsets.append(offsets[-1] + len(joined))
                spans.append((span.start, span.stop))
        np.save(self.path.with_suffix(".npy"), np.array(spans, np.int64).reshape(-1, 2))
        self.path.with_suffix(".json").write_text(json.dumps(offsets))
        os.replace(partial, self.path)

    def _build_layered(
        self, count: int, sound: Callable[[int], np.ndarray], listener: SpeechEncoder, path: Path
    ) -> None:  # fmt: skip
        """The listener's layers: apart from the rest, because they are to be made again whenever it changes."""
        spans, rows = np.load(self.path.with_suffix(".npy")), []
        for index in tqdm(range(count), desc=path.stem, unit="clip", mininterval=5):
            rows.append(_layered(listener, torch.from_numpy(sound(index)), slice(*spans[index].tolist())))
        with path.with_suffix(".partial").open("wb") as file:
            np.save(file, np.stack(rows))
        os.replace(path.with_suffix(".partial"), path)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(self.data[self.offsets[index] : self.offsets[index + 1]].astype(np.float32))
        return rows[:, : -len(CHANNELS)], rows[:, -len(CHANNELS) :]


def _mark(listener: SpeechEncoder) -> str:
    """What tells the weights of one listener from another's."""
    weights = f"{sum(float(p.double().abs().sum()) for p in listener.parameters()):.6f}"
    return hashlib.sha256(weights.encode()).hexdigest()[:8]


@torch.no_grad()
def _layered(listener: SpeechEncoder, samples: Tensor, span: slice) -> np.ndarray:
    """`layer_statistics` of one clip [N] within a span of frames, half precision [L, 2 D]."""
    mel = log_mel(samples)[None]
    layers = listener(mel, torch.tensor([mel.shape[1]])).layers
    return layer_statistics(layers, torch.tensor([[span.start, span.stop]]))[0].half().numpy()


def load(clip: Clip, longest_s: float, seed: int) -> np.ndarray:
    """Samples [N] of a clip at 16 kHz, mono; of a longer one a piece of `longest_s` whose place the seed decides."""
    sound = load_clip(clip.source, name=str(clip.audio))
    wanted = round(longest_s * AudioConfig().sample_rate_hz)
    room = len(sound) - wanted
    start = random.Random(seed).randrange(room) if room > 0 else 0
    return sound[start : start + wanted]


def collate(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """(mel [B, T, M], frames [B], prosody [B, T, P]) of clips of different length, padded with zeros."""
    lengths = torch.tensor([len(mel) for mel, _ in items])
    mel, prosody = (torch.nn.utils.rnn.pad_sequence([i[k] for i in items], batch_first=True) for k in (0, 1))
    return mel, lengths, prosody
