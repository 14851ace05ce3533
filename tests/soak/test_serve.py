"""32 people talk to `omni serve` at once, in real time: each hears what they would hear alone."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from omni.audio.io import read_audio
from omni.serve.sound import RAW_HZ, Resampler, pcm_bytes

Note = Callable[[str], None]
REPOSITORY = Path(__file__).resolve().parents[2]
SESSIONS, TURNS = 32, 2
#: A block sent at once: 128 ms, four windows of the detector, so that each turn falls on windows in the same way.
BLOCK = 3072
#: The talkers begin spread over so long.
SPREAD_S = 16.0


@dataclass
class Told:
    """What one talker was told, and how long they waited, in seconds from the recording's end to the first sound."""

    heard: list[str] = field(default_factory=list)
    replied: list[str] = field(default_factory=list)
    waited_s: list[float] = field(default_factory=list)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "omni", "serve", "--port", str(port), "--workers", str(os.cpu_count() or 1)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=60)
                break
            except httpx.TransportError:
                time.sleep(0.2)
        time.sleep(3)  # the other processes
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


class Talker:
    """One person: speaks, keeps the microphone open, listens to the reply, speaks again."""

    def __init__(self, connection: Any, paced: bool) -> None:
        self.connection, self.paced, self.told = connection, paced, Told()
        self.sent, self.began = 0, time.monotonic()
        self.replied, self.reply_samples, self.spoke = asyncio.Event(), 0, 0.0

    async def say(self, samples: np.ndarray) -> None:
        for at in range(0, len(samples), BLOCK):
            block = samples[at : at + BLOCK]
            block = np.concatenate([block, np.zeros(BLOCK - len(block), np.float32)])
            await self.connection.input_audio_buffer.append(audio=base64.b64encode(pcm_bytes(block)).decode())
            self.sent += BLOCK
            if self.paced:
                await asyncio.sleep(max(0.0, self.began + self.sent / RAW_HZ - time.monotonic()))

    async def converse(self, sounds: list[np.ndarray]) -> Told:
        receiving = asyncio.create_task(self.listen())
        quiet = np.zeros(BLOCK, np.float32)
        for sound in sounds:
            self.replied.clear()
            self.reply_samples = 0
            await self.say(sound)
            self.spoke = time.monotonic()
            await self.say(np.tile(quiet, 8))
            while not self.replied.is_set():
                if self.paced:
                    await self.say(quiet)
                else:
                    await asyncio.sleep(0.01)
            await self.say(np.zeros(self.reply_samples + RAW_HZ, np.float32))
        receiving.cancel()
        return self.told

    async def listen(self) -> None:
        async for event in self.connection:
            if event.type == "conversation.item.input_audio_transcription.completed":
                self.told.heard.append(event.transcript)
            elif event.type == "response.output_audio.delta":
                if not self.reply_samples:
                    self.told.waited_s.append(time.monotonic() - self.spoke)
                self.reply_samples += len(base64.b64decode(event.delta)) // 2
            elif event.type == "response.output_audio_transcript.done":
                self.told.replied.append(event.transcript)
            elif event.type == "response.done":
                assert event.response.status == "completed", event
                self.replied.set()
            assert event.type != "error", event


def queries() -> list[np.ndarray]:
    """The recordings at 24 kHz, without the silence that the detector would end them in anyway."""
    found = []
    for path in sorted((REPOSITORY / "examples").glob("*.wav")):
        up = Resampler(16_000, RAW_HZ)
        found.append(np.concatenate([up.push(read_audio(path).samples), up.flush()]))
    return found


def conversation(number: int, sounds: list[np.ndarray]) -> list[np.ndarray]:
    return [sounds[(number + turn) % len(sounds)] for turn in range(TURNS)]


async def talk(address: str, sounds: list[np.ndarray], paced: bool, after_s: float = 0.0) -> Told:
    await asyncio.sleep(after_s)
    client = openai.AsyncOpenAI(base_url=address, api_key="none")
    async with client.realtime.connect(model="omni-mini") as connection:
        return await asyncio.wait_for(Talker(connection, paced).converse(sounds), 300)


def test_thirty_two_conversations_at_once(address: str, note: Note) -> None:
    sounds = queries()

    async def together() -> list[Told]:
        starts = [SPREAD_S * n / SESSIONS for n in range(SESSIONS)]
        return await asyncio.gather(*[talk(address, conversation(n, sounds), True, starts[n]) for n in range(SESSIONS)])

    alone = [asyncio.run(talk(address, conversation(n, sounds), False)) for n in range(len(sounds))]
    began = time.monotonic()
    found = asyncio.run(together())
    spent = time.monotonic() - began
    for number, told in enumerate(found):
        expected = alone[number % len(sounds)]
        assert (told.heard, told.replied) == (expected.heard, expected.replied), number
        assert len(told.replied) == TURNS
    waited = np.array([w for told in found for w in told.waited_s])
    single = np.array([w for told in alone for w in told.waited_s])
    at = [f"{np.percentile(waited, q):.1f}" for q in (50, 90, 99)]
    note(
        f"{SESSIONS} sessions in real time, begun over {SPREAD_S:.0f} s, a process for each core: {len(waited)} turns in "
        f"{spent:.0f} s, none lost, each as alone; first sound {at[0]} s (p50), {at[1]} s (p90), {at[2]} s (p99) after the "
        f"recording's end; alone, with sound sent faster than real time, {np.median(single):.1f} s"
    )
