"""The two stages of LPE (Listen, Perceive, Express; arXiv 2501.10937): `lpe_listen`, `lpe_perceive`.

The language model and WavLM are frozen. Stage 1 teaches the content adapter what is said (cross-entropy of the transcript),
stage 2 the emotion adapter how it sounds (cross-entropy of transcript and emotion + 0.1 x the adapter's own emotion loss).
No reply is ever trained: express is a prompt.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from omni.audio.io import load_clip
from omni.backbones.kinds import chosen_device, chosen_dtype
from omni.backbones.local import pretrained
from omni.backbones.speech_chat import FELT, HEARD, LISTEN_TASK, PERCEIVE_TASK, SpeechChat
from omni.backbones.speech_hearing import LpeHearing
from omni.backbones.speech_states import WavlmStates
from omni.config import build
from omni.data.corpora import ravdess
from omni.data.manifest import Clip, by_speaker, read
from omni.errors import ConfigError, DataError
from omni.hub import folder_of
from omni.phones import normalise
from omni.train.losses import listen_perceive
from omni.train.recipe import Recipe
from omni.train.streams import Batches, endless, grouped, is_shards, mixed, place
from omni.turns import EMOTIONS


@dataclass(frozen=True)
class LpeData:
    """The `data` block: manifests below --data (or a folder of RAVDESS), or shards (`DIR/shard-*.tar`); published models by
    name or folder."""

    clips: list[str]
    llm: str = "Qwen/Qwen2.5-7B-Instruct"
    wavlm: str = "microsoft/wavlm-large"
    held_out_speakers: list[str] = field(default_factory=list)
    start_from: str = ""  # stage 2: the run of stage 1
    batch_s: float = 60.0  # seconds of speech in a batch
    longest_s: float = 20.0
    validation: str = ""  # a manifest of its own to validate on; needed with shards
    validation_clips: int = 48
    inner: int = 512


class LpeTask:
    """Both stages; the recipe's `part` says which."""

    unsaved = ("llm.", "hearing.wavlm.")

    def __init__(self, recipe: Recipe, data: Path, cache: Path) -> None:
        self.recipe, self.settings = recipe, build(LpeData, recipe.data, "data")
        self.perceives = recipe.part == "lpe_perceive"
        torch.manual_seed(recipe.seed)
        self.model = self._chat()
        if self.perceives:
            if not self.settings.start_from:
                raise ConfigError("data.start_from: stage 2 needs the run of stage 1")
            self.model.hearing.restore(cache.parent / self.settings.start_from / "export")
        trained = self.model.hearing.adapters()["tone" if self.perceives else "content"]
        for weight in self.model.parameters():
            weight.requires_grad_(False)
        for weight in trained.parameters():
            weight.requires_grad_(True)
        shards = [n for n in self.settings.clips if is_shards(n)]
        if shards and len(shards) < len(self.settings.clips):
            raise ConfigError(
                "data.clips: shards and manifests cannot be mixed here; pack the manifests (omni data pack)"
            )
        held_out = set(self.settings.held_out_speakers)
        listed = [self.settings.validation] if self.settings.validation else [] if shards else self.settings.clips
        clips, held = by_speaker([c for n in listed for c in _read(data / n) if self._usable(c)], held_out)
        if not clips and not held:
            missing = "text and an emotion" if self.perceives else "text"
            named = ", ".join(listed) or "data.validation (shards need a manifest there)"
            raise DataError(f"no clip of {named} has {missing}; this stage needs both words and sound")
        self.clips = clips
        self.held = held[: self.settings.validation_clips] or clips[:4]
        self._streamed = Batches(lambda: self._begin(data, shards)) if shards else None

    def _begin(self, data: Path, shards: list[str]) -> Iterator[list[Clip]]:
        """Batches of shards from the first one on, one pattern after the other clip by clip."""
        streams = {
            n: filter(self._wanted, endless(n if "://" in n else str(data / n), self.recipe.seed)) for n in shards
        }
        one = mixed(dict.fromkeys(shards, 1.0), streams, random.Random(f"{self.recipe.seed}:{place()}"))
        return grouped(one, self.settings.batch_s, 256, lambda c: c.duration_s)

    def _wanted(self, clip: Clip) -> bool:
        return self._usable(clip) and clip.speaker not in self.settings.held_out_speakers

    def _chat(self) -> SpeechChat:
        folder, device = folder_of(self.settings.llm), chosen_device()
        dtype = chosen_dtype("auto", device)
        llm = pretrained(AutoModelForCausalLM, folder, dtype, device)
        wavlm = WavlmStates.load(folder_of(self.settings.wavlm), dtype, device)
        width = llm.get_input_embeddings().weight.shape[1]
        hearing = LpeHearing(wavlm, width, self.settings.inner).to(device)
        return SpeechChat(llm, AutoTokenizer.from_pretrained(folder, local_files_only=True), hearing)

    def _usable(self, clip: Clip) -> bool:
        known = bool(clip.text) and 0 < clip.duration_s <= self.settings.longest_s
        return known and (clip.emotion in EMOTIONS or not self.perceives)

    # -- batches -------------------------------------------------------------------------------------------------

    def batch(self, step: int) -> list[Clip]:
        """Clips of about `batch_s` seconds together, drawn by the step and the seed."""
        if self._streamed:
            return self._streamed(step)
        draw = random.Random(self.recipe.seed * 50_021 + step)
        found = [draw.choice(self.clips)]
        while sum(c.duration_s for c in found) < self.settings.batch_s and len(found) < 256:
            found.append(draw.choice(self.clips))
        return found

    def target(self, clip: Clip) -> str:
        """What is to be written of a clip."""
        heard = f"{HEARD} {normalise(clip.text or '')}"
        return f"{heard}\n{FELT} {clip.emotion}" if self.perceives else heard

    # -- loss ----------------------------------------------------------------------------------------------------

    def loss(self, batch: list[Clip], step: int) -> tuple[Tensor, dict[str, float]]:
        """Mean over the clips; each goes through the frozen encoder alone (it normalises over a clip)."""
        texts, felt = [], []
        for clip in batch:
            written, emotion = self._one(clip)
            texts.append(written)
            felt.append(emotion)
        text = torch.stack(texts).mean()
        if not self.perceives:
            return text, {"listen": float(text.detach())}
        emotion = torch.stack(felt).mean()
        return listen_perceive(text, emotion), {"perceive": float(text.detach()), "emotion": float(emotion.detach())}

    def _one(self, clip: Clip) -> tuple[Tensor, Tensor]:
        heard = self.model.hearing(load_clip(clip.source, name=str(clip.audio)))
        text = self.model.log_loss(heard, PERCEIVE_TASK if self.perceives else LISTEN_TASK, self.target(clip))
        if not self.perceives or heard.emotion is None:
            return text, torch.zeros((), device=text.device)
        true = torch.tensor([EMOTIONS.index(clip.emotion or "")], device=text.device)
        return text, F.cross_entropy(heard.emotion.float(), true)

    def validate(self) -> dict[str, float]:
        """Nats a token of what is written of held-out speakers; in stage 2 the share of wrong emotions of the adapter."""
        nats, wrong = [], []
        for clip in self.held:
            nats.append(float(self._one(clip)[0]))
            if self.perceives:
                logits = self.model.hearing(load_clip(clip.source, name=str(clip.audio))).emotion
                wrong.append(EMOTIONS[int(logits.argmax())] != clip.emotion)
        found = {"nats": float(np.mean(nats))}
        return {**found, "emotion_missed": float(np.mean(wrong))} if wrong else found

    def export(self, folder: Path) -> None:
        """`adapters.safetensors` and `hearing.yaml`, which says what they fit."""
        self.model.hearing.save(folder)
        fits = {"kind": "lpe", "llm": self.settings.llm, "wavlm": self.settings.wavlm, "inner": self.settings.inner}
        (folder / "hearing.yaml").write_text(yaml.safe_dump(fits), encoding="utf-8")


def _read(path: Path) -> list[Clip]:
    return ravdess.read(path) if path.is_dir() else read(path)
