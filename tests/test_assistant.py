"""The whole assistant on tiny random weights: hear, respond, say, reply and stream fit together."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from omni.answers import UNCLEAR, Sentence, seed_of
from omni.assistant import Assistant
from omni.errors import InputError
from omni.models.style import style_for
from omni.turns import EMOTIONS, FITTING_STYLES, Audio, Conversation, Heard, Perception, Turn
from tests.tiny import voiced_clip

HEARD = Heard("my dog ran away", 0.9)


def test_reply_is_a_whole_turn(understanding: Assistant, voice: Audio) -> None:
    turn = understanding.reply(voice)
    assert turn.heard == HEARD
    assert turn.perception.emotion in EMOTIONS
    assert sum(turn.perception.probabilities.values()) == pytest.approx(1, abs=1e-3)
    assert turn.reply.plan.style == turn.reply.style.name
    assert turn.reply.style.name in FITTING_STYLES[turn.perception.emotion]
    assert turn.reply.text[0].isupper()
    audio = turn.reply.audio
    assert audio is not None
    assert audio.samples.dtype == np.float32
    assert np.isfinite(audio.samples).all()
    assert len(audio.samples) > 1000
    assert np.abs(audio.samples).max() <= 1.0
    spent = turn.timings_ms
    assert set(spent) >= {"listen", "perceive", "express", "voice", "first_sound", "total"}
    assert spent["first_sound"] <= spent["total"]
    assert spent["listen"] + spent["perceive"] + spent["express"] + spent["voice"] <= spent["total"] + 1


def test_same_query_and_seed_give_the_same_reply(understanding: Assistant, voice: Audio) -> None:
    torch.manual_seed(1)
    first = understanding.reply(voice, seed=5)
    torch.manual_seed(2)
    again = understanding.reply(voice, seed=5)
    assert first.reply.text == again.reply.text
    assert first.reply.audio is not None
    assert again.reply.audio is not None
    np.testing.assert_array_equal(first.reply.audio.samples, again.reply.audio.samples)
    others = {understanding.respond(first.heard, first.perception, seed=s).text for s in range(5, 9)}
    assert len(others) > 1


def test_streamed_pieces_are_the_reply(understanding: Assistant, voice: Audio) -> None:
    whole = understanding.reply(voice, seed=2).reply.audio
    blocks = np.array_split(voice.samples, 7)
    streamed = np.concatenate(list(understanding.stream(iter(blocks), seed=2)))
    assert whole is not None
    np.testing.assert_array_equal(streamed, whole.samples)


def test_streaming_nothing_is_refused(assistant: Assistant) -> None:
    with pytest.raises(InputError):
        list(assistant.stream([]))


def test_hearing_does_not_depend_on_what_was_heard_before(assistant: Assistant, voice: Audio) -> None:
    heard, perception = assistant.hear(voice)
    assistant.hear(Audio(voiced_clip(1.0, 260, 5)))
    again, same = assistant.hear(voice)
    assert heard == again
    assert perception.probabilities == same.probabilities


def test_another_rate_is_resampled(assistant: Assistant, voice: Audio) -> None:
    double = Audio(np.repeat(voice.samples, 2), 32_000)
    _, perception = assistant.hear(double)
    assert perception.emotion in EMOTIONS


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros(16_000), np.full(16_000, np.nan), np.ones(100)])
def test_sound_that_cannot_be_heard_is_refused(assistant: Assistant, samples: np.ndarray) -> None:
    with pytest.raises(InputError):
        assistant.reply(Audio(samples.astype(np.float32)))


def test_what_is_not_speech_is_not_believed(
    understanding: Assistant, voice: Audio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omni.assistant.speech_likelihood", lambda _: 0.1)
    turn = understanding.reply(voice)
    assert not turn.heard.understood
    assert turn.reply.text in (*UNCLEAR["quiet"], *UNCLEAR["upset"])


# -- answering ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_what_was_not_understood_is_asked_for_again(
    assistant: Assistant, perceived: Callable[..., Perception], emotion: str
) -> None:
    for seed in range(2):
        answer = assistant.parts.responder.answer(Heard("mumble", 0.1), perceived(emotion), Conversation(), seed)
        upset = emotion in ("sad", "angry", "fearful", "disgusted")
        assert answer.reply.text == UNCLEAR["upset" if upset else "quiet"][seed]
        assert answer.reply.plan.strategy == "question"
        assert all(sentence.states is None for sentence in answer.sentences)
        assert " ".join(sentence.text for sentence in answer.sentences) == answer.reply.text
    unsure = assistant.respond(Heard("", 1.0), perceived("sad", 0.4))
    assert unsure.text in UNCLEAR["quiet"]


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_the_style_fits_whatever_the_weights_say(
    assistant: Assistant, perceived: Callable[..., Perception], emotion: str
) -> None:
    reply = assistant.respond(HEARD, perceived(emotion))
    assert reply.plan.style in FITTING_STYLES[emotion]
    assert reply.style == style_for(reply.plan.style, 0.5)
    assert reply.audio is None


def test_the_perception_reaches_the_language_model(assistant: Assistant, perceived: Callable[..., Perception]) -> None:
    responder = assistant.parts.responder
    slots = [responder._sound(perceived(e)) for e in EMOTIONS]
    for one in range(len(slots)):
        for other in range(one):
            assert not torch.allclose(slots[one], slots[other], atol=1e-4)
    assert torch.equal(slots[0], responder._sound(perceived("neutral")))
    missing = responder._sound(replace(perceived("sad"), vector=None))
    assert missing.shape == slots[0].shape


def turn_of(assistant: Any, perception: Perception, heard: Heard = HEARD) -> Turn:
    return Turn(heard, perception, assistant.respond(heard, perception))


def test_earlier_turns_are_read_and_only_as_many_as_fit(
    assistant: Assistant, perceived: Callable[..., Perception]
) -> None:
    responder = assistant.parts.responder
    turn = turn_of(assistant, perceived("sad"))
    conversation = Conversation()
    for _ in range(10):
        conversation = conversation.with_turn(turn)
    ids, sound = responder._history(conversation)
    assert len(sound) == assistant.config.llm.history_turns
    assert ids.count(responder.vocabulary.ids["<|sound|>"]) == len(sound)
    wordy = turn_of(assistant, perceived("sad"), Heard("train " * 300, 0.9))
    ids, sound = responder._history(Conversation((turn, wordy, turn)))
    assert len(ids) <= assistant.config.llm.context_tokens // 2
    assert len(sound) == 1  # not the wordy one, and nothing before it
    assert responder._history(Conversation()) == ([], [])


def test_a_conversation_goes_on_after_a_misunderstanding(
    assistant: Assistant, perceived: Callable[..., Perception]
) -> None:
    unclear = turn_of(assistant, perceived("angry"), Heard("", 0.0))
    reply = assistant.respond(HEARD, perceived("angry"), Conversation((unclear,)))
    assert reply.text


def test_very_long_queries_are_answered(assistant: Assistant, perceived: Callable[..., Perception]) -> None:
    assert assistant.respond(Heard("what time does the train leave " * 100, 0.9), perceived("calm")).text


# -- voicing -----------------------------------------------------------------------------------------------------------


def test_a_style_changes_the_sound(assistant: Assistant) -> None:
    neutral = assistant.say("Good morning to you.", style_for("neutral"))
    slow = assistant.say("Good morning to you.", replace(style_for("neutral"), rate=0.7))
    assert slow.duration_s > 1.2 * neutral.duration_s
    assert assistant.say("Good morning to you.", style_for("neutral")).samples.tobytes() == neutral.samples.tobytes()


def test_warm_up_runs_every_part(assistant: Assistant) -> None:
    assistant.warm_up()


def test_a_voice_that_reads_states_gets_one_for_each_word(
    understanding: Assistant, voice: Audio, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    decoder = understanding.parts.voice.decoder  # type: ignore[attr-defined]
    speak = decoder.speak_clauses

    def record(spoken: Any, style: Any, **states: Any) -> Any:
        seen.append((spoken, states))
        return speak(spoken, style, **states)

    monkeypatch.setattr(decoder, "config", replace(decoder.config, reads_llm_states=True))
    monkeypatch.setattr(decoder, "speak_clauses", record)
    words = "what did you say about the job?"
    vocabulary = understanding.parts.responder.vocabulary
    answer = understanding.parts.responder.answer(HEARD, understanding.hear(voice)[1], Conversation())
    ids = vocabulary.encode(words)
    states, starts = torch.randn(len(ids), 32), tuple(vocabulary.word_starts(ids))
    answer = replace(answer, sentences=(Sentence(vocabulary.spell(words), states, starts),))
    assert list(understanding.voice([answer]))
    spoken, given = seen[0]
    places = given["unit_to_token"]
    assert torch.equal(given["llm_states"], states)
    assert len(places) == len(spoken.units)
    assert ((places < 0) == (spoken.words < 0)).all()
    assert [starts[w] for w in spoken.words if w >= 0] == [p for p in places if p >= 0]


def test_seeds_of_texts_are_stable_and_differ() -> None:
    assert seed_of("a") == seed_of("a") != seed_of("b")
    assert json.loads(json.dumps(seed_of("query-1"))) < 2**32


def test_the_reply_depends_on_the_exemplar_that_is_shown(understanding: Assistant) -> None:
    perception = Perception("sad", {"sad": 0.7, "neutral": 0.3}, 0.5, -0.5, -0.3, 0.7)
    responder = understanding.parts.responder
    read: list[list[int]] = []
    plan = responder.llm.plan

    def noting(ids: list[int], *rest: Any) -> Any:
        read.append(ids)
        return plan(ids, *rest)

    responder.llm.plan = noting  # type: ignore[method-assign, assignment]
    exemplars = responder.exemplars
    assert exemplars is not None
    try:
        shown = responder.answer(HEARD, perception, Conversation())
        responder.exemplars = None
        unaided = responder.answer(HEARD, perception, Conversation())
    finally:
        responder.exemplars, responder.llm.plan = exemplars, plan  # type: ignore[method-assign]
    example = responder.vocabulary.example(exemplars.queries[0], exemplars.replies[0], "strong")
    assert read[0] == example + read[1]
    states = [answer.sentences[0].states for answer in (shown, unaided)]
    assert states[0] is not None
    assert states[1] is not None
    assert not torch.equal(states[0][0], states[1][0])
