"""Chat, speech, transcriptions and models through the official client."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from omni.audio.io import read_bytes
from omni.models.style import style_for
from omni.serve.sound import pcm_samples
from omni.turns import EMOTIONS, Audio, Conversation
from tests.serve.conftest import WORDS, Running

MODEL = "tiny"


def asked(wav: bytes, form: str = "wav") -> dict[str, Any]:
    sound = {"data": base64.b64encode(wav).decode(), "format": form}
    return {"role": "user", "content": [{"type": "input_audio", "input_audio": sound}]}


def chat(client: openai.OpenAI, messages: list[Any], **options: Any) -> Any:
    given = {"modalities": ["text", "audio"], "audio": {"voice": "omni", "format": "wav"}, **options}
    return client.chat.completions.create(model=MODEL, messages=messages, **given)


def test_a_spoken_query_is_answered_in_text_and_sound(
    client: openai.OpenAI, wav: bytes, speech: Audio, understander: Any
) -> None:
    found = chat(client, [asked(wav)], seed=3)
    message = found.choices[0].message
    alone = understander.reply(read_bytes(wav), seed=3)
    assert message.audio.transcript == alone.reply.text
    samples = read_bytes(base64.b64decode(message.audio.data)).samples
    assert abs(len(samples) - len(alone.reply.audio.samples)) <= 1
    assert message.omni["heard"]["text"] == WORDS
    assert message.omni["perceived"]["emotion"] in EMOTIONS
    assert message.omni["plan"]["style"] == alone.reply.plan.style
    assert found.choices[0].finish_reason == "stop"


def test_a_stream_gives_the_same(client: openai.OpenAI, wav: bytes) -> None:
    whole = chat(client, [asked(wav)], audio={"voice": "omni", "format": "pcm16"})
    text, sound, finish, seen = "", b"", None, None
    for chunk in chat(client, [asked(wav)], audio={"voice": "omni", "format": "pcm16"}, stream=True):
        assert chunk.object == "chat.completion.chunk"
        delta = chunk.choices[0].delta
        finish = chunk.choices[0].finish_reason or finish
        seen = getattr(delta, "omni", None) or seen
        part = getattr(delta, "audio", None)
        if part:
            part = part if isinstance(part, dict) else part.model_dump()
            text += part.get("transcript") or ""
            sound += base64.b64decode(part.get("data") or "")
    message = whole.choices[0].message
    assert text == message.audio.transcript
    assert finish == "stop"
    assert seen == message.omni
    one, other = pcm_samples(sound), pcm_samples(base64.b64decode(message.audio.data))
    np.testing.assert_allclose(one, other, atol=2e-4)


def test_text_only(client: openai.OpenAI, wav: bytes) -> None:
    found = client.chat.completions.create(model=MODEL, messages=[asked(wav)])  # type: ignore[list-item]
    assert found.choices[0].message.content
    assert found.choices[0].message.audio is None
    chunks = client.chat.completions.create(model=MODEL, messages=[asked(wav)], stream=True)  # type: ignore[list-item]
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == found.choices[0].message.content


def test_a_turn_before_is_referred_to_by_its_sound(client: openai.OpenAI, wav: bytes, understander: Any) -> None:
    first = chat(client, [asked(wav)])
    sound = {"role": "assistant", "audio": {"id": first.choices[0].message.audio.id}}
    second = chat(client, [asked(wav), sound, asked(wav)])
    before = Conversation((understander.reply(read_bytes(wav)),))
    assert second.choices[0].message.audio.transcript == understander.reply(read_bytes(wav), before).reply.text
    assert chat(client, [{"role": "user", "content": "hello"}]).choices[0].message.audio.transcript
    with pytest.raises(openai.NotFoundError, match="not known any more"):
        chat(client, [asked(wav), {"role": "assistant", "audio": {"id": "audio_1"}}, asked(wav)])


@pytest.mark.parametrize("form", ["mp3", "wav", "flac", "opus", "pcm"])
@pytest.mark.parametrize("style", ["cheerful", "comforting"])
def test_speech_in_every_format_and_style(client: openai.OpenAI, understander: Any, form: str, style: str) -> None:
    options: Any = {"response_format": form, "extra_body": {"style": style, "intensity": 0.7}}
    data = client.audio.speech.create(model=MODEL, voice="omni", input="That sounds hard.", **options).read()
    expected = understander.say("That sounds hard.", style_for(style, 0.7))
    found = Audio(pcm_samples(data), 24_000) if form == "pcm" else read_bytes(data)
    assert abs(found.duration_s - expected.duration_s) < 0.1


def test_an_emotion_chooses_the_style_that_fits(client: openai.OpenAI) -> None:
    def wav_of(**extra: Any) -> bytes:
        return client.audio.speech.create(
            model=MODEL, voice="omni", input="I see.", response_format="wav", extra_body=extra
        ).read()

    assert wav_of(emotion="sad") == wav_of(style="comforting")
    assert wav_of(emotion="sad") != wav_of(style="neutral")


def test_transcriptions(client: openai.OpenAI, wav: bytes, running: Running) -> None:
    found: Any = client.audio.transcriptions.create(model=MODEL, file=("query.wav", io.BytesIO(wav)))
    assert found.text == WORDS
    assert found.omni["perceived"]["emotion"] in EMOTIONS
    text = client.audio.transcriptions.create(model=MODEL, file=("q", wav), response_format="text")
    assert text == f"{WORDS}\n"
    more = client.audio.transcriptions.create(model=MODEL, file=("q", wav), response_format="verbose_json")
    assert more.duration == pytest.approx(read_bytes(wav).duration_s)


def test_models_and_health(client: openai.OpenAI, running: Running) -> None:
    assert [m.id for m in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match="this server has 'tiny'"):
        client.models.retrieve("gpt-99")
    assert httpx.get(f"{running.url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{running.url}/readyz").json() == {"status": "ready"}


def test_metrics_count(client: openai.OpenAI, running: Running, wav: bytes) -> None:
    chat(client, [asked(wav)])
    page = httpx.get(f"{running.url}/metrics").text
    assert 'omni_requests_total{route="/v1/chat/completions",status="200"}' in page
    assert 'omni_replies_total{status="completed"}' in page
    assert WORDS not in page


@pytest.mark.parametrize("secret", ["/etc/passwd", "file:///etc/passwd", "http://127.0.0.1/x.wav"])
def test_a_path_or_address_is_not_read(client: openai.OpenAI, secret: str, running: Running, tmp_path: Path) -> None:
    sound = {"data": secret, "format": "wav"}
    with pytest.raises(openai.BadRequestError, match="not"):
        chat(client, [{"role": "user", "content": [{"type": "input_audio", "input_audio": sound}]}])
    answer = httpx.post(f"{running.url}/v1/audio/transcriptions", data={"model": MODEL, "file": secret})
    assert answer.status_code == 400
    assert "no path is read" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"model": MODEL}, "messages"),
        ({"model": MODEL, "messages": []}, "last message"),
        ({"model": MODEL, "messages": "x"}, "messages"),
        ({"model": "other", "messages": []}, "no model"),
        ({"model": MODEL, "messages": [{"role": "user", "content": []}]}, "content"),
        ({"model": MODEL, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "input_audio"),
        ({"model": MODEL, "messages": [{"role": "user", "content": "x" * 3000}]}, "2000"),
        ({"model": MODEL, "messages": [{"role": "user", "content": "x"}], "n": 3}, "n"),
        ({"model": MODEL, "messages": [asked(b"")]}, "empty"),
        ({"model": MODEL, "messages": [asked(b"nothing that sounds")]}, "not sound"),
        ({"model": MODEL, "messages": [asked(b"abc", "pcm16")]}, "16-bit"),
        ({"model": MODEL, "messages": [asked(bytes(48_000 * 121), "pcm16")]}, "at most 120 s"),
        ({"model": MODEL, "messages": [{"role": "user", "content": "x"}] * 51}, "at most 50"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(running: Running, body: dict[str, Any], message: str) -> None:
    found = httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=30)
    assert found.status_code in (400, 404)
    assert message in found.json()["error"]["message"]


@pytest.mark.parametrize(
    "extra",
    [{"style": "sarcastic"}, {"emotion": "bored"}, {"response_format": "aac"}, {"speed": 9}, {"input": ""}],
)  # fmt: skip
def test_speech_that_cannot_be_is_refused(running: Running, extra: dict[str, Any]) -> None:
    body = {"model": MODEL, "voice": "omni", "input": "Hello.", **extra}
    found = httpx.post(f"{running.url}/v1/audio/speech", json=body)
    assert found.status_code == 400
    assert found.json()["error"]["param"]
