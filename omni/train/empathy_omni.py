"""The two stages of Empathy Omni (arXiv 2508.18655): `empathy_respond`, `empathy_speak`.

Stage 1: encoders frozen; adapters, low-rank layers of the language model and the emotion head learn to write thought and
reply: cross-entropy + 0.6 MSE + 0.4 (1 - cosine) of the emotion vector. Its target is what a perceiver, trained on emotion
labels before and frozen, makes of the reference reply's sound, normalised; nothing flows back into it, so that the two cannot
agree on a constant (`spread` in the figures shows it if they did).
Stage 2: everything frozen but the speech decoder, which learns the codes of the reference reply's sound from the language
model's states. The emotion it is given is the reference's at first, the head's own with a chance that rises from 0 to 1.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.functional import resample
from transformers import AutoModelForCausalLM, AutoTokenizer

from omni.audio.io import load_clip
from omni.backbones import lora
from omni.backbones.code_voice import save_decoder
from omni.backbones.emotion import EmotionClassifier
from omni.backbones.empathy_chat import EmpathyChat, Exchange, Understood, load_empathy_chat, thought_pieces
from omni.backbones.kinds import chosen_device, chosen_dtype
from omni.backbones.local import pretrained
from omni.backbones.mimi import Mimi
from omni.backbones.speech_hearing import DualHearing
from omni.backbones.speech_states import SAMPLE_RATE_HZ, WavlmStates, WhisperStates
from omni.config import build
from omni.errors import ConfigError, DataError
from omni.hub import folder_of
from omni.models.code_decoder import CodeDecoder, CodeDecoderConfig
from omni.phones import normalise
from omni.train.exchanges import Spoken, drawn, load_exchanges, streamed
from omni.train.losses import emotion_vector
from omni.train.recipe import Recipe
from omni.train.streams import Batches, grouped, is_shards, mixed, place


@dataclass(frozen=True)
class EmpathyData:
    """The `data` block: manifests and shards (`DIR/shard-*.tar`) below --data with their weights in the mixture, published
    models by name or folder."""

    exchanges: dict[str, float]
    llm: str = "Qwen/Qwen2.5-7B-Instruct"
    whisper: str = "openai/whisper-large-v3"
    wavlm: str = "microsoft/wavlm-large"
    teacher: str = "superb/hubert-large-superb-er"
    mimi: str = "kyutai/mimi"
    held_out_speakers: list[str] = field(default_factory=list)
    start_from: str = ""  # stage 2: the run of stage 1
    batch_s: float = 40.0  # seconds of queries in a batch
    batch_exchanges: int = 16
    longest_s: float = 30.0
    validation: str = ""  # a manifest of its own to validate on; needed where all exchanges come in shards
    validation_exchanges: int = 48
    inner: int = 2048
    merge: bool = False  # stage 1: export the language model with its low-rank layers added, beside them
    lora: dict[str, Any] = field(default_factory=dict)


class Teacher:
    """Emotion vectors of reference replies: the frozen perceiver's, each brought to zero mean and unit variance."""

    def __init__(self, model: str, dtype: torch.dtype, device: str) -> None:
        self.perceiver = EmotionClassifier.load(folder_of(model), dtype, device)

    @property
    def width(self) -> int:
        return int(self.perceiver.model.config.hidden_size)

    def __call__(self, sounds: Sequence[Path | bytes]) -> Tensor:
        """Files of sound [B], or their bytes, to vectors [B, E]."""
        found = [self.perceiver.perceive(load_clip(source)).vector for source in sounds]
        made = torch.stack([torch.as_tensor(np.asarray(v)) for v in found])
        return F.layer_norm(made, made.shape[1:])


