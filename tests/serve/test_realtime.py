"""Spoken exchanges over the Realtime API: every event is of the official client's types, in an order that it can follow."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter
from websockets.sync.client import connect

from omni.serve.sound import RAW_HZ, Resampler, pcm_bytes, pcm_samples
from omni.turns import EMOTIONS, Audio
from tests.serve.conftest import WORDS, Running, slowed

SERVER_EVENT: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
BY_HAND = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
QUIET = np.zeros(RAW_HZ, np.float32)


class Talk:
    """A connection of the official client; every event is checked against its types and kept."""

    def __init__(self, connection: Any) -> None:
        self.connection, self.events = connection, list[Any]()

    def send(self, kind: str, **fields: Any) -> None:
        self.connection.send({"type": kind, **fields})

    def say(self, samples: np.ndarray) -> None:
        """Append sound [N] at 24 kHz, a tenth of a second at a time."""
        for at in range(0, len(samples), 2400):
            part = base64.b64encode(pcm_bytes(samples[at : at + 2400])).decode()
            self.send("input_audio_buffer.append", audio=part)

    def until(self, kind: str) -> Any:
        while True:
            event = json.loads(self.connection.recv_bytes())
            if not event["type"].startswith("omni."):
                SERVER_EVENT.validate_python(event)
            self.events.append(event)
            if event["type"] == kind:
                return event
            assert event["type"] != "error", event

    def kinds(self) -> list[str]:
        """Kinds of the events so far, repeated ones once."""
        found = [e["type"] for e in self.events]
        return [k for n, k in enumerate(found) if n == 0 or found[n - 1] != k]

    def sound(self) -> np.ndarray:
        deltas = [e["delta"] for e in self.events if e["type"] == "response.output_audio.delta"]
        return pcm_samples(b"".join(map(base64.b64decode, deltas)))


@contextmanager
def talking(running: Running, key: str = "none") -> Iterator[Talk]:
    with running.client(key).realtime.connect(model="tiny") as connection:
        talk = Talk(connection)
        talk.until("session.created")
        yield talk


def by_hand(talk: Talk, said: np.ndarray) -> None:
    """Commit a turn without voice detection."""
    talk.send("session.update", session=BY_HAND)
    talk.until("session.updated")
    talk.say(said)
    talk.send("input_audio_buffer.commit")
    talk.until("conversation.item.done")


def test_a_spoken_exchange_with_voice_detection(running: Running, said: np.ndarray) -> None:
    with talking(running) as talk:
        talk.say(np.concatenate([QUIET, said, QUIET]))
        done = talk.until("response.done")
        kinds = [k for k in talk.kinds() if "delta" not in k]
        assert kinds == [
            "session.created",
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "response.created",
            "conversation.item.input_audio_transcription.completed",
            "omni.perceived",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "response.output_item.done",
            "conversation.item.done",
            "response.done",
        ]
        by_kind = {e["type"]: e for e in talk.events}
        assert 700 <= by_kind["input_audio_buffer.speech_started"]["audio_start_ms"] <= 1500
        assert by_kind["conversation.item.input_audio_transcription.completed"]["transcript"] == WORDS
        assert by_kind["omni.perceived"]["perceived"]["emotion"] in EMOTIONS
        assert by_kind["omni.perceived"]["plan"]["style"]
        assert done["response"]["status"] == "completed"
        text = "".join(e["delta"] for e in talk.events if e["type"] == "response.output_audio_transcript.delta")
        assert text == by_kind["response.output_audio_transcript.done"]["transcript"]
        assert np.abs(talk.sound()).max() > 0.01


def test_the_reply_is_the_assistants_and_remembers(running: Running, said: np.ndarray, understander: Any) -> None:
    with talking(running) as talk:
        by_hand(talk, said)
        talk.send("response.create")
        talk.until("response.done")
        first = talk.sound()
        talk.say(said)
        talk.send("input_audio_buffer.commit")
        talk.send("response.create")
        talk.until("response.done")
    down = Resampler(RAW_HZ, 16_000)
    heard = pcm_samples(pcm_bytes(said))
    turn = understander.reply(Audio(np.concatenate([down.push(heard), down.flush()])))
    texts = [e["transcript"] for e in talk.events if e["type"] == "response.output_audio_transcript.done"]
    assert texts[0] == turn.reply.text
    assert abs(len(first) - 1.5 * len(turn.reply.audio.samples)) <= 3
    assert len(texts) == 2


def test_cancel_stops_the_reply(running: Running, said: np.ndarray, understander: Any) -> None:
    gate, begun = threading.Event(), threading.Event()
    with talking(running) as talk, slowed(understander, gate, begun):
        by_hand(talk, said)
        talk.send("response.create")
        assert begun.wait(20)
        talk.send("response.cancel")
        done = talk.until("response.done")
        gate.set()
        assert done["response"]["status"] == "cancelled"
        assert done["response"]["status_details"]["reason"] == "client_cancelled"
        count = len(talk.events)
        talk.say(said)
        talk.send("input_audio_buffer.commit")
        talk.send("response.create")
        assert talk.until("response.done")["response"]["status"] == "completed"
        later = {e["response_id"] for e in talk.events[count:] if "response_id" in e}
        assert done["response"]["id"] not in later


def test_speech_interrupts_and_truncation_cuts(running: Running, said: np.ndarray, understander: Any) -> None:
    gate, begun = threading.Event(), threading.Event()
    with talking(running) as talk, slowed(understander, gate, begun):
        talk.say(np.concatenate([said, QUIET]))
        talk.until("response.output_audio.delta")
        talk.say(said)
        talk.until("input_audio_buffer.speech_started")
        done = talk.until("response.done")
        gate.set()
        assert done["response"]["status_details"]["reason"] == "turn_detected"
        item = done["response"]["output"][0]["id"]
        talk.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=50)
        assert talk.until("conversation.item.truncated")["audio_end_ms"] == 50
        talk.say(QUIET)
        assert talk.until("response.done")["response"]["status"] == "completed"
        assert len({e["item_id"] for e in talk.events if e["type"] == "input_audio_buffer.committed"}) == 2


def test_text_only_and_detection_without_answers(running: Running, said: np.ndarray) -> None:
    turns = {"type": "server_vad", "create_response": False, "silence_duration_ms": 300}
    with talking(running) as talk:
        talk.send(
            "session.update",
            session={"type": "realtime", "output_modalities": ["text"], "audio": {"input": {"turn_detection": turns}}},
        )
        session = talk.until("session.updated")["session"]
        assert session["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 300
        talk.say(np.concatenate([said, QUIET]))
        talk.until("conversation.item.done")
        assert "response.created" not in talk.kinds()
        talk.send("response.create")
        done = talk.until("response.done")
        assert done["response"]["output"][0]["content"][0]["type"] == "output_text"
        assert "response.output_audio.delta" not in talk.kinds()


def test_clear_forgets(running: Running, said: np.ndarray) -> None:
    with talking(running) as talk:
        talk.send("session.update", session=BY_HAND)
        talk.say(said)
        talk.send("input_audio_buffer.clear")
        talk.until("input_audio_buffer.cleared")
        talk.send("input_audio_buffer.commit")
        with pytest.raises(AssertionError, match="commit_empty"):
            talk.until("input_audio_buffer.committed")


WRONG: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "not JSON"),
    "no object": ([1], "object"),
    "no type": ({}, "type"),
    "unknown": ({"type": "session.delete"}, "not served"),
    "no base64": ({"type": "input_audio_buffer.append", "audio": "/etc/passwd!"}, "paths"),
    "no text": ({"type": "input_audio_buffer.append", "audio": 7}, "base64"),
    "half a sample": ({"type": "input_audio_buffer.append", "audio": "YWJj"}, "16-bit"),
    "nothing to commit": ({"type": "input_audio_buffer.commit"}, "no sound"),
    "nothing to answer": ({"type": "response.create"}, "no query"),
    "nothing to cancel": ({"type": "response.cancel"}, "no reply"),
    "nothing to truncate": ({"type": "conversation.item.truncate", "item_id": "x", "audio_end_ms": 1}, "last reply"),
    "a time that is none": ({"type": "conversation.item.truncate", "item_id": "x", "audio_end_ms": -1}, "0 or more"),
    "no session": ({"type": "session.update"}, "object"),
    "another format": (
        {"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/pcmu"}}}}},
        "24000",
    ),
    "another detection": (
        {"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}},
        "server_vad",
    ),
    "a threshold that cannot be": (
        {
            "type": "session.update",
            "session": {"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 7}}}},
        },
        "between 0 and 1",
    ),
    "tools": ({"type": "session.update", "session": {"tools": [{"type": "function"}]}}, "tools"),
}


def test_what_is_wrong_is_said_and_the_conversation_goes_on(running: Running, said: np.ndarray) -> None:
    with connect(f"ws://127.0.0.1:{running.port}/v1/realtime?model=tiny", proxy=None) as socket:
        assert json.loads(socket.recv(10))["type"] == "session.created"
        for case, (event, message) in WRONG.items():
            if isinstance(event, dict):
                event = {**event, "event_id": case}
            socket.send(event if isinstance(event, str) else json.dumps(event))
            found = json.loads(socket.recv(10))
            SERVER_EVENT.validate_python(found)
            assert found["type"] == "error", case
            assert message in found["error"]["message"], case
            assert found["error"]["event_id"] == (case if isinstance(event, dict) else None)
        socket.send(b"\x00\x01")
        assert "binary" in json.loads(socket.recv(10))["error"]["message"]
        socket.send(json.dumps({"type": "session.update", "session": BY_HAND}))
        assert json.loads(socket.recv(10))["type"] == "session.updated"


def test_sound_that_cannot_be_heard_fails_the_response(running: Running) -> None:
    with talking(running) as talk:
        by_hand(talk, QUIET)
        talk.send("response.create")
        done = talk.until("response.done")
        assert done["response"]["status"] == "failed"
        assert "silent" in done["response"]["status_details"]["error"]["message"]


def test_a_turn_that_is_too_long_is_told(running: Running) -> None:
    with connect(f"ws://127.0.0.1:{running.port}/v1/realtime", proxy=None) as socket:
        socket.send(json.dumps({"type": "session.update", "session": BY_HAND}))
        part = base64.b64encode(bytes(2 * RAW_HZ * 30)).decode()
        for _ in range(5):
            socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": part}))
        kinds = [json.loads(socket.recv(10)) for _ in range(3)]
        assert "in parts" in kinds[-1]["error"]["message"]


def test_four_conversations_at_once_give_what_each_gives_alone(running: Running, said: np.ndarray) -> None:
    def converse(number: int, found: dict[int, list[str]]) -> None:
        with talking(running) as talk:
            for _ in range(2):
                talk.say(np.concatenate([said[number * 2400 :], QUIET]))
                talk.until("response.done")
                talk.say(np.zeros(len(talk.sound()) + RAW_HZ, np.float32))  # it is listened to
            found[number] = [
                e["transcript"] for e in talk.events if e["type"] == "response.output_audio_transcript.done"
            ]

    alone: dict[int, list[str]] = {}
    for number in range(4):
        converse(number, alone)
    together: dict[int, list[str]] = {}
    threads = [threading.Thread(target=converse, args=(n, together)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert together == alone
    assert all(len(texts) == 2 for texts in alone.values())
