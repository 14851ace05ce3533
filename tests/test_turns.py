"""The inventories of labels fit together, and the records stay what they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from omni.models.style import style_for
from omni.turns import (
    COORDINATES,
    EMOTIONS,
    FITTING_STYLES,
    INTENSITIES,
    INTENTS,
    MATCHES,
    NEEDS,
    STRATEGIES,
    STYLES,
    Audio,
    Conversation,
    Heard,
    Perception,
    Plan,
    Reply,
    Style,
    Turn,
    fitting_styles,
)


@pytest.mark.parametrize("names", [EMOTIONS, INTENSITIES, MATCHES, NEEDS, STRATEGIES, INTENTS, STYLES])
def test_names_are_unique_plain_words(names: tuple[str, ...]) -> None:
    assert len(set(names)) == len(names)
    assert all(n.isalpha() and n.islower() for n in names)


def test_every_emotion_has_fitting_styles_and_a_place_on_the_circumplex() -> None:
    assert set(FITTING_STYLES) == set(COORDINATES) == set(EMOTIONS)
    for emotion in EMOTIONS:
        assert FITTING_STYLES[emotion]
        assert set(FITTING_STYLES[emotion]) <= set(STYLES)
        assert all(-1 <= c <= 1 for c in COORDINATES[emotion])
    assert {s for fitting in FITTING_STYLES.values() for s in fitting} == set(STYLES)


def test_sad_or_frightened_people_are_never_answered_cheerfully() -> None:
    assert not any("cheerful" in FITTING_STYLES[e] for e in ("sad", "angry", "fearful", "disgusted"))
    assert len(set(COORDINATES.values())) == len(EMOTIONS)


@pytest.mark.parametrize("name", STYLES)
def test_every_style_can_be_spoken(name: str) -> None:
    style = style_for(name)
    assert style.name == name
    assert 0.5 < style.pitch < 2
    assert 0.5 < style.rate < 2


@pytest.mark.parametrize(
    ("intensity", "level"),
    [(0.0, "mild"), (0.33, "mild"), (0.34, "moderate"), (0.66, "moderate"), (0.67, "strong"), (1.0, "strong")],
)
def test_level_of_an_intensity(perceived: Callable[..., Perception], intensity: float, level: str) -> None:
    assert perceived(intensity=intensity).level == level


@pytest.mark.parametrize(
    ("heard", "understood"),
    [(Heard("yes"), True), (Heard("yes", 0.35), True), (Heard("yes", 0.34), False), (Heard("", 1.0), False)],
)
def test_understood_needs_words_and_confidence(heard: Heard, understood: bool) -> None:
    assert heard.understood is understood


def test_duration_of_odd_lengths() -> None:
    assert Audio(np.zeros(16_001, np.float32)).duration_s == pytest.approx(1.0000625)
    assert Audio(np.zeros(441, np.float32), 44_100).duration_s == pytest.approx(0.01)


def test_a_conversation_grows_without_changing_the_one_before(perceived: Callable[..., Perception]) -> None:
    reply = Reply("Yes.", Plan("none", "other", "neutral", "neutral"), Style())
    turn = Turn(Heard("hello"), perceived(), reply)
    empty = Conversation()
    longer = empty.with_turn(turn).with_turn(turn)
    assert empty.turns == ()
    assert longer.turns == (turn, turn)


def test_records_are_frozen(perceived: Callable[..., Perception]) -> None:
    for record in (Heard("a"), perceived(), Style(), Conversation(), Audio(np.zeros(1, np.float32))):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, dataclasses.fields(record)[0].name, None)


def test_styles_fit_what_may_be_felt_too() -> None:
    sure = {e: float(e == "surprised") for e in EMOTIONS}
    assert fitting_styles("surprised", sure) == FITTING_STYLES["surprised"]
    doubtful = sure | {"surprised": 0.5, "angry": 0.4, "disgusted": 0.1}
    assert fitting_styles("surprised", doubtful) == ("serious",)
    for emotion in EMOTIONS:
        flat = dict.fromkeys(EMOTIONS, 1 / len(EMOTIONS))
        assert set(fitting_styles(emotion, flat)) <= set(FITTING_STYLES[emotion])
        assert fitting_styles(emotion, dict.fromkeys(EMOTIONS, 0.0)) == FITTING_STYLES[emotion]
