"""A spoken exchange: turns found, replied to as the assistant replies, interrupted without stale sound."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from omni.errors import InputError
from omni.talking.events import (
    Committed,
    Failed,
    Interrupted,
    Planned,
    ReplyEnded,
    SoundPiece,
    SpeechStarted,
    SpeechStopped,
    TextGrown,
    Understood,
)
from omni.talking.replying import heard_part
from omni.talking.session import Listening, Session
from omni.talking.worker import BusyError, Worker
from omni.turns import Audio
from tests.talking.conftest import Kept, push

Talk = Callable[..., tuple[Session, Kept]]
QUIET = np.zeros(16_000, np.float32)
BY_HAND = Listening(hands_free=False)


def test_hands_free_gives_the_events_in_order(talk: Talk, speech: np.ndarray) -> None:
    session, kept = talk()
    push(session, np.concatenate([QUIET, speech, QUIET]))
    turn = kept.wait(ReplyEnded).turn
    kinds = [type(e) for e in kept.events if not isinstance(e, SoundPiece | TextGrown)]
    assert kinds == [SpeechStarted, SpeechStopped, Committed, Understood, Planned, ReplyEnded]
    assert 16_000 - 4800 <= kept.of(SpeechStarted)[0].sample < 24_000
    assert turn.heard.text == "my dog ran away"
    assert session.conversation.turns == (turn,)
    pieces = [p.samples for p in kept.of(SoundPiece)]
    np.testing.assert_array_equal(np.concatenate(pieces), turn.reply.audio.samples)
    assert kept.of(TextGrown)[-1].text == turn.reply.text


def test_the_reply_is_the_assistants(talk: Talk, speech: np.ndarray, understanding: Any) -> None:
    session, kept = talk(listening=BY_HAND, seed=5)
    push(session, speech)
    session.commit()
    turn = kept.wait(ReplyEnded).turn
    alone = understanding.reply(Audio(speech), seed=5)
    assert turn.reply.text == alone.reply.text
    np.testing.assert_array_equal(turn.reply.audio.samples, alone.reply.audio.samples)


@pytest.mark.parametrize("size", [160, 700, 100_000])
def test_the_cut_does_not_matter(talk: Talk, speech: np.ndarray, size: int) -> None:
    session, kept = talk()
    push(session, np.concatenate([QUIET, speech, QUIET]), size)
    kept.wait(ReplyEnded)
    other, expected = talk()
    push(other, np.concatenate([QUIET, speech, QUIET]), 320)
    expected.wait(ReplyEnded)
    for kind in (SpeechStarted, SpeechStopped, Committed):
        assert kept.of(kind) == expected.of(kind)


def test_speech_over_a_reply_interrupts_it_and_history_keeps_what_was_heard(talk: Talk, speech: np.ndarray) -> None:
    session, kept = talk()
    push(session, np.concatenate([speech, QUIET]))
    turn = kept.wait(ReplyEnded).turn
    session.played(turn.reply.audio.duration_s * 1000 / 2 - 250)
    loud = speech[8000:] * 2
    push(session, loud)
    stopped = kept.wait(Interrupted)
    assert stopped.generation == 1
    words = session.conversation.turns[0].reply.text.split()
    assert words == turn.reply.text.split()[: len(words)]
    assert 0 < len(words) < len(turn.reply.text.split())
    assert stopped.text == " ".join(words)


def test_nothing_stale_follows_an_interruption(talk: Talk, speech: np.ndarray, monkeypatch: Any) -> None:
    session, kept = talk(listening=BY_HAND)
    gate, begun = threading.Event(), threading.Event()
    voice = session.assistant.voice

    def slow(answers: Any) -> Iterator[np.ndarray]:
        for piece in voice(answers):
            yield piece
            begun.set()
            gate.wait(10)

    monkeypatch.setattr(session.assistant, "voice", slow)
    push(session, speech)
    session.commit()
    assert begun.wait(20)
    session.played(40)
    session.cancel()
    gate.set()
    session.worker.submit(lambda: None).result(20)
    at = kept.events.index(kept.of(Interrupted)[0])
    assert at == len(kept.events) - 1
    push(session, speech)
    session.commit()
    kept.wait(ReplyEnded)
    assert {e.generation for e in kept.events[at + 1 :]} == {3}


def test_a_query_whose_reply_nobody_heard_goes_before_the_next(talk: Talk, speech: np.ndarray) -> None:
    session, kept = talk(listening=BY_HAND)
    gate = threading.Event()
    session.worker.submit(gate.wait, 10)
    first = session.answer(speech[:20_000])
    session.answer(speech[20_000:])
    gate.set()
    kept.wait(ReplyEnded)
    assert kept.of(Interrupted)[0] == Interrupted(first, 0, "")
    assert [e.samples for e in kept.of(Committed)] == [20_000, len(speech)]
    assert len(session.conversation.turns) == 1


def test_a_whole_reply_counts_as_heard_when_turns_are_committed(talk: Talk, speech: np.ndarray) -> None:
    session, kept = talk(listening=BY_HAND)
    for count in (1, 2):
        push(session, speech[:9600])
        session.commit()
        kept.wait(ReplyEnded, count)
    assert kept.of(Interrupted) == []
    assert [t.reply.text for t in session.conversation.turns] == [e.turn.reply.text for e in kept.of(ReplyEnded)]


def test_truncate_cuts_the_text(talk: Talk, speech: np.ndarray) -> None:
    session, kept = talk(listening=BY_HAND)
    with pytest.raises(InputError, match="no reply"):
        session.truncate(10)
    push(session, speech)
    session.commit()
    whole = kept.wait(ReplyEnded).turn.reply
    kept_ms = whole.audio.duration_s * 1000 / 2
    text = session.truncate(kept_ms)
    assert whole.text.startswith(text)
    assert session.conversation.turns[-1].reply.text == text
    assert abs(session.conversation.turns[-1].reply.audio.duration_s * 1000 - kept_ms) < 1
    assert session.truncate(0) == ""
    assert session.conversation.turns == ()


def test_the_own_voice_at_20_db_interrupts_nothing(talk: Talk, speech: np.ndarray, monkeypatch: Any) -> None:
    """The reply sounds like a person: it is one here, played back by the guard's own clock."""
    session, kept = talk()
    monkeypatch.setattr(session, "assistant", _Parrot(session.assistant, speech))
    push(session, np.concatenate([speech, QUIET]))
    kept.wait(ReplyEnded)
    push(session, np.concatenate([np.zeros(900, np.float32), speech * 0.1]))
    assert kept.of(Interrupted) == []
    assert len(kept.of(SpeechStarted)) == 1


