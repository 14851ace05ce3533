"""WS /v1/realtime: one conversation over one connection."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from omni.errors import InputError, OmniError
from omni.serve.limits import Refusal
from omni.serve.protocol import Message, Protocol, name
from omni.serve.refusals import as_refusal
from omni.serve.service import Service, log
from omni.serve.settings import Settings, updated, wants_sound
from omni.serve.sound import RAW_HZ, Resampler, from_base64, pcm_samples
from omni.talking.detector import RATE_HZ
from omni.talking.events import Event, SoundPiece
from omni.talking.session import Session

router = APIRouter()
#: One thread that listens for all conversations: detecting speech is little work, but too much for the event loop.
_ears = ThreadPoolExecutor(1, "omni-ears")
CLOSED_BY_LIMIT, GOING_AWAY = 1008, 1001


@router.websocket("/v1/realtime")
async def realtime(socket: WebSocket) -> None:
    """See docs/serving.md for the events."""
    service: Service = socket.app.state.service
    offered = socket.scope.get("subprotocols", [])
    await socket.accept(subprotocol="realtime" if "realtime" in offered else None)
    try:
        service.check_model(socket.query_params.get("model"))
        with service.places.place():
            await Connection(socket, service).run()
    except Refusal as refusal:
        service.metrics.refused.labels(refusal.code).inc()
        await socket.send_json({"type": "error", "event_id": name("event"), **refusal.body()})
        await socket.close(CLOSED_BY_LIMIT, str(refusal)[:120])
    except (WebSocketDisconnect, RuntimeError):
        log.debug("a conversation was left")


class Connection:
    """Receives a client's events and sends the server's, all through one queue so that their order is true."""

    def __init__(self, socket: WebSocket, service: Service) -> None:
        self.socket, self.service = socket, service
        self.loop = asyncio.get_running_loop()
        self.out: asyncio.Queue[Event | Message] = asyncio.Queue()
        self.settings = Settings(name("sess"), service.name)
        self.protocol = Protocol(service, self.settings)
        self.session = Session(service.assistant, service.worker, self._deliver, self.settings.listening)
        self.resampler = Resampler(RAW_HZ, RATE_HZ)
        self.pending = np.zeros(0, np.float32)  # queries that were committed and not answered yet

    def _deliver(self, event: Event) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.out.put_nowait, event)

    async def run(self) -> None:
        """Serve until the client leaves, a limit is reached, or the server shuts down."""
        self._say("session.created", session=self.settings.plain())
        sender = asyncio.create_task(self._send())
        try:
            await self._receive()
        finally:
            sender.cancel()
            await self._hear(self.session.cancel)

    # -- out -----------------------------------------------------------------------------------------------------

    def _say(self, kind: str, **fields: Any) -> None:
        self.out.put_nowait({"type": kind, "event_id": name("event"), **fields})

    async def _send(self) -> None:
        while True:
            item = await self.out.get()
            if isinstance(item, dict):
                await self.socket.send_json(item)
                continue
            if isinstance(item, SoundPiece) and item.generation != self.session.generation:
                continue  # the talker has interrupted since
            if getattr(item, "query", None) is not None and item.generation == 0:  # type: ignore[union-attr]
                self.pending = np.concatenate([self.pending, item.query])  # type: ignore[union-attr]
            for message in self.protocol.of(item):
                await self.socket.send_json(message)

    # -- in ------------------------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        config = self.service.config
        ends = self.loop.time() + config.session_longest_s
        heard = self.loop.time()
        while True:
            try:
                text = await asyncio.wait_for(self.socket.receive_text(), 0.25)
            except TimeoutError:
                if self.service.draining and await self._finished():
                    return await self.socket.close(GOING_AWAY, "the server is shutting down")
                if min(ends, heard + config.session_idle_s) < self.loop.time():
                    raise Refusal(
                        408, "session_expired", "the conversation was idle or lasted too long; begin a new one"
                    ) from None
                continue
            except KeyError:
                self._error(Refusal(400, "invalid_event", "events are JSON texts; binary frames are not read"), None)
                continue
            heard = self.loop.time()
            await self._take(text)

    async def _finished(self) -> bool:
        """Whether no reply is being made or sent."""
        return self.protocol.response is None and self.out.empty()

    async def _take(self, text: str) -> None:
        """Handle one client event; what is wrong with it is told, and the conversation goes on."""
        event: Any = None
        try:
            event = json.loads(text)
            if not isinstance(event, dict) or not isinstance(event.get("type"), str):
                raise Refusal(400, "invalid_event", "an event is a JSON object with a type")
            handler = HANDLERS.get(event["type"])
            if handler is None:
                raise Refusal(
                    400, "unknown_event", f"{event['type'][:80]!r} is not served; known: {', '.join(HANDLERS)}", "type"
                )
            await handler(self, event)
        except (json.JSONDecodeError, RecursionError):
            self._error(Refusal(400, "invalid_event", "this is not JSON"), None)
        except OmniError as error:
            self._error(as_refusal(error), event.get("event_id") if isinstance(event, dict) else None)

    def _error(self, refusal: Refusal, event_id: Any) -> None:
        self.service.metrics.refused.labels(refusal.code).inc()
        body = refusal.body()["error"]
        assert isinstance(body, dict)
        self._say("error", error={**body, "event_id": event_id if isinstance(event_id, str) else None})

    async def _hear(self, fn: Any, *args: Any) -> Any:
        return await self.loop.run_in_executor(_ears, fn, *args)

    # -- client events -------------------------------------------------------------------------------------------

    async def _update(self, event: Message) -> None:
        self.settings = self.protocol.settings = updated(self.settings, event.get("session"))
        if self.settings.listening != self.session.listening:
            await self._hear(self.session.listen, self.settings.listening)
        self._say("session.updated", session=self.settings.plain())

    async def _append(self, event: Message) -> None:
        sound = event.get("audio")
        if not isinstance(sound, str):
            raise Refusal(400, "invalid_audio", "audio must be base64 of 16-bit sound", "audio")
        if self.service.draining:
            raise Refusal(503, "shutting_down", "the server is shutting down; nothing new is heard")
        samples = pcm_samples(from_base64(sound, "audio"))
        await self._hear(lambda: self.session.push(self.resampler.push(samples)))

    async def _commit(self, event: Message) -> None:
        try:
            answers = self.settings.listening.hands_free and self.settings.listening.answers
            await self._hear(self._commit_now, answers)
        except InputError as error:
            raise Refusal(400, "input_audio_buffer_commit_empty", str(error)) from error

    def _commit_now(self, answers: bool) -> None:
        rest, self.resampler = self.resampler.flush(), Resampler(RAW_HZ, RATE_HZ)
        self.session.push(rest)
        self.session.commit(answers)

    async def _clear(self, event: Message) -> None:
        self.resampler = Resampler(RAW_HZ, RATE_HZ)
        await self._hear(self.session.clear)
        self._say("input_audio_buffer.cleared")

    async def _create(self, event: Message) -> None:
        asked = event.get("response") or {}
        if not isinstance(asked, dict):
            raise Refusal(400, "invalid_value", "response must be an object", "response")
        if "output_modalities" in asked:
            self.protocol.aloud_once = wants_sound(asked["output_modalities"], "response.output_modalities")
        await self._sent()
        if self.protocol.response is not None:
            raise Refusal(400, "conversation_already_has_active_response", "a reply is under way; cancel it first")
        if not len(self.pending):
            raise Refusal(
                400, "nothing_to_answer", "there is no query that was not answered; append sound and commit it"
            )
        query, self.pending = self.pending, np.zeros(0, np.float32)
        await self._hear(self.session.answer, query, True)

    async def _cancel(self, event: Message) -> None:
        await self._sent()
        if self.protocol.response is None:
            raise Refusal(400, "response_cancel_not_active", "no reply is under way")
        await self._hear(self.session.cancel)

    async def _truncate(self, event: Message) -> None:
        last, ms = self.protocol.last, event.get("audio_end_ms")
        if not isinstance(ms, int) or isinstance(ms, bool) or ms < 0:
            raise Refusal(400, "invalid_value", "audio_end_ms must be a whole number, 0 or more", "audio_end_ms")
        if last is None or event.get("item_id") != last.item:
            raise Refusal(400, "item_not_found", "only the last reply's item can be truncated", "item_id")
        await self._hear(self.session.truncate, float(ms))
        self._say("conversation.item.truncated", item_id=last.item, content_index=0, audio_end_ms=ms)

    async def _sent(self) -> None:
        """Wait until what has happened so far has been turned into messages."""
        await asyncio.sleep(0)
        while not self.out.empty():
            await asyncio.sleep(0.005)


def _expired() -> Refusal:
    return Refusal(408, "session_expired", "the conversation was idle or lasted too long; begin a new one")


HANDLERS: dict[str, Any] = {
    "session.update": Connection._update,
    "input_audio_buffer.append": Connection._append,
    "input_audio_buffer.commit": Connection._commit,
    "input_audio_buffer.clear": Connection._clear,
    "response.create": Connection._create,
    "response.cancel": Connection._cancel,
    "conversation.item.truncate": Connection._truncate,
    "output_audio_buffer.clear": Connection._cancel,
}
