"""Settings of the server and what they may be. Safe as they stand: loopback only, everything bounded, nothing logged."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from omni.errors import UsageError

SHORTEST_KEY = 16


@dataclass(frozen=True)
class ServeConfig:
    """Limits of one server process. Times in seconds; `keys` are the API keys, none: no key is asked for."""

    host: str = "127.0.0.1"
    port: int = 8000
    keys: tuple[str, ...] = ()
    log_text: bool = False  # whether transcripts and replies may go into the log
    largest_body_mb: float = 25.0
    longest_text: int = 2000  # letters of a text to be spoken
    most_messages: int = 50
    requests_per_minute: int = 300  # of one client
    most_sessions: int = 32
    most_tasks: int = 64  # calls and replies under way or waiting
    timeout_s: float = 120.0
    session_idle_s: float = 300.0
    session_longest_s: float = 3600.0
    shutdown_s: float = 30.0

    def __post_init__(self) -> None:
        if not self.keys and not is_loopback(self.host):
            raise UsageError(
                f"--host {self.host} can be reached from elsewhere, so a key is needed: write one of {SHORTEST_KEY} letters "
                "or more into a file and give it with --api-key-file; or leave out --host to stay on this computer"
            )
        for key in self.keys:
            if len(key) < SHORTEST_KEY:
                raise UsageError(
                    f"an API key has {len(key)} letters; at least {SHORTEST_KEY} are needed; make a longer one"
                )
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port {self.port}: allowed are 0 (any that is free) to 65535")


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this computer's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_keys(path: Path | str) -> tuple[str, ...]:
    """API keys from a file, one in a line; empty lines and those after # are left out. UsageError if there is none."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--api-key-file {path} cannot be read ({error}); write one key in a line") from error
    keys = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not keys:
        raise UsageError(f"--api-key-file {path} holds no key; write one in a line")
    return keys
