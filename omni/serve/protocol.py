"""A conversation's events as server events of OpenAI's Realtime API (names and shapes: the types of its Python client).

Everything that is sent passes here, in one order. One event is an extension: `omni.perceived` carries what was heard, how
it was said, and how it will be answered.
"""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from omni.serve.refusals import as_refusal
from omni.serve.service import Service, told
from omni.serve.settings import Settings
from omni.serve.sound import RAW_HZ, Resampler, pcm_bytes
from omni.talking import events
from omni.talking.detector import RATE_HZ

Message = dict[str, Any]


def name(kind: str) -> str:
    """A name that was not used before: item_..., resp_..., event_..."""
    return f"{kind}_{uuid.uuid4().hex[:20]}"


@dataclass
class Response:
    """A reply under way, as the client sees it."""

    generation: int
    aloud: bool
    began: float
    asked: str  # the item of the query
    seconds: float  # how long the query is
    id: str = field(default_factory=lambda: name("resp"))
    item: str = field(default_factory=lambda: name("item"))
    understood: events.Understood | None = None
    text: str = ""
    shown: bool = False
    resampler: Resampler | None = None

    def message(self, status: str) -> Message:
        """The reply as an item."""
        content = {"type": "output_audio", "transcript": self.text}
        if not self.aloud:
            content = {"type": "output_text", "text": self.text}
        parts = [content] if status != "in_progress" else []
        return {
            "id": self.item, "object": "realtime.item", "type": "message", "role": "assistant",
            "status": status, "content": parts,
        }  # fmt: skip

    def plain(self, status: str, details: Message | None = None) -> Message:
        """The response object."""
        done = {"completed": "completed"}.get(status, "incomplete")
        return {
            "id": self.id, "object": "realtime.response", "status": status, "status_details": details,
            "output": [self.message(done)] if self.shown and status != "in_progress" else [],
            "output_modalities": ["audio"] if self.aloud else ["text"],
            "usage": None if status == "in_progress" else {"total_tokens": 0, "input_tokens": 0, "output_tokens": 0},
        }  # fmt: skip


