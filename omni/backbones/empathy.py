"""Empathy Omni at run time: one model hears, perceives, thinks and answers; its voice reads along (`code_voice.py`).

Listener, perceiver and responder are three views of one `EmpathyChat`, as in `lpe.py`; the emotion is what the model itself
would write down.
Shapes: N samples, K slots, E emotions, L reply tokens, H language-model width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from omni.answers import Answer, Written
from omni.backbones.chat import ChatConfig, _Reading, _Spoken
from omni.backbones.decoding import StaticDecoder, StaticStates
from omni.backbones.empathy_chat import EmpathyChat, load_empathy_chat
from omni.backbones.lpe import LpeListener, LpePerceiver, LpeResponder
from omni.backbones.speech_chat import FELT, HEARD
from omni.errors import ModelError
from omni.models.emotion_head import FIRST
from omni.phones import normalise
from omni.text import Thought
from omni.turns import EMOTIONS, Perception, Plan, Reply, Style

TRAINED = "runs/1_respond/export"
_LONGEST_TOKENS = 120


#: The parts of a preset share one model.
_loaded = lru_cache(maxsize=1)(load_empathy_chat)


def shared(
    folder: Path, dtype: torch.dtype, device: str, whisper: Path | None, wavlm: Path | None, adapters: str
) -> EmpathyChat:
    """The one model. ModelError if the preset does not name both speech encoders."""
    if whisper is None or wavlm is None:
        raise ModelError("name the speech encoders in the preset, under also: whisper and wavlm")
    return _loaded(folder, whisper, wavlm, Path(adapters), dtype, device)


def _view(
    cls: Any,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    whisper: Path | None = None,
    wavlm: Path | None = None,
    adapters: str = TRAINED,
) -> Any:
    """From local folders; safetensors only, no code. `adapters` is the export of recipes/empathy_omni/1_respond.yaml."""
    return cls(shared(folder, dtype, device, whisper, wavlm, adapters))


class EmpathyListener(LpeListener):
    """What the model writes of the sound. Its `Listening.layers` are the logits [1, E] of what it would write of the tone."""

    chat: EmpathyChat

    load = classmethod(_view)  # type: ignore[assignment]

    @torch.inference_mode()
    def _window(self, samples: np.ndarray) -> tuple[str, float, Tensor, Tensor]:
        slots = self.chat.hearing(samples).slots
        ids = self.chat.asked(slots.shape[1]) + self.chat.plain(HEARD)
        stops = {self.chat.plain("\n")[0], self.chat.ends}
        cache = DynamicCache(config=self.chat.llm.config)
        written, confidence = self.chat.write(self.chat.embed(ids, [slots]), list(stops), _LONGEST_TOKENS, cache)
        text = normalise(str(self.chat.tokenizer.decode(written, skip_special_tokens=True)).split("\n")[0])
        unread = written[cache.get_seq_length() - len(ids) :]
        felt = self.chat.label_logits(cache, [*unread, *self.chat.plain(f"\n{FELT}")], EMOTIONS)
        return text, confidence, slots, felt


class EmpathyPerceiver(LpePerceiver):
    """How likely the model is to write down each emotion."""

    chat: EmpathyChat

    load = classmethod(_view)  # type: ignore[assignment]

    @torch.inference_mode()
    def perceive(self, samples: np.ndarray, layers: list[Tensor] | None = None) -> Perception:
        """How a clip [N] sounds; `layers` are the logits that the listener has found already."""
        if not layers or layers[0].shape[-1] != len(EMOTIONS):
            layers = [EmpathyListener(self.chat)._window(np.asarray(samples, np.float32))[3]]
        return super().perceive(samples, layers)


class EmpathyResponder(LpeResponder):
    """The thought and the reply after the sound itself, handed on with their states from the first `FIRST` tokens on."""

    chat: EmpathyChat

    @classmethod
    def load(  # type: ignore[override]
        cls,
        folder: Path,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        whisper: Path | None = None,
        wavlm: Path | None = None,
        adapters: str = TRAINED,
        reply_tokens: int = 80,
        temperature: float = 0.7,
    ) -> EmpathyResponder:
        """From local folders; safetensors only, no code."""
        chat = shared(folder, dtype, device, whisper, wavlm, adapters)
        return cls(chat, replace(ChatConfig(), reply_tokens=reply_tokens, temperature=temperature))

    def _answers(self, reading: _Reading, seed: int, plan: Plan, style: Style, thought: Thought) -> Iterator[Answer]:
        """The reply after each token."""
        spoken = _Spoken(self)

        def answer() -> Answer:
            return Answer(Reply(spoken.text, plan, style), thought, tuple(spoken.sentences), self._written(spoken))

        for _ in self._sampled(reading, seed, spoken):
            if len(spoken.states) >= FIRST:
                yield answer()
        spoken.end()
        if not spoken.sentences:
            raise ModelError("the language model wrote no words; it is damaged, or was not trained for this")
        yield answer()

    def _written(self, spoken: _Spoken) -> Written:
        """Of the tokens that were read so far; the last drawn one may be missing."""
        states = torch.cat(spoken.states) if spoken.states else torch.zeros(0, self.chat.head.squeeze.in_features)
        return Written(self.chat.embed(spoken.ids[: len(states)], [])[0], states)

    def _grow(self, cache: DynamicCache, ids: Sequence[int], embeddings: Tensor | None) -> _Reading:
        """As `ChatResponder`, the state of the last token kept."""
        told = self.chat.embed(ids, []) if embeddings is None else embeddings
        out = self.model.get_decoder()(inputs_embeds=told, past_key_values=cache, use_cache=True)
        state = out.last_hidden_state[:, -1]
        return _Reading(cache, self.model.get_output_embeddings()(state).float().cpu(), state)  # type: ignore[misc]

    def _decoder(self) -> StaticDecoder:
        return StaticStates(self.model, self.config.static_tokens)

    def _state(self, cache: StaticDecoder) -> Tensor | None:
        assert isinstance(cache, StaticStates)
        return None if cache.state is None else cache.state.clone()
