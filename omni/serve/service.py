"""What all routes of a server share: the assistant, the worker, the limits; and how a request waits for model work."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import asdict, replace
from typing import Any, TypeVar

from omni.assistant import Assistant
from omni.serve.config import ServeConfig
from omni.serve.limits import Keys, Places, Rate, Refusal
from omni.serve.metrics import Metrics
from omni.talking.worker import Worker
from omni.turns import Heard, Perception, Plan, Turn

log = logging.getLogger("omni.serve")
T = TypeVar("T")
KEPT_TURNS, KEPT_S = 1000, 3600


class Service:
    """One server process."""

    def __init__(self, assistant: Assistant, config: ServeConfig) -> None:
        self.assistant, self.config = assistant, config
        self.name, self.started = assistant.config.name, int(time.time())
        self.worker = Worker(config.most_tasks)
        self.keys, self.rate, self.places = (
            Keys(config.keys),
            Rate(config.requests_per_minute),
            Places(config.most_sessions),
        )
        self.metrics = Metrics(lambda: self.worker.tasks, lambda: self.places.taken)
        self.draining, self.requests = False, 0
        self._turns: OrderedDict[str, Turn] = OrderedDict()

    def check_model(self, name: str | None) -> None:
        """Refusal for a model that is not served here."""
        if name not in (None, self.name, "omni"):
            raise Refusal(
                404, "model_not_found", f"there is no model {name!r} here; this server has {self.name!r}", "model"
            )

    # -- model work ----------------------------------------------------------------------------------------------

    async def call(self, fn: Callable[..., T], *args: Any) -> T:
        """Have `fn(*args)` done by the worker. BusyError, and a Refusal after `timeout_s`."""
        future = self.worker.submit(fn, *args)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.config.timeout_s)
        except TimeoutError:
            raise self._late() from None

    async def flow(self, make: Callable[[], Iterator[T]]) -> AsyncIterator[T]:
        """The pieces of a generator that the worker runs; it is given up when nobody waits for them any more."""
        loop, wanted = asyncio.get_running_loop(), [True]
        pieces: asyncio.Queue[Any] = asyncio.Queue()
        done = self.worker.follow(
            make, lambda: wanted[0], lambda piece: loop.call_soon_threadsafe(pieces.put_nowait, (piece,))
        )
        done.add_done_callback(lambda _: loop.is_closed() or loop.call_soon_threadsafe(pieces.put_nowait, None))
        until = loop.time() + self.config.timeout_s
        try:
            while (item := await asyncio.wait_for(pieces.get(), max(until - loop.time(), 0.001))) is not None:
                yield item[0]
            done.result()
        except TimeoutError:
            raise self._late() from None
        except CancelledError:
            raise Refusal(503, "shutting_down", "the server is shutting down; try again later") from None
        finally:
            wanted[0] = False

    def _late(self) -> Refusal:
        return Refusal(
            504, "timeout", f"this took more than {self.config.timeout_s:g} s; send less, or try again later"
        )

    async def drain(self) -> None:
        """Take nothing new and wait, at most `shutdown_s`, until what is under way is finished."""
        self.draining = True
        until = time.monotonic() + self.config.shutdown_s
        while (self.requests or self.places.taken or self.worker.tasks) and time.monotonic() < until:
            await asyncio.sleep(0.02)

    # -- replies that may be referred to -------------------------------------------------------------------------

    def keep(self, name: str, turn: Turn) -> int:
        """Remember a turn by the name of its sound, which is not kept. Returns when it may be forgotten."""
        self._turns[name] = replace(turn, reply=replace(turn.reply, audio=None))
        while len(self._turns) > KEPT_TURNS:
            self._turns.popitem(last=False)
        return int(time.time()) + KEPT_S

    def kept(self, name: str) -> Turn:
        """The turn of a sound. Refusal if it is forgotten."""
        if name not in self._turns:
            raise Refusal(
                404, "audio_not_found", f"the sound {name!r} is not known any more; send its transcript", "audio"
            )
        return self._turns[name]

    def note(self, what: str, text: str) -> None:
        """Log words, if that was switched on; else only how long they are."""
        log.info("%s: %s", what, text if self.config.log_text else f"{len(text)} letters")


def told(heard: Heard, perception: Perception, plan: Plan | None) -> dict[str, Any]:
    """The extension that carries perception and plan, the same in every answer."""
    return {"heard": heard.plain(), "perceived": perception.plain(), "plan": plan and asdict(plan)}
