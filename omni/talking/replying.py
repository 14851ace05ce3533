"""A reply while it is made and played: its text and sound so far, and how much of it was heard.

Shapes: n samples of a piece.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from omni.turns import Audio, Heard, Perception, Reply, Turn

#: Letters spoken in a second, by which the length of text that has no sound yet is reckoned.
LETTERS_PER_S = 14.0


@dataclass
class Replying:
    """One reply, from the query to what was heard of it. `query` float32 [N] at 16 kHz."""

    generation: int
    query: np.ndarray
    rate: int
    began: int  # samples of the microphone when the query was committed
    heard: Heard | None = None
    perception: Perception | None = None
    reply: Reply | None = None
    pieces: list[np.ndarray] = field(default_factory=list)
    made: bool = False
    first_sound: int | None = None  # samples of the microphone when the first piece was handed out

    @property
    def made_ms(self) -> float:
        """How much sound there is."""
        return 1000 * sum(map(len, self.pieces)) / self.rate

    def turn(self, played_ms: float | None = None) -> Turn | None:
        """The exchange, its reply's text cut to what was heard in `played_ms`; None if nothing was heard of it."""
        if self.heard is None or self.perception is None or self.reply is None or not self.pieces:
            return None
        sound = np.concatenate(self.pieces).astype(np.float32)
        text = self.reply.text
        if played_ms is not None:
            whole_ms = self.made_ms if self.made else max(self.made_ms, 1000 * len(text) / LETTERS_PER_S)
            text = heard_part(text, played_ms / whole_ms if whole_ms else 0.0)
            sound = sound[: math.ceil(played_ms * self.rate / 1000)]
        if not text:
            return None
        return Turn(self.heard, self.perception, replace(self.reply, text=text, audio=Audio(sound, self.rate)))


def heard_part(text: str, share: float) -> str:
    """The first words of a text, as many as a share of its sound holds: a word that has begun is counted."""
    words = text.split(" ")
    return " ".join(words[: math.ceil(max(0.0, min(share, 1.0)) * len(words) - 1e-9)])
