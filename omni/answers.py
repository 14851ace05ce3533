"""What a responder hands on: a reply's words with its thought, sentence by sentence; and what it says to unclear words."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from omni.models.style import style_for
from omni.spoken import sentences
from omni.text import Thought
from omni.turns import Conversation, Heard, Perception, Plan, Reply

#: What is said when the words could not be made out; one is drawn by the seed. Never sent through the model.
UNCLEAR = {
    "quiet": (
        "I didn't catch the words. Could you say that again?",
        "The words were not clear to me. Would you repeat them?",
    ),
    "upset": (
        "I couldn't make out the words, but your voice sounded troubled. Could you say it once more?",
        "Something in your voice sounded heavy, and I missed the words. Please tell me again.",
    ),
}


@dataclass(frozen=True)
class Sentence:
    """A sentence to be spoken; `states` [tokens, D] of the language model, `starts` the token that begins each word."""

    text: str
    states: Tensor | None = None
    starts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Written:
    """Embeddings and states [L, H] of the tokens that the language model has written of a reply, as it reads them."""

    embeddings: Tensor
    states: Tensor


@dataclass(frozen=True)
class Answer:
    """A reply without sound, or what there is of it so far, and its thought; `sentences` are whole.

    `written` is there for voices that read the language model as it writes.
    """

    reply: Reply
    thought: Thought
    sentences: tuple[Sentence, ...]
    written: Written | None = None


@runtime_checkable
class Following(Protocol):
    """A voice that begins before a sentence is whole."""

    def follow(self, answers: Iterator[Answer]) -> Iterator[np.ndarray]:
        """Sound of a reply in pieces [n] while its answers come, float32 in [-1, 1]."""
        ...


class Answering(ABC):
    """A responder. What was not understood is asked for again, whichever model stands behind it."""

    def answer(self, heard: Heard, perception: Perception, conversation: Conversation, seed: int = 0) -> Answer:
        """Think and choose a whole reply. The same arguments give the same answer."""
        *_, last = self.answers(heard, perception, conversation, seed)
        return last

    def answers(
        self, heard: Heard, perception: Perception, conversation: Conversation, seed: int = 0
    ) -> Iterator[Answer]:
        """The reply as it grows: after each sentence, or more often, all of it so far."""
        if heard.understood:
            yield from self.think(heard, perception, conversation, seed)
        else:
            yield unclear(heard, perception, seed)

    @abstractmethod
    def think(self, heard: Heard, perception: Perception, conversation: Conversation, seed: int) -> Iterator[Answer]:
        """What `answers` gives to words that were understood."""


def unclear(heard: Heard, perception: Perception, seed: int) -> Answer:
    """The request to say it again, chosen by the seed and by whether the voice sounds upset."""
    upset = perception.emotion in ("sad", "angry", "fearful", "disgusted") and perception.confidence > 0.5
    lines = UNCLEAR["upset" if upset else "quiet"]
    text = lines[seed % len(lines)]
    plan = Plan("none", "question", "questioning", "warm" if not upset else "comforting")
    if perception.emotion in ("angry", "disgusted"):
        plan = replace(plan, style="calm")
    thought = Thought(heard.text, perception.emotion, perception.level, perception.match, plan)
    style = style_for(plan.style, perception.intensity)
    return Answer(Reply(text, plan, style), thought, tuple(map(Sentence, sentences(text))))


def seed_of(text: str) -> int:
    """A seed that is a function of a text (a query's id, a transcript)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