class _Stage:
    """What both stages have in common: the exchanges and how they are told to the language model."""

    #: Frozen weights, which have files of their own.
    unsaved: tuple[str, ...] = ()

    def __init__(self, recipe: Recipe, data: Path) -> None:
        self.recipe, self.settings = recipe, build(EmpathyData, recipe.data, "data")
        self.device = chosen_device()
        self.dtype = chosen_dtype("auto", self.device)
        torch.manual_seed(recipe.seed)
        held_out = set(self.settings.held_out_speakers)
        parts = {n: self._listed(data / n) for n in self.settings.exchanges if not is_shards(n)}
        self.kept = {n: [x for x in found if x.query.speaker not in held_out] for n, found in parts.items()}
        held = [x for found in parts.values() for x in found if x.query.speaker in held_out]
        if self.settings.validation:
            held = self._listed(data / self.settings.validation)
        if not held and not any(self.kept.values()):
            raise ConfigError("data.validation: shards are read in turn; name a manifest of held-out exchanges here")
        if nothing := [n for n, found in self.kept.items() if not found]:
            raise DataError(f"{nothing[0]}: every exchange is of a held-out speaker; nothing is left to train on")
        self.held = (held or [x for found in self.kept.values() for x in found])[: self.settings.validation_exchanges]
        self._data = data
        self._streamed = Batches(self._begin) if any(map(is_shards, self.settings.exchanges)) else None

    def _listed(self, path: Path) -> list[Spoken]:
        found = [x for x in load_exchanges(path, self.settings.longest_s) if self._usable(x)]
        if not found:
            raise DataError(f"{path}: no exchange has a reply_audio; this stage learns from the replies' sound")
        return found

    def _usable(self, exchange: Spoken) -> bool:
        return True

    def _begin(self) -> Iterator[list[Spoken]]:
        """Batches from the first one on, where some of them come in shards."""
        return self._grouped(random.Random(f"{self.recipe.seed}:{place()}"))

    def _grouped(self, chance: random.Random) -> Iterator[list[Spoken]]:
        """Exchanges by weight, whose queries last about `batch_s` together."""
        settings = self.settings
        streams: dict[str, Iterator[Spoken]] = {}
        for name in settings.exchanges:
            if is_shards(name):
                where = name if "://" in name else str(self._data / name)
                streams[name] = filter(self._wanted, streamed(where, self.recipe.seed, settings.longest_s))
            else:
                streams[name] = drawn(self.kept[name], chance)
        one = mixed(settings.exchanges, streams, chance)
        return grouped(one, settings.batch_s, settings.batch_exchanges, lambda x: x.query.duration_s)

    def _wanted(self, exchange: Spoken) -> bool:
        return self._usable(exchange) and exchange.query.speaker not in self.settings.held_out_speakers

    def batch(self, step: int) -> list[Spoken]:
        """Batch number `step`, a function of the number and the seed."""
        if self._streamed:
            return self._streamed(step)
        return next(self._grouped(random.Random(self.recipe.seed * 50_021 + step)))

    def told(self, chat: EmpathyChat, batch: Sequence[Spoken]) -> list[Exchange]:
        """Exchanges as the language model reads and writes them. Each query goes through the encoders alone."""
        return [
            Exchange(
                chat.hearing(load_clip(x.query.source)).slots,
                thought_pieces(normalise(x.query.text or ""), x.query.emotion or "", x.plan),
                x.reply,
            )
            for x in batch
        ]

    def about(self) -> dict[str, Any]:
        """What the trained parts fit."""
        return {name: getattr(self.settings, name) for name in ("llm", "whisper", "wavlm", "teacher", "inner")}


class RespondTask(_Stage):
    """Stage 1. The parts that learn have rates of their own in the recipe (`rates`)."""

    unsaved = ("llm.", "hearing.whisper.", "hearing.wavlm.")

    def __init__(self, recipe: Recipe, data: Path, cache: Path) -> None:
        super().__init__(recipe, data)
        self.teacher = Teacher(self.settings.teacher, self.dtype, self.device)
        llm = pretrained(AutoModelForCausalLM, folder_of(self.settings.llm), self.dtype, self.device)
        hearing = DualHearing(
            WhisperStates.load(folder_of(self.settings.whisper), self.dtype, self.device),
            WavlmStates.load(folder_of(self.settings.wavlm), self.dtype, self.device),
            llm.get_input_embeddings().weight.shape[1],
            self.settings.inner,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder_of(self.settings.llm), local_files_only=True)
        self.model = EmpathyChat(llm, tokenizer, hearing.to(self.device), self.teacher.width)
        self.model.head.to(self.device)
        settings = build(lora.LoraSettings, self.settings.lora, "data.lora")
        self.model.begin_tuning(settings, recipe.checkpointing)

    def loss(self, batch: list[Spoken], step: int) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of thought and reply, and the emotion's loss of the replies that have a sound."""
        understood = self.model.understand(self.told(self.model, batch))
        felt, _, _ = self._felt(batch, understood)
        figures = {"text": float(understood.nats.detach()), "emotion": float(felt.detach())}
        return understood.nats + felt, figures

    def _felt(self, batch: list[Spoken], understood: Understood) -> tuple[Tensor, Tensor, Tensor]:
        """The emotion's loss, what the head said and what it should have said [B', E]."""
        rows = [row for row, x in enumerate(batch) if x.reply_sound is not None]
        if not rows:
            nothing = torch.zeros(0, self.teacher.width)
            return torch.zeros((), device=understood.nats.device), nothing, nothing
        counts = understood.tokens[rows]
        said = torch.stack([self.model.head(understood.states[None, r, :n])[0] for r, n in zip(rows, counts.tolist())])
        target = self.teacher([x.reply_sound for x in batch if x.reply_sound is not None]).to(said.device)
        return emotion_vector(said.float(), target.float()), said.detach().cpu(), target.cpu()

    def validate(self) -> dict[str, float]:
        """Nats a token; the emotion's loss; `spread`: the variance of what the head says over that of its targets."""
        nats, losses, said, wanted = [], [], [], []
        for exchange in self.held:
            understood = self.model.understand(self.told(self.model, [exchange]))
            felt, found, target = self._felt([exchange], understood)
            nats.append(float(understood.nats))
            if len(found):
                losses.append(float(felt))
                said.append(found)
                wanted.append(target)
        figures = {"nats": float(np.mean(nats))}
        if len(said) > 1:
            spread, should = (float(torch.cat(x).float().var(0).sum()) for x in (said, wanted))
            figures |= {"emotion": float(np.mean(losses)), "spread": spread / max(should, 1e-9)}
        return figures

    def export(self, folder: Path) -> None:
        """Adapters, emotion head and low-rank layers; with `data.merge` the language model that has them added, too."""
        self.model.save(folder, self.about())
        if self.settings.merge:
            plain = pretrained(AutoModelForCausalLM, folder_of(self.settings.llm), self.dtype)
            lora.merged(plain, folder / "lora").save_pretrained(folder / "llm")
            self.model.tokenizer.save_pretrained(folder / "llm")


