"""A real server on a free port of this computer, and the OpenAI client pointed at it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from omni.assistant import Assistant
from omni.audio.io import encode, read_audio
from omni.serve.app import make_app
from omni.serve.config import ServeConfig
from omni.serve.running import Server, server_config
from omni.serve.sound import RAW_HZ, Resampler
from omni.turns import Audio, Heard
from tests.tiny import REPOSITORY

WORDS = "my dog ran away"


class Running:
    """A server and its address."""

    def __init__(self, assistant: Any, **options: Any) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.app = make_app(assistant, ServeConfig(port=self.port, **options))
        self.service = self.app.state.service
        self.server = Server(server_config(self.app, self.service.config))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        until = time.monotonic() + 20
        while not self.server.started and time.monotonic() < until:
            time.sleep(0.01)
        assert self.server.started
        self.url = f"http://127.0.0.1:{self.port}"

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture(scope="session")
def understander(checkpoint: Path) -> Assistant:
    """The tiny assistant with a recogniser that always makes out the same words."""
    assistant: Any = Assistant.load(checkpoint)
    assistant.parts.listener.decoder.decode = lambda _: Heard(WORDS, 0.9)
    return assistant


@pytest.fixture(scope="session")
def running(understander: Assistant) -> Iterator[Running]:
    """A server with the usual limits."""
    made = Running(understander, requests_per_minute=10_000)
    yield made
    made.stop()


@pytest.fixture
def limited(understander: Assistant) -> Iterator[Callable[..., Running]]:
    """Makes servers with limits of their own."""
    made: list[Running] = []

    def make(**options: Any) -> Running:
        made.append(Running(understander, **options))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def client(running: Running) -> openai.OpenAI:
    return running.client()


@pytest.fixture(scope="session")
def speech() -> Audio:
    return read_audio(REPOSITORY / "examples" / "driving_test.wav")


@pytest.fixture(scope="session")
def wav(speech: Audio) -> bytes:
    return encode(speech, ".wav")


@pytest.fixture
def said(speech: Audio) -> np.ndarray:
    """The query at 24 kHz."""
    up = Resampler(16_000, RAW_HZ)
    return np.concatenate([up.push(speech.samples), up.flush()])


@contextmanager
def slowed(assistant: Any, gate: threading.Event, begun: threading.Event) -> Iterator[None]:
    """The assistant's voice waits at the gate after its first piece."""
    voice = assistant.voice

    def slow(answers: Any) -> Iterator[np.ndarray]:
        for piece in voice(answers):
            yield piece
            begun.set()
            gate.wait(20)

    assistant.voice = slow
    try:
        yield
    finally:
        gate.set()
        del assistant.voice
