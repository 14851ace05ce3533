"""One turn step by step, so that the page can show each part as soon as it is known."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from omni.answers import Answer
from omni.assistant import Assistant, Clock
from omni.turns import Audio, Conversation, Heard, Perception, Reply, Turn


@dataclass(frozen=True)
class Progress:
    """What there is of a turn so far; `turn` once it is whole."""

    query: Audio
    heard: Heard | None = None
    perception: Perception | None = None
    reply: Reply | None = None
    turn: Turn | None = None


def exchange(
    assistant: Assistant, query: Audio, conversation: Conversation = Conversation(), seed: int = 0
) -> Iterator[Progress]:
    """Hear, perceive, think, speak, a step of it at a time. The last step holds the whole turn, as `reply` makes it."""
    clock, began = Clock(), time.perf_counter()
    heard, perception = assistant._hear(query, clock)
    now = Progress(query, heard, perception)
    yield now
    answers, pieces = list[Answer](), list[np.ndarray]()

    def thinking() -> Iterator[Answer]:
        steps = assistant.parts.responder.answers(heard, perception, conversation, seed)
        while True:
            with clock.part("express"):
                answer = next(steps, None)
            if answer is None:
                return
            answers.append(answer)
            yield answer

    for piece in assistant.voice(thinking()):
        if not pieces:
            clock.spent_ms["first_sound"] = 1000 * (time.perf_counter() - began)
        pieces.append(piece)
        now = replace(now, reply=answers[-1].reply)
        yield now
    spent = clock.spent_ms
    spent["total"] = 1000 * (time.perf_counter() - began)
    spent["voice"] = spent["total"] - sum(spent[part] for part in ("listen", "perceive", "express"))
    sound = Audio(np.concatenate([*pieces, np.zeros(0, np.float32)]), assistant.parts.voice.sample_rate_hz)
    reply = replace(answers[-1].reply, audio=sound)
    yield replace(now, reply=reply, turn=Turn(heard, perception, reply, spent))
