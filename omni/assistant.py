"""The front door: load, hear, respond, say, reply, stream.

assistant = Assistant.load()
turn = assistant.reply(read_audio("query.wav"))
write_audio("reply.wav", turn.reply.audio)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from omni.answering import Answer
from omni.assemble import Parts, assemble
from omni.audio import io
from omni.audio.vad import speech_likelihood
from omni.checkpoint import open_checkpoint
from omni.config import OmniConfig
from omni.errors import ModelError
from omni.models.words import matched
from omni.spoken import Spoken, units
from omni.turns import Audio, Conversation, Heard, Perception, Reply, Style, Turn

#: Below this likelihood of speech, what the recogniser makes of the sound is not believed.
SPEECH_FLOOR = 0.3


#: The voice begins with a breath of silence, as recordings do; somebody who waits for an answer need not hear it.
ONSET_DBFS, LEAD_IN_SAMPLES = -50.0, 320


def from_onset(piece: np.ndarray) -> np.ndarray:
    """A piece of sound [n] from 20 ms before its first sample above -50 dBFS; empty if there is none."""
    loud = np.flatnonzero(np.abs(piece) > 10 ** (ONSET_DBFS / 20))
    return piece[max(0, loud[0] - LEAD_IN_SAMPLES) :] if len(loud) else piece[:0]


class Clock:
    """Milliseconds spent in each named part."""

    def __init__(self) -> None:
        self.spent_ms: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.spent_ms[name] = self.spent_ms.get(name, 0.0) + 1000 * (time.perf_counter() - began)


class Assistant:
    """Hears a query, perceives its tone, thinks, replies in words and in a voice. Holds no conversation itself."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    @property
    def config(self) -> OmniConfig:
        return self.parts.config

    @classmethod
    def load(cls, where: str | Path | None = None, vocoder: str | None = None) -> Assistant:
        """Load a checkpoint folder or name (default: the shipped omni-mini, or what OMNI_HOME holds)."""
        return cls(assemble(open_checkpoint(where), vocoder))

    # -- hearing -------------------------------------------------------------------------------------------------

    def hear(self, audio: Audio) -> tuple[Heard, Perception]:
        """Words and perception only. ValueError unless the sound has the listener's sample rate."""
        return self._hear(audio, Clock())

    @torch.inference_mode()
    def _hear(self, audio: Audio, clock: Clock) -> tuple[Heard, Perception]:
        audio = io.from_samples(audio.samples, audio.sample_rate_hz, config=self.config.audio)
        with clock.part("listen"):
            listening = self.parts.listener.listen(audio)
            heard = listening.heard
            if speech_likelihood(audio.samples) < SPEECH_FLOOR:
                heard = replace(heard, confidence=min(heard.confidence, 0.2))
        with clock.part("perceive"):
            perception = self.parts.perceiver.perceive(audio.samples, listening.layers)
            perception = matched(perception, heard.text, self.parts.sentiment)
        return heard, perception

    # -- answering -----------------------------------------------------------------------------------------------

    def respond(
        self, heard: Heard, perception: Perception, conversation: Conversation = Conversation(), seed: int = 0
    ) -> Reply:
        """Think and choose the reply's words, plan and style; no sound yet."""
        return self.parts.responder.answer(heard, perception, conversation, seed).reply

    # -- voicing -------------------------------------------------------------------------------------------------

    def say(self, text: str, style: Style) -> Audio:
        """Speak a text in a style."""
        frames = self.parts.voice.speak(units(text), style)
        return Audio(self.parts.vocoder.synthesise(frames), frames.sample_rate_hz)

    def _voice(self, answer: Answer) -> Iterator[np.ndarray]:
        """The reply's sound, a piece at a time."""
        spoken = units(answer.reply.text)
        tokens = self._tokens_of(spoken, answer)
        states = answer.states if tokens is not None else None
        begun = False
        for frames in self.parts.voice.speak_clauses(
            spoken, answer.reply.style, llm_states=states, unit_to_token=tokens
        ):
            for piece in self.parts.vocoder.stream(frames):
                heard = piece if begun else from_onset(piece)
                begun = begun or len(heard) > 0
                if len(heard):
                    yield heard

    def _tokens_of(self, spoken: Spoken, answer: Answer) -> np.ndarray | None:
        """The language-model token behind each unit, or None when the voice was not trained with states."""
        if answer.states is None or not self.config.decoder.reads_llm_states:
            return None
        starts = self.parts.responder.vocabulary.word_starts(answer.ids)
        if len(starts) != len(spoken.text):
            return None
        return np.array([starts[w] if w >= 0 else -1 for w in spoken.words], np.int64)

    # -- the whole -----------------------------------------------------------------------------------------------

    def reply(self, audio: Audio, conversation: Conversation = Conversation(), seed: int = 0) -> Turn:
        """Hear, perceive, think, speak. `Turn.timings_ms` has the time of each part and of the first sound."""
        clock, began = Clock(), time.perf_counter()
        heard, perception = self._hear(audio, clock)
        with clock.part("express"):
            answer = self.parts.responder.answer(heard, perception, conversation, seed)
        pieces: list[np.ndarray] = []
        with clock.part("voice"):
            for piece in self._voice(answer):
                if not pieces:
                    clock.spent_ms["first_sound"] = 1000 * (time.perf_counter() - began)
                pieces.append(piece)
        clock.spent_ms["total"] = 1000 * (time.perf_counter() - began)
        sound = Audio(np.concatenate(pieces).astype(np.float32))
        return Turn(heard, perception, replace(answer.reply, audio=sound), clock.spent_ms)

    def stream(
        self, blocks: Iterable[np.ndarray], conversation: Conversation = Conversation(), seed: int = 0
    ) -> Iterator[np.ndarray]:
        """Take the query in blocks [n] as they come; when they end, yield the reply's sound in pieces.

        The whole query is heard at once when it ends: the listener looks both ways and is quick (see docs/results.md).
        """
        samples = np.concatenate([np.asarray(b, np.float32) for b in blocks] or [np.zeros(0, np.float32)])
        heard, perception = self.hear(Audio(samples, self.config.audio.sample_rate_hz))
        yield from self._voice(self.parts.responder.answer(heard, perception, conversation, seed))

    def warm_up(self) -> None:
        """Run every part once, so that the first real query is not slower than the rest."""
        generator = np.random.default_rng(0)
        noise = (generator.standard_normal(self.config.audio.sample_rate_hz) * 0.01).astype(np.float32)
        heard, perception = self.hear(Audio(noise))
        answer = self.parts.responder.answer(Heard("hello", 1.0), perception, Conversation())
        if not list(self._voice(answer)):
            raise ModelError("the voice made no sound; the checkpoint is damaged, fetch it again")
