"""POST /v1/audio/transcriptions: the words of a recording, and how they were said."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from starlette.datastructures import UploadFile

from omni.serve.limits import Refusal
from omni.serve.service import Service, told
from omni.serve.sound import decode

router = APIRouter()
ANSWERS = ("json", "text", "verbose_json")


@router.post("/v1/audio/transcriptions")
async def transcribe(request: Request) -> Any:
    """A form with `file`, `model` and perhaps `response_format`: json, text or verbose_json."""
    service: Service = request.app.state.service
    async with request.form(max_files=1, max_fields=20) as form:
        file, answer = form.get("file"), str(form.get("response_format", "json"))
        service.check_model(str(form["model"]) if "model" in form else None)
        if not isinstance(file, UploadFile):
            raise Refusal(
                400, "invalid_audio", "the form needs a file with the recording's bytes; no path is read", "file"
            )
        if answer not in ANSWERS:
            raise Refusal(
                400, "invalid_format", f"{answer!r} is not made; choose from {', '.join(ANSWERS)}", "response_format"
            )
        if str(form.get("stream", "false")).lower() == "true":
            raise Refusal(400, "not_streamed", "transcriptions come whole; leave out stream", "stream")
        data = await file.read()
    audio = await service.call(decode, data, None, service.assistant.config.audio)
    heard, perception = await service.call(service.assistant.hear, audio)
    service.note("heard", heard.text)
    if answer == "text":
        return PlainTextResponse(heard.text + "\n")
    body: dict[str, Any] = {"text": heard.text, "usage": {"type": "duration", "seconds": round(audio.duration_s, 3)}}
    if answer == "verbose_json":
        body |= {"task": "transcribe", "language": "english", "duration": audio.duration_s, "segments": [], "words": []}
    return {**body, "omni": told(heard, perception, None)}
