"""POST /v1/chat/completions: a spoken (or written) query in, text and sound out, whole or as a stream."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from omni.phones import normalise
from omni.serve.exchange import exchange
from omni.serve.limits import Refusal
from omni.serve.service import Service, told
from omni.serve.sound import FORMATS, RAW_HZ, Resampler, decode, encode, from_base64, pcm_bytes
from omni.talking.events import Event, Planned, ReplyEnded, SoundPiece, TextGrown, Understood
from omni.turns import Audio, Conversation, Reply, Turn

router = APIRouter()


class Output(BaseModel):
    """How the reply should sound."""

    format: str = "wav"
    voice: Any = None


class Chat(BaseModel):
    """A request; fields that are not listed are ignored."""

    model: str
    messages: list[dict[str, Any]]
    modalities: list[Literal["text", "audio"]] = ["text"]
    audio: Output | None = None
    stream: bool = False
    n: int = Field(1, ge=1, le=1)
    seed: int | None = Field(0, ge=0, lt=2**63)


@router.post("/v1/chat/completions")
async def complete(chat: Chat, request: Request) -> Any:
    """See the OpenAI API's chat completions with audio."""
    service: Service = request.app.state.service
    service.check_model(chat.model)
    form = _form(chat)
    query, conversation = await _read(service, chat.messages)
    steps = service.flow(lambda: exchange(service.assistant, query, conversation, chat.seed or 0))
    name, began = f"chatcmpl-{uuid.uuid4().hex}", time.perf_counter()
    if chat.stream:
        first = await anext(steps)  # what cannot be heard is refused with a status
        return StreamingResponse(_chunks(service, chat, name, first, steps, began), media_type="text/event-stream")
    understood: Understood | None = None
    turn: Turn | None = None
    async for step in steps:
        if isinstance(step, Understood):
            understood = step
        if isinstance(step, ReplyEnded):
            turn = step.turn
    assert turn is not None
    assert understood is not None
    _note(service, turn)
    message: dict[str, Any] = {"role": "assistant", "content": turn.reply.text, "refusal": None}
    if form:
        assert turn.reply.audio is not None
        data = await service.call(encode, turn.reply.audio, form)
        sound = f"audio_{uuid.uuid4().hex}"
        message["audio"] = {
            "id": sound,
            "data": base64.b64encode(data).decode(),
            "transcript": turn.reply.text,
            "expires_at": service.keep(sound, turn),
        }
        message["content"] = None
    message["omni"] = told(turn.heard, turn.perception, turn.reply.plan)
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return {**_head(service, name, "chat.completion"), "choices": [choice], "usage": _usage()}


def _form(chat: Chat) -> str | None:
    """The format of the reply's sound, None if only text is wanted."""
    if "audio" not in chat.modalities:
        return None
    form = chat.audio.format if chat.audio else "pcm16" if chat.stream else "wav"
    if form not in FORMATS:
        raise Refusal(
            400, "invalid_format", f"format {form!r} is not made; choose from {', '.join(FORMATS)}", "audio.format"
        )
    if chat.stream and form not in ("pcm16", "pcm"):
        raise Refusal(400, "invalid_format", f"a stream has the format pcm16, not {form!r}", "audio.format")
    return form


async def _read(service: Service, messages: list[dict[str, Any]]) -> tuple[Audio | str, Conversation]:
    """The query and the turns before it. Instructions to the assistant are left out: it has its own."""
    most = service.config.most_messages
    if len(messages) > most:
        raise Refusal(400, "too_many_messages", f"{len(messages)} messages; at most {most} are read", "messages")
    talk = [m for m in messages if m.get("role") not in ("system", "developer")]
    if not talk or talk[-1].get("role") != "user":
        raise Refusal(
            400, "invalid_messages", "the last message must be the user's, with input_audio or text", "messages"
        )
    turns: list[Turn] = []
    said: Audio | str | None = None
    for message in talk:
        if message.get("role") == "user":
            said = await _said(service, message.get("content"))
        elif message.get("role") != "assistant":
            raise Refusal(400, "invalid_messages", f"role {message.get('role')!r} is not known here", "messages")
        elif isinstance(message.get("audio"), dict):
            turns.append(service.kept(str(message["audio"].get("id"))))
        elif said is not None:
            turns.append(await _past(service, said, str(message.get("content") or "")))
    assert said is not None
    return said, Conversation(tuple(turns))