class SpeakTask(_Stage):
    """Stage 2. `model` sizes the speech decoder (`CodeDecoderConfig`); text batches are read by the frozen model."""

    def __init__(self, recipe: Recipe, data: Path, cache: Path) -> None:
        super().__init__(recipe, data)
        if not self.settings.start_from:
            raise ConfigError("data.start_from: stage 2 needs the run of stage 1")
        llm, whisper, wavlm = (folder_of(m) for m in (self.settings.llm, self.settings.whisper, self.settings.wavlm))
        adapters = cache.parent / self.settings.start_from / "export"
        chat = load_empathy_chat(llm, whisper, wavlm, adapters, self.dtype, self.device)
        self.chat = chat.requires_grad_(False)
        self.teacher = Teacher(self.settings.teacher, self.dtype, self.device)
        self.mimi = Mimi.load(folder_of(self.settings.mimi), torch.float32, self.device)
        fits = {"llm_width": self.chat.head.squeeze.in_features, "emotion": self.chat.head.emotion}
        self.model: nn.Module = CodeDecoder(build(CodeDecoderConfig, {**recipe.model, **fits}, "model")).to(self.device)

    def _usable(self, exchange: Spoken) -> bool:
        return exchange.reply_sound is not None

    @property
    def decoder(self) -> CodeDecoder:
        return self.model  # type: ignore[return-value]

    def loss(self, batch: list[Spoken], step: int) -> tuple[Tensor, dict[str, float]]:
        """Mean cross-entropy of all codebooks and of the end (`CodeDecoder.loss`)."""
        return self._loss(
            batch, min(1.0, step / max(1, self.recipe.steps)), random.Random(self.recipe.seed * 7919 + step)
        )

    def _loss(self, batch: list[Spoken], own: float, chance: random.Random) -> tuple[Tensor, dict[str, float]]:
        """`own`: the chance that a reply gets the emotion that the head says."""
        sounds = [x.reply_sound for x in batch if x.reply_sound is not None]
        with torch.no_grad():
            understood = self.chat.understand(self.told(self.chat, batch))
            rows = zip(understood.states.split(1), understood.tokens.tolist())
            said = torch.cat([self.chat.head(states[:, :count]) for states, count in rows]).float()
            true = self.teacher(sounds).to(said.device).float()
            mixed = torch.tensor([chance.random() < own for _ in batch], device=said.device)
            emotion = torch.where(mixed[:, None], said, true)
            codes = [self._codes(path) for path in sounds]
        most = max(c.shape[1] for c in codes)
        frames = torch.tensor([c.shape[1] for c in codes], device=said.device)
        padded = torch.stack([F.pad(c, (0, most - c.shape[1])) for c in codes])
        texts = (understood.embeddings.float(), understood.states.float())
        return self.decoder.loss(*texts, emotion, padded, understood.tokens, frames)

    def _codes(self, source: Path | bytes) -> Tensor:
        """Codes [C, T] of a reply's sound."""
        sound = torch.from_numpy(load_clip(source))[None].to(self.device)
        at = resample(sound, SAMPLE_RATE_HZ, self.mimi.sample_rate_hz)
        return self.mimi.encode(at, self.decoder.config.codebooks)[0]

    def validate(self) -> dict[str, float]:
        """Nats a code with the head's own emotion, as at run time, and with the reference's."""
        found = {}
        for name, own in (("nats", 1.0), ("nats_true_emotion", 0.0)):
            losses = [float(self._loss([x], own, random.Random(0))[0]) for x in self.held]
            found[name] = float(np.mean(losses))
        return found

    def export(self, folder: Path) -> None:
        """`decoder.safetensors` and its sizes."""
        save_decoder(self.decoder, folder)
