"""A reply voice by Higgs Audio v2 (Boson AI, 2025): a language model that writes the codes of a codec and follows directions.

The plan's style is put into words (the scene that the speaker is in); pace, pitch and level beyond it are laid over.
Shapes: n samples, L steps of the codec, C codebooks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import resample
from transformers import (
    AutoTokenizer,
    DacFeatureExtractor,
    HiggsAudioV2ForConditionalGeneration,
    HiggsAudioV2Processor,
    HiggsAudioV2TokenizerModel,
)

from omni.audio.restyling import restyle
from omni.audio.world import SAMPLE_RATE_HZ
from omni.backbones.local import pretrained
from omni.errors import ModelError
from omni.models.style import style_for
from omni.turns import Style

#: What the model is told about the speaker, for each style of a plan.
DIRECTIONS: dict[str, str] = {
    "neutral": "The speaker talks in an even, friendly voice.",
    "warm": "The speaker talks in a warm, kind voice, close to the listener.",
    "calm": "The speaker talks calmly and slowly, in a low, steady voice.",
    "cheerful": "The speaker is delighted and talks in a bright, lively, smiling voice.",
    "comforting": "The speaker comforts somebody and talks softly, gently and slowly.",
    "serious": "The speaker is serious and talks in a sober, clear voice without a smile.",
    "apologetic": "The speaker is sorry and talks quietly, with regret.",
}
_ROOM = "Audio is recorded from a quiet room."
_TASK = "Generate audio following instruction."
SHORTEST_SAMPLES = SAMPLE_RATE_HZ // 20
#: A sentence may last so many steps for each of its letters; and it may always last a second.
STEPS_PER_LETTER = 4


class HiggsVoice:
    """A `models.voice.Voice` over Higgs Audio v2."""

    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(
        self,
        model: HiggsAudioV2ForConditionalGeneration,
        processor: Any,  # a HiggsAudioV2Processor, whose parts the library does not declare
        seed: int = 0,
        temperature: float = 0.7,
    ) -> None:
        """The same text and style sound the same: what is drawn is drawn from `seed`, so that the speaker stays one, too."""
        self.model, self.processor, self.seed, self.temperature = model.eval(), processor, seed, temperature
        self._one = threading.Lock()  # the drawing is torch's own

    @classmethod
    def load(
        cls,
        folder: Path,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        codec: Path | None = None,
        seed: int = 0,
        temperature: float = 0.7,
    ) -> HiggsVoice:
        """From local folders, the language model's and its `codec`'s; safetensors only, no code."""
        model = pretrained(HiggsAudioV2ForConditionalGeneration, folder, dtype, device)
        tokenizer = pretrained(HiggsAudioV2TokenizerModel, codec or folder, device=device)  # small: float32 anywhere
        text = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        extractor = DacFeatureExtractor.from_pretrained(codec or folder, local_files_only=True)
        ends = {name: getattr(model.config, name) for name in ("audio_stream_bos_id", "audio_stream_eos_id")}
        processor = HiggsAudioV2Processor(extractor, text, tokenizer, text.chat_template, **ends)
        return cls(model, processor, seed, temperature)

    def speak(
        self, text: str, style: Style, states: Tensor | None = None, starts: Sequence[int] = ()
    ) -> Iterator[np.ndarray]:
        """See `Voice`; the whole sentence in one piece."""
        if not any(c.isalnum() for c in text):
            return
        sound = self._sound(text, style.name)
        yield restyle(np.pad(sound, (0, max(0, SHORTEST_SAMPLES - len(sound)))), beyond(style))

    def conversation(self, text: str, style: str) -> list[dict]:
        """What the model is told: the task, the scene with the speaker's manner, the words."""

        def told(role: str, words: str) -> dict:
            return {"role": role, "content": [{"type": "text", "text": words}]}

        return [told("system", _TASK), told("scene", f"{_ROOM} {DIRECTIONS[style]}"), told("user", text)]

    @torch.inference_mode()
    def _sound(self, text: str, style: str) -> np.ndarray:
        """Sound [n] at SAMPLE_RATE_HZ."""
        codec = self.processor.audio_tokenizer.config
        inputs: Any = self.processor.apply_chat_template(
            self.conversation(text, style),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.model.device)
        with self._one, torch.random.fork_rng():
            torch.manual_seed(self.seed)
            codes = self.model.generate(
                **inputs,
                max_new_tokens=max(int(codec.frame_rate), STEPS_PER_LETTER * len(text)),
                do_sample=self.temperature > 0,
                **({"temperature": self.temperature} if self.temperature > 0 else {}),
            )
        if codes.shape[1] <= codes.shape[2] + 2:  # marks and delay alone
            raise ModelError("the voice model wrote no sound; it is damaged, or no Higgs Audio v2")
        wave = self.processor.batch_decode(codes)[0].float().cpu().reshape(-1)
        return resample(wave, codec.sample_rate, SAMPLE_RATE_HZ).clamp(-1.0, 1.0).numpy()


def beyond(style: Style) -> Style:
    """What a style asks for beyond all that its name alone asks for, at any intensity: that much is in the directions."""
    ends = style_for(style.name, 0.0), style_for(style.name, 1.0)

    def usual(field: str) -> float:
        low, high = sorted(getattr(end, field) for end in ends)
        return min(max(getattr(style, field), low), high)

    factors = {field: getattr(style, field) / usual(field) for field in ("pitch", "pitch_range", "rate")}
    return replace(style, **factors, energy_db=style.energy_db - usual("energy_db"))
