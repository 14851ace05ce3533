"""The records that flow between the parts, and the inventories of labels: the one place where they are listed.

Tokens, prompts, tables and tests derive from the tuples here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: What a voice can sound like (the eight categories of RAVDESS; Livingstone and Russo 2018).
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
INTENSITIES = ("mild", "moderate", "strong")
#: How the voice stands to the words: they agree, the voice adds a feeling that plain words lack, or they disagree.
MATCHES = ("agrees", "adds", "contradicts")
#: Need for empathy, the classes of whEE (arXiv 2509.25200).
NEEDS = ("none", "seeking", "providing")
#: Support strategies of ESConv (Liu et al. 2021) without self-disclosure: software has no life to tell of.
STRATEGIES = ("question", "restatement", "reflection", "affirmation", "suggestion", "information", "other")
#: Response intents (ReflectDiffu, arXiv 2409.10289, after Welivita and Pu 2020).
INTENTS = (
    "agreeing", "acknowledging", "encouraging", "consoling", "sympathizing",
    "suggesting", "questioning", "wishing", "neutral",
)  # fmt: skip
STYLES = ("neutral", "warm", "calm", "cheerful", "comforting", "serious", "apologetic")
#: Voice styles that fit an emotion heard; the first is the usual one.
FITTING_STYLES: dict[str, tuple[str, ...]] = {
    "neutral": ("neutral", "warm"),
    "calm": ("calm", "neutral", "warm"),
    "happy": ("cheerful", "warm"),
    "sad": ("comforting", "warm"),
    "angry": ("calm", "serious", "apologetic"),
    "fearful": ("comforting", "calm"),
    "disgusted": ("serious", "calm"),
    "surprised": ("warm", "cheerful", "serious"),
}
#: See `fitting_styles`; a choice, not tuned on anything.
NEARLY = 0.8
#: Valence and arousal in [-1, 1] of each category: positions on Russell's (1980) circumplex as used by
#: Scherer (2005, "What are emotions?", figure 1); `neutral` is the origin. `Perception.valence` and `.arousal` are the
#: posterior's expectation over these coordinates, not measurements of their own.
COORDINATES: dict[str, tuple[float, float]] = {
    "neutral": (0.0, 0.0),
    "calm": (0.6, -0.6),
    "happy": (0.8, 0.5),
    "sad": (-0.7, -0.5),
    "angry": (-0.6, 0.75),
    "fearful": (-0.65, 0.65),
    "disgusted": (-0.7, 0.3),
    "surprised": (0.2, 0.75),
}


def fitting_styles(emotion: str, probabilities: Mapping[str, float], nearly: float = NEARLY) -> tuple[str, ...]:
    """Styles that fit the emotion heard and, of these, are about as likely as the best to fit what is really felt.

    A style's chance to fit is the posterior's mass on the emotions that it fits; styles whose chance is at least
    `nearly` times the best are kept, so that a doubtful "surprised" that may be fear is not met cheerfully.
    """
    chances = {s: sum(p for e, p in probabilities.items() if s in FITTING_STYLES[e]) for s in FITTING_STYLES[emotion]}
    return tuple(s for s, chance in chances.items() if chance >= nearly * max(chances.values()))


@dataclass(frozen=True)
class Audio:
    """Sound. `samples` float32 [N] in [-1, 1], mono."""

    samples: np.ndarray
    sample_rate_hz: int = 16_000

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate_hz


@dataclass(frozen=True)
class Heard:
    """What was said. `text` lower-case words; `confidence` in [0, 1]; `alternatives` other hypotheses, best first.

    `sound`: the query as a language model that hears by itself reads it, a tensor [1, slots, width]; else None.
    """

    text: str
    confidence: float = 1.0
    alternatives: tuple[str, ...] = ()
    sound: Any = field(default=None, compare=False, repr=False)

    @property
    def understood(self) -> bool:
        return bool(self.text) and self.confidence >= 0.35

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {"text": self.text, "confidence": round(self.confidence, 3), "understood": self.understood}


@dataclass(frozen=True)
class Perception:
    """How it was said. Probabilities over EMOTIONS; intensity, confidence in [0, 1]; valence, arousal in [-1, 1]."""

    emotion: str
    probabilities: dict[str, float]
    intensity: float
    valence: float
    arousal: float
    confidence: float
    match: str = "agrees"
    vector: np.ndarray | None = None  # float32 [V], the perceiver's emotion vector

    @property
    def level(self) -> str:
        """The intensity as one of INTENSITIES."""
        return INTENSITIES[min(int(self.intensity * 3), 2)]

    @classmethod
    def certain(cls, emotion: str, intensity: float = 0.5, match: str = "agrees") -> Perception:
        """What is perceived where the emotion is known."""
        shares = {e: float(e == emotion) for e in EMOTIONS}
        return cls(emotion, shares, intensity, *COORDINATES[emotion], 1.0, match)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "emotion": self.emotion,
            "probabilities": {k: round(v, 4) for k, v in self.probabilities.items()},
            "intensity": round(self.intensity, 3),
            "valence": round(self.valence, 3),
            "arousal": round(self.arousal, 3),
            "confidence": round(self.confidence, 3),
            "words_and_voice": self.match,
        }


@dataclass(frozen=True)
class Plan:
    """Why and how to answer."""

    need: str
    strategy: str
    intent: str
    style: str


@dataclass(frozen=True)
class Style:
    """How the voice should sound. Factors against the neutral voice: 1.0 leaves as it is; `energy_db` is added.

    `pitch` multiplies the mean F0, `pitch_range` the spread of log F0 about its mean, `rate` the speaking rate.
    """

    name: str = "neutral"
    pitch: float = 1.0
    pitch_range: float = 1.0
    rate: float = 1.0
    energy_db: float = 0.0


@dataclass(frozen=True)
class Reply:
    """The answer: words, plan, style and, once voiced, sound."""

    text: str
    plan: Plan
    style: Style
    audio: Audio | None = None

    @classmethod
    def of_words(cls, text: str) -> Reply:
        """A reply of which only the words are known."""
        return cls(text, Plan("none", "other", "neutral", "neutral"), Style())


@dataclass(frozen=True)
class Turn:
    """One exchange: what was heard and perceived, and the reply."""

    heard: Heard
    perception: Perception
    reply: Reply
    timings_ms: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of_words(cls, said: str, replied: str, emotion: str = "neutral") -> Turn:
        """A turn of which only the words are known, `said` as lower-case words, and perhaps the emotion."""
        return cls(Heard(said), Perception.certain(emotion), Reply.of_words(replied))


@dataclass(frozen=True)
class Conversation:
    """Turns so far, oldest first."""

    turns: tuple[Turn, ...] = ()

    def with_turn(self, turn: Turn) -> Conversation:
        """The same conversation, one turn longer."""
        return Conversation((*self.turns, turn))
