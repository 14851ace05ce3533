"""POST /v1/audio/speech: a text spoken in a style, or in the style that fits an emotion."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field

from omni.models.style import style_for
from omni.serve.limits import Refusal
from omni.serve.service import Service
from omni.serve.sound import FORMATS, RAW_HZ, Resampler, encode, pcm_bytes
from omni.turns import EMOTIONS, FITTING_STYLES, STYLES, Audio, Style

router = APIRouter()


class Speech(BaseModel):
    """A request. `style`, `emotion` and `intensity` are extensions; `voice` may name a style too."""

    model: str
    input: str
    voice: Any = None
    response_format: str = "mp3"
    speed: float = Field(1.0, ge=0.5, le=2.0)
    style: str | None = None
    emotion: str | None = None
    intensity: float = Field(0.7, ge=0.0, le=1.0)


@router.post("/v1/audio/speech")
async def speak(speech: Speech, request: Request) -> Response:
    """The sound in `response_format`; raw sound comes as it is made."""
    service: Service = request.app.state.service
    service.check_model(speech.model)
    style, form = style_of(speech), speech.response_format
    if form not in FORMATS:
        raise Refusal(
            400, "invalid_format", f"{form!r} is not made; choose from {', '.join(FORMATS)}", "response_format"
        )
    if not 0 < len(speech.input.strip()) <= service.config.longest_text:
        raise Refusal(
            400, "invalid_text", f"input must have 1 to {service.config.longest_text} letters, and some words", "input"
        )
    service.note("to be spoken", speech.input)
    pieces = service.flow(lambda: service.assistant.saying(speech.input, style))
    rate = service.assistant.parts.voice.sample_rate_hz
    if form in ("pcm", "pcm16"):
        first = await anext(pieces, np.zeros(0, np.float32))
        return StreamingResponse(_raw(first, pieces, rate), media_type=FORMATS[form][1])
    sound = np.concatenate([np.zeros(0, np.float32), *[piece async for piece in pieces]])
    if not len(sound):
        raise Refusal(400, "invalid_text", "nothing in this text can be spoken; write words", "input")
    data = await service.call(encode, Audio(sound, rate), form)
    return Response(data, media_type=FORMATS[form][1])


def style_of(speech: Speech) -> Style:
    """The voice's style. Refusal for a style or emotion that there is not."""
    name = speech.style or (speech.voice if speech.voice in STYLES else None)
    if speech.emotion is not None:
        if speech.emotion not in EMOTIONS:
            raise Refusal(
                400, "invalid_emotion", f"no emotion {speech.emotion!r}; choose from {', '.join(EMOTIONS)}", "emotion"
            )
        name = name or FITTING_STYLES[speech.emotion][0]
    if name is not None and name not in STYLES:
        raise Refusal(400, "invalid_style", f"no style {name!r}; choose from {', '.join(STYLES)}", "style")
    style = style_for(name or "neutral", speech.intensity)
    return replace(style, rate=style.rate * speech.speed)


async def _raw(first: np.ndarray, rest: AsyncIterator[np.ndarray], rate: int) -> AsyncIterator[bytes]:
    resampler = Resampler(rate, RAW_HZ)
    yield pcm_bytes(resampler.push(first))
    async for piece in rest:
        yield pcm_bytes(resampler.push(piece))
    yield pcm_bytes(resampler.flush())