class Protocol:
    """Turns what happens in one conversation into messages."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self.service, self.settings = service, settings
        self.response: Response | None = None
        self.last: Response | None = None  # the reply that may be truncated
        self.items: list[str] = []
        self.aloud_once: bool | None = None
        self._speaking, self._coming = False, name("item")

    def of(self, event: events.Event) -> Iterator[Message]:
        """The messages for an event."""
        kind = type(event).__name__.lower()
        for message in getattr(self, f"_{kind}")(event):
            yield {"event_id": name("event"), **message}

    # -- listening -----------------------------------------------------------------------------------------------

    def _speechstarted(self, event: events.SpeechStarted) -> Iterator[Message]:
        self._speaking = True
        at_ms = event.sample * 1000 // RATE_HZ
        yield {"type": "input_audio_buffer.speech_started", "audio_start_ms": at_ms, "item_id": self._coming}

    def _speechstopped(self, event: events.SpeechStopped) -> Iterator[Message]:
        self._speaking = False
        at_ms = event.sample * 1000 // RATE_HZ
        yield {"type": "input_audio_buffer.speech_stopped", "audio_end_ms": at_ms, "item_id": self._coming}

    def _committed(self, event: events.Committed) -> Iterator[Message]:
        if event.query is not None:
            yield from self._taken()
        if event.generation:
            aloud = self.settings.aloud if self.aloud_once is None else self.aloud_once
            self.aloud_once = None
            asked = self.items[-1] if self.items else ""
            self.response = self.last = Response(
                event.generation, aloud, time.perf_counter(), asked, event.samples / RATE_HZ
            )
            yield {"type": "response.created", "response": self.response.plain("in_progress")}

    def _taken(self) -> Iterator[Message]:
        """A query has become an item."""
        item, before = self._coming, self.items[-1] if self.items else None
        self._coming = name("item")
        self.items.append(item)
        yield {"type": "input_audio_buffer.committed", "item_id": item, "previous_item_id": before}
        message = {
            "id": item, "object": "realtime.item", "type": "message", "role": "user", "status": "completed",
            "content": [{"type": "input_audio", "transcript": None}],
        }  # fmt: skip
        yield {"type": "conversation.item.added", "item": message, "previous_item_id": before}
        yield {"type": "conversation.item.done", "item": message, "previous_item_id": before}

    # -- replying ------------------------------------------------------------------------------------------------

    def _understood(self, event: events.Understood) -> Iterator[Message]:
        response = self._of(event.generation)
        response.understood = event
        self.service.note("heard", event.heard.text)
        if self.settings.transcribes:
            yield {
                "type": "conversation.item.input_audio_transcription.completed",
                "item_id": response.asked,
                "content_index": 0,
                "transcript": event.heard.text,
                "usage": {"type": "duration", "seconds": response.seconds},
            }

    def _planned(self, event: events.Planned) -> Iterator[Message]:
        response = self._of(event.generation)
        assert response.understood is not None
        seen = told(response.understood.heard, response.understood.perception, event.plan)
        yield {"type": "omni.perceived", "item_id": response.asked, "response_id": response.id, **seen}
        response.shown = True
        before, self.items = self.items[-1] if self.items else None, [*self.items, response.item]
        item = response.message("in_progress")
        yield {"type": "response.output_item.added", "response_id": response.id, "output_index": 0, "item": item}
        yield {"type": "conversation.item.added", "item": item, "previous_item_id": before}
        part = {"type": "audio", "transcript": ""} if response.aloud else {"type": "text", "text": ""}
        yield {"type": "response.content_part.added", **self._place(response), "part": part}

    def _textgrown(self, event: events.TextGrown) -> Iterator[Message]:
        response = self._of(event.generation)
        grown, response.text = event.text[len(response.text) :], event.text
        kind = "response.output_audio_transcript.delta" if response.aloud else "response.output_text.delta"
        yield {"type": kind, **self._place(response), "delta": grown}

    def _soundpiece(self, event: events.SoundPiece) -> Iterator[Message]:
        response = self._of(event.generation)
        if response.resampler is None:
            self.service.metrics.first_sound.observe(time.perf_counter() - response.began)
            response.resampler = Resampler(event.rate, RAW_HZ)
        if response.aloud:
            yield from self._sound(response, pcm_bytes(response.resampler.push(event.samples)))

    def _sound(self, response: Response, data: bytes) -> Iterator[Message]:
        if data:
            delta = base64.b64encode(data).decode()
            yield {"type": "response.output_audio.delta", **self._place(response), "delta": delta}

    # -- ends ----------------------------------------------------------------------------------------------------

    def _replyended(self, event: events.ReplyEnded) -> Iterator[Message]:
        response = self._of(event.generation)
        if response.aloud and response.resampler is not None:
            yield from self._sound(response, pcm_bytes(response.resampler.flush()))
        self.service.note("replied", event.turn.reply.text)
        yield from self._done(response, "completed", None)

    def _interrupted(self, event: events.Interrupted) -> Iterator[Message]:
        if self.response is not None and self.response.generation == event.generation:
            reason = "turn_detected" if self._speaking else "client_cancelled"
            yield from self._done(self.response, "cancelled", {"type": "cancelled", "reason": reason})

    def _failed(self, event: events.Failed) -> Iterator[Message]:
        response = self._of(event.generation)
        refusal = as_refusal(event.error)
        error = refusal.body()["error"]
        assert isinstance(error, dict)
        if response.understood is None and self.settings.transcribes:
            yield {
                "type": "conversation.item.input_audio_transcription.failed",
                "item_id": response.asked,
                "content_index": 0,
                "error": error,
            }
        details = {"type": "failed", "error": {"type": error["type"], "code": refusal.code, "message": str(refusal)}}
        yield from self._done(response, "failed", details)
        yield {"type": "error", "error": error}

    def _done(self, response: Response, status: str, details: Message | None) -> Iterator[Message]:
        self.response = None
        self.service.metrics.replies.labels(status).inc()
        if response.shown:
            place = self._place(response)
            if response.aloud:
                yield {"type": "response.output_audio.done", **place}
                yield {"type": "response.output_audio_transcript.done", **place, "transcript": response.text}
            else:
                yield {"type": "response.output_text.done", **place, "text": response.text}
            part = (
                {"type": "audio", "transcript": response.text}
                if response.aloud
                else {"type": "text", "text": response.text}
            )
            yield {"type": "response.content_part.done", **place, "part": part}
            item = response.message("completed" if status == "completed" else "incomplete")
            yield {"type": "response.output_item.done", "response_id": response.id, "output_index": 0, "item": item}
            yield {"type": "conversation.item.done", "item": item, "previous_item_id": response.asked or None}
        yield {"type": "response.done", "response": response.plain(status, details)}

    def _place(self, response: Response) -> Message:
        return {"response_id": response.id, "item_id": response.item, "output_index": 0, "content_index": 0}

    def _of(self, generation: int) -> Response:
        assert self.response is not None
        assert self.response.generation == generation
        return self.response
