"""Stage 1, `listen_perceive`: speech and emotion adapters write the thought; encoders and language model are frozen.

Loss: cross-entropy of the written transcript and labels + 0.1 x emotion loss (Listen, Perceive, Express, 2501.10937).
Two kinds of batch alternate: read speech teaches the speech adapter to be heard, emotional speech teaches the emotion
adapter to be perceived. The speech adapter gets no gradient from the emotional recordings, whose licence is another, and
is kept in a file of its own.

In omni-mini this stage follows `express`, not the other way round: labels mean nothing to a language model that was
pretrained on plain dialogue, and it must stay free of the emotional recordings.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from omni.audio.features import log_mel
from omni.audio.io import load_clip
from omni.config import AudioConfig, ListenerConfig, LlmConfig, PerceiverConfig, build, load
from omni.data.corpora import ravdess
from omni.data.manifest import Clip, by_speaker, read
from omni.models.adapter import EmotionAdapter, SpeechAdapter, masked_scatter
from omni.models.encoder import SpeechEncoder
from omni.models.perceiver import EmotionPerceiver
from omni.phones import normalise
from omni.text import LISTEN, PERCEIVE, SOUND, USER
from omni.train.losses import listen_perceive, next_token
from omni.train.recipe import Recipe
from omni.train.speaking import IGNORED, load_language_model
from omni.turns import EMOTIONS

_INTENSITY = {"normal": "moderate", "strong": "strong"}


@dataclass(frozen=True)
class AdapterData:
    """The `data` block. Manifests of read speech and the emotional set, relative to --data; runs to start from."""

    read: list[str]
    emotional: str = "ravdess"
    held_out_speakers: list[str] = field(default_factory=list)
    never: list[str] = field(default_factory=list)  # speakers kept for the final report
    listener: str = "listener"
    perceiver: str = "perceiver"
    language_model: str = "express"
    longest_s: float = 8.0
    clips: int = 12
    validation_clips: int = 48


class Adapters(nn.Module):
    """Both adapters, as one module for the loop."""

    def __init__(self, state_width: int, vector: int, llm_width: int) -> None:
        super().__init__()
        self.speech = SpeechAdapter(state_width, llm_width)
        self.emotion = EmotionAdapter(vector, llm_width)


@dataclass
class Batch:
    """Listener states [S, W] a clip, posteriors [B, 8], vectors [B, V] or None, ids and targets [B, L], true emotions."""

    states: list[Tensor]
    posteriors: Tensor
    vectors: Tensor | None
    ids: Tensor
    targets: Tensor
    emotions: Tensor | None


class ListenPerceiveTask:
    """Trains `Adapters` around frozen parts."""

    def __init__(self, recipe: Recipe, data: Path, cache: Path) -> None:
        self.recipe, self.settings = recipe, build(AdapterData, recipe.data, "data")
        runs = cache.parent
        self._load_frozen(runs)
        torch.manual_seed(recipe.seed)
        width = self.encoder.config.width
        self.model = Adapters(width, self.perceiver.config.vector, self.llm.config.width)
        clips = [c for m in self.settings.read for c in read(data / m) if c.text]
        clips = [c for c in clips if 0 < c.duration_s <= self.settings.longest_s]
        held, never = set(self.settings.held_out_speakers), set(self.settings.never)
        self.read, self.held_read = by_speaker(clips, held)
        felt, _ = by_speaker(ravdess.read(data / self.settings.emotional), never)
        self.felt, self.held_felt = by_speaker(felt, held)
        self.held_read = self.held_read[: self.settings.validation_clips] or self.read[:4]
        self.held_felt = self.held_felt[: self.settings.validation_clips * 2] or self.felt[:4]

    def _load_frozen(self, runs: Path) -> None:
        listener, perceiver = runs / self.settings.listener / "export", runs / self.settings.perceiver / "export"
        self.encoder = SpeechEncoder(load(ListenerConfig, listener / "listener.yaml"), AudioConfig())
        self.encoder.load_state_dict({k: v.float() for k, v in load_file(listener / "listener.safetensors").items()})
        self.perceiver = EmotionPerceiver(load(PerceiverConfig, perceiver / "perceiver.yaml"), AudioConfig())
        tensors = load_file(perceiver / "perceiver.safetensors")
        self.perceiver.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
        language_model = runs / self.settings.language_model / "export"
        self.llm = load_language_model(language_model, load(LlmConfig, language_model / "llm.yaml"))
        self.vocabulary = self.llm.vocabulary
        for part in (self.encoder, self.perceiver, self.llm):
            part.eval().requires_grad_(False)

    # -- batches -------------------------------------------------------------------------------------------------

    def batch(self, step: int) -> Batch:
        draw = random.Random(self.recipe.seed * 50_021 + step)
        emotional = step % 2 == 1
        pool = self.felt if emotional else self.read
        return self.make(draw.sample(pool, min(self.settings.clips, len(pool))), emotional)

    @torch.no_grad()
    def make(self, clips: list[Clip], emotional: bool) -> Batch:
        """Run the frozen encoders over clips and lay out the thought to be written."""
        states: list[Tensor] = []
        posteriors: list[list[float]] = []
        vectors: list[np.ndarray] = []
        rows: list[list[int]] = []
        for clip in clips:
            samples = load_clip(clip.source, name=str(clip.audio))
            mel = log_mel(torch.from_numpy(samples))[None]
            out = self.encoder(mel, torch.tensor([mel.shape[1]]))
            states.append(out.states[0, : int(out.lengths[0])])
            if emotional:
                seen = self.perceiver.perceive(samples, out.layers)
                posteriors.append([seen.probabilities[e] for e in EMOTIONS])
                vectors.append(seen.vector if seen.vector is not None else np.zeros(0, np.float32))
            else:
                posteriors.append([1.0] + [0.0] * (len(EMOTIONS) - 1))
            rows.append(self._row(clip, self.model.speech.slots(len(states[-1])), emotional))
        width = max(map(len, rows))
        ids = torch.tensor([r + [0] * (width - len(r)) for r in rows])
        targets = torch.full_like(ids, IGNORED)
        for number, row in enumerate(rows):
            start = row.index(self.vocabulary.ids[LISTEN])
            targets[number, start : len(row) - 1] = ids[number, start + 1 : len(row)]
        emotions = torch.tensor([EMOTIONS.index(c.emotion or "") for c in clips]) if emotional else None
        found = torch.from_numpy(np.stack(vectors)) if emotional else None
        return Batch(states, torch.tensor(posteriors), found, ids, targets, emotions)

    def _row(self, clip: Clip, slots: int, emotional: bool) -> list[int]:
        ids = self.vocabulary.ids
        row = [ids[USER], *[ids[SOUND]] * (slots + 1), ids[LISTEN], *self.vocabulary.encode(normalise(clip.text or ""))]
        if not emotional:
            return [*row, ids[PERCEIVE]]
        intensity = _INTENSITY.get(clip.intensity or "", "moderate")
        match = "agrees" if clip.emotion in ("neutral", "calm") else "adds"
        return row + self.vocabulary.perceived(clip.emotion or "", intensity, match)

    # -- loss ----------------------------------------------------------------------------------------------------

    def logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Next-token logits [B, L, V] and emotion logits [B, 8]."""
        felt = self.model.emotion(batch.posteriors, batch.vectors, self.llm.label_embeddings("emotion"))
        sound: list[Tensor] = []
        for states, emotion in zip(batch.states, felt, strict=True):
            slots = self.model.speech(states[None])[0]
            sound.append(torch.cat([slots if batch.vectors is None else slots.detach(), emotion.to(slots.dtype)]))
        plain = self.llm.model.get_input_embeddings()(batch.ids)
        embeddings = masked_scatter(plain, batch.ids, self.vocabulary.ids[SOUND], sound)
        return self.llm.model(inputs_embeds=embeddings, use_cache=False).logits, self.model.emotion.emotion_logits(felt)

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, float]]:
        logits, emotions = self.logits(batch)
        text = next_token(logits, batch.targets)
        felt = torch.zeros(()) if batch.emotions is None else F.cross_entropy(emotions.float(), batch.emotions)
        name = "listen" if batch.emotions is None else "perceive"
        return listen_perceive(text, felt), {name: float(text.detach())}

    def validate(self) -> dict[str, float]:
        """Nats a token of transcripts and of perceive labels, and emotion error, on held-out speakers."""
        totals: dict[str, list[float]] = {"perceive_nats": [], "listen_nats": [], "emotion_error": []}
        for clips, emotional in ((self.held_felt, True), (self.held_read, False)):
            for start in range(0, len(clips), 12):
                batch = self.make(clips[start : start + 12], emotional)
                logits, _ = self.logits(batch)
                nats = float(next_token(logits, batch.targets))
                totals["perceive_nats" if emotional else "listen_nats"].append(nats)
                if emotional:
                    totals["emotion_error"] += self._wrong(logits, batch)
        return {k: float(np.mean(v)) for k, v in totals.items()}

    def _wrong(self, logits: Tensor, batch: Batch) -> list[float]:
        """1.0 for each clip whose emotion token, read under the grammar, is not the true one."""
        places = (batch.ids == self.vocabulary.ids[PERCEIVE]).int().argmax(1)
        options = logits[torch.arange(len(places)), places][:, self.vocabulary.field_ids["emotion"]]
        assert batch.emotions is not None
        return (options.argmax(-1) != batch.emotions).float().tolist()

    def export(self, folder: Path) -> None:
        """`speech_adapter.safetensors` (read speech only) and `emotion_adapter.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("speech", "emotion"):
            weights = getattr(self.model, name).state_dict()
            save_file({k: v.half().contiguous() for k, v in weights.items()}, folder / f"{name}_adapter.safetensors")
