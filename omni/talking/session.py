"""One person's conversation as it happens: listens, replies, lets itself be interrupted.

Events are delivered under a lock, by the thread that pushes or by the worker's: a receiver must be quick and put them
in a queue. After `Interrupted` nothing of that reply is delivered any more. Time is counted in samples of the microphone,
so that what happens does not depend on how fast they come. Shapes: n samples of a block, 16 kHz.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torchaudio

from omni.answers import Answer
from omni.assistant import Assistant
from omni.audio.pauses import KEPT_SAMPLES
from omni.errors import InputError, ModelError
from omni.talking.detector import RATE_HZ, WINDOW_SAMPLES, Detected, SpeechDetector
from omni.talking.echo import EchoGuard
from omni.talking.events import (
    Committed,
    Event,
    Failed,
    Interrupted,
    Planned,
    ReplyEnded,
    SoundPiece,
    SpeechStarted,
    SpeechStopped,
    TextGrown,
    Understood,
)
from omni.talking.replying import Replying
from omni.talking.worker import BusyError, Worker
from omni.turns import Audio, Conversation

#: While a reply plays, speech must be this much likelier than otherwise.
RAISED_BY = 0.2


@dataclass(frozen=True)
class Listening:
    """How a session listens. `hands_free`: turns begin and end by themselves; else each is committed.

    `interrupts`: speech stops a reply; `answers`: a turn that ends is answered; `guards`: the reply is expected to leak
    into the microphone. The rest: see `SpeechDetector`.
    """

    hands_free: bool = True
    threshold: float = 0.5
    silence_ms: int = 500
    prefix_ms: int = 300
    interrupts: bool = True
    answers: bool = True
    guards: bool = True


class Session:
    """A conversation over an assistant. `push` sound; `deliver` gets events; `conversation` has the turns so far."""

    def __init__(
        self,
        assistant: Assistant,
        worker: Worker,
        deliver: Callable[[Event], None],
        listening: Listening = Listening(),
        conversation: Conversation = Conversation(),
        seed: int = 0,
    ) -> None:
        self.assistant, self.worker, self.conversation, self.seed = assistant, worker, conversation, seed
        self.generation = 0
        self._deliver, self._lock = deliver, threading.RLock()
        self._echo = EchoGuard()
        self._replying: Replying | None = None  # the last reply, while it may still be playing or be truncated
        self._live = False  # whether it is being made or played
        self._told: tuple[int, float] | None = None  # (samples of the microphone, played ms) as the caller said
        self._sound, self._first, self._pushed = np.zeros(0, np.float32), 0, 0
        self._rest, self._start, self._carried = np.zeros(0, np.float32), 0, np.zeros(0, np.float32)
        self.listen(listening)

    # -- what the caller does --------------------------------------------------------------------------------------

    def listen(self, listening: Listening) -> None:
        """Listen in another way from now on. UsageError: see `SpeechDetector`."""
        with self._lock:
            detector = SpeechDetector(listening.threshold, listening.silence_ms, listening.prefix_ms)
            self._detector, self._offset, self._rest = detector, self._pushed, np.zeros(0, np.float32)
            self.listening = listening

    def push(self, block: np.ndarray) -> None:
        """Hear the next samples [n], float32 in [-1, 1]. InputError once a query is longer than is heard."""
        with self._lock:
            block = np.asarray(block, np.float32)
            self._sound = np.concatenate([self._sound, block])
            self._pushed += len(block)
            if not self.listening.hands_free:
                return self._check_length()
            sound = np.concatenate([self._rest, block])
            whole = len(sound) // WINDOW_SAMPLES * WINDOW_SAMPLES
            self._rest = sound[whole:]
            for at in range(0, whole, WINDOW_SAMPLES):
                self._window(sound[at : at + WINDOW_SAMPLES], self._pushed - len(sound) + at + WINDOW_SAMPLES)
            self._forget()
            self._check_length()

    def commit(self, answer: bool = True) -> np.ndarray:
        """What was pushed since the last turn is a query [N]: returned and, with `answer`, answered.

        InputError if there is none.
        """
        with self._lock:
            query = self._sound
            if len(query) == 0:
                raise InputError("there is no sound to answer; append some before the commit")
            self.clear()
            if answer:
                self.answer(query)
            else:
                self._deliver(Committed(len(query), 0, query))
            return query

    def answer(self, query: np.ndarray, told: bool = False) -> int:
        """Begin the reply to samples [N], instead of the one under way; `told`: `Committed` was delivered for them before.

        Returns its generation. BusyError: try later.
        """
        with self._lock:
            self._interrupt(self._pushed)
            fresh = None if told else query
            query, self._carried = np.concatenate([self._carried, query]), np.zeros(0, np.float32)
            generation = self.generation = self.generation + 1
            rate = self.assistant.parts.voice.sample_rate_hz
            replying = Replying(generation, query, rate, self._pushed)
            self._replying, self._live, self._told = replying, True, None
            self._echo.clear()
            try:
                self.worker.follow(lambda: self._made(replying), lambda: self.generation == generation and self._live)
            except BusyError:
                self._live, self._carried = False, query  # it is answered with the next one
                raise
            self._deliver(Committed(len(query), generation, fresh))
            return generation

    def clear(self) -> None:
        """Forget what was pushed and is not part of a query yet."""
        with self._lock:
            self._sound, self._first, self._start = np.zeros(0, np.float32), self._pushed, self._pushed
            self.listen(self.listening)

    def cancel(self) -> None:
        """Stop the reply that is being made or played; nothing of it follows."""
        with self._lock:
            self._interrupt(self._pushed)
            self._carried = np.zeros(0, np.float32)

    def played(self, ms: float) -> None:
        """So much of the reply has been played by now. Without this, it is taken to play from its first piece on."""
        with self._lock:
            self._told = (self._pushed, ms)

    def truncate(self, ms: float) -> str:
        """Only so much of the last reply was heard; what counts as heard of its text, also in `conversation`."""
        with self._lock:
            if self._replying is None:
                raise InputError("there is no reply that could be truncated")
            if self._live:
                self._told = (self._pushed, ms)
                self._interrupt(self._pushed)
            text = self._keep(ms)
            if text:
                self._carried = np.zeros(0, np.float32)
            return text

    @property
    def replying(self) -> bool:
        """Whether a reply is being made or played."""
        with self._lock:
            return self._live and not self._over(self._pushed)

    # -- listening ---------------------------------------------------------------------------------------------------

    def _window(self, window: np.ndarray, at: int) -> None:
        """Hear a window [512] that ends at sample `at`."""
        playing = self._live and not self._over(at)
        if self._live and not playing:
            self._live = False
        detector, listening = self._detector, self.listening
        detector.threshold = listening.threshold
        if playing and listening.guards and self._echo.samples:
            detector.threshold = min(listening.threshold + RAISED_BY, 0.95)
            position = round(self._position_ms(at) * RATE_HZ / 1000)
            if self._echo.leaked(window, position):
                window = np.zeros_like(window)
        for event in detector.push(window):
            self._detected(event, at if playing else None)

    def _detected(self, event: Detected, playing_at: int | None) -> None:
        at = self._offset + event.sample
        if event.kind == "started":
            self._start = max(at, self._first)
            self._deliver(SpeechStarted(self._start))
            if playing_at is not None and self.listening.interrupts:
                self._interrupt(playing_at)
            return
        self._deliver(SpeechStopped(at))
        stop = min(at + KEPT_SAMPLES, self._offset + event.known)
        query = self._sound[self._start - self._first : stop - self._first]
        self._drop(stop)
        if self.listening.answers:
            self.answer(query)
        else:
            self._deliver(Committed(len(query), 0, query))

    def _drop(self, until: int) -> None:
        self._sound, self._first = self._sound[max(until - self._first, 0) :], max(until, self._first)

    def _forget(self) -> None:
        """Keep no more silence than may yet be part of a query."""
        if not self._detector.speaking:
            self._drop(self._pushed - RATE_HZ - self.listening.prefix_ms * RATE_HZ // 1000)

    def _check_length(self) -> None:
        longest_s = self.assistant.config.audio.longest_query_s
        if len(self._sound) + len(self._carried) > longest_s * RATE_HZ:
            self.clear()
            raise InputError(
                f"a turn may last {longest_s:g} s, and this one lasts longer; it was dropped: say it in parts"
            )

    # -- the reply -----------------------------------------------------------------------------------------------------

    def _position_ms(self, at: int) -> float:
        """How much of the reply has been played when the microphone is at sample `at`."""
        if self._replying is None or self._replying.first_sound is None:
            return 0.0
        since, ms = self._told or (self._replying.first_sound, 0.0)
        return min(ms + 1000 * (at - since) / RATE_HZ, self._replying.made_ms)

    def _over(self, at: int) -> bool:
        return self._replying is not None and self._replying.made and self._position_ms(at) >= self._replying.made_ms

    def _interrupt(self, at: int) -> None:
        """Stop the reply under way, if there is one, and keep what was heard of it. A query of whose reply nothing was
        heard is put before the next one."""
        if not self._live or self._replying is None:
            return
        # without a microphone that is always open, or if speech may not interrupt, a whole reply counts as heard
        listening, whole = self.listening, self._replying.made and self._told is None
        heard = whole and not (listening.hands_free and listening.interrupts)
        over, self._live = heard or self._over(at), False
        if over:
            return
        played_ms = self._position_ms(at)
        self.generation += 1
        text = self._keep(played_ms)
        if not text:
            self._carried = self._replying.query
        self._deliver(Interrupted(self._replying.generation, round(played_ms), text))

    def _keep(self, played_ms: float) -> str:
        """Put what was heard of the reply in the place of the reply in the conversation."""
        assert self._replying is not None
        turns = self.conversation.turns
        if turns and self._replying.heard is not None and turns[-1].heard is self._replying.heard:
            turns = turns[:-1]
        turn = self._replying.turn(played_ms)
        self.conversation = Conversation(turns if turn is None else (*turns, turn))
        return "" if turn is None else turn.reply.text

    def _made(self, replying: Replying) -> Iterator[None]:
        """Make the reply, a step at a time, in the worker's thread."""
        tell = partial(self._tell, replying)
        try:
            heard, perception = self.assistant.hear(Audio(replying.query, RATE_HZ))
            replying.heard, replying.perception = heard, perception
            tell(Understood(heard, perception, replying.generation))
            yield
            answers = self.assistant.parts.responder.answers(heard, perception, self.conversation, self.seed)
            for piece in self.assistant.voice(self._noted(answers, replying)):
                self._sounded(replying, piece)
                yield
            if not replying.pieces and self.generation == replying.generation:
                raise ModelError("the voice made no sound for this reply; say it again")
        except Exception as error:
            with self._lock:
                if tell(Failed(error, replying.generation, replying.reply)):
                    self._live = False
            return
        with self._lock:
            turn = replying.turn()
            if self.generation == replying.generation and turn is not None:
                replying.made = True
                self.conversation = self.conversation.with_turn(turn)
                tell(ReplyEnded(turn, replying.generation))

    def _noted(self, answers: Iterable[Answer], replying: Replying) -> Iterator[Answer]:
        for answer in answers:
            before, replying.reply = replying.reply, answer.reply
            if before is None:
                self._tell(replying, Planned(answer.reply.plan, answer.thought, replying.generation))
            if before is None or before.text != answer.reply.text:
                self._tell(replying, TextGrown(answer.reply.text, replying.generation))
            yield answer

    def _sounded(self, replying: Replying, piece: np.ndarray) -> None:
        with self._lock:
            if self.generation != replying.generation or not len(piece):
                return
            if replying.first_sound is None:
                replying.first_sound = self._pushed
            replying.pieces.append(piece)
            self._echo.play(_resampled(piece, replying.rate))
            self._tell(replying, SoundPiece(replying.generation, piece, replying.rate))

    def _tell(self, replying: Replying, event: Event) -> bool:
        """Deliver what belongs to a reply, unless it is stale."""
        with self._lock:
            fresh = self.generation == replying.generation and self._live
            if fresh:
                self._deliver(event)
            return fresh


def _resampled(piece: np.ndarray, rate: int) -> np.ndarray:
    """A piece [n] at 16 kHz, for comparison only."""
    if rate == RATE_HZ:
        return piece
    return torchaudio.functional.resample(torch.from_numpy(piece.astype(np.float32)), rate, RATE_HZ).numpy()
