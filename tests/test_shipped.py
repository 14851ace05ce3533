"""The weights that ship here, by what a person would notice: they hear the example, and do not invent words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from omni.assistant import Assistant
from omni.audio.io import read_audio
from omni.data.voices import Voice, speak
from omni.evaluation.report import weights_digest
from omni.turns import Audio
from tests.tiny import REPOSITORY

pytestmark = pytest.mark.slow
#: Said by people who speak no English; other languages and sentences than those the confidence was fitted on.
FOREIGN = {
    "nl": "Ik weet niet of mijn broer vanavond nog langskomt, want het heeft de hele dag gesneeuwd.",
    "da": "Min mor har lavet en kage, og vi skal spise den sammen med naboerne i morgen.",
    "fi": "En tiedä, missä avaimeni ovat, mutta luulen, että ne jäivät kesämökille.",
    "cs": "Včera jsme se dlouho procházeli po městě a potom jsme si dali kávu.",
    "ro": "Fratele meu a cumpărat o casă mică lângă mare și vrea să se mute acolo.",
}


@pytest.fixture(scope="module")
def shipped() -> Assistant:
    return Assistant.load()


def test_the_example_is_heard_and_answered(shipped: Assistant) -> None:
    turn = shipped.reply(read_audio(REPOSITORY / "examples" / "driving_test.wav"))
    assert turn.heard.understood
    assert "driving test" in turn.heard.text
    assert turn.reply.audio is not None
    assert 1.0 < turn.reply.audio.duration_s < 15.0
    assert "driv" in turn.reply.text.lower() or "test" in turn.reply.text.lower()


def noises() -> dict[str, np.ndarray]:
    draw, time_s = np.random.default_rng(0), np.arange(48_000) / 16_000
    brown = np.cumsum(draw.standard_normal(48_000))
    clicks = (draw.random(48_000) < 0.0003) * draw.standard_normal(48_000)
    return {
        "white": 0.1 * draw.standard_normal(48_000),
        "brown": 0.1 * (brown - brown.mean()) / np.abs(brown).max(),
        "hum": 0.2 * np.sin(2 * np.pi * 50 * time_s) + 0.002 * draw.standard_normal(48_000),
        "clicks": 0.5 * clicks + 0.001 * draw.standard_normal(48_000),
    }


@pytest.mark.parametrize("kind", list(noises()))
def test_no_words_are_invented_for_noise(shipped: Assistant, kind: str) -> None:
    heard, _ = shipped.hear(Audio(noises()[kind].astype(np.float32)))
    assert not heard.understood, heard.text


def test_foreign_speech_is_mostly_not_believed(shipped: Assistant) -> None:
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed (packages.txt)")
    heard = [shipped.hear(Audio(speak(t, Voice("espeak-ng", lang))))[0] for lang, t in FOREIGN.items()]
    believed = [h.text for h in heard if h.understood]
    assert len(believed) <= 1, believed


def test_the_shipped_folder_is_within_its_limits() -> None:
    sizes = [p.stat().st_size for p in Path(REPOSITORY / "checkpoints" / "omni-mini").iterdir()]
    assert max(sizes) <= 45e6
    assert sum(sizes) <= 110e6


@pytest.mark.parametrize("name", sorted(p.stem for p in (REPOSITORY / "docs" / "results").glob("*.json")))
def test_the_results_shown_are_those_of_the_weights_that_ship(name: str) -> None:
    found = json.loads((REPOSITORY / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    assert found["weights"] == weights_digest(None, name), f"measure again: omni eval {name}"
