"""The front door: load, hear, respond, say, reply, stream.

assistant = Assistant.load()
turn = assistant.reply(read_audio("query.wav"))
write_audio("reply.wav", turn.reply.audio)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from omni.answers import Answer, Following
from omni.anticipation import answered
from omni.assemble import Parts, assemble, assemble_preset
from omni.audio import io
from omni.audio.joining import join
from omni.audio.pauses import without_silence_after
from omni.audio.vad import SAMPLE_RATE_HZ, speech_likelihood
from omni.checkpoint import open_checkpoint
from omni.config import OmniConfig
from omni.errors import ModelError
from omni.models.words import matched
from omni.preset import load_preset
from omni.spoken import sentences
from omni.turns import Audio, Conversation, Heard, Perception, Reply, Style, Turn

#: Below this likelihood of speech, what the recogniser makes of the sound is not believed.
SPEECH_FLOOR = 0.3


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


@dataclass(frozen=True)
class Progress:
    """What there is of a turn so far; `turn` once it is whole."""

    query: Audio
    heard: Heard
    perception: Perception
    reply: Reply | None = None
    turn: Turn | None = None


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

    @classmethod
    def of_preset(cls, preset: str | Path, device: str = "auto") -> Assistant:
        """Load a preset by name, or by the path of its YAML file."""
        return cls(assemble_preset(load_preset(str(preset)), device))

    # -- hearing -------------------------------------------------------------------------------------------------

    def hear(self, audio: Audio) -> tuple[Heard, Perception]:
        """Words and perception only. ValueError unless the sound has the listener's sample rate."""
        return self._hear(audio, Clock())

    @torch.inference_mode()
    def _hear(self, audio: Audio, clock: Clock) -> tuple[Heard, Perception]:
        rate_hz = audio.sample_rate_hz
        samples = without_silence_after(audio.samples) if rate_hz == SAMPLE_RATE_HZ else audio.samples
        audio = io.from_samples(samples, rate_hz, config=self.config.audio)
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
        pieces = [*self.saying(text, style), np.zeros(0, np.float32)]
        return Audio(np.concatenate(pieces), self.parts.voice.sample_rate_hz)

    def saying(self, text: str, style: Style) -> Iterator[np.ndarray]:
        """The pieces [n] of `say`, a sentence at a time."""
        return join(self.parts.voice.speak(sentence, style) for sentence in sentences(text))

    def voice(self, answers: Iterable[Answer]) -> Iterator[np.ndarray]:
        """The reply's sound in pieces; each sentence is spoken as soon as it is there, or even as it is written."""
        if isinstance(self.parts.voice, Following):
            return self.parts.voice.follow(iter(answers))
        return join(self._spoken(answers))

    def _spoken(self, answers: Iterable[Answer]) -> Iterator[Iterator[np.ndarray]]:
        count = 0
        for answer in answers:
            for sentence in answer.sentences[count:]:
                yield self.parts.voice.speak(sentence.text, answer.reply.style, sentence.states, sentence.starts)
            count = len(answer.sentences)

    # -- the whole -----------------------------------------------------------------------------------------------

    def reply(self, audio: Audio, conversation: Conversation = Conversation(), seed: int = 0) -> Turn:
        """Hear, perceive, think, speak. `Turn.timings_ms` has the time of each part and of the first sound."""
        *_, last = self.steps(audio, conversation, seed)
        assert last.turn is not None
        return last.turn

    def steps(self, audio: Audio, conversation: Conversation = Conversation(), seed: int = 0) -> Iterator[Progress]:
        """`reply` step by step: after hearing, after each piece of sound, and the whole turn."""
        clock, began = Clock(), time.perf_counter()
        heard, perception = self._hear(audio, clock)
        now = Progress(audio, heard, perception)
        yield now
        answers = list[Answer]()

        def thinking() -> Iterator[Answer]:
            steps = self.parts.responder.answers(heard, perception, conversation, seed)
            while True:
                with clock.part("express"):
                    answer = next(steps, None)
                if answer is None:
                    return
                answers.append(answer)
                yield answer

        pieces: list[np.ndarray] = []
        for piece in self.voice(thinking()):
            if not pieces:
                clock.spent_ms["first_sound"] = 1000 * (time.perf_counter() - began)
            pieces.append(piece)
            now = replace(now, reply=answers[-1].reply)
            yield now
        clock.spent_ms["total"] = 1000 * (time.perf_counter() - began)
        spent = clock.spent_ms
        spent["voice"] = spent["total"] - sum(spent[part] for part in ("listen", "perceive", "express"))
        sound = Audio(np.concatenate(pieces).astype(np.float32), self.parts.voice.sample_rate_hz)
        reply = replace(answers[-1].reply, audio=sound)
        yield replace(now, reply=reply, turn=Turn(heard, perception, reply, spent))

    def stream(
        self, blocks: Iterable[np.ndarray], conversation: Conversation = Conversation(), seed: int = 0
    ) -> Iterator[np.ndarray]:
        """Take the query in blocks [n] as they come; when they end, yield the reply's sound in pieces.

        Each pause may be the end of the query, so the reply is begun in it (`anticipation.py`). The query is then heard
        at once: the listener looks both ways and is quick (see docs/results.md). The first sentence sounds while the
        next one is thought of. The pieces are those of `reply`.
        """

        def answering(samples: np.ndarray) -> Iterator[np.ndarray]:
            heard, perception = self.hear(Audio(samples, self.config.audio.sample_rate_hz))
            yield from self.voice(self.parts.responder.answers(heard, perception, conversation, seed))

        yield from answered(blocks, answering)

    def warm_up(self) -> None:
        """Run every part once, so that the first real query is not slower than the rest."""
        generator = np.random.default_rng(0)
        noise = (generator.standard_normal(self.config.audio.sample_rate_hz) * 0.01).astype(np.float32)
        heard, perception = self.hear(Audio(noise))
        answers = self.parts.responder.answers(Heard("hello", 1.0), perception, Conversation())
        if not list(self.voice(answers)):
            raise ModelError("the voice made no sound; the checkpoint is damaged, fetch it again")
