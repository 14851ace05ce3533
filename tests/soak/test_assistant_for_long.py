"""The assistant for hours: nothing grows, nothing drifts, nothing is left behind."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from omni.assistant import Assistant
from omni.audio.io import read_audio
from omni.turns import Audio, Conversation

Note = Callable[[str], None]


def megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_four_hundred_replies(assistant: Assistant, queries: list[Path], note: Note) -> None:
    sounds = [read_audio(q) for q in queries]
    before: tuple[float, int, int] | None = None
    began, spoken_s = time.monotonic(), 0.0
    for number in range(400):
        turn = assistant.reply(sounds[number % len(sounds)], seed=number // len(sounds))
        assert turn.reply.audio is not None
        samples = turn.reply.audio.samples
        assert np.isfinite(samples).all()
        assert 0.02 < np.abs(samples).max() <= 1.0
        spoken_s += len(samples) / 16_000
        if number == 60:
            before = megabytes(), open_files(), threading.active_count()
    assert before is not None
    grown = megabytes() - before[0]
    note(f"{spoken_s / 60:.0f} minutes of replies in {(time.monotonic() - began) / 60:.1f}; memory {grown:+.0f} MB")
    assert grown < 60
    assert (open_files(), threading.active_count()) == before[1:]


def test_a_conversation_of_eighty_turns(assistant: Assistant, queries: list[Path], note: Note) -> None:
    sounds = [read_audio(q) for q in queries]
    conversation, spent = Conversation(), []
    for number in range(80):
        turn = assistant.reply(sounds[number % len(sounds)], conversation, seed=number)
        conversation = conversation.with_turn(turn)
        spent.append(turn.timings_ms["express"])
    early, late = float(np.median(spent[10:40])), float(np.median(spent[50:]))
    note(
        f"thinking {early:.0f} ms early, {late:.0f} ms late; {len({t.reply.text for t in conversation.turns})} replies"
    )
    assert late < 2 * early


def test_the_same_query_gives_the_same_sound_at_any_time(assistant: Assistant, queries: list[Path], note: Note) -> None:
    sound = read_audio(queries[0])
    first = assistant.reply(sound, seed=3).reply.audio
    for seed in range(20):
        assistant.reply(read_audio(queries[seed % len(queries)]), seed=seed)
    again = assistant.reply(sound, seed=3).reply.audio
    fresh = Assistant.load().reply(sound, seed=3).reply.audio
    assert first is not None
    assert again is not None
    assert fresh is not None
    np.testing.assert_array_equal(first.samples, again.samples)
    np.testing.assert_array_equal(first.samples, fresh.samples)
    note("the same samples after 20 other replies, and from weights loaded again")


def test_streams_at_once(assistant: Assistant, queries: list[Path], note: Note) -> None:
    """Eight queries streamed in threads of one process: each gets the reply that it gets alone."""
    sounds = [read_audio(queries[n % len(queries)]) for n in range(8)]
    alone = [
        np.concatenate(list(assistant.stream(np.array_split(s.samples, 40), seed=n))) for n, s in enumerate(sounds)
    ]
    found: dict[int, np.ndarray] = {}

    def one(number: int, sound: Audio) -> None:
        pieces = list(assistant.stream(np.array_split(sound.samples, 40), seed=number))
        found[number] = np.concatenate(pieces)

    threads = [threading.Thread(target=one, args=item) for item in enumerate(sounds)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, samples in enumerate(alone):
        np.testing.assert_array_equal(found[number], samples)
    note("8 streams at once, each as alone")


def test_the_longest_query(assistant: Assistant, queries: list[Path], note: Note) -> None:
    limit_s = assistant.config.audio.longest_query_s
    sound = np.tile(read_audio(queries[0]).samples, 60)[: int((limit_s - 0.1) * 16_000)]
    before, began = megabytes(), time.monotonic()
    turn = assistant.reply(Audio(sound))
    spent = time.monotonic() - began
    assert turn.reply.audio is not None
    note(f"{limit_s:.0f} s heard and answered in {spent:.1f} s; {megabytes() - before:+.0f} MB")
    assert spent < limit_s
