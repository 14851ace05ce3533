"""Every suite runs from data to page on a tiny assistant; peers that are not under test are stood in for."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from omni import evaluation
from omni.data.corpora import exchanges
from omni.data.voices import HELD_OUT_VOICES
from omni.evaluation import crew, hearing, matching, perceiving, replying, styling, voicing
from omni.evaluation.settings import Settings
from omni.turns import EMOTIONS, FITTING_STYLES, STYLES, Audio, Conversation, Heard, Plan, Reply, Style, Turn
from tests.tiny import make_perception, voiced_clip

WORDS = ("dog", "lake", "train", "noise", "cake", "letter", "boat", "lamp", "coat", "song", "bread", "garden")


def _clip(path: Path, pitch_hz: float = 140.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, voiced_clip(0.8, pitch_hz), 16_000)


def _rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _exchange(situation: str, word: str, emotion: str = "sad") -> dict[str, str]:
    return {
        "situation": situation, "feeling": "mixed", "emotion": emotion, "intensity": "strong", "need": "seeking",
        "strategy": "question", "intent": "questioning", "style": "warm", "say": f"My {word} is gone.",
        "reply": f"What happened to your {word}?",
    }  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data sets in the layout of the real ones, with a few clips each."""
    folder = tmp_path_factory.mktemp("data")
    speech = [
        {"id": f"c{i}", "audio": f"a/c{i}.wav", "speaker": str(26 + i % 2), "text": "MY DOG RAN"} for i in range(4)
    ]
    acted = [
        {"id": f"{e}-{a}", "audio": f"a/{e}-{a}.wav", "speaker": f"actor-{a}", "text": "DOGS", "emotion": e}
        for e in EMOTIONS
        for a in ("14", "15")
    ]
    users = [
        {"id": f"{u}-{e}", "audio": f"a/{u}-{e}.wav", "speaker": f"user-{u}", "emotion": e}
        for u in ("059", "060", "unknown")
        for e in ("calm", "angry", "fearful", "happy")
    ]
    sets = {"librispeech/dev.jsonl": speech, "ravdess/all.jsonl": acted, "indian_emospeech/subset.jsonl": users}
    for name, rows in sets.items():
        _rows(folder / name, rows)
        for row in rows:
            _clip((folder / name).parent / str(row["audio"]))
    talk = [{"turns": [f"my {a} and the {b}", f"that {a} there"]} for a in WORDS for b in WORDS]
    _rows(folder / "text" / "self_dialogue.jsonl.gz", talk)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve held-out situations, one of them a dialogue, and twelve to train on."""
    folder = tmp_path_factory.mktemp("corpus")
    names = (f"s{i}" for i in range(10_000))
    held = [n for n in names if exchanges.held_out(n)][:11]
    train = [f"s{i}" for i in range(100) if not exchanges.held_out(f"s{i}")][:12]
    talk = next(f"talk-{i}" for i in range(1000) if exchanges.held_out(f"talk-{i}"))
    rows = [_exchange(n, w) for n, w in zip(held, WORDS)] + [
        _exchange(talk, "garden"),
        _exchange(talk, "garden", "happy"),
    ]
    rows += [_exchange(n, w, e) for n, w, e in zip(train, WORDS, EMOTIONS * 2)]
    _rows(folder / "all.jsonl", rows)
    return folder


@pytest.fixture
def options(data: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with a small matcher, and sound in place of what festival would read."""
    monkeypatch.setattr(replying, "read_aloud", lambda text, voice: voiced_clip(0.8))
    small = lambda: matching.Matcher(components=8, minimum_documents=1)  # noqa: E731
    monkeypatch.setattr(replying, "Matcher", small)
    return Settings(data, corpus=corpus, workers=1)


