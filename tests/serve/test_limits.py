"""What is too much is refused with a status and in words; what was begun is finished."""

from __future__ import annotations

import base64
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from omni.cli import main
from omni.errors import UsageError
from omni.serve.config import ServeConfig, read_keys
from omni.serve.limits import Keys, Places, Rate, Refusal
from tests.serve.conftest import WORDS, Running, slowed
from tests.serve.test_realtime import by_hand, talking
from tests.serve.test_requests import asked, chat
from tests.tiny import REPOSITORY

Make = Callable[..., Running]
KEY = "a-key-of-this-test-0"


def test_a_wrong_key_opens_nothing(limited: Make, wav: bytes) -> None:
    server = limited(keys=("another-key-of-it-1", KEY))
    for key in ("none", KEY[:-1], KEY + "x"):
        with pytest.raises(openai.AuthenticationError, match="not known"):
            server.client(key).models.list()
        with pytest.raises(InvalidStatus, match="401"), talking(server, key):
            pass
    assert httpx.get(f"{server.url}/metrics").status_code == 401
    assert "no API key" in httpx.get(f"{server.url}/v1/models").json()["error"]["message"]
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    assert chat(server.client(KEY), [asked(wav)]).choices[0].message.audio.data
    with talking(server, KEY) as talk:
        assert talk.events[0]["type"] == "session.created"
    browser = ["realtime", f"openai-insecure-api-key.{KEY}"]
    with connect(f"ws://127.0.0.1:{server.port}/v1/realtime", subprotocols=browser, proxy=None) as found:  # type: ignore[arg-type]
        assert found.subprotocol == "realtime"


def test_pages_of_other_sites_are_refused(running: Running) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Origin": "null"}):
        assert httpx.get(f"{running.url}/v1/models", headers=headers).status_code == 403
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://127.0.0.1:{running.port}/v1/realtime", origin=Origin("https://evil.example"), proxy=None)
    assert httpx.get(f"{running.url}/v1/models", headers={"Origin": "http://localhost:3000"}).status_code == 200


def test_too_large_is_refused_with_and_without_its_length(limited: Make) -> None:
    server = limited(largest_body_mb=0.1)
    big = {"model": "tiny", "messages": [asked(bytes(100_000))]}
    found = httpx.post(f"{server.url}/v1/chat/completions", json=big)
    assert found.status_code == 413
    assert "0.1 MB" in found.json()["error"]["message"]
    chunks = (b" " * 10_000 for _ in range(20))
    head = {"Content-Type": "application/json"}
    assert httpx.post(f"{server.url}/v1/chat/completions", content=chunks, headers=head).status_code == 413


def test_too_often_is_refused(limited: Make) -> None:
    client = limited(requests_per_minute=3).client()
    for _ in range(3):
        client.models.list()
    with pytest.raises(openai.RateLimitError, match="at most 3 requests a minute") as refused:
        client.models.list()
    assert int(refused.value.response.headers["Retry-After"]) >= 1


def test_too_many_conversations_are_refused(limited: Make) -> None:
    server = limited(most_sessions=1)
    with talking(server), connect(f"ws://127.0.0.1:{server.port}/v1/realtime", proxy=None) as second:
        found = json.loads(second.recv(10))
        assert found["error"]["code"] == "too_many_sessions"
    with talking(server):
        pass


def test_a_full_queue_is_refused(limited: Make, wav: bytes) -> None:
    server = limited(most_tasks=1)
    gate = threading.Event()
    server.service.worker.submit(gate.wait, 10)
    with pytest.raises(openai.InternalServerError, match="try again") as refused:
        chat(server.client(), [asked(wav)])
    assert refused.value.status_code == 503
    assert httpx.get(f"{server.url}/readyz").status_code == 503
    gate.set()


def test_what_takes_too_long_ends(limited: Make, wav: bytes) -> None:
    server = limited(timeout_s=0.3)
    gate = threading.Event()
    server.service.worker.submit(gate.wait, 10)
    with pytest.raises(openai.InternalServerError, match="more than") as refused:
        chat(server.client(), [asked(wav)])
    assert refused.value.status_code == 504
    gate.set()


