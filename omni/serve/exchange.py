"""One reply from a query, step by step, for requests that are no conversation under way."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from omni.answers import Answer
from omni.assistant import Assistant
from omni.errors import ModelError
from omni.phones import normalise
from omni.talking.events import Event, Planned, ReplyEnded, SoundPiece, TextGrown, Understood
from omni.talking.replying import Replying
from omni.turns import Audio, Conversation, Heard, Perception

#: How a query that was written, not spoken, is taken to sound.
TONELESS = Perception.certain("neutral")


def exchange(assistant: Assistant, query: Audio | str, conversation: Conversation, seed: int = 0) -> Iterator[Event]:
    """What a session would tell of the reply to a spoken or written query; the last is `ReplyEnded`."""
    replying = Replying(1, np.zeros(0, np.float32), assistant.parts.voice.sample_rate_hz, 0)
    heard, perception = (Heard(normalise(query)), TONELESS) if isinstance(query, str) else assistant.hear(query)
    replying.heard, replying.perception = heard, perception
    yield Understood(heard, perception, 1)
    fresh: list[Answer] = []

    def noted() -> Iterator[Answer]:
        for answer in assistant.parts.responder.answers(heard, perception, conversation, seed):
            fresh.append(answer)
            yield answer

    for piece in assistant.voice(noted()):
        yield from _told(fresh, replying)
        replying.pieces.append(piece)
        yield SoundPiece(1, piece, replying.rate)
    yield from _told(fresh, replying)
    turn = replying.turn()
    if turn is None:
        raise ModelError("the voice made no sound for this reply; try again")
    yield ReplyEnded(turn, 1)


def _told(fresh: list[Answer], replying: Replying) -> Iterator[Event]:
    while fresh:
        answer = fresh.pop(0)
        before, replying.reply = replying.reply, answer.reply
        if before is None:
            yield Planned(answer.reply.plan, answer.thought, 1)
        if before is None or before.text != answer.reply.text:
            yield TextGrown(answer.reply.text, 1)