class Scripted:
    """An assistant whose answers are given: `hears` maps the number of the clip to words and perception."""

    def __init__(self, assistant: Any, hears: Callable[[int], tuple[Heard, Any]], plans: Callable[[Any], str]) -> None:
        self.config, self.parts, self._hears, self._plans, self.calls = (
            assistant.config,
            assistant.parts,
            hears,
            plans,
            0,
        )
        self.pasts: list[Conversation] = []

    def hear(self, audio: Any) -> tuple[Heard, Any]:
        self.calls += 1
        return self._hears(self.calls - 1)

    def respond(self, heard: Heard, seen: Any, past: Conversation = Conversation(), seed: int = 0) -> Reply:
        self.pasts.append(past)
        word = heard.text.split()[1] if len(heard.text.split()) > 1 else "thing"
        style = self._plans(seen)
        return Reply(f"Tell me about the {word}.", Plan("none", "question", "questioning", style), Style(style))

    def reply(self, audio: Any, past: Conversation = Conversation(), seed: int = 0) -> Turn:
        heard, seen = self.hear(audio)
        reply = self.respond(heard, seen, past, seed)
        return Turn(heard, seen, replace(reply, audio=Audio(voiced_clip(0.5))))


def test_hearing(assistant, options, monkeypatch):
    monkeypatch.setattr(hearing, "sphinx_all", lambda clips, workers: ["my dog ran"] * len(clips))
    result = hearing.run(assistant, options)
    assert result.counts["clips"] == 4
    assert result.numbers["wer_pocketsphinx"] == 0.0
    assert result.rows[0].aim_met is False  # nothing is below a peer without errors
    good = hearing.compare(["my dog ran"] * 9, ["my dog ran"] * 9, ["my cat ran"] * 9)
    assert good.rows[0].floor_met
    assert good.rows[0].aim_met
    assert good.numbers["difference_interval"] == pytest.approx((-1 / 3, -1 / 3))


def test_perceiving_hears_held_out_speakers_only(assistant, options):
    result = perceiving.run(assistant, options)
    assert result.counts == {"ravdess_clips": 8, "indian_clips": 4}
    assert np.sum(result.numbers["confusion"]) == 8
    assert perceiving.held_out_user("user-060")
    assert not perceiving.held_out_user("user-059")
    assert not perceiving.held_out_user("user-" + "d14a")


def test_perceiving_judges_a_perfect_and_a_deaf_assistant(assistant, options):
    def right(index: int) -> tuple[Heard, Any]:
        return Heard("my dog"), make_perception(EMOTIONS[index] if index < 8 else "calm", 1.0)

    perfect = perceiving.run(Scripted(assistant, right, lambda p: FITTING_STYLES[p.emotion][0]), options)
    assert perfect.numbers["uar"] == 1.0
    assert perfect.numbers["style_fit"] == 1.0
    assert perfect.numbers["style_fit_constant"] == pytest.approx(5 / 8)
    assert perfect.numbers["style_fit_toneless"] == pytest.approx(1 / 4)  # `neutral` fits two of the eight
    assert all(row.floor_met in (True, None) for row in perfect.rows)
    deaf = Scripted(assistant, lambda _: (Heard("my dog"), make_perception("happy")), lambda _: "warm")
    found = perceiving.run(deaf, options)
    assert found.numbers["uar"] == pytest.approx(1 / 8)
    assert [row.floor_met for row in found.rows if row.floor] == [False, True, False]


def test_a_toneless_perception_keeps_nothing_of_the_voice():
    bare = perceiving.toneless(make_perception("angry", vector=np.ones(8, np.float32)))
    assert bare.emotion == "neutral"
    assert not bare.vector.any()
    assert bare.probabilities == {e: float(e == "neutral") for e in EMOTIONS}


def test_replying_tells_hearing_from_answering(assistant, options):
    scripted = Scripted(assistant, lambda _: (Heard("some other thing"), make_perception()), lambda _: "warm")
    result = replying.run(scripted, options)
    numbers = result.numbers
    assert result.counts["exchanges"] == 13
    assert numbers["found_words_given"] == numbers["found_written_replies"] == 1.0
    assert numbers["found_as_heard"] < 0.4
    assert result.rows[0].floor_met is False
    assert numbers["copied"] == 0.0
    assert {r["voice"] for r in numbers["replies"]} == {v.name for v in HELD_OUT_VOICES}
    shown = next(t for t in result.tables if t.title.startswith("Ten"))
    assert len(shown.rows) == 10