class _Parrot:
    """An assistant whose voice is a recording."""

    def __init__(self, assistant: Any, sound: np.ndarray) -> None:
        self._assistant, self._sound = assistant, sound

    def __getattr__(self, name: str) -> Any:
        return getattr(self._assistant, name)

    def voice(self, answers: Any) -> Iterator[np.ndarray]:
        list(answers)
        yield from np.array_split(self._sound, 5)


def test_what_cannot_be_heard_is_told(talk: Talk) -> None:
    session, kept = talk(listening=BY_HAND)
    with pytest.raises(InputError, match="no sound"):
        session.commit()
    push(session, QUIET)
    session.commit()
    assert isinstance(kept.wait(Failed).error, InputError)
    assert not session.replying


def test_a_turn_that_is_too_long_is_refused(talk: Talk) -> None:
    session, _ = talk(listening=BY_HAND)
    longest = int(session.assistant.config.audio.longest_query_s * 16_000)
    session.push(np.zeros(longest, np.float32))
    with pytest.raises(InputError, match="parts"):
        session.push(QUIET)


def test_sessions_at_once_give_what_each_gives_alone(talk: Talk, speech: np.ndarray) -> None:
    several = [talk(listening=BY_HAND, seed=seed) for seed in range(4)]
    for session, _ in several:
        push(session, speech)
        session.commit()
    for seed, (_, kept) in enumerate(several):
        alone, expected = talk(listening=BY_HAND, seed=seed)
        found = kept.wait(ReplyEnded).turn.reply
        push(alone, speech)
        alone.commit()
        assert found.text == expected.wait(ReplyEnded).turn.reply.text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, ""), (0.01, "one"), (0.5, "one two"), (0.51, "one two three"), (2.0, "one two three four")],
)
def test_the_part_that_was_heard(share: float, text: str) -> None:
    assert heard_part("one two three four", share) == text


def test_a_query_that_found_the_worker_full_is_answered_with_the_next(understanding: Any, speech: np.ndarray) -> None:
    worker, kept, gate = Worker(most_tasks=1), Kept(), threading.Event()
    session = Session(understanding, worker, kept, BY_HAND)
    waiting = worker.submit(gate.wait, 10)
    push(session, speech[:20_000])
    with pytest.raises(BusyError, match="try again"):
        session.commit()
    gate.set()
    assert waiting.result(10)
    while worker.tasks:
        time.sleep(0.001)
    push(session, speech[20_000:])
    session.commit()
    kept.wait(ReplyEnded)
    assert kept.of(Committed)[0].samples == len(speech)
    assert worker.close(10)
