"""What is drawn and said: charts with their figures in words, a thought for every label, cards for errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from xml.etree import ElementTree

import numpy as np
import pytest

from omni.assistant import Progress
from omni.demo import charts, panels, words
from omni.demo.visits import Visit
from omni.errors import InputError
from omni.turns import EMOTIONS, INTENTS, MATCHES, NEEDS, STRATEGIES, Audio, Heard, Perception, Plan, Style, Turn
from tests.tiny import SAMPLE_RATE_HZ, voiced_clip

SVG = "{http://www.w3.org/2000/svg}"


def drawn(chart: str) -> ElementTree.Element:
    root = ElementTree.fromstring(chart)
    assert root.get("role") == "img"
    assert root.get("aria-label")
    return root


def test_bars_are_as_long_as_the_probabilities_likeliest_first(perceived: Callable[..., Perception]) -> None:
    root = drawn(charts.bars(perceived("angry", 0.65)))
    bars = [r for r in root.iter(f"{SVG}rect") if "bar" in str(r.get("class"))]
    assert [float(str(b.get("width"))) for b in bars] == pytest.approx([130.0, *[10.0] * 7])
    assert "angry 65%" in str(root.get("aria-label"))
    labels = [t.text for t in root.iter(f"{SVG}text")]
    assert labels[:2] == ["angry", "65%"]
    assert set(EMOTIONS) <= set(labels)


def test_the_plane_has_the_whole_path_and_marks_the_present(perceived: Callable[..., Perception]) -> None:
    seen = [
        perceived(valence=-1.0, arousal=1.0),
        perceived(valence=0.0, arousal=0.0),
        perceived(valence=1.0, arousal=-1.0),
    ]
    root = drawn(charts.plane(seen))
    points = [c for c in root.iter(f"{SVG}circle") if c.get("class") in ("now", "before")]
    places = [(float(str(c.get("cx"))), float(str(c.get("cy")))) for c in points]
    assert places == [(30.0, 20.0), (150.0, 140.0), (270.0, 260.0)]
    assert [c.get("class") for c in points] == ["before", "before", "now"]
    assert sum(p.get("class") == "path" for p in root.iter(f"{SVG}path")) == 1
    assert "nothing heard yet" in charts.plane([])


def test_the_pitch_contour_follows_the_voice() -> None:
    labels = {}
    for hz in (110, 220):
        root = drawn(charts.sound(Audio(voiced_clip(1.0, hz)), "you"))
        assert list(root.iter(f"{SVG}polyline"))
        labels[hz] = int(re.findall(r"pitch about (\d+) hertz", str(root.get("aria-label")))[0])
    assert labels[110] == pytest.approx(110, rel=0.15)
    assert labels[220] == pytest.approx(220, rel=0.15)
    quiet = charts.sound(Audio(np.zeros(SAMPLE_RATE_HZ, np.float32)), "you")
    assert "pitch about" not in quiet


def test_timings_leave_out_what_was_not_measured() -> None:
    label = str(drawn(charts.timings({"hear": 75.0, "express": 400.0, "first_sound": 480.0})).get("aria-label"))
    assert label == (
        "Time of each part: hear words and tone 75 milliseconds, think 400 milliseconds; first sound after 480 milliseconds"
    )


def test_every_label_has_plain_words(perceived: Callable[..., Perception]) -> None:
    for need, strategy, intent in product(NEEDS, STRATEGIES, INTENTS):
        assert words.why(Plan(need, strategy, intent, "warm"), Style("warm")).endswith("in a warm voice.")
    for match, intensity in product(MATCHES, (0.0, 0.5, 1.0)):
        assert "sad" in words.perceived(perceived("sad", match=match, intensity=intensity))
    assert "may sound" in words.perceived(perceived("sad", 0.4))
    assert "asks again" in words.heard(Heard("my dog", 0.1))
    assert words.heard(Heard("my dog", 0.9)) == "“my dog”"


def test_what_people_say_is_never_taken_for_markup(turn: Turn) -> None:
    visit = Visit()
    nasty = '<img src=x onerror="alert(1)">'
    visit.talk.add(replace(turn, heard=Heard(nasty, 0.9)), Audio(voiced_clip(0.5)))
    shown = panels.dialogue(visit) + panels.thought(visit) + panels.card(InputError(f"{nasty} is wrong; mend it"))
    assert "<img" not in shown
    assert "&lt;img" in shown


def test_a_card_says_what_helps_and_hides_what_is_inside() -> None:
    card = panels.card(InputError("the sound is silent; check the microphone"))
    assert 'role="alert"' in card
    assert "This recording cannot be heard" in card
    assert "The sound is silent</p>" in card
    assert "What helps:</strong> check the microphone" in card
    assert "secret" not in panels.card(RuntimeError("secret"))
    assert panels.card(None) == ""


def test_a_turn_is_shown_as_it_forms(turn: Turn) -> None:
    visit = Visit()
    assert "appears here" in panels.dialogue(visit)
    query = Audio(voiced_clip(0.5))
    visit.take(Progress(query, turn.heard, turn.perception), visit.talk)
    assert turn.heard.text in panels.dialogue(visit)
    assert "Because" not in panels.thought(visit)
    visit.take(Progress(query, turn.heard, turn.perception, turn.reply), visit.talk)
    assert turn.reply.text in panels.dialogue(visit)
    assert "Because" in panels.thought(visit)
    assert "<audio" not in panels.dialogue(visit)
    visit.take(Progress(query, turn.heard, turn.perception, turn.reply, turn), visit.talk)
    assert panels.dialogue(visit).count("<audio") == 2
    assert panels.sounds(visit).count('class="chart sound"') == 2
