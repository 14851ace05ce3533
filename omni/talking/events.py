"""What a conversation tells as it happens. `generation` counts the replies begun: what belongs to an older one is stale."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from omni.text import Thought
from omni.turns import Heard, Perception, Plan, Reply, Turn


@dataclass(frozen=True)
class SpeechStarted:
    """Somebody began to speak at `sample` of all that was pushed."""

    sample: int


@dataclass(frozen=True)
class SpeechStopped:
    """The turn is over; its speech ended at `sample`."""

    sample: int


@dataclass(frozen=True)
class Committed:
    """`samples` samples of speech are a query; the reply to it is begun, unless `generation` is 0.

    `query`: these samples [N], less what was carried over from before; None when they were told of before.
    """

    samples: int
    generation: int
    query: np.ndarray | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Understood:
    """What was said, and how."""

    heard: Heard
    perception: Perception
    generation: int


@dataclass(frozen=True)
class Planned:
    """How it will be answered, and the thought behind it."""

    plan: Plan
    thought: Thought
    generation: int


@dataclass(frozen=True)
class TextGrown:
    """The reply's text so far, all of it."""

    text: str
    generation: int


@dataclass(frozen=True)
class SoundPiece:
    """The next sound of the reply: float32 samples [n] at `rate` Hz."""

    generation: int
    samples: np.ndarray
    rate: int


@dataclass(frozen=True)
class ReplyEnded:
    """The reply is whole, its sound is in `turn.reply.audio`, and the turn is part of the conversation."""

    turn: Turn
    generation: int


@dataclass(frozen=True)
class Interrupted:
    """The reply was cut off after `played_ms`; `text` is what counts as heard of it. No more of it follows."""

    generation: int
    played_ms: int
    text: str


@dataclass(frozen=True)
class Failed:
    """The query could not be heard or answered; `reply` is what had been begun."""

    error: Exception
    generation: int
    reply: Reply | None = None


Event = (
    SpeechStarted
    | SpeechStopped
    | Committed
    | Understood
    | Planned
    | TextGrown
    | SoundPiece
    | ReplyEnded
    | Interrupted
    | Failed
)
