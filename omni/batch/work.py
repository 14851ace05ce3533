"""One query to its record and its sound. The record has no times in it: the same query gives the same bytes."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from omni.answers import seed_of
from omni.assistant import Assistant
from omni.audio import io
from omni.batch.job import Job
from omni.batch.queries import Past, Query
from omni.batch.restyled import Restyled
from omni.config import AudioConfig
from omni.errors import InputError, ModelError
from omni.phones import normalise
from omni.turns import Audio, Conversation, Style, Turn

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answered:
    """`record` as JSON values, without the reply's file; `sound` of the reply, if there is any; `timings_ms` by part."""

    record: dict[str, Any]
    sound: Audio | None
    timings_ms: dict[str, float]


def load(job: Job) -> Assistant:
    """The assistant of a job. ModelError as for `Assistant.load`."""
    return Assistant.load(job.model) if job.preset is None else Assistant.of_preset(job.preset, job.device)


def answer(assistant: Assistant, query: Query, job: Job) -> Answered:
    """Hear a query and reply to it. What is wrong with the query is told in the record; ModelError is raised."""
    record: dict[str, Any] = {"id": query.id, "source": query.source, "status": "failed", "error": None}
    seed = seed_of(query.id)
    began = time.perf_counter()
    try:
        if query.problem is not None:
            raise InputError(query.problem)
        audio = _read(query, assistant.config.audio)
        record["query_s"] = round(audio.duration_s, 3)
        turn = _turn(_styled(assistant, query), audio, conversation(query.history), seed, job.text_only)
    except ModelError:
        raise
    except Exception as error:  # one query in millions must not end the run
        mended = isinstance(error, ValueError)
        if not mended:
            log.exception("%s cannot be answered", query.id)
        record["error"] = str(error) if mended else f"{type(error).__name__}: {error}"
        return Answered(record, None, {"total": 1000 * (time.perf_counter() - began)})
    sound = turn.reply.audio
    record |= _told(turn) | {"seed": seed, "status": "ok"}
    record["reply_s"] = None if sound is None else round(sound.duration_s, 3)
    return Answered(record, sound, turn.timings_ms)


def _styled(assistant: Assistant, query: Query) -> Assistant:
    if query.style is None:
        return assistant
    return Assistant(replace(assistant.parts, responder=Restyled(assistant.parts.responder, query.style)))


def _turn(assistant: Assistant, audio: Audio, past: Conversation, seed: int, text_only: bool) -> Turn:
    if text_only:
        began = time.perf_counter()
        heard, perception = assistant.hear(audio)
        reply = assistant.respond(heard, perception, past, seed)
        return Turn(heard, perception, reply, {"total": 1000 * (time.perf_counter() - began)})
    turn = assistant.reply(audio, past, seed)
    assert turn.reply.audio is not None
    if not np.isfinite(turn.reply.audio.samples).all():
        raise ValueError("the reply's sound holds samples that are not numbers; the reply was left out")
    return turn


def _read(query: Query, config: AudioConfig) -> Audio:
    if query.place is None:
        return io.read_audio(query.source, config)
    offset, size = query.place
    limit = int(config.largest_file_mb * 1e6) + 1  # read_bytes refuses what is larger
    try:
        with Path(query.source).open("rb") as file:
            data = os.pread(file.fileno(), min(size, limit), offset)
    except OSError as error:
        raise InputError(f"{query.source} cannot be read ({error}); check the shard") from error
    return io.read_bytes(data, config, f"{query.id} in {query.source}")


def conversation(history: tuple[Past, ...]) -> Conversation:
    """The turns of a history as the assistant remembers them."""
    return Conversation(tuple(Turn.of_words(normalise(p.user), p.reply, p.emotion) for p in history))


def _told(turn: Turn) -> dict[str, Any]:
    seen, plan = turn.perception, turn.reply.plan
    return {
        "transcript": turn.heard.text,
        "confidence": round(turn.heard.confidence, 3),
        "understood": turn.heard.understood,
        "emotion": seen.emotion,
        "probabilities": {k: round(float(v), 4) for k, v in seen.probabilities.items()},
        "intensity": round(float(seen.intensity), 3),
        "valence": round(float(seen.valence), 3),
        "arousal": round(float(seen.arousal), 3),
        "words_and_voice": seen.match,
        "plan": {"need": plan.need, "strategy": plan.strategy, "intent": plan.intent, "style": plan.style},
        "reply": turn.reply.text,
        "style": _style(turn.reply.style),
    }


def _style(style: Style) -> dict[str, Any]:
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in vars(style).items()}
