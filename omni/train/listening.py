"""Stage `listener`: CTC over phones, from read speech and synthetic readings with speed, noise and SpecAugment."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torchaudio
from safetensors.torch import save_file
from torch import Tensor

from omni.audio.augment import AugmentConfig, Augmenter, MaskConfig, change_speed, mask_mels
from omni.audio.io import load_clip
from omni.config import AudioConfig, ListenerConfig, build, dump
from omni.data.batching import Schedule
from omni.data.cache import FeatureCache
from omni.data.manifest import Clip, by_speaker, read
from omni.errors import DataError
from omni.models.encoder import SpeechEncoder
from omni.phones import UNITS, listener_targets
from omni.train.losses import ctc
from omni.train.recipe import Recipe


@dataclass(frozen=True)
class ListenerData:
    """The `data` block of a listener recipe. Paths are relative to --data, or absolute for own corpora."""

    manifests: list[str]
    held_out_speakers: list[str] = field(default_factory=list)
    cache: str = "features"
    noise: str | None = None
    variants: int = 3
    batch_frames: int = 10_000
    longest_frames: int = 1_700
    validation_clips: int = 60
    time_masks: int = 4
    widest_time_share: float = 0.04
    bin_masks: int = 2
    widest_bins: int = 20


SPEEDS = (0.88, 0.92, 0.96, 1.0, 1.04, 1.08, 1.12)


@lru_cache(maxsize=4)
def _augmenter(noise: Path) -> Augmenter:
    """The speed of most clips changes; half of the clips get a room, noise or a narrow channel."""
    noises, rooms = (
        [torch.from_numpy(load_clip(p)) for p in sorted((noise / kind).glob("*.flac"))] for kind in ("noise", "rir")
    )
    config = AugmentConfig(speed_chance=1.0, speeds=SPEEDS)
    return Augmenter(config, noises, rooms)


def degrade(samples: np.ndarray, seed: int, noise: Path | None) -> np.ndarray:
    """Samples [N] at another speed, in a room, with noise; without a noise folder only the speed. A function of the seed."""
    generator = torch.Generator().manual_seed(seed)
    sound = torch.from_numpy(np.ascontiguousarray(samples))
    if noise is None:
        return change_speed(sound, SPEEDS[int(torch.randint(len(SPEEDS), (), generator=generator))]).numpy()
    return _augmenter(noise)(sound, generator).numpy()


def collapse(ids: list[int]) -> list[int]:
    """Greedy CTC: merge repeats, drop blanks."""
    return [u for i, u in enumerate(ids) if u and (i == 0 or u != ids[i - 1])]


class ListenerTask:
    """Trains `SpeechEncoder`."""

    def __init__(self, recipe: Recipe, data: Path, cache: Path) -> None:
        self.recipe, self.settings = recipe, build(ListenerData, recipe.data, "data")
        self.config = build(ListenerConfig, recipe.model, "model")
        torch.manual_seed(recipe.seed)
        self.model = SpeechEncoder(self.config, AudioConfig())
        clips = [c for m in self.settings.manifests for c in read(data / m) if c.text]
        train, held = by_speaker(clips, set(self.settings.held_out_speakers))
        held = sorted(held, key=lambda c: c.duration_s)[: self.settings.validation_clips] or train[:4]
        noise = data / self.settings.noise if self.settings.noise else None
        if noise is not None and not (noise / "noise").is_dir():
            raise DataError(f"no noise recordings in {noise / 'noise'}; set data.noise to null to train without")
        self.variants = [self._features(train, cache, noise, v) for v in range(self.settings.variants)]
        self.validation = FeatureCache(held, cache / self.settings.cache, "valid")
        own = self.settings
        self.masks = MaskConfig(own.time_masks, own.widest_time_share, own.bin_masks, own.widest_bins)
        self.targets = [listener_targets(c.text or "") for c in train]
        lengths = [self.variants[0].frames(i) for i in range(len(train))]
        self.schedule = Schedule(lengths, self.settings.batch_frames, recipe.seed, self.settings.longest_frames)

    def _features(self, clips: list[Clip], cache: Path, noise: Path | None, variant: int) -> FeatureCache:
        def change(samples: np.ndarray, index: int) -> np.ndarray:
            return degrade(samples, 7919 * variant + 104_729 * index, noise)

        name = f"train-{variant}"
        return FeatureCache(clips, cache / self.settings.cache, name, change if variant else None)

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """mel [B, T, M], frames [B], targets [B, U], target lengths [B]."""
        chosen = self.schedule[step]
        draw = random.Random(self.recipe.seed * 99_991 + step)
        mels = [torch.from_numpy(draw.choice(self.variants)[i].astype(np.float32)) for i in chosen]
        lengths = torch.tensor([len(m) for m in mels])
        mel = torch.nn.utils.rnn.pad_sequence(mels, batch_first=True)
        generator = torch.Generator().manual_seed(self.recipe.seed + step)
        mel = mask_mels(mel, lengths, generator, self.masks)
        targets = [torch.tensor(self.targets[i]) for i in chosen]
        sizes = torch.tensor([len(t) for t in targets])
        return mel, lengths, torch.nn.utils.rnn.pad_sequence(targets, batch_first=True), sizes

    def loss(self, batch: tuple[Tensor, Tensor, Tensor, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
        mel, lengths, targets, sizes = batch
        out = self.model(mel, lengths)
        final = ctc(out.logits, out.lengths, targets, sizes)
        early = ctc(out.early_logits, out.lengths, targets, sizes)
        return 0.7 * final + 0.3 * early, {"ctc": float(final.detach()), "early": float(early.detach())}

    def validate(self) -> dict[str, float]:
        """Phone error rate of greedy decoding on held-out speakers."""
        errors = total = 0
        for index, clip in enumerate(self.validation.clips):
            mel = torch.from_numpy(self.validation[index].astype(np.float32))[None]
            ids = self.model(mel, torch.tensor([mel.shape[1]])).logits[0].argmax(-1).tolist()
            target = listener_targets(clip.text or "")
            errors += torchaudio.functional.edit_distance(collapse(ids), target)
            total += len(target)
        return {"phone_error_rate": errors / max(1, total)}

    def export(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {k: v.half().contiguous() for k, v in self.model.state_dict().items()}, folder / "listener.safetensors"
        )
        (folder / "listener.yaml").write_text(dump(self.config), encoding="utf-8")
        (folder / "units.txt").write_text("\n".join(UNITS), encoding="utf-8")
