"""A responder whose replies are spoken in a style that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from omni.answers import Answer, Answering
from omni.models.style import style_for
from omni.turns import Conversation, Heard, Perception


class Restyled(Answering):
    """Thinks as `responder` does; only the voice's style is another. The plan stays what was thought."""

    def __init__(self, responder: Answering, style: str) -> None:
        """UsageError for a style that is not in `turns.STYLES`."""
        style_for(style)
        self.responder, self.style = responder, style

    def answers(
        self, heard: Heard, perception: Perception, conversation: Conversation, seed: int = 0
    ) -> Iterator[Answer]:
        """See `Answering`."""
        style = style_for(self.style, perception.intensity)
        for answer in self.responder.answers(heard, perception, conversation, seed):
            yield replace(answer, reply=replace(answer.reply, style=style))

    def think(self, heard: Heard, perception: Perception, conversation: Conversation, seed: int) -> Iterator[Answer]:
        """See `Answering`."""
        yield from self.answers(heard, perception, conversation, seed)
