"""Synthetic readers: what engines are asked, and that the ones installed speak. Missing engines are named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from omni.data import voices
from omni.data.manifest import read
from omni.data.synthesis import sentences, synthesise
from omni.data.voices import HELD_OUT_VOICES, SAMPLE_RATE_HZ, TRAIN_VOICES, Voice, random_reading, speak
from omni.errors import DataError


def engine(name: str) -> None:
    program = {"festival": "text2wave"}.get(name, name)
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed (Debian package {name}, see packages.txt)")


@pytest.mark.parametrize("voice", [Voice("espeak-ng", "en-us"), Voice("flite", "rms"), HELD_OUT_VOICES[1]])
def test_each_engine_speaks(voice: Voice) -> None:
    engine(voice.engine)
    samples = speak("The dog ran to the lake.", voice)
    assert samples.dtype == np.float32
    assert 0.8 < len(samples) / SAMPLE_RATE_HZ < 4.0
    assert 0.05 < np.abs(samples).max() <= 1.0


def test_a_quicker_rate_is_shorter() -> None:
    engine("flite")
    slow, quick = (len(speak("We are going to the lake.", Voice("flite", "rms"), rate)) for rate in (0.8, 1.25))
    assert 1.3 < slow / quick < 1.8


def test_a_reading_is_a_function_of_its_seed() -> None:
    engine("flite")
    engine("espeak-ng")
    (first, name), (again, same) = random_reading("Good morning.", 3), random_reading("Good morning.", 3)
    assert name == same
    np.testing.assert_array_equal(first, again)


def test_training_draws_from_both_engines_and_never_from_held_out_voices(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Voice] = []

    def listen(text: str, voice: Voice, rate: float, pitch: float) -> np.ndarray:
        assert 0.8 <= rate <= 1.3
        assert 0.6 <= pitch <= 1.5
        asked.append(voice)
        return np.zeros(1, np.float32)

    monkeypatch.setattr(voices, "speak", listen)
    for seed in range(300):
        random_reading("yes", seed)
    assert {v.engine for v in asked} == {"flite", "espeak-ng"}
    assert 100 < sum(v.engine == "flite" for v in asked) < 200
    assert not set(asked) & set(HELD_OUT_VOICES)
    assert len(set(asked)) > 30


def test_no_engine_and_no_speaker_is_on_both_sides() -> None:
    assert not {v.engine for v in TRAIN_VOICES} & {v.engine for v in HELD_OUT_VOICES}
    speakers = [v.speaker for v in (*TRAIN_VOICES, *HELD_OUT_VOICES)]
    assert len(set(speakers)) == len(speakers)


def test_a_missing_engine_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(DataError, match=r"text2wave is not installed: `apt-get install festival`"):
        speak("hello", HELD_OUT_VOICES[0])


def test_an_engine_that_fails_says_what_it_could_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    engine("espeak-ng")
    monkeypatch.setattr(voices, "_command", lambda *_: ["false"])
    with pytest.raises(DataError, match="espeak-ng:en-us could not read 'hello'"):
        speak("hello", Voice("espeak-ng", "en-us"))


def test_sentences_keep_what_can_be_read_aloud_once(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(
        "the dog ran away\nthe dog ran away\ntoo short\nroom 101 is full now\nsee http://x.org now please\n"
    )
    assert sentences(path) == ["the dog ran away"]
    talk = tmp_path / "b.jsonl"
    talk.write_text('{"turns": [{"text": "what did you say"}, "i said good morning"]}\n{"text": "one more of them"}\n')
    assert sentences(talk) == ["what did you say", "i said good morning", "one more of them"]


def test_a_synthetic_corpus_is_a_manifest_and_counts_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reading(text: str, seed: int) -> tuple[np.ndarray, str]:
        if "bad" in text:
            raise DataError("cannot")
        return np.full(SAMPLE_RATE_HZ if "long" not in text else 40, 0.1, np.float32), "flite:rms"

    monkeypatch.setattr("omni.data.synthesis.random_reading", reading)
    texts = ["a bad text here", "it isn't long", "How are you?", "fine, thanks a lot"]
    rows = read(synthesise(texts, tmp_path / "out", 10, seed=4))
    assert sorted(r.text or "" for r in rows) == ["fine thanks a lot", "how are you"]
    assert all(r.audio.is_file() and r.duration_s == 1.0 and r.speaker == "flite:rms" for r in rows)
    monkeypatch.setattr("omni.data.synthesis.random_reading", lambda t, s: reading("bad", s))
    with pytest.raises(DataError, match="no text could be read aloud"):
        synthesise(texts, tmp_path / "none", 10)
