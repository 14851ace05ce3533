"""Who may come in, how often, and how many at once."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from omni.errors import OmniError

MOST_CLIENTS = 10_000


class Refusal(OmniError):
    """A request that is not served: HTTP status, a code for programs, a message for people, the field at fault."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None, retry_s: int = 0) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_s = status, code, param, retry_s

    def body(self) -> dict[str, object]:
        """The error as clients of the OpenAI API read it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class Keys:
    """API keys, compared in a time that tells nothing of them."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def check(self, key: str | None) -> None:
        """Refusal unless the key is one of them; if there are none, all pass."""
        if not self._digests:
            return
        given = hashlib.sha256((key or "").encode()).digest()
        found = [hmac.compare_digest(given, digest) for digest in self._digests]  # all of them, whichever fits
        if not any(found):
            what = "no API key was given" if not key else "this API key is not known here"
            raise Refusal(401, "invalid_api_key", f"{what}; send the server's key as: Authorization: Bearer KEY")


class Rate:
    """At most so many requests a minute of each client: a bucket that fills as time passes."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self._clock = per_minute, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, client: str) -> None:
        """Count a request. Refusal if the client's bucket is empty."""
        now = self._clock()
        left, since = self._left.pop(client, (float(self.per_minute), now))
        left = min(left + (now - since) * self.per_minute / 60, self.per_minute)
        self._left[client] = (max(left - 1, 0.0) if left >= 1 else left, now)
        if len(self._left) > MOST_CLIENTS:
            self._left.popitem(last=False)
        if left < 1:
            wait_s = int((1 - left) * 60 / self.per_minute) + 1
            raise Refusal(
                429,
                "rate_limit_exceeded",
                f"at most {self.per_minute} requests a minute are served; try again in {wait_s} s",
                retry_s=wait_s,
            )


class Places:
    """A fixed number of conversations at once."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place for as long as the block runs. Refusal if there is none."""
        if self.taken >= self.most:
            raise Refusal(
                503, "too_many_sessions", f"all {self.most} conversations are taken; try again later", retry_s=10
            )
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
