"""A worker, real speech, and a session whose events are kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from omni.audio.io import read_audio
from omni.talking.events import Event, Failed, Interrupted, ReplyEnded
from omni.talking.session import Session
from omni.talking.worker import Worker
from tests.tiny import REPOSITORY


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    assert made.close(20)


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """A recording of a person [N], 16 kHz."""
    return read_audio(REPOSITORY / "examples" / "driving_test.wav").samples


class Kept:
    """Receives a session's events."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._news:
            self.events.append(event)
            self._news.notify_all()

    def of(self, kind: type) -> list[Any]:
        return [e for e in self.events if isinstance(e, kind)]

    def wait(self, kind: type, count: int = 1) -> Any:
        with self._news:
            ended = (Failed,) if kind in (ReplyEnded, Interrupted) else ()
            found = self._news.wait_for(lambda: len(self.of(kind)) >= count or self.of(*ended or (type(None),)), 30)
        assert found, f"no {kind.__name__} among {[type(e).__name__ for e in self.events]}"
        assert len(self.of(kind)) >= count, self.of(Failed)
        return self.of(kind)[count - 1]


@pytest.fixture
def talk(understanding: Any, worker: Worker) -> Callable[..., tuple[Session, Kept]]:
    """Makes a session over the tiny assistant, and what keeps its events."""

    def make(**options: Any) -> tuple[Session, Kept]:
        kept = Kept()
        return Session(understanding, worker, kept, **options), kept

    return make


def push(session: Session, sound: np.ndarray, size: int = 320) -> None:
    """Push sound [N] in blocks."""
    for at in range(0, len(sound), size):
        session.push(sound[at : at + size])