def test_kept_replies_are_not_made_again(understanding, options, tmp_path, monkeypatch, checkpoint):
    kept = replace(options, where=str(checkpoint), keep=tmp_path)
    first = replying.replies(understanding, kept)
    (victim,) = list(tmp_path.glob("*/00003.npz"))
    victim.unlink()
    made = []
    reply = understanding.reply
    monkeypatch.setattr(understanding, "reply", lambda *rest: made.append(rest) or reply(*rest), raising=False)
    again = replying.replies(understanding, replace(kept, shared={}))
    assert len(made) == 1
    assert len(first) == len(again) == 13
    for one, two in zip(first, again):
        assert (one.reply, one.given, one.told, one.heard, one.voice) == (
            two.reply,
            two.given,
            two.told,
            two.heard,
            two.voice,
        )
        assert one.perception.probabilities == two.perception.probabilities
        assert (one.sound == two.sound).all()
    replying.replies(understanding, replace(kept, shared={}, seed=1))
    assert len(made) == 14  # another seed, other replies


def test_later_turns_of_a_dialogue_know_the_earlier_ones(options):
    held = options.exchanges()[1]
    pasts = replying.before(held)
    assert [len(p.turns) for p in pasts] == [0] * 12 + [1]
    turn = pasts[-1].turns[0]
    assert turn.heard.text == "My garden is gone."
    assert turn.perception.emotion == "sad"
    assert turn.perception.level == "strong"


def test_many_queries_are_met_in_several_processes_as_in_one(assistant, checkpoint, options, monkeypatch):
    monkeypatch.setattr(crew, "WORTH_IT", 2)
    clips = [Audio(voiced_clip(0.5, 100 + 20 * i)) for i in range(5)]
    alone = crew.each(assistant, hearing._hear, clips, replace(options, workers=1), "hearing")
    assert crew.each(assistant, hearing._hear, clips, replace(options, where=str(checkpoint), workers=2), "") == alone


def test_voicing_and_styling(understanding, options, monkeypatch, tmp_path):
    understanding_words = [f"I hear you about the {word}." for word in WORDS]
    sound = (voiced_clip(1.0) * 32767).astype(np.int16)
    spoken = [
        replying.Spoken(
            e, "v", Heard("x"), make_perception(), Reply(t, e.plan, Style(STYLES[i % 7])), sound, None, None
        )
        for i, (e, t) in enumerate(zip(options.exchanges()[1], understanding_words))
    ]
    monkeypatch.setattr(voicing, "read_all", lambda texts, voices, workers: [voiced_clip(1.0)] * len(texts))
    monkeypatch.setattr(voicing, "sphinx_all", lambda clips, workers, what: ["i hear you about the dog"] * len(clips))
    monkeypatch.setattr(voicing, "_other_vocoder", lambda assistant, settings: None)
    monkeypatch.setattr(understanding, "say", lambda text, style: replying.Audio(voiced_clip(1.0)), raising=False)
    options.shared["replies"] = [*spoken, spoken[0]]
    options.nisqa = tmp_path / "nisqa.tar"
    result = voicing.run(understanding, options)
    assert result.counts["replies"] == len(WORDS)  # a reply given twice is voiced once
    assert result.numbers["wer_read_back"] == result.numbers["wer_read_back_flite"]
    assert result.rows[0].floor_met
    assert result.rows[0].aim_met
    assert result.rows[1].value.startswith("not measured")
    assert result.rows[1].floor_met is False
    found = styling.run(understanding, replace(options, limit=2))
    assert found.counts == {"texts": 2, "styles": 7}
    assert not any(row.floor_met for row in found.rows)


def test_a_run_writes_figures_and_page(checkpoint, data, tmp_path, monkeypatch):
    monkeypatch.setattr(hearing, "sphinx_all", lambda clips, workers: ["my dog"] * len(clips))
    numbers = evaluation.run(["hearing"], data, str(checkpoint), tmp_path / "docs", limit=2)
    written = json.loads((tmp_path / "docs" / "results" / "hearing.json").read_text(encoding="utf-8"))
    assert written["counts"]["clips"] == 2
    assert written["options"] == {"model": "tiny", "limit": 2, "seed": 0}
    assert numbers["hearing"]["wer"] == written["numbers"]["wer"]
    assert "only a sample" in (tmp_path / "docs" / "results.md").read_text(encoding="utf-8")