def test_an_idle_conversation_is_ended(limited: Make) -> None:
    server = limited(session_idle_s=0.3)
    with connect(f"ws://127.0.0.1:{server.port}/v1/realtime", proxy=None) as found:
        assert json.loads(found.recv(10))["type"] == "session.created"
        assert json.loads(found.recv(10))["error"]["code"] == "session_expired"


@pytest.mark.parametrize("log_text", [False, True])
def test_logs_have_words_only_if_asked(
    limited: Make,
    wav: bytes,
    caplog: pytest.LogCaptureFixture,
    log_text: bool,
    said: Any,
) -> None:
    server = limited(log_text=log_text)
    with caplog.at_level(logging.DEBUG):
        reply = chat(server.client(), [asked(wav)]).choices[0].message.audio.transcript
        with talking(server) as talk:
            by_hand(talk, said)
            talk.send("response.create")
            talk.until("response.done")
    records = [r.getMessage() for r in caplog.records if r.name.startswith(("omni", "uvicorn", "fastapi"))]
    assert any(WORDS in line for line in records) is log_text
    assert any(reply in line for line in records) is log_text
    assert not any(base64.b64encode(wav).decode()[:40] in line for line in records)


def test_a_shutdown_finishes_replies(limited: Make, wav: bytes, said: Any, understander: Any) -> None:
    server = limited()
    gate, begun = threading.Event(), threading.Event()
    found: dict[str, Any] = {}

    def whole() -> None:
        found["chat"] = chat(server.client(), [asked(wav)]).choices[0].message.audio.data

    with slowed(understander, gate, begun), talking(server) as talk:
        by_hand(talk, said)
        talk.send("response.create")
        asking = threading.Thread(target=whole)
        asking.start()
        assert begun.wait(20)
        stopping = threading.Thread(target=server.stop)
        time.sleep(0.2)
        stopping.start()
        time.sleep(0.3)
        assert httpx.get(f"{server.url}/readyz").status_code == 503
        assert httpx.get(f"{server.url}/v1/models").status_code == 503
        gate.set()
        assert talk.until("response.done")["response"]["status"] == "completed"
        asking.join(20)
        stopping.join(20)
    assert found["chat"]


def test_keys_and_hosts() -> None:
    with pytest.raises(UsageError, match="a key is needed"):
        ServeConfig(host="0.0.0.0")
    with pytest.raises(UsageError, match="at least 16"):
        ServeConfig(keys=("short",))
    assert ServeConfig(host="0.0.0.0", keys=(KEY,)).host == "0.0.0.0"
    for host in ("127.0.0.1", "::1", "localhost", "127.8.0.1"):
        assert ServeConfig(host=host)
    Keys([]).check(None)
    with pytest.raises(Refusal):
        Keys([KEY]).check("")


def test_keys_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}\n\n")
    assert read_keys(file) == (KEY,)
    file.write_text("# none\n")
    with pytest.raises(UsageError, match="no key"):
        read_keys(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_keys(tmp_path)


def test_a_bucket_fills_again() -> None:
    now = [0.0]
    rate = Rate(60, lambda: now[0])
    for _ in range(60):
        rate.check("a")
    with pytest.raises(Refusal, match="in 2 s"):
        rate.check("a")
    rate.check("b")
    now[0] = 1.5
    rate.check("a")


def test_places_are_given_back() -> None:
    places = Places(1)
    with pytest.raises(KeyError), places.place():
        raise KeyError
    with places.place(), pytest.raises(Refusal, match="all 1 "), places.place():
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "--api-key-file"),
        (["--port", "99999"], "65535"),
        (["--workers", "0"], "1 to 64"),
        (["--device", "cuda"], "presets"),
        (["--api-key-file", "nowhere"], "nowhere"),
    ],
)
def test_options_that_cannot_be(capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert main(["serve", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_command_serves_and_ends_when_told(checkpoint: Path, workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "omni", "serve", "--port", str(port), "--model", str(checkpoint)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([*command, "--workers", str(workers)], env=environment)
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                assert httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=30).json() == {"status": "ready"}
                break
            except httpx.TransportError:
                time.sleep(0.1)
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models").json()["data"][0]["id"] == "tiny"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)
    finally:
        process.kill()