async def _past(service: Service, said: Audio | str, replied: str) -> Turn:
    if isinstance(said, str):
        return Turn.of_words(normalise(said), replied)
    heard, perception = await service.call(service.assistant.hear, said)
    return Turn(heard, perception, Reply.of_words(replied))


async def _said(service: Service, content: Any) -> Audio | str:
    """What a message says: the sound of its only spoken part, or its text."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(p, dict) for p in parts) or not parts:
        raise Refusal(400, "invalid_messages", "content must be a text or a list of parts", "messages")
    for part in parts:
        if part.get("type") == "input_audio":
            sound = part.get("input_audio")
            if not isinstance(sound, dict) or not isinstance(sound.get("data"), str):
                raise Refusal(400, "invalid_audio", "input_audio needs data, in base64, and format", "messages")
            data = from_base64(sound["data"], "messages")
            return await service.call(decode, data, sound.get("format"), service.assistant.config.audio)
    texts = [str(p.get("text", "")) for p in parts if p.get("type") == "text"]
    text = " ".join(texts).strip()
    if len(texts) < len(parts) or not 0 < len(text) <= service.config.longest_text:
        raise Refusal(
            400,
            "invalid_messages",
            f"a message is one input_audio or a text of 1 to {service.config.longest_text} letters",
            "messages",
        )
    return text


async def _chunks(
    service: Service, chat: Chat, name: str, first: Event, steps: AsyncIterator[Event], began: float
) -> AsyncIterator[str]:
    """The reply as server-sent events; sound only where it was asked for."""
    sound, resampler, text, expires = f"audio_{uuid.uuid4().hex}", None, "", 0
    aloud = "audio" in chat.modalities

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None, **more}
        return f"data: {json.dumps({**_head(service, name, 'chat.completion.chunk'), 'choices': [choice]})}\n\n"

    understood = first if isinstance(first, Understood) else None
    yield chunk({"role": "assistant", "content": None if aloud else ""})
    try:
        async for step in steps:
            if isinstance(step, Planned) and understood:
                yield chunk({"omni": told(understood.heard, understood.perception, step.plan)})
            elif isinstance(step, TextGrown):
                grown, text = step.text[len(text) :], step.text
                yield chunk({"audio": {"id": sound, "transcript": grown}} if aloud else {"content": grown})
            elif isinstance(step, SoundPiece) and aloud:
                if resampler is None:
                    service.metrics.first_sound.observe(time.perf_counter() - began)
                    resampler = Resampler(step.rate, RAW_HZ)
                yield chunk({"audio": {"id": sound, "data": _raw(resampler.push(step.samples))}})
            elif isinstance(step, ReplyEnded):
                _note(service, step.turn)
                expires = service.keep(sound, step.turn)
                if resampler is not None:
                    yield chunk({"audio": {"id": sound, "data": _raw(resampler.flush())}})
    except Refusal as refusal:
        yield f"data: {json.dumps(refusal.body())}\n\n"
        return
    yield chunk({}, "stop")
    if aloud:
        yield chunk({"audio": {"id": sound, "expires_at": expires}})
    yield "data: [DONE]\n\n"


def _raw(samples: Any) -> str:
    return base64.b64encode(pcm_bytes(samples)).decode()


def _head(service: Service, name: str, kind: str) -> dict[str, Any]:
    return {"id": name, "object": kind, "created": int(time.time()), "model": service.name}


def _usage() -> dict[str, int]:
    """Tokens are not what is counted here; clients want the field."""
    return {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def _note(service: Service, turn: Turn) -> None:
    service.metrics.replies.labels("completed").inc()
    service.note("heard", turn.heard.text)
    service.note("replied", turn.reply.text)
