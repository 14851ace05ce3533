"""The live line between a tab and the models: microphone up, events and the reply's sound down, over one WebSocket.

Up: binary blocks of 16-bit sound at 16 kHz, and JSON (`start`, `commit`, `stop`, `cancel`, `played`). Down: JSON by `type`, and
binary pieces of the reply: its generation (4 bytes, little-endian), then 16-bit sound. A piece whose generation is not the
last one told is stale: neither is it sent, nor does the page play it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import time
from dataclasses import replace
from typing import Any

import numpy as np
from fastapi import WebSocket, WebSocketDisconnect

from omni.assistant import Progress
from omni.audio.pauses import KEPT_SAMPLES
from omni.demo import panels
from omni.demo.studio import Studio
from omni.demo.visits import Visit, Visits
from omni.errors import OmniError, UsageError
from omni.models.style import style_for
from omni.talking import events
from omni.talking.session import Listening, Session
from omni.turns import Audio, Conversation, Reply

log = logging.getLogger(__name__)

RATE_HZ = 16_000
#: A block of the microphone is 32 ms; the page may send several at once after a hiccup, but no more than this.
MOST_BYTES = 2 * RATE_HZ
_ALL_MS = 1e9


class Line:
    """One tab's live talk: passes sound to a `Session`, keeps the visit up to date, and queues what the page is told."""

    def __init__(self, studio: Studio, visit: Visit) -> None:
        self.visit, self.talk = visit, visit.talk
        self.out: asyncio.Queue[dict[str, Any] | events.SoundPiece] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._heard_sound, self._pushed, self._stopped = np.zeros(0, np.float32), 0, 0
        self._queries: dict[int, Audio] = {}
        self._spent_ms: dict[str, float] = {}
        self._began = 0.0
        self._studio = studio
        self.session = self._session()

    def _session(self) -> Session:
        assistant = self._studio.assistant(self.visit.preset or self._studio.first)
        quiet = Listening(hands_free=False)
        return Session(assistant, self._studio.worker, self._deliver, quiet, self.talk.conversation)

    # -- from the page -------------------------------------------------------------------------------------------

    def command(self, message: dict[str, Any]) -> None:
        """What the page asks for in words. UsageError for what it cannot ask."""
        kind = message.get("type")
        if kind == "start":
            self._start(message.get("mode") == "hands-free")
        elif kind == "commit":
            self._stopped = self._pushed
            self.session.commit()
        elif kind == "played":
            self.session.played(float(message.get("ms", 0.0)))
        elif kind in ("stop", "cancel"):
            self.session.cancel()
            self.session.clear()
            if kind == "stop":
                self.session.listen(Listening(hands_free=False))
        else:
            raise UsageError(f"the page may not ask for {kind!r}; reload it, it is of another version")

    def leave(self) -> None:
        """The page is gone: what is being made is given up, what was made counts as heard."""
        self.session.played(_ALL_MS)
        self.session.cancel()

    def _start(self, hands_free: bool) -> None:
        self.session.cancel()
        self._turn_to(self.visit)
        generation, before = self.session.generation, self.session.assistant
        if self._studio.assistant(self.visit.preset or self._studio.first) is not before:
            self.session = self._session()
            self.session.generation = generation
            self._pushed, self._heard_sound = 0, np.zeros(0, np.float32)
        self.session.listen(Listening(hands_free=hands_free))
        self.session.clear()

    def hear(self, data: bytes) -> None:
        """The next sound of the microphone, 16-bit samples."""
        block = np.frombuffer(data[: len(data) // 2 * 2], np.int16).astype(np.float32) / 32768
        longest = int(self.session.assistant.config.audio.longest_query_s * RATE_HZ)
        self._heard_sound = np.concatenate([self._heard_sound, block])[-longest:]
        self._pushed += len(block)
        self.session.push(block)

    def _turn_to(self, visit: Visit) -> None:
        """Go on with the conversation that the page shows, unless a reply is under way."""
        if not self.session.replying:
            self.talk = visit.talk
            self.session.conversation = self.talk.conversation

    # -- from the session (under its lock) -----------------------------------------------------------------------

    def _deliver(self, event: events.Event) -> None:
        message = self._noted(event)
        if message is not None:
            self._loop.call_soon_threadsafe(self.out.put_nowait, message)

    def _noted(self, event: events.Event) -> dict[str, Any] | events.SoundPiece | None:
        """Keep the visit up to date with an event; what to tell the page of it."""
        if isinstance(event, events.SpeechStarted):
            self._turn_to(self.visit)
            return {"type": "speech"}
        if isinstance(event, events.SpeechStopped):
            self._stopped = min(event.sample + KEPT_SAMPLES, self._pushed)
            return {"type": "silence"}
        if isinstance(event, events.Committed):
            self._committed(event)
            return {"type": "thinking", "generation": event.generation}
        if isinstance(event, events.Understood):
            self._spend("hear")
            self.visit.progress = Progress(self._queries[event.generation], event.heard, event.perception)
            return {"type": "heard", "text": event.heard.text, "emotion": event.perception.emotion}
        if isinstance(event, events.Planned):
            self._spend("express")
            now = self.visit.progress
            if now is not None and now.perception is not None:
                style = style_for(event.plan.style, now.perception.intensity)
                self.visit.progress = replace(now, reply=Reply("", event.plan, style))
            return None
        if isinstance(event, events.TextGrown):
            now = self.visit.progress
            if now is not None and now.reply is not None:
                self.visit.progress = replace(now, reply=replace(now.reply, text=event.text))
            return {"type": "reply", "text": event.text}
        return self._ended(event)

    def _committed(self, event: events.Committed) -> None:
        end = len(self._heard_sound) - (self._pushed - self._stopped)
        query = self._heard_sound[max(0, end - event.samples) : max(0, end)]
        self._queries = {event.generation: Audio(query.copy(), RATE_HZ)}
        self._spent_ms, self._began = {}, time.perf_counter()

    def _spend(self, part: str) -> None:
        """The time since the query was committed, less that of the parts before, is this part's."""
        passed = 1000 * (time.perf_counter() - self._began)
        self._spent_ms.setdefault(part, passed - sum(self._spent_ms.get(p, 0.0) for p in ("hear", "express")))

    def _ended(self, event: events.Event) -> dict[str, Any] | events.SoundPiece | None:
        if isinstance(event, events.SoundPiece):
            self._spent_ms.setdefault("first_sound", 1000 * (time.perf_counter() - self._began))
            return event
        if isinstance(event, events.ReplyEnded):
            self._spend("voice")
            self._spent_ms["total"] = 1000 * (time.perf_counter() - self._began)
            turns = self.session.conversation.turns
            timed = replace(turns[-1], timings_ms=dict(self._spent_ms))
            self.session.conversation = Conversation((*turns[:-1], timed))
            self._keep(event.generation)
            return {"type": "done", "generation": event.generation}
        if isinstance(event, events.Interrupted):
            self._keep(event.generation)
            return {"type": "stop", "played_ms": event.played_ms}
        if isinstance(event, events.Failed):
            self.visit.progress = None
            return {"type": "error", "card": panels.card(event.error)}
        return None

    def _keep(self, generation: int) -> None:
        """The talk has the turns of the session, each with what its query sounded like."""
        self.talk.conversation = self.session.conversation
        turns, queries = self.talk.conversation.turns, self.talk.queries
        if len(turns) > len(queries):
            queries.append(self._queries[generation])
        del queries[len(turns) :]
        self.visit.progress, self.visit.again = None, None


def packed(piece: events.SoundPiece) -> bytes:
    """A piece as the page reads it."""
    sound = (np.clip(piece.samples, -1, 1) * 32767).astype("<i2")
    return struct.pack("<I", piece.generation) + sound.tobytes()


async def talk(socket: WebSocket, studio: Studio, visits: Visits, token: str) -> None:
    """Serve one tab's live line until it closes."""
    if not _own_page(socket):
        await socket.close(code=4403)
        return
    await socket.accept()
    try:
        line = Line(studio, visits.get(token))
    except OmniError as error:
        await socket.send_text(json.dumps({"type": "error", "card": panels.card(error)}))
        await socket.close()
        return
    rate = line.session.assistant.parts.voice.sample_rate_hz
    await socket.send_text(json.dumps({"type": "ready", "rate": rate}))
    sending = asyncio.create_task(_send(socket, line))
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            await _take(line, message)
    except WebSocketDisconnect:
        return
    finally:
        sending.cancel()
        await asyncio.to_thread(line.leave)


def _own_page(socket: WebSocket) -> bool:
    """Whether a page of this very server asks: another site's must not reach the microphone's line."""
    origin, host = socket.headers.get("origin"), socket.headers.get("host")
    return origin is None or origin.split("://")[-1] == host


async def _take(line: Line, message: Any) -> None:
    try:
        if message.get("bytes") is not None:
            await asyncio.to_thread(line.hear, message["bytes"][:MOST_BYTES])
        else:
            asked = json.loads(message["text"])
            await asyncio.to_thread(line.command, asked if isinstance(asked, dict) else {})
    except (OmniError, ValueError, TypeError) as error:
        line.out.put_nowait({"type": "error", "card": panels.card(error)})


async def _send(socket: WebSocket, line: Line) -> None:
    while True:
        message = await line.out.get()
        if isinstance(message, dict):
            await socket.send_text(json.dumps(message, ensure_ascii=False))
        elif message.generation == line.session.generation:
            await socket.send_bytes(packed(message))
